"""The config of the part-and-state detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from geohf.models.configuration import GeoConfig
from geohf.parts.losses import LOSS_PARTS, QUERY_LOSS_PARTS
from geohf.parts.vocabulary import ABSENT, PRESENT, require_attributes

# the stride of a pyramid's coarsest map, in whole numbers of which images are padded
STRIDE = 32
# detectors of transformers that answer with queries
DETECTORS = ("rt_detr_v2", "d_fine", "rf_detr", "deimv2", "lw_detr")


@strict
class PartStateConfig(GeoConfig):
    """Everything that a detector needs to answer in pixels, part names and state names.

    Parts are `id2label`, states `id2state`: any vocabulary will do.

    Args:
        id2state: number -> name of every state.
        absent_state: the state of parts that are not there; None, or the default where no state is called so: there is none.
        attributes: name -> values of what is told of a part beside its state, such as its color; None: nothing.
        state_attribute: what a box's state is called in COCO files that it is evaluated on, see `load_parts`.
        architecture: `faster_rcnn`, or a detector of transformers that answers with queries (`DETECTORS`), with the state head
            on each query. `feature_levels` to `box_head` but `image_size`, and `box_*` but `box_detections_per_image`, are for
            `faster_rcnn` alone.
        detector_config: fields of the detector's own config where it is another; None: its defaults.
        absent: what training makes of absent parts, which have a box too. `background`: nothing is there; `detect`: they are
            found, and a box's score is its score x (1 - P(absent)); `ignore`: their places are neither right nor wrong, with
            `faster_rcnn`.
        one_per_part: a photo shows at most one of each part, so only the best box per part is kept.
        backbone: `resnet18` to `resnet152` or `mobilenet_v3_large` of torchvision, or a timm name that gives feature maps.
        backbone_args: further keyword arguments of `timm.create_model`.
        backbone_name, backbone_license: where the first weights came from, None for random ones.
        norm: of the backbone, with queries of all layers: `batch` as it was built, whose statistics stay and whose weights learn;
            `frozen`: nothing of it learns; `group` in its place, for training from random weights.
        norm_eps: added to the variance of frozen norms; None: what the backbone was built with.
        feature_levels: which of the backbone's maps are used, fine to coarse; None: all from stride 4 on.
        pyramid_channels, pyramid_norm: width of the feature pyramid, and whether it has batch norms.
        image_size: height and width in pixels that photos are fitted into and padded to, multiples of 32, in `rf_detr` and
            `lw_detr` of the patches that one row of windows holds.
        anchor_sizes: a list of sides in pixels for every level; None: eight strides a level.
        aspect_ratios: heights of anchors over their widths.
        rpn_*: of the region proposal network, by torchvision's names: proposals before and after the suppression of overlaps, in
            training and in use; overlaps that make an anchor right or wrong; anchors an image and the share of right ones.
        roi_size: side in cells that a region is pooled to.
        roi_canonical_size: side in pixels of a region that is pooled from the third map (stride 16).
        box_head: two fully connected layers (`mlp`), or four convolutions and one (`conv`).
        box_*: of the box head: its width; overlaps that make a region right or wrong; regions an image and the share of right
            ones; the least score, the overlap that is suppressed and the boxes an image.
        state_per_part: state logits of its own for each part; False: the same for all parts.
        state_hidden_size, state_dropout: of the state head.
        state_balance: for states that are rare in training. `logit_adjust`: each part's shares of states are added to the logits
            in training alone, so that answers weigh all states alike; `effective`: rare ones weigh more; `focal`: sure answers
            weigh less.
        state_counts: how often training showed each part in each state, where the balance needs it.
        state_weight, classifier_weight, box_weight, objectness_weight, rpn_box_weight: of the parts in the total loss.
        score_temperature, state_temperature: what logits of scores and of states are divided by, fitted on validation.
        presence_threshold: score from which a part is said to be there.
        presence_thresholds: the same of each part, fitted on validation; None: `presence_threshold` for all.
        threshold_rule: `fitted` by training, or `given` by the user as `presence_threshold`.
        max_missed, max_hallucinated: the limits that the thresholds hold, see `geohf.parts.decisions`; None: none.
    """

    model_type = "geohf_parts"
    ranges: ClassVar = {
        "[0, 1]": ("presence_threshold", "box_score_threshold", "rpn_score_threshold"),
        "(0, inf)": ("score_temperature", "state_temperature"),
    }

    if TYPE_CHECKING:  # as they are once it is made
        id2label: dict[int, str]
        label2id: dict[str, int]
        num_labels: int
        id2state: dict[int, str]
    else:
        id2state: dict | None = None
    absent_state: str | None = "absent"
    attributes: dict | None = None
    state_attribute: str | None = None
    architecture: Literal["faster_rcnn", "rt_detr_v2", "d_fine", "rf_detr", "deimv2", "lw_detr"] = (
        "faster_rcnn"
    )
    detector_config: dict | None = None
    absent: Literal["background", "detect", "ignore"] = "background"
    one_per_part: bool = False
    backbone: str = "resnet50"
    backbone_args: dict | None = None
    norm: Literal["batch", "frozen", "group"] = "frozen"
    norm_eps: float | None = None
    feature_levels: list | None = None
    pyramid_channels: int = 256
    pyramid_norm: bool = False
    image_size: list | tuple = (800, 800)
    anchor_sizes: list | None = None
    aspect_ratios: list | tuple = (0.5, 1.0, 2.0)
    rpn_conv_depth: int = 1
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_threshold: float = 0.7
    rpn_fg_iou: float = 0.7
    rpn_bg_iou: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_threshold: float = 0.0
    roi_size: int = 7
    roi_canonical_size: int = 224
    box_head: Literal["mlp", "conv"] = "mlp"
    box_hidden_size: int = 1024
    box_fg_iou: float = 0.5
    box_bg_iou: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    box_score_threshold: float = 0.05
    box_nms_threshold: float = 0.5
    box_detections_per_image: int = 100
    state_per_part: bool = False
    state_hidden_size: int = 256
    state_dropout: float = 0.2
    state_balance: Literal["none", "logit_adjust", "effective", "focal"] = "none"
    state_counts: list | None = None
    state_weight: float = 0.5
    classifier_weight: float = 1.0
    box_weight: float = 1.0
    objectness_weight: float = 1.0
    rpn_box_weight: float = 1.0
    presence_threshold: float = 0.5
    presence_thresholds: list | None = None
    threshold_rule: Literal["fitted", "given"] = "fitted"
    score_temperature: float = 1.0
    state_temperature: float = 1.0
    max_missed: float | None = None
    max_hallucinated: float | None = None

    def __post_init__(self, **kwargs: Any):
        if self.id2state is not None:  # JSON has text for keys
            self.id2state = {int(i): name for i, name in self.id2state.items()}
        super().__post_init__(**kwargs)

    @property
    def num_states(self) -> int:
        return len(self.id2state or ())

    @property
    def attribute_sizes(self) -> list[int]:
        """How many values each of the `attributes` has."""
        return [len(values) for values in (self.attributes or {}).values()]

    @property
    def state_width(self) -> int:
        """How many logits the state head gives: of the states, and of each attribute."""
        return self.num_states + sum(self.attribute_sizes)

    @property
    def tells_states(self) -> bool:
        """Whether parts have states; a detector that learned from boxes alone answers `PRESENT`."""
        return set((self.id2state or {}).values()) != {PRESENT}

    @property
    def thresholds(self) -> list[float]:
        """The score from which each part is there."""
        return self.presence_thresholds or [self.presence_threshold] * self.num_labels

    @property
    def absent_index(self) -> int | None:
        """Number of the absent state, None where the vocabulary has none."""
        names = {name: i for i, name in (self.id2state or {}).items()}
        return None if self.absent_state is None else names.get(self.absent_state)

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Names of the parts of the loss."""
        return LOSS_PARTS if self.architecture == "faster_rcnn" else QUERY_LOSS_PARTS

    @property
    def loss_weights(self) -> list[float]:
        """Of the parts of the loss, in the order of `loss_parts`."""
        weights = (self.classifier_weight, self.box_weight, self.objectness_weight, self.rpn_box_weight)
        of_each = dict(zip(LOSS_PARTS, (*weights, self.state_weight), strict=True))
        return [of_each[name] for name in self.loss_parts]

    def validate_architecture(self):
        """Refuse settings that do not go together (called by transformers)."""
        super().validate_architecture()
        step = side_multiple(self.architecture, self.detector_config)
        if len(self.image_size) != 2 or any(side % step or side <= 0 for side in self.image_size):
            raise ValueError(
                f"image_size must be height and width in multiples of {step}, got {self.image_size}"
            )
        if self.absent == "ignore" and self.architecture != "faster_rcnn":
            raise ValueError(
                f"absent must be background or detect with {self.architecture}: each of its queries is right or wrong, "
                "and only faster_rcnn can ignore places"
            )
        for name in ("id2state", "id2label"):
            names = getattr(self, name)
            if names is not None and sorted(map(int, names)) != list(range(len(names))):
                raise ValueError(f"{name} must number its names from 0 on, got {sorted(names)}")
        require_attributes(self.attributes or {})
        if self.absent_state not in (None, ABSENT) and self.id2state and self.absent_index is None:
            raise ValueError(
                f"absent_state must be one of the states {', '.join(self.id2state.values())}, got {self.absent_state!r}"
            )
        given = self.presence_thresholds
        if given is not None and (len(given) != self.num_labels or not all(0 <= t <= 1 for t in given)):
            raise ValueError(
                f"presence_thresholds must be {self.num_labels} numbers from 0 to 1, one a part, got {given}"
            )
        if not self.rpn_bg_iou <= self.rpn_fg_iou or not self.box_bg_iou <= self.box_fg_iou:
            raise ValueError(
                "an overlap that makes a box wrong must not lie above the one that makes it right"
            )


def side_multiple(architecture: str, fields: dict | None) -> int:
    """Of what number the sides of a detector's input must be multiples.

    >>> side_multiple("rf_detr", {"backbone_config": {"patch_size": 14, "num_windows": 4}})
    56
    """
    backbone = (fields or {}).get("backbone_config") or {}
    if architecture == "rf_detr":
        return backbone.get("patch_size", 14) * backbone.get("num_windows", 4)
    if architecture == "lw_detr":
        return backbone.get("patch_size", 16) * math.isqrt(backbone.get("num_windows", 16))
    return STRIDE
