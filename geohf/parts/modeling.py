"""The detector: from a photo to its parts, where each is, and the state that it is in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.ops import FeaturePyramidNetwork, box_convert
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from transformers.utils import can_return_tuple

from geohf.data.classes import NamedClasses, class_names
from geohf.errors import DataError
from geohf.parts.answering import AnsweringDetector
from geohf.parts.answers import PartStateOutput
from geohf.parts.backbone import FeatureBackbone
from geohf.parts.boxes import boxes_in_pixels
from geohf.parts.configuration import PartStateConfig
from geohf.parts.decisions import with_temperatures
from geohf.parts.detectors import build_detector, detector_backbone
from geohf.parts.heads import PartRoIHeads, PartRPN, StateHead
from geohf.parts.losses import IGNORED
from geohf.parts.metrics import BatchScores, truth_names
from geohf.parts.processing import PartCollator, PartImageProcessor
from geohf.parts.queries import query_answers, run_queries
from geohf.parts.regions import RegionDetector
from geohf.parts.starting import StartingDetector, start_of
from geohf.vision.towers import keep_statistics
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.data.task_data import TaskData
    from geohf.parts.arguments import PartArguments


class PartStateModel(StartingDetector, RegionDetector, AnsweringDetector):
    """Faster R-CNN, or a detector of transformers that answers with queries, with a state for every box.

    >>> from geohf.parts import PartStateConfig
    >>> config = PartStateConfig(backbone="test_resnet", norm="group", pyramid_channels=16, image_size=[64, 64],
    ...                          id2label={0: "wheel", 1: "bell"}, id2state={0: "intact", 1: "absent"})
    >>> output = PartStateModel(config).eval()(torch.zeros(1, 3, 64, 64))
    >>> output.pred_boxes.shape[-1], output.state_probs.shape[-1]
    (4, 2)
    """

    config_class = PartStateConfig
    processor_class = PartImageProcessor
    card_template = "parts.md"
    predict_options: ClassVar[dict[str, dict]] = {
        "threshold": {
            "type": float,
            "help": "Score from which a part is there; default: the model's, of each part.",
        },
        "slice_size": {"type": int, "help": "See larger photos also in squares of this many pixels."},
        "overlap": {"type": float, "help": "Share that two slices have in common; default: 0.2."},
        "tta": {"choices": ("flip",), "help": "flip: see every photo mirrored, too, and average."},
        "track": {
            "action": "store_const",
            "const": True,
            "help": "Inputs are a video or frames in order: number the parts through them.",
        },
    }

    def __init__(self, config: PartStateConfig):
        super().__init__(config)
        if not config.id2state:
            raise DataError("the config names no states: id2state")
        if self.answers_with_queries:
            fields = config.detector_config
            self.detector = build_detector(config.architecture, fields, config.num_labels, config.norm)
            self.state_head = StateHead(config, self.detector.config.d_model)
            self.finish_init()
            return
        tower = FeatureBackbone(config)
        self.tower = tower  # type: ignore[misc]  # torch takes it before the property does
        width, norm = config.pyramid_channels, nn.BatchNorm2d if config.pyramid_norm else None
        self.pyramid = FeaturePyramidNetwork(tower.channels, width, LastLevelMaxPool(), norm_layer=norm)
        strides = [*tower.strides, tower.strides[-1] * 2]
        self.rpn = PartRPN(config, strides)
        self.roi_heads = PartRoIHeads(config, [str(i) for i in range(len(tower.strides))])
        self.finish_init()

    @property
    def answers_with_queries(self) -> bool:
        """Whether it is one of transformers' detectors, `DETECTORS`, and no Faster R-CNN."""
        return self.config.architecture != "faster_rcnn"

    @property  # where it lies depends on the architecture
    def tower(self) -> Any:  # type: ignore[override]  # torch keeps it among its modules
        """The backbone."""
        return detector_backbone(self.detector) if self.answers_with_queries else self._modules["tower"]

    def _init_weights(self, module):
        # nothing is drawn anew, see GeoPreTrainedModel; what is not saved must be computed again
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def train(self, mode: bool = True):
        """Set training mode, but leave every batch norm's statistics as they are, the pyramid's and heads' too."""
        super().train(mode)
        keep_statistics(self)
        return self

    @property
    def processor_settings(self) -> dict:
        """What the processor is made with; photos are fitted into the config's `image_size`."""
        height, width = self.config.image_size
        return {"size": {"height": height, "width": width}} | super().processor_settings

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many photos of a batch count: all of them, with queries as often as each has boxes."""
        if not self.answers_with_queries:
            return {"images": torch.tensor(len(batch["pixel_values"]))}
        sizes = [(1, 1)] * len(batch["labels"])
        truths = (batch.get(name) for name in ("labels", "boxes", "states", "weights", "iscrowd"))
        return {"images": self._photo_weights(self.targets_of(sizes, *truths)).sum()}

    def _photo_weights(self, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """(photos,) how often each counts in the mean of the losses; one without boxes counts once, too."""
        counts = [len(target["labels"]) if self.answers_with_queries else 1 for target in targets]
        return targets[0]["boxes"].new_tensor(counts).clamp(min=1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        iscrowd: torch.Tensor | None = None,
        attributes: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
    ) -> PartStateOutput:
        """Find parts; with truths, also the losses. In training mode the losses alone.

        Args:
            pixel_values: (batch, 3, height, width), photos in the upper left corner.
            image_sizes: (batch, 2) height and width of the photos within; None: they fill it.
            original_sizes: (batch, 2) of the photos as they were, handed through for `decode`.
            labels: (batch, m) parts of the truths, negative where a photo has fewer.
            boxes: (batch, m, 4) as `pred_boxes`.
            states: (batch, m).
            weights: (batch, m) of each truth in the losses of regions, for labels that are trusted more or less.
            iscrowd: (batch, m) 1 for a box that is a region with several of its part: nothing in it is taken for
                right or wrong.
            attributes: (batch, m, attributes) number of each one's value, -100 where it is unlabeled.
            loss_items: `images` over which the loss is averaged; None: those of this batch.
        """
        if weights is not None and self.answers_with_queries:
            raise DataError(
                "truths are weighed with architecture faster_rcnn alone: leave trust_weighted out"
            )
        given = [pixel_values.shape[-2:]] * len(pixel_values) if image_sizes is None else image_sizes.tolist()
        sizes = [(height, width) for height, width in given]
        targets = None
        if labels is not None:
            targets = self.targets_of(sizes, labels, boxes, states, weights, iscrowd, attributes)
        if self.answers_with_queries:
            losses, detections = run_queries(self.detector, self.state_head, pixel_values, sizes, targets)
        else:
            losses, detections = self.run_regions(pixel_values, sizes, targets)
        outputs: dict[str, Any] = dict(with_temperatures(detections, self.config))
        if targets is not None and losses is not None:
            outputs |= self._summed(losses, self._photo_weights(targets), loss_items)
        return PartStateOutput(**outputs, original_sizes=original_sizes)

    def targets_of(
        self, sizes, labels, boxes, states, weights=None, iscrowd=None, attributes=None
    ) -> list[dict[str, torch.Tensor]]:
        """Padded truths to a list of dicts: boxes in pixels, labels from 1 (-1: ignored), states, attributes, weights, crowds."""
        config, targets = self.config, []
        if attributes is None and config.attributes:
            attributes = states.new_full((*states.shape, len(config.attributes)), IGNORED)
        for i, (height, width) in enumerate(sizes):
            crowd = torch.zeros_like(labels[i], dtype=torch.bool) if iscrowd is None else iscrowd[i] > 0
            known = (labels[i] >= 0) & ~crowd
            pixels = boxes_in_pixels(boxes[i], height, width)
            target = {"boxes": pixels[known], "labels": labels[i][known] + 1, "states": states[i][known]}
            if weights is not None:
                target["weights"] = weights[i][known]
            if attributes is not None:
                target["attributes"] = attributes[i][known]
            absent = target["states"] == (IGNORED if config.absent_index is None else config.absent_index)
            if "attributes" in target:  # what is not there has none
                target["attributes"] = target["attributes"].masked_fill(absent[:, None], IGNORED)
            if config.absent == "ignore":
                target["labels"] = torch.where(absent, -1, target["labels"])
            elif config.absent == "background":
                target = {name: values[~absent] for name, values in target.items()}
            targets.append(target | {"crowds": pixels[(labels[i] >= 0) & crowd]})
        return targets

    def _summed(self, losses: torch.Tensor, weights: torch.Tensor, loss_items) -> dict[str, Any]:
        count = weights.sum() if loss_items is None else loss_items["images"]
        means = (losses * weights[:, None]).sum(0) / count
        return {
            "loss": (means * losses.new_tensor(self.config.loss_weights)).sum(),
            "loss_parts": dict(zip(self.config.loss_parts, means.detach(), strict=True)),
            "losses": losses.detach(),
            "photo_weights": weights,
        }

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`boxes` (batch, n, 4) left, top, right, bottom in pixels of the input, `labels`, `scores`, `state_probs`, and of a model
        with attributes `attribute_probs`.

        Raises:
            DataError: the model is a Faster R-CNN, which `geohf.parts.export` writes for one photo at a time, or a detector
                for which ONNX has no word.
        """
        if not self.answers_with_queries:
            raise DataError(
                "Faster R-CNN has no file for a batch: --export_onnx true of the recipe, or "
                "geohf.parts.export.export_onnx, writes one for one photo at a time"
            )
        if self.config.architecture == "rf_detr":
            raise DataError(
                "ONNX has no word for how rf_detr resizes its positions; the other detectors can be written"
            )
        outputs = self.detector(pixel_values)
        found = outputs.logits, outputs.pred_boxes, outputs.last_hidden_state
        answers = with_temperatures(query_answers(self.state_head, *found), self.config)
        height, width = self.config.image_size
        corners = box_convert(answers["pred_boxes"], "cxcywh", "xyxy").clamp(0, 1)
        boxes = corners * corners.new_tensor([width, height, width, height])
        return {"boxes": boxes, "labels": answers["pred_labels"]} | {
            name: answers[name] for name in ("scores", "state_probs", "attribute_probs") if name in answers
        }

    def evaluate(
        self, data: str | os.PathLike, batch_size: int = 8, on_error: str = "raise"
    ) -> dict[str, float]:
        """Losses, mAP, states and hallucination on the photos that `data` holds out; see `load_for_evaluation`."""
        from geohf.parts.data import load_for_evaluation

        photos = load_for_evaluation(data, self.config, on_error)
        return {"photos": len(photos), **self.scores_on(photos, batch_size)}

    @torch.inference_mode()
    def scores_on(self, photos: Any, batch_size: int = 8) -> dict[str, float]:
        """The losses and metrics of `BatchScores` on a dataset with the columns of `part_features`."""
        scores, model = BatchScores(self.config), in_eval_mode(self)
        columns = ("parts", "states", *(self.config.attributes or ()))
        collator = NamedClasses(PartCollator(self), class_names(photos, columns))
        for batch in DataLoader(photos, batch_size, collate_fn=collator):
            del batch["image_ids"]
            batch = {name: part.to(self.device) for name, part in batch.items()}
            batch["pixel_values"] = self.as_read(batch["pixel_values"])
            scores.add(model(**batch), [batch[name] for name in truth_names(self.config)])
        return scores.compute()


def make_model(options: PartArguments, data: TaskData) -> PartStateModel:
    """A detector for the vocabulary of these photos, as the options want it.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    from geohf.parts.arguments import config_overrides

    name, pretrained, fields = start_of(options, data)
    overrides = config_overrides(options)
    try:
        if options.architecture is None:
            return PartStateModel.from_backbone(
                name, pretrained=pretrained, backbone_weights=options.backbone_weights, **fields | overrides
            )
        model = PartStateModel.from_detector(name, pretrained=pretrained, **fields | overrides)
    except (TypeError, RuntimeError) as error:
        if not overrides:
            raise
        raise DataError(f"--config_overrides {options.config_overrides}: {error}") from None
    if model.config.architecture != options.architecture:
        raise DataError(
            f"{name}: is {model.config.architecture}, and not --architecture {options.architecture}"
        )
    return model
