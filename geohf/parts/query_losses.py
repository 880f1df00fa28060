"""The losses of detectors that answer with queries, photo by photo.

transformers takes one mean over the boxes of a whole batch. Here its criteria are given one photo at a time, each
divided by the photo's own number of boxes: a mean of photos weighed by their boxes is the mean over all boxes, however
they are spread over micro-batches and processes, and no photo's loss depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher, LwDetrImageLoss
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

from geohf.parts.attribute_values import attribute_misses, state_logits
from geohf.parts.configuration import PartStateConfig
from geohf.parts.losses import IGNORED
from geohf.parts.state_balance import state_misses

CLASSES = ("loss_vfl", "loss_mal")  # of transformers' losses those that judge classes; the others judge boxes

# (queries, truths): which query shall answer which truth
Pairs = tuple[torch.Tensor, torch.Tensor]
Target = dict[str, torch.Tensor]


class PhotoLosses:
    """Takes the place of a detector's `loss_function`.

    Gives `loss` (photos, 2), that of classes and that of boxes, and in `loss_dict` the `pairs`: of each photo a list of
    `Pairs` by which states are learned, with queries as rows of the detector's `last_hidden_state`.
    """

    def __init__(self, published: Callable[..., Any]):
        self.published = published

    def __call__(
        self,
        logits: torch.Tensor,
        labels: Sequence[Target],
        device: torch.device,
        pred_boxes: torch.Tensor,
        config: Any,
        outputs_class: torch.Tensor,
        outputs_coord: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, list], None]:
        outputs = (logits.float(), pred_boxes.float(), outputs_class.float(), outputs_coord.float())
        if hasattr(config, "group_detr"):
            losses, pairs = group_losses(labels, config, *outputs, *(part.float() for part in args))
        else:
            losses, pairs = self._denoising_losses(labels, device, config, *outputs, **kwargs)
        return losses, {"pairs": pairs}, None

    def _denoising_losses(self, labels, device, config, logits, boxes, classes, coordinates, **kwargs):
        meta = kwargs.pop("denoising_meta_values")
        matcher, losses, pairs = RTDetrHungarianMatcher(config), [], []
        start = 0 if meta is None else meta["dn_num_split"][0]
        for i, target in enumerate(labels):
            row = slice(i, i + 1)
            more = {name: None if part is None else part[row].float() for name, part in kwargs.items()}
            own = None if meta is None else meta | {"dn_positive_idx": meta["dn_positive_idx"][row]}
            _, parts, _ = self.published(
                logits[row], [target], device, boxes[row], config, classes[row], coordinates[row],
                denoising_meta_values=own, **more,
            )  # fmt: skip
            losses.append(_sums(parts, logits))
            answers = {"logits": logits[row, start:], "pred_boxes": boxes[row, start:].clamp(0, 1)}
            ((queries, truths),) = matcher(answers, [target])
            pairs.append([(queries + start, truths)])
            if own is not None:
                pairs[-1] += RTDetrLoss.get_cdn_matched_indices(own, [target])
        return torch.stack(losses), pairs


def _sums(parts: dict[str, torch.Tensor], reference: torch.Tensor) -> torch.Tensor:
    """(2,) losses of classes and of boxes over all layers."""
    classes = [value for name, value in parts.items() if name.startswith(CLASSES)]
    boxes = [value for name, value in parts.items() if not name.startswith(CLASSES)]
    zero = reference.new_zeros(())
    return torch.stack([sum(classes, zero), sum(boxes, zero)])


def group_losses(
    labels: Sequence[Target],
    config: Any,
    logits: torch.Tensor,
    boxes: torch.Tensor,
    layer_logits: torch.Tensor,
    layer_boxes: torch.Tensor,
    encoder_logits: torch.Tensor,
    encoder_boxes: torch.Tensor,
) -> tuple[torch.Tensor, list[list[Pairs]]]:
    """The losses of LW-DETR and RF-DETR, whose queries learn in groups that each answer all truths.

    transformers' function looks for the groups of training in the one group that answers in use, and takes its mean over
    processes, which would wait for each other photo by photo; so its criterion is called here.

    Args:
        labels: of each photo `class_labels` (n,) and `boxes` (n, 4), center, width and height as shares.
        logits, boxes: (photos, queries of all groups, classes or 4) of the last layer.
        layer_logits, layer_boxes: (layers, photos, queries, classes or 4).
        encoder_logits, encoder_boxes: as `logits`, of the encoder's proposals.

    Returns:
        (photos, 2) losses of classes and boxes, and the pairs of each photo.
    """
    groups = logits.shape[1] // config.num_queries
    matcher = LwDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    criterion = LwDetrImageLoss(matcher, config.num_labels, config.focal_alpha, ["labels", "boxes"], groups)
    layers = [(logits, boxes), (encoder_logits, encoder_boxes)]
    if config.auxiliary_loss:
        layers += zip(layer_logits[:-1], layer_boxes[:-1], strict=True)
    losses, pairs = [], []
    for i, target in enumerate(labels):
        count = max(1, len(target["class_labels"]) * groups)
        classes = places = logits.new_zeros(())
        for number, (a, b) in enumerate(layers):
            outputs = {"logits": a[i : i + 1], "pred_boxes": b[i : i + 1]}
            matched = matcher(outputs, [target], groups)
            classes = classes + criterion.loss_labels(outputs, [target], matched, count)["loss_ce"]
            of_boxes = criterion.loss_boxes(outputs, [target], matched, count)
            places = places + config.bbox_loss_coefficient * of_boxes["loss_bbox"]
            places = places + config.giou_loss_coefficient * of_boxes["loss_giou"]
            if number == 0:
                pairs.append(matched)
        losses.append(torch.stack([config.class_loss_coefficient * classes, places]))
    return torch.stack(losses), pairs


def query_state_losses(
    hidden: torch.Tensor,
    pairs: Sequence[Sequence[Pairs]],
    targets: Sequence[Target],
    judge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    config: PartStateConfig,
) -> torch.Tensor:
    """(photos,) loss of the states of the queries that a photo's truths are given to.

    A mean over the pairs of each set: those of the answers, and in training those of the denoising queries.

    Args:
        hidden: (photos, queries, width).
        pairs: see `PhotoLosses`.
        targets: `class_labels` (n,) and `states` (n,), `IGNORED` where a truth has none; perhaps `attributes` likewise.
        judge: features (n, width) and parts (n,) to logits (n, config.state_width).
    """
    losses = []
    for features, sets, target in zip(hidden, pairs, targets, strict=True):
        # a photo without truths has a loss and gradients of 0
        loss = judge(features[:1], target["class_labels"].new_zeros(1)).sum() * 0
        for queries, truths in sets:
            queries, truths = queries.to(features.device), truths.to(features.device)
            if len(truths):
                parts, states = target["class_labels"][truths], target["states"][truths]
                logits = judge(features[queries], parts)
                loss = loss + _mean(state_misses(state_logits(logits, config), states, parts, config), states)
                if config.attributes:
                    values = target["attributes"][truths]
                    loss = loss + _mean(attribute_misses(logits, values, config), values).sum()
        losses.append(loss)
    return torch.stack(losses)


def _mean(misses: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """Of misses (n, ...) over the first axis, of truths that are labeled; 0 where none is."""
    return misses.sum(0) / (truths != IGNORED).sum(0).clamp(min=1)
