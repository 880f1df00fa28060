"""The arguments of a parts run: its data and model, and its training."""

from __future__ import annotations

import json
from dataclasses import dataclass

from geohf.errors import DataError, require_choice
from geohf.metrics.directions import LOSS
from geohf.parts.configuration import DETECTORS, PartStateConfig
from geohf.parts.metrics import METRICS
from geohf.training.arguments import NOT_HONORED, GeoTrainingArguments, argument
from geohf.training.options import BackboneArguments, DataArguments, StreamingArguments, with_default


@dataclass
class PartArguments(DataArguments, BackboneArguments, StreamingArguments):
    """Data and model of the parts task."""

    row_word = "photos"

    data: str | None = argument(
        None,
        "Folder or file in the layout of COCO, DelftBikes, CVAT, Label Studio, YOLO or VOC, or dataset name; "
        "default: the built-in sample.",
    )
    state_attribute: str | None = argument(
        None, "The attribute that is a box's state; default: state or condition. none: states are not read."
    )
    state_file: str | None = argument(
        None, "Table with the states of the boxes: annotation_id and state, or image_id, part and state."
    )
    attributes: list[str] | None = argument(
        None, "Attributes of a box to tell beside its state, such as color; a box may lack them."
    )
    min_trust: float = argument(0.0, "Leave out annotations that are trusted less.")
    sample_size: int = argument(320, "Photos in the built-in sample.")
    split: str = argument("stratified", "How photos are held out: stratified or random.")
    architecture: str | None = argument(
        None,
        f"A detector of transformers that answers with queries, {', '.join(DETECTORS)}: its weights are in the "
        "repo or folder that --backbone names, or random with --pretrained false; default: what --backbone is.",
    )
    backbone: str | None = argument(
        None,
        "A detector of torchvision (fasterrcnn_resnet50_fpn, ..._v2, fasterrcnn_mobilenet_v3_large_fpn), "
        "resnet18 to resnet152, mobilenet_v3_large, a timm name, or the repo or folder of a detector of transformers "
        "(PekingU/rtdetr_v2_r18vd); default: fasterrcnn_resnet50_fpn, for the sample a tiny one.",
    )
    norm: str | None = argument(
        None, "Of the backbone: batch, frozen or group; default: as weights want it, group for random ones."
    )
    image_size: list[int] | None = argument(
        None, "Height and width that photos are fitted into, multiples of 32; default: 800 800."
    )
    absent: str = argument("background", "What absent parts are in training: background, detect or ignore.")
    state_per_part: bool = argument(False, "State logits of its own for each part.")
    one_per_part: bool | None = argument(
        None, "Answer with the best box per part; default: where no photo shows two of one part."
    )
    state_balance: str = argument(
        "none",
        "For states that are rare in training: none, logit_adjust (answers weigh all states alike), effective "
        "(rare ones weigh more) or focal (sure answers weigh less).",
    )
    state_weight: float = argument(0.5, "Weight of the state loss.")
    presence_threshold: float | None = argument(
        None, "Score from which a part is there; default: fitted for each part on validation."
    )
    config_overrides: str | None = argument(
        None,
        "Further fields of PartStateConfig as JSON: anchors, numbers of proposals and regions, thresholds.",
    )
    overlays: int = argument(12, "Held-out photos to draw with their parts.")
    export_onnx: bool = argument(False, "Also write model.onnx, of Faster R-CNN for one photo at a time.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(("none", "logit_adjust", "effective", "focal"), state_balance=self.state_balance)
        require_choice((*DETECTORS, None), architecture=self.architecture)


@dataclass
class PartTrainingArguments(GeoTrainingArguments):
    """GeoTrainingArguments with what a detector needs."""

    metrics = LOSS | METRICS
    not_honored = NOT_HONORED | {
        "batch_eval_metrics": (True, "boxes of different number cannot be joined: it must be on")
    }

    output_dir: str = with_default(GeoTrainingArguments, "output_dir", "outputs/parts")
    learning_rate: float | None = argument(  # type: ignore[assignment]  # settled as the optimizer is made
        None, "Peak learning rate; default: 1e-4 for published weights, 1e-3 for random ones."
    )
    backbone_learning_rate: float | None = argument(
        None,
        "Peak learning rate of the backbone; default: that of the rest, a tenth of it for the published weights of "
        "a detector that answers with queries.",
    )
    num_train_epochs: float = argument(12.0, "Epochs.")
    per_device_train_batch_size: int = argument(2, "Photos in a batch.")
    per_device_eval_batch_size: int = argument(8, "Photos in a batch of evaluation.")
    dataloader_num_workers: int = argument(1, "Processes that decode and augment photos in training.")
    weight_decay: float = with_default(GeoTrainingArguments, "weight_decay", 1e-4)
    max_grad_norm: float = argument(10.0, "Gradients are clipped to this norm.")
    metric_for_best_model: str = argument("map", "Chooses the best weights: map, loss, or any other metric.")
    batch_eval_metrics: bool = argument(True, "Metrics are collected batch by batch, in bounded memory.")
    augment: bool = argument(True, "Mirror, crop and change the colors of training photos.")
    flip: float = argument(
        0.5, "Probability of mirroring a photo; 0 where names of parts or states tell left from right."
    )
    trust_weighted: bool = argument(False, "Weigh each annotation in the loss by how far it is trusted.")
    max_missed: float | None = argument(
        None, "Choose the threshold so that of the parts of a photo no larger share is missed, on average."
    )
    max_hallucinated: float | None = argument(
        None, "Choose the threshold so that of the absent parts no larger share is seen, on average."
    )
    repeat_threshold: float = argument(
        0.0,
        "Show a photo more often, where fewer than this share of the photos show one of its parts in its state: by "
        "the square root of what it lacks. 0: every photo once an epoch.",
    )
    paste_rare: float = argument(
        0.0,
        "In this share of the training photos one part takes the pixels and the state of the same part in another "
        "photo, where it is in a rarer state.",
    )
    mosaic: float = argument(0.0, "In this share of the training photos four stand together as one picture.")
    multi_scale: float = argument(
        0.0, "Training photos are shown at a random scale, smaller by up to this share; 0: as large as fits."
    )
    trained_stages: int | None = argument(
        None,
        "Last stages of the backbone that learn; default: 3 of published weights, else all; with --architecture "
        "all or 0.",
    )


def config_overrides(options: PartArguments) -> dict:
    """The fields of `PartStateConfig` that `--config_overrides` names; raises DataError where it has no such."""
    given = options.config_overrides
    try:
        fields = json.loads(given) if isinstance(given, str) and given else dict(given or {})
    except ValueError as error:
        raise DataError(f"--config_overrides is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DataError(f"--config_overrides must be a JSON object, got {given}")
    unknown = sorted(set(fields) - set(PartStateConfig.__annotations__))
    if unknown:
        raise DataError(f"--config_overrides: PartStateConfig has no field {', '.join(unknown)}")
    return fields
