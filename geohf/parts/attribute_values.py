"""Further attributes of a part beside its state, such as its color: logits, losses and answers, each over its own values.

The state head's outputs are those of the state and then those of each attribute, side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from geohf.parts.losses import IGNORED

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig


def state_logits(logits: torch.Tensor, config: PartStateConfig) -> torch.Tensor:
    """(..., states) of the outputs (..., config.state_width) of a state head."""
    return logits[..., : config.num_states]


def attribute_misses(logits: torch.Tensor, values: torch.Tensor, config: PartStateConfig) -> torch.Tensor:
    """(n, attributes) cross-entropy of each, 0 where a value is `IGNORED`.

    Args:
        logits: (n, config.state_width) float32.
        values: (n, attributes) the true ones.
    """
    parts = logits[..., config.num_states :].split(config.attribute_sizes, -1)
    misses = [
        nn.functional.cross_entropy(own, true, ignore_index=IGNORED, reduction="none")
        for own, true in zip(parts, values.unbind(-1), strict=True)
    ]
    return torch.stack(misses, -1)


def attribute_probabilities(logits: torch.Tensor, config: PartStateConfig) -> dict[str, torch.Tensor]:
    """`attribute_probs` (..., values of all attributes), a softmax for each; empty where there is none."""
    if not config.attributes:
        return {}
    parts = logits[..., config.num_states :].split(config.attribute_sizes, -1)
    return {"attribute_probs": torch.cat([own.softmax(-1) for own in parts], -1)}


def best_values(probabilities: torch.Tensor, config: PartStateConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest value of each attribute, and its probability: two tensors (n, attributes).

    Args:
        probabilities: (n, values of all attributes), see `attribute_probabilities`.
    """
    best = [own.max(-1) for own in probabilities.split(config.attribute_sizes, -1)]
    return torch.stack([each.indices for each in best], -1), torch.stack([each.values for each in best], -1)


def attributes_told(
    probabilities: torch.Tensor, config: PartStateConfig
) -> list[tuple[dict[str, str], dict[str, float]]]:
    """Of each of n boxes the value of each attribute, and its probability, by the attributes' names."""
    values, scores = best_values(probabilities, config)
    names = config.attributes or {}
    return [
        (
            {name: listed[number] for (name, listed), number in zip(names.items(), own, strict=True)},
            dict(zip(names, sure, strict=True)),
        )
        for own, sure in zip(values.tolist(), scores.tolist(), strict=True)
    ]
