"""torchvision's proposal network and region heads, with losses an image, ignored places and a state head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

from geohf.parts.attribute_values import attribute_misses, attribute_probabilities, state_logits
from geohf.parts.configuration import PartStateConfig
from geohf.parts.losses import IGNORED, proposal_losses, region_losses, state_loss
from geohf.parts.state_balance import state_misses

# of the samples that a validation loss is taken on, the same for every image on every machine
VALIDATION_SEED = 0
NO_LIMIT = 10**9


class RepeatableSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler of right and wrong boxes, which can draw the same ones whenever it sees an image.

    With `repeat` an image's samples depend neither on the batch around it nor on what was drawn before.
    """

    repeat = False

    def __call__(self, matched_idxs: list[torch.Tensor]):
        if not self.repeat:
            return super().__call__(matched_idxs)
        positive, negative = [], []
        for matched in matched_idxs:
            devices = [matched.device] if matched.is_cuda else []
            with torch.random.fork_rng(devices):
                torch.manual_seed(VALIDATION_SEED)
                (right,), (wrong,) = super().__call__([matched])
            positive.append(right)
            negative.append(wrong)
        return positive, negative


class Float32RPNHead(RPNHead):
    """Boxes are decoded in float32: in bfloat16 a pixel is lost beyond 256."""

    def forward(self, x):
        dtype = self.cls_logits.weight.dtype
        logits, deltas = super().forward([features.to(dtype) for features in x])
        return [part.float() for part in logits], [part.float() for part in deltas]


class PartRPN(RegionProposalNetwork):
    """Region proposals.

    In training mode also the losses, one an image; at a target's `ignored` boxes and in its `crowds` an anchor is
    neither right nor wrong.
    """

    def __init__(self, config: PartStateConfig, strides: Sequence[int]):
        sizes = config.anchor_sizes or [[8 * stride] for stride in strides]
        anchors = AnchorGenerator(tuple(map(tuple, sizes)), tuple(tuple(config.aspect_ratios) for _ in sizes))
        counts = set(anchors.num_anchors_per_location())
        if len(sizes) != len(strides) or len(counts) > 1:
            raise ValueError(
                f"anchor_sizes must list equally many sides for each of the {len(strides)} levels, got {sizes}"
            )
        super().__init__(
            anchors,
            Float32RPNHead(config.pyramid_channels, counts.pop(), conv_depth=config.rpn_conv_depth),
            config.rpn_fg_iou,
            config.rpn_bg_iou,
            config.rpn_batch_size_per_image,
            config.rpn_positive_fraction,
            {"training": config.rpn_pre_nms_top_n_train, "testing": config.rpn_pre_nms_top_n_test},
            {"training": config.rpn_post_nms_top_n_train, "testing": config.rpn_post_nms_top_n_test},
            config.rpn_nms_threshold,
            score_thresh=config.rpn_score_threshold,
        )
        self.fg_bg_sampler = RepeatableSampler(config.rpn_batch_size_per_image, config.rpn_positive_fraction)

    def assign_targets_to_anchors(self, anchors, targets):
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            low = self.proposal_matcher.low_threshold
            near = _reaches(box_iou(anchor, target["ignored"]), low)
            near |= _reaches(share_within(anchor, target["crowds"]), low)
            label[near & (label == 0)] = -1.0
        return labels, boxes

    def compute_loss(self, objectness, pred_bbox_deltas, labels, regression_targets):
        positive, negative = self.fg_bg_sampler(labels)
        objectness, deltas = objectness.reshape(len(labels), -1), pred_bbox_deltas.reshape(len(labels), -1, 4)
        return proposal_losses(objectness, deltas, labels, regression_targets, positive, negative)


