"""What a detector of transformers finds with its queries, and the state of what each query shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.ops import box_convert
from transformers import PreTrainedModel

from geohf.errors import DataError
from geohf.parts.attribute_values import attribute_probabilities
from geohf.parts.heads import StateHead
from geohf.parts.query_losses import Target, query_state_losses


def run_queries(
    detector: PreTrainedModel,
    head: StateHead,
    pixel_values: torch.Tensor,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target] | None = None,
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    """Losses (photos, parts of the loss) where there are targets, and outside of training the answers.

    Queries are matched with truths by class and box as each detector was published; the state head learns on what was
    matched, in training also on the denoising queries and on every group of queries.

    Args:
        detector: whose `loss_function` is a `PhotoLosses`.
        sizes: height and width in pixels of each photo within its input.
        targets: of each photo boxes in pixels, labels from 1 and states, see `PartStateModel.targets_of`.

    Returns:
        The losses, and what `query_answers` gives, with boxes as shares of the photos.

    Raises:
        DataError: a photo has more truths than there are queries.
    """
    padded = tuple(pixel_values.shape[-2:])
    losses = labels = None
    if targets is not None:
        _require_queries(targets, detector.config)
        labels = [_target(target, padded) for target in targets]
    outputs = detector(pixel_values, pixel_mask=_mask(sizes, pixel_values), labels=labels)
    if labels is not None:
        pairs = outputs.loss_dict["pairs"]
        states = query_state_losses(outputs.last_hidden_state, pairs, labels, head.logits, head.config)
        losses = torch.cat([outputs.loss, states[:, None]], 1)
    if detector.training:
        return losses, {}
    answers = query_answers(head, outputs.logits, outputs.pred_boxes, outputs.last_hidden_state)
    return losses, {**answers, "pred_boxes": _within(answers["pred_boxes"], sizes, padded)}


def query_answers(
    head: StateHead, class_logits: torch.Tensor, boxes: torch.Tensor, hidden: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The best pairs of query and part of every photo, by falling score; a query may stand for several parts.

    Args:
        class_logits: (photos, queries, parts).
        boxes: (photos, queries, 4).
        hidden: (photos, queries, width).

    Returns:
        `pred_boxes` (photos, n, 4), `pred_labels`, `scores` (photos, n) and `state_probs` (photos, n, states), perhaps `attribute_probs`.
    """
    probabilities, limit = class_logits.float().sigmoid(), head.config.box_detections_per_image
    parts = class_logits.shape[-1]
    if head.config.one_per_part:
        scores, queries = probabilities.max(1)
        labels = torch.arange(parts, device=class_logits.device).expand_as(queries)
    else:
        scores, places = probabilities.flatten(1).topk(min(limit, class_logits.shape[1] * parts), dim=1)
        queries, labels = places.div(parts, rounding_mode="floor"), places % parts
    logits = head.logits(_rows(hidden, queries), labels)
    states = head.probabilities(logits)
    scores, order = head.presence(scores, states).topk(min(limit, scores.shape[1]), dim=1)
    return {
        "pred_boxes": _rows(_rows(boxes.float(), queries), order),
        "pred_labels": labels.gather(1, order),
        "scores": scores,
        "state_probs": _rows(states, order),
    } | {name: _rows(values, order) for name, values in attribute_probabilities(logits, head.config).items()}


def _require_queries(targets: Sequence[Target], config: Any) -> None:
    for number, target in enumerate(targets, 1):
        if len(target["labels"]) > config.num_queries:
            raise DataError(
                f"photo {number} of a batch has {len(target['labels'])} parts, and {config.model_type} finds at most "
                f"{config.num_queries}: set num_queries in detector_config"
            )


def _target(target: Target, padded: tuple[Any, ...]) -> Target:
    """A photo's truths as transformers takes them, with boxes as shares of the padded input."""
    height, width = padded
    scale = target["boxes"].new_tensor([width, height, width, height])
    return {
        "class_labels": target["labels"] - 1,
        "boxes": box_convert(target["boxes"], "xyxy", "cxcywh") / scale,
        "states": target["states"],
    } | ({"attributes": target["attributes"]} if "attributes" in target else {})


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(photos, n, width) of values (photos, m, width) and rows (photos, n)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def _mask(sizes: Sequence[tuple[int, int]], pixel_values: torch.Tensor) -> torch.Tensor:
    """(photos, height, width) 1 where an input shows its photo."""
    mask = pixel_values.new_zeros(len(sizes), *pixel_values.shape[-2:], dtype=torch.long)
    for i, (height, width) in enumerate(sizes):
        mask[i, :height, :width] = 1
    return mask


def _within(boxes: torch.Tensor, sizes: Sequence[tuple[int, int]], padded: tuple[Any, ...]) -> torch.Tensor:
    """Boxes as shares of the padded input as shares of the photo, cut at its sides."""
    scale = boxes.new_tensor([[padded[1] / width, padded[0] / height] * 2 for height, width in sizes])
    corners = (box_convert(boxes, "cxcywh", "xyxy") * scale[:, None]).clamp(0, 1)
    return box_convert(corners, "xyxy", "cxcywh")
