"""The losses of a detector, one number per image and part, so that their mean over images is exact.

torchvision's own functions take one mean over the samples of a whole batch. Here every image's samples are
averaged first; where all images give equally many, as they do by default, the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

LOSS_PARTS = ("classifier_loss", "box_reg_loss", "objectness_loss", "rpn_box_reg_loss", "state_loss")
QUERY_LOSS_PARTS = ("classifier_loss", "box_reg_loss", "state_loss")  # of detectors that answer with queries
IGNORED = -100
# where the smooth L1 loss turns from a square to a line, as torchvision has it
BETA = 1 / 9


def proposal_losses(
    objectness: torch.Tensor,
    deltas: torch.Tensor,
    labels: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    positive: Sequence[torch.Tensor],
    negative: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Objectness and box loss of every image: two tensors (images,).

    Args:
        objectness: (images, anchors) logits.
        deltas, targets: (images, anchors, 4) predicted and wanted.
        labels: (anchors,) an image, 1 for object, 0 for background.
        positive, negative: (anchors,) masks of the sampled ones.
    """
    objects, boxes = [], []
    for i, (right, wrong) in enumerate(zip(positive, negative, strict=True)):
        right = torch.where(right)[0]
        sampled = torch.cat([right, torch.where(wrong)[0]])
        logits, wanted, count = objectness[i, sampled], labels[i][sampled], max(1, len(sampled))
        miss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        away = nn.functional.smooth_l1_loss(deltas[i, right], targets[i][right], beta=BETA, reduction="sum")
        objects.append(miss / count)
        boxes.append(away / count)
    return torch.stack(objects), torch.stack(boxes)


def region_losses(
    logits: torch.Tensor,
    deltas: torch.Tensor,
    labels: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and box loss of every image: two tensors (images,).

    Args:
        logits: (regions of all images, classes + 1), background first.
        deltas: (regions of all images, 4 x (classes + 1)).
        labels, targets, weights: (regions,) or (regions, 4) an image; 0 is background.
    """
    counts = [len(part) for part in labels]
    classes = torch.cat(list(labels))
    miss = nn.functional.cross_entropy(logits, classes, reduction="none")
    rows = torch.arange(len(classes), device=classes.device)
    own = deltas.reshape(len(classes), logits.shape[1], 4)[rows, classes]
    # background wants no box, and where a photo has no part its targets are not even numbers
    wanted = torch.where((classes > 0)[:, None], torch.cat(list(targets)), own.detach())
    away = nn.functional.smooth_l1_loss(own, wanted, beta=BETA, reduction="none").sum(1)
    if weights is not None:
        weight = torch.cat(list(weights))
        miss, away = miss * weight, away * weight
    return _means(miss, counts), _means(away, counts)


def state_loss(
    misses: torch.Tensor, states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor] | None = None
) -> torch.Tensor:
    """Mean loss of states over an image's regions that show a part: (images,), 0 where there is none.

    Args:
        misses: (regions of all images,) loss of each, see `geohf.parts.state_balance.state_misses`.
        states: (regions,) an image, `IGNORED` for background.
        weights: (regions,) an image.
    """
    # ignored rows give 0 and a gradient of 0, so that every parameter takes part in every backward
    if weights is not None:
        misses = misses * torch.cat(list(weights))
    parts = misses.split([len(part) for part in states])
    return torch.stack(
        [part.sum() / (own >= 0).sum().clamp(min=1) for part, own in zip(parts, states, strict=True)]
    )


def _means(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    return torch.stack([part.sum() / max(1, len(part)) for part in values.split(list(counts))])