class StateHead(nn.Sequential):
    """(n, width) features of regions or queries to (n, states), or (n, parts x states) with logits a part.

    Where the config has attributes, their values stand behind the states, see `geohf.parts.attribute_values`.
    """

    def __init__(self, config: PartStateConfig, width: int):
        outputs = config.state_width * (config.num_labels if config.state_per_part else 1)
        super().__init__(
            nn.Linear(width, config.state_hidden_size),
            nn.ReLU(),
            nn.Dropout(config.state_dropout),
            nn.Linear(config.state_hidden_size, outputs),
        )
        self.config = config

    def logits(self, features: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        """(..., config.state_width) float32 of features (..., width); with logits a part, those of each one's own part (...)."""
        logits = self(features).float()
        if not self.config.state_per_part:
            return logits
        every = logits.unflatten(-1, (self.config.num_labels, self.config.state_width))
        own = parts.clamp(min=0)[..., None, None].expand(*parts.shape, 1, self.config.state_width)
        return every.gather(-2, own).squeeze(-2)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax over the states that a box can have: where absent parts are no objects, no box is absent."""
        absent, logits = self.config.absent_index, state_logits(logits, self.config)
        if absent is not None and self.config.absent != "detect":
            outside = torch.arange(self.config.num_states, device=logits.device) == absent
            logits = logits.masked_fill(outside, -torch.inf)
        return logits.softmax(-1)

    def presence(self, scores: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """(...) scores that a part is there: where absent parts are found, too, times 1 - P(absent)."""
        if self.config.absent != "detect" or self.config.absent_index is None:
            return scores
        return scores * (1 - probabilities[..., self.config.absent_index])


class PartRoIHeads(RoIHeads):
    """From proposals to parts and their states; losses in `losses`, boxes in `detect`."""

    def __init__(self, config: PartStateConfig, levels: Sequence[str]):
        channels, size, width = config.pyramid_channels, config.roi_size, config.box_hidden_size
        if config.box_head == "mlp":
            box_head: nn.Module = TwoMLPHead(channels * size**2, width)
        else:
            box_head = FastRCNNConvFCHead(
                (channels, size, size), [channels] * 4, [width], norm_layer=nn.BatchNorm2d
            )
        super().__init__(
            MultiScaleRoIAlign(list(levels), size, 2, canonical_scale=config.roi_canonical_size),
            box_head,
            FastRCNNPredictor(width, config.num_labels + 1),
            config.box_fg_iou,
            config.box_bg_iou,
            config.box_batch_size_per_image,
            config.box_positive_fraction,
            None,
            config.box_score_threshold,
            config.box_nms_threshold,
            # other parts' best boxes must not fall to the many boxes of one
            NO_LIMIT if config.one_per_part else config.box_detections_per_image,
        )
        self.fg_bg_sampler = RepeatableSampler(config.box_batch_size_per_image, config.box_positive_fraction)
        self.state_head = StateHead(config, width)
        self.config = config

    def losses(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        padded: tuple[int, int],
        targets: list[dict[str, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Class, box and state loss of every image: three tensors (images,).

        Args:
            padded: height and width of the tensor that the features come from.
            targets: of every image: boxes, labels from 1 (-1: neither right nor wrong), states, weights, and crowds,
                in which only what shows one of the boxes counts.
        """
        proposals = list(map(self._outside_crowds, proposals, targets))
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        regions = self.region_features(features, proposals, padded)
        logits, deltas = self.box_predictor(regions)
        states = self.match_states(matched, labels, targets)
        weights = None
        if targets[0].get("weights") is not None:
            weights = [
                torch.where(label > 0, _take(target["weights"], rows), 1.0)
                for rows, label, target in zip(matched, labels, targets, strict=True)
            ]
        classes, boxes = region_losses(logits.float(), deltas.float(), labels, wanted, weights)
        parts = torch.cat(labels) - 1
        own = self.state_head.logits(regions, parts)
        misses = state_misses(state_logits(own, self.config), torch.cat(states), parts, self.config)
        loss = state_loss(misses, states, weights)
        if self.config.attributes:
            values = self.match_states(matched, labels, targets, "attributes")
            for column, miss in enumerate(attribute_misses(own, torch.cat(values), self.config).unbind(1)):
                loss = loss + state_loss(miss, [own_values[:, column] for own_values in values], weights)
        return classes, boxes, loss

    def _outside_crowds(self, proposals: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        low = self.proposal_matcher.low_threshold
        inside = _reaches(share_within(proposals, target["crowds"]), low)
        return proposals[~inside | _reaches(box_iou(proposals, target["boxes"]), low)]

    def match_states(self, matched, labels, targets, key: str = "states") -> list[torch.Tensor]:
        """The state, or the attributes, that each sampled region shall have: of its own truth, `IGNORED` for background."""
        wanted = []
        for rows, label, target in zip(matched, labels, targets, strict=True):
            values = _take(target[key], rows)
            wanted.append(values.masked_fill((label <= 0).view(-1, *[1] * (values.ndim - 1)), IGNORED))
        return wanted

    def detect(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        padded: tuple[int, int],
        image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, torch.Tensor]]:
        """The parts of every image: boxes (n, 4) in pixels, labels from 0, scores, state_probs (n, states), perhaps attribute_probs.

        Features are pooled again at the final boxes: the state is that of what the answer shows, not of the
        proposal that it was made from.
        """
        regions = self.region_features(features, proposals, padded)
        logits, deltas = self.box_predictor(regions)
        boxes, scores, labels = self.postprocess_detections(
            logits.float(), deltas.float(), proposals, image_sizes
        )
        labels = [label - 1 for label in labels]
        if self.config.one_per_part:
            limit = self.config.box_detections_per_image
            best = [first_of_each(label, self.config.num_labels)[:limit] for label in labels]
            boxes, scores, labels = (
                [part[rows] for part, rows in zip(parts, best, strict=True)]
                for parts in (boxes, scores, labels)
            )
        states = self.state_head.logits(self.region_features(features, boxes, padded), torch.cat(labels))
        # not len(), which would be a constant of the exported graph
        told = {"state_probs": self.state_head.probabilities(states)}
        told |= attribute_probabilities(states, self.config)
        counts = [label.shape[0] for label in labels]
        each = zip(*(values.split(counts) for values in told.values()), strict=True)
        return [
            self._presence({"boxes": b, "labels": n, "scores": s} | dict(zip(told, own, strict=True)))
            for b, n, s, own in zip(boxes, labels, scores, each, strict=True)
        ]

    def region_features(self, features, boxes, padded) -> torch.Tensor:
        """(regions of all images, box_hidden_size)."""
        # The scales of the maps must come from the padded tensor: torchvision takes them from the photos of
        # the first batch that it sees, and keeps them.
        self.box_roi_pool.scales = None
        pooled = self.box_roi_pool(features, boxes, [padded] * len(boxes))
        return self.box_head(pooled.to(self.box_predictor.cls_score.weight.dtype))

    def _presence(self, detections: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.config.absent != "detect" or self.config.absent_index is None:
            return detections
        detections["scores"] = self.state_head.presence(detections["scores"], detections["state_probs"])
        order = detections["scores"].sort(descending=True).indices
        return {name: values[order] for name, values in detections.items()}


def first_of_each(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Rows of the first of each label, in order.

    >>> first_of_each(torch.tensor([3, 1, 3, 1, 0]), 4)
    tensor([0, 1, 4])
    """
    own = labels[:, None] == torch.arange(classes, device=labels.device)
    return torch.where((own & (own.long().cumsum(0) == 1)).any(1))[0]


def share_within(boxes: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """(boxes, regions) share of each box's area that lies in each region, 0 for a box without area.

    >>> share_within(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 90, 5]]))
    tensor([[0.2500]])
    """
    start = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    end = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (end - start).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    return torch.where(area > 0, shared / area, 0.0)


def _reaches(overlaps: torch.Tensor, low: float) -> torch.Tensor:
    """(boxes,) whether any of a box's overlaps (boxes, others) is so large."""
    return (overlaps >= low).any(1)


def _take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`values[rows]`; a photo without truths has rows of 0 all the same."""
    return values[rows] if len(values) else values.new_zeros(len(rows), *values.shape[1:])
