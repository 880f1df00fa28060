"""The detector: from a photo to its parts, where each is, and the state that it is in."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, box_convert
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from transformers.utils import can_return_tuple

from geohf.data.classes import NamedClasses, class_names
from geohf.errors import DataError
from geohf.models.modeling import GeoPreTrainedModel
from geohf.models.settings import settings_refused
from geohf.parts.answers import PartPrediction, PartStateOutput, PhotoPrediction
from geohf.parts.configuration import DETECTORS, PartStateConfig
from geohf.parts.decisions import with_temperatures
from geohf.parts.detectors import (
    build_detector,
    detector_tower,
    names_detector,
    published_detector,
    published_fields,
    random_fields,
    take_weights,
)
from geohf.parts.heads import PartRoIHeads, PartRPN, StateHead
from geohf.parts.losses import IGNORED
from geohf.parts.metrics import BatchScores
from geohf.parts.processing import PartCollator, PartImageProcessor
from geohf.parts.queries import query_answers, run_queries
from geohf.parts.rows import as_photos, shows_one_of_each
from geohf.parts.sample import SAMPLE_DETECTORS, SAMPLE_FIELDS
from geohf.parts.tower import FeatureTower
from geohf.parts.vocabulary import absent_index, names_of
from geohf.vision.backbones import backbone_config, require_weights
from geohf.vision.licenses import published_name
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.data.task_data import TaskData
    from geohf.parts.arguments import PartArguments

# what stands in the outputs where an image has fewer boxes than the batch's longest list
NO_LABEL = -1
REAL_BACKBONE = "fasterrcnn_resnet50_fpn"


class PartStateModel(GeoPreTrainedModel):
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
        }
    }
    supports_gradient_checkpointing = False

    def __init__(self, config: PartStateConfig):
        super().__init__(config)
        if not config.id2state:
            raise DataError("the config names no states: id2state")
        if self.answers_with_queries:
            self.detector = build_detector(
                config.architecture, config.detector_config, config.num_labels, config.norm
            )
            self.state_head = StateHead(config, self.detector.config.d_model)
            self.finish_init()
            return
        self.tower = FeatureTower(config)
        self.pyramid = FeaturePyramidNetwork(
            self.tower.channels,
            config.pyramid_channels,
            LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if config.pyramid_norm else None,
        )
        strides = [*self.tower.strides, self.tower.strides[-1] * 2]
        self.rpn = PartRPN(config, strides)
        self.roi_heads = PartRoIHeads(config, [str(i) for i in range(len(self.tower.strides))])
        self.finish_init()

    @property
    def answers_with_queries(self) -> bool:
        """Whether it is one of transformers' detectors, `DETECTORS`, and no Faster R-CNN."""
        return self.config.architecture != "faster_rcnn"

    @property
    def tower(self) -> nn.Module:  # type: ignore[override]  # where it lies depends on the architecture
        """The backbone."""
        return detector_tower(self.detector) if self.answers_with_queries else self._modules["tower"]

    def _init_weights(self, module):
        # nothing is drawn anew, see GeoPreTrainedModel; what is not saved must be computed again
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def train(self, mode: bool = True):
        """Set training mode, but leave every batch norm's statistics as they are, the pyramid's and heads' too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @classmethod
    def from_backbone(
        cls,
        name: str = "resnet50",
        *,
        pretrained: bool = True,
        backbone_weights: str | os.PathLike | None = None,
        **config_fields: Any,
    ) -> PartStateModel:
        """A new detector around a backbone, or from one of torchvision's detectors.

        Args:
            name: a backbone, see `PartStateConfig.backbone`, or a detector trained on COCO:
                `fasterrcnn_resnet50_fpn`, `fasterrcnn_resnet50_fpn_v2`, `fasterrcnn_mobilenet_v3_large_fpn`,
                `fasterrcnn_mobilenet_v3_large_320_fpn`; only its last layers and the state head are new then. Or a
                folder or repo: of timm, of a parts model (all but the classes is taken), of another geohf model, of a
                detector, see `from_detector`.
            pretrained: load the published weights; False builds the same with random ones.
            backbone_weights: a file of weights of this backbone or detector, instead of the published ones.
            config_fields: `id2label`, `id2state` and the rest of `PartStateConfig`.

        Raises:
            DataError: an unknown backbone, weights that cannot be loaded, or settings that do not go together.
        """
        from geohf.parts.pretrained import coco_fields, load_published

        if backbone_weights is None and names_detector(name):
            return cls.from_detector(name, pretrained=pretrained, **config_fields)
        require_weights(backbone_weights, pretrained)
        with settings_refused():
            config = cls.config_class(**coco_fields(name) | config_fields)
            if pretrained:
                config.backbone_name = published_name(str(backbone_weights or name))
            model = cls(config)
        if pretrained:
            load_published(model, name, backbone_weights)
        return model.eval()

    @classmethod
    def from_detector(cls, name: str, *, pretrained: bool = True, **config_fields: Any) -> PartStateModel:
        """A new detector from one of transformers' that answer with queries, RT-DETRv2, D-FINE, RF-DETR, DEIMv2 or LW-DETR.

        Args:
            name: a repo or folder, `"PekingU/rtdetr_v2_r18vd"`: only what depends on the classes, and the state head, is new
                then. Or an architecture, `"rt_detr_v2"`, for random weights.
            pretrained: load the published weights; False builds the same with random ones.
            config_fields: `id2label`, `id2state` and the rest of `PartStateConfig`.

        Raises:
            DataError: no such detector, weights that cannot be loaded, or settings that do not go together.
        """
        if name in DETECTORS and pretrained:
            raise DataError(
                f"{name} alone names no weights: give the repo or folder of a detector, or pretrained=False for random ones"
            )
        with settings_refused():
            fields = random_fields(name) if name in DETECTORS else published_fields(name)
            if pretrained:
                fields["backbone_name"] = published_name(name)
            elif name not in DETECTORS:  # batch norms learn from no random weights here
                fields |= {"norm": "group", "backbone_license": None}
            model = cls(cls.config_class(**fields | config_fields))
        model.config.backbone = model.detector.config.backbone_config.model_type
        if pretrained:
            ours = backbone_config(name)[1]["model_type"] == model.config.model_type
            published = (
                cls.from_pretrained(name).detector if ours else published_detector(name, model.config.norm)
            )
            take_weights(model.detector, published, name)
        return model.eval()

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
            loss_items: `images` over which the loss is averaged; None: those of this batch.
        """
        padded = tuple(pixel_values.shape[-2:])
        if weights is not None and self.answers_with_queries:
            raise DataError(
                "truths are weighed with architecture faster_rcnn alone: leave trust_weighted out"
            )
        if image_sizes is None:
            sizes = [padded] * len(pixel_values)
        else:
            sizes = [(height, width) for height, width in image_sizes.tolist()]
        targets = None
        if labels is not None:
            targets = self.targets_of(sizes, labels, boxes, states, weights, iscrowd)
        if self.answers_with_queries:
            losses, found = run_queries(self.detector, self.state_head, pixel_values, sizes, targets)
        else:
            losses, found = self._regions(pixel_values, sizes, targets)
        if targets is not None:
            found = found | self._summed(losses, self._photo_weights(targets), loss_items)
        return PartStateOutput(**with_temperatures(found, self.config), original_sizes=original_sizes)

    def _regions(self, pixel_values, sizes, targets) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """As `run_queries`, by Faster R-CNN."""
        images, padded = ImageList(pixel_values, sizes), tuple(pixel_values.shape[-2:])
        features = self.feature_maps(pixel_values)
        losses = None if targets is None else self.image_losses(images, features, padded, targets)
        return losses, {} if self.training else self._padded(self.detect(images, features, padded), sizes)

    def feature_maps(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """(batch, 3, H, W) to the pyramid's maps, in float32, which boxes are pooled from."""
        maps = self.pyramid(self.tower(pixel_values))
        return {name: features.float() for name, features in maps.items()}

    def detect(self, images: ImageList, features: dict, padded: tuple) -> list[dict[str, torch.Tensor]]:
        """Boxes (n, 4) in pixels of the input, labels, scores and state_probs of every image."""
        proposals, _ = self.rpn(images, features)
        return self.roi_heads.detect(features, proposals, padded, images.image_sizes)

    def targets_of(
        self, sizes, labels, boxes, states, weights=None, iscrowd=None
    ) -> list[dict[str, torch.Tensor]]:
        """Padded truths to a list of dicts: boxes in pixels, labels from 1 (-1: ignored), states, weights, crowds."""
        config, targets = self.config, []
        for i, (height, width) in enumerate(sizes):
            crowd = torch.zeros_like(labels[i], dtype=torch.bool) if iscrowd is None else iscrowd[i] > 0
            known = (labels[i] >= 0) & ~crowd
            scale = boxes.new_tensor([width, height, width, height])
            pixels = box_convert(boxes[i], "cxcywh", "xyxy") * scale
            target = {
                "boxes": pixels[known],
                "labels": labels[i][known] + 1,
                "states": states[i][known],
            }
            if weights is not None:
                target["weights"] = weights[i][known]
            absent = target["states"] == (IGNORED if config.absent_index is None else config.absent_index)
            if config.absent == "ignore":
                target["labels"] = torch.where(absent, -1, target["labels"])
            elif config.absent == "background":
                target = {name: values[~absent] for name, values in target.items()}
            targets.append(target | {"crowds": pixels[(labels[i] >= 0) & crowd]})
        return targets

    def image_losses(self, images, features, padded, targets) -> torch.Tensor:
        """(images, parts of the loss), in the order of `LOSS_PARTS`, before they are weighted."""
        places = [
            {
                "boxes": t["boxes"][t["labels"] > 0],
                "ignored": t["boxes"][t["labels"] < 0],
                "crowds": t["crowds"],
            }
            for t in targets
        ]
        with self._measuring():
            proposals, found = self.rpn(images, features, places)
            classes, boxes, states = self.roi_heads.losses(features, proposals, padded, targets)
        return torch.stack(
            [classes, boxes, found["loss_objectness"], found["loss_rpn_box_reg"], states], dim=1
        )

    @contextmanager
    def _measuring(self):
        """A validation loss needs the proposals of training, and the same samples every time.

        Only the flag of the proposal network itself is set: dropout and batch norms below it stay as they are.
        """
        samplers = (self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler)
        for sampler in samplers:
            sampler.repeat = not self.training
        self.rpn.training = True
        try:
            yield
        finally:
            self.rpn.training = self.training

    def _summed(self, losses: torch.Tensor, weights: torch.Tensor, loss_items) -> dict[str, Any]:
        count = weights.sum() if loss_items is None else loss_items["images"]
        means = (losses * weights[:, None]).sum(0) / count
        return {
            "loss": (means * losses.new_tensor(self.config.loss_weights)).sum(),
            "loss_parts": dict(zip(self.config.loss_parts, means.detach(), strict=True)),
            "losses": losses.detach(),
            "photo_weights": weights,
        }

    def _padded(self, found: list[dict], sizes) -> dict[str, torch.Tensor]:
        longest = max(len(parts["labels"]) for parts in found)
        shape, reference = (len(found), longest), found[0]["boxes"]
        boxes, scores = reference.new_zeros(*shape, 4), reference.new_zeros(shape)
        labels = torch.full(shape, NO_LABEL, device=reference.device)
        states = reference.new_zeros(*shape, self.config.num_states)
        for i, (parts, (height, width)) in enumerate(zip(found, sizes, strict=True)):
            n = len(parts["labels"])
            scale = reference.new_tensor([width, height, width, height])
            boxes[i, :n] = box_convert(parts["boxes"] / scale, "xyxy", "cxcywh")
            labels[i, :n], scores[i, :n] = parts["labels"], parts["scores"]
            states[i, :n] = parts["state_probs"]
        return {"pred_boxes": boxes, "pred_labels": labels, "scores": scores, "state_probs": states}

    # ---- answers

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`boxes` (batch, n, 4) left, top, right, bottom in pixels of the input, `labels`, `scores`, `state_probs`.

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
        found = self.detector(pixel_values)
        answers = with_temperatures(
            query_answers(self.state_head, found.logits, found.pred_boxes, found.last_hidden_state),
            self.config,
        )
        height, width = self.config.image_size
        corners = box_convert(answers["pred_boxes"], "cxcywh", "xyxy").clamp(0, 1)
        boxes = corners * corners.new_tensor([width, height, width, height])
        return {"boxes": boxes, "labels": answers["pred_labels"]} | {
            name: answers[name] for name in ("scores", "state_probs")
        }

    def decode(self, outputs: PartStateOutput, threshold: float | None = None) -> list[PhotoPrediction]:
        """Turn outputs into answers.

        Args:
            threshold: score from which a part is there; default: that of each part, the config's `thresholds`.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise DataError(f"threshold must be from 0 to 1, got {threshold}")
        limits = self.config.thresholds if threshold is None else threshold
        names, states = self.config.id2label, self.config.id2state
        sizes = outputs.original_sizes
        found = self.processor.post_process_object_detection(outputs, limits, sizes)
        answers = []
        for parts, size in zip(
            found, [[1, 1]] * len(found) if sizes is None else sizes.tolist(), strict=True
        ):
            rows = zip(*(parts[key].tolist() for key in _KEYS), strict=True)
            shown = [
                PartPrediction(names[label], score, states[state], sure, tuple(box))
                for label, score, state, sure, box in rows
            ]
            seen = set(parts["labels"].tolist())
            missing = [name for i, name in sorted(names.items()) if i not in seen]
            answers.append(PhotoPrediction(int(size[1]), int(size[0]), shown, missing))
        return answers

    def rows_of(self, answer: PhotoPrediction) -> list[dict[str, Any]]:
        """A row for every part that the model knows: those that were found, then the missing ones."""
        return answer.as_rows(self.config.absent_state)

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
        collator = NamedClasses(PartCollator(self), class_names(photos, ("parts", "states")))
        for batch in DataLoader(photos, batch_size, collate_fn=collator):
            del batch["image_ids"]
            batch = {name: part.to(self.device) for name, part in batch.items()}
            batch["pixel_values"] = batch["pixel_values"].to(self.dtype)
            scores.add(model(**batch), [batch[name] for name in ("labels", "boxes", "states", "iscrowd")])
        return scores.compute()

    def predict(self, inputs: Any, batch_size: int = 8, **options) -> list[PhotoPrediction]:
        """Find parts in photos: paths, folders, PIL images, arrays, bytes or datasets; see `decode` for options."""
        return super().predict(inputs, batch_size, **options)


_KEYS = ("labels", "scores", "states", "state_scores", "boxes")


def make_model(options: PartArguments, data: TaskData) -> PartStateModel:
    """A detector for the vocabulary of these photos, as the options want it.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    from geohf.parts.arguments import config_overrides

    is_sample = options.data is None and options.backbone is None
    architecture = options.architecture
    name = options.backbone or (SAMPLE_FIELDS["backbone"] if is_sample else REAL_BACKBONE)
    if architecture is not None:
        name = options.backbone or architecture
    pretrained = not is_sample if options.pretrained is None else options.pretrained
    train = as_photos(data.train)
    id2label, id2state = names_of(train)
    one = options.one_per_part
    fields = {
        "id2label": id2label,
        "id2state": id2state,
        "state_attribute": options.state_attribute,
        "absent": options.absent,
        "state_per_part": options.state_per_part,
        "one_per_part": shows_one_of_each(train) if one is None else one,
        "state_balance": options.state_balance,
        "state_weight": options.state_weight,
    }
    if options.presence_threshold is not None:
        fields |= {"presence_threshold": options.presence_threshold, "threshold_rule": "given"}
    if absent_index(list(id2state.values())) is None:
        fields["absent_state"] = None
    if is_sample:
        fields = (SAMPLE_FIELDS if architecture is None else SAMPLE_DETECTORS[architecture]) | fields
    elif not pretrained:
        fields["norm"] = "group"
    if options.norm is not None:
        fields["norm"] = options.norm
    if options.image_size is not None:
        fields["image_size"] = options.image_size
    overrides = config_overrides(options)
    try:
        if architecture is not None:
            return _from_detector(architecture, name, pretrained, fields | overrides)
        return PartStateModel.from_backbone(
            name, pretrained=pretrained, backbone_weights=options.backbone_weights, **fields | overrides
        )
    except (TypeError, RuntimeError) as error:
        if not overrides:
            raise
        raise DataError(f"--config_overrides {options.config_overrides}: {error}") from None


def _from_detector(architecture: str, name: str, pretrained: bool, fields: dict) -> PartStateModel:
    model = PartStateModel.from_detector(name, pretrained=pretrained, **fields)
    if model.config.architecture != architecture:
        raise DataError(f"{name}: is {model.config.architecture}, and not --architecture {architecture}")
    return model
