"""The reference implementation's sum of both losses."""

from __future__ import annotations

import torch

from geohf.place.losses.info_nce import info_nce
from geohf.place.losses.triplet import triplet


def hybrid(
    descriptors: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    contrastive_weight: float = 1.0,
    triplet_weight: float = 0.3,
    temperature: float = 0.07,
    contrasted: torch.Tensor | None = None,
    **triplet_settings,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`contrastive_weight` x `info_nce` + `triplet_weight` x `triplet`.

    Args:
        contrasted: (n, n) bool, the negatives of `info_nce`; None: those of `triplet`.
        triplet_settings: see `triplet`.

    Returns:
        (the total, its parts before weighting: `contrastive_loss` and `triplet_loss`).
    """
    parts = {
        "contrastive_loss": info_nce(
            descriptors, positive, negative if contrasted is None else contrasted, temperature
        ),
        "triplet_loss": triplet(descriptors, positive, negative, **triplet_settings),
    }
    total = contrastive_weight * parts["contrastive_loss"] + triplet_weight * parts["triplet_loss"]
    return total, parts
