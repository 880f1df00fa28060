"""How a detector starts: around a backbone, from published weights, and as the options of a run want it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from geohf.errors import DataError
from geohf.models.configuration import as_data_error
from geohf.models.modeling import GeoPreTrainedModel
from geohf.parts.configuration import DETECTORS
from geohf.parts.detectors import (
    names_detector,
    published_detector,
    published_fields,
    random_fields,
    take_weights,
)
from geohf.parts.heads import StateHead
from geohf.parts.rows import as_photos, shows_one_of_each
from geohf.parts.sample import SAMPLE_DETECTORS, SAMPLE_FIELDS
from geohf.parts.vocabulary import ABSENT, attributes_of, names_of
from geohf.vision.backbones import backbone_config, require_weights
from geohf.vision.licenses import published_name

if TYPE_CHECKING:
    from typing_extensions import Self

    from geohf.data.task_data import TaskData
    from geohf.parts.arguments import PartArguments

REAL_BACKBONE = "fasterrcnn_resnet50_fpn"


class StartingDetector(GeoPreTrainedModel):
    """The ways in which a `PartStateModel` is made anew."""

    detector: PreTrainedModel
    state_head: StateHead

    @classmethod
    def from_backbone(
        cls,
        name: str = "resnet50",
        *,
        pretrained: bool = True,
        backbone_weights: str | os.PathLike | None = None,
        **config_fields: Any,
    ) -> Self:
        """A new detector around a backbone, or from one of torchvision's detectors.

        Args:
            name: a backbone, see `PartStateConfig.backbone`; a detector trained on COCO, `fasterrcnn_resnet50_fpn`, its `_v2`,
                `fasterrcnn_mobilenet_v3_large_fpn` or `..._320_fpn`, of which only the last layers and the state head are new;
                or a folder or repo: of timm, of a parts model (all but the classes is taken), of another geohf model, of a
                detector, see `from_detector`.
            pretrained: load the published weights; False builds the same with random ones.
            backbone_weights: a file of weights of this backbone or detector, instead of the published ones.
            config_fields: `id2label`, `id2state` and the rest of `PartStateConfig`.

        Raises:
            DataError: an unknown backbone, weights that cannot be loaded, or settings that do not go together.
        """
        from geohf.parts.pretrained import coco_fields, load_published, own_normalization

        if backbone_weights is None and names_detector(name):
            return cls.from_detector(name, pretrained=pretrained, **config_fields)
        require_weights(backbone_weights, pretrained)
        with as_data_error():
            config = cls.config_class(**coco_fields(name) | config_fields)
            if pretrained:
                config.backbone_name = published_name(str(backbone_weights or name))
            model = cls(config)
        if pretrained:
            load_published(model, name, backbone_weights)
            if "image_processor" not in config_fields:
                config.image_processor = own_normalization(name, backbone_weights)
        return model.eval()

    @classmethod
    def from_detector(cls, name: str, *, pretrained: bool = True, **config_fields: Any) -> Self:
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
        from geohf.parts.pretrained import CLASS_LAYERS, same_classes

        with as_data_error():
            fields = random_fields(name) if name in DETECTORS else published_fields(name)
            if pretrained:
                fields["backbone_name"] = published_name(name)
            elif name not in DETECTORS:  # batch norms learn from no random weights here
                fields |= {"norm": "group", "backbone_license": None}
            model = cls(cls.config_class(**fields | config_fields))
        model.config.backbone = model.detector.config.backbone_config.model_type
        if pretrained:
            if backbone_config(name)[1]["model_type"] == model.config.model_type:
                published = cls.from_pretrained(name)
                names, detector = published.config.id2label, published.detector
                head, own = published.state_head.state_dict(), model.state_head.state_dict()
                fits = all(head[key].shape == own[key].shape for key in own)
                if fits and CLASS_LAYERS[-1] in same_classes(model, name):
                    model.state_head.load_state_dict(head)
            else:
                detector = published_detector(name, model.config.norm)
                names = detector.config.id2label
            take_weights(model.detector, detector, name, same_classes=names == model.config.id2label)
        return model.eval()


def start_of(options: PartArguments, data: TaskData) -> tuple[str, bool, dict[str, Any]]:
    """What a run's options and photos mean for a new detector: its backbone, whether published weights are taken, and fields
    of `PartStateConfig`."""
    is_sample = options.data is None and options.backbone is None
    architecture = options.architecture
    sample = SAMPLE_FIELDS if architecture is None else SAMPLE_DETECTORS[architecture]
    default = SAMPLE_FIELDS["backbone"] if is_sample else REAL_BACKBONE
    name = options.backbone or architecture or str(default)
    pretrained = not is_sample if options.pretrained is None else options.pretrained
    train = as_photos(data.labeled)
    (id2label, id2state), one = names_of(train), options.one_per_part
    fields: dict[str, Any] = {
        "id2label": id2label,
        "id2state": id2state,
        "state_attribute": options.state_attribute,
        "attributes": attributes_of(train, options.attributes) if options.attributes else None,
        "absent": options.absent,
        "state_per_part": options.state_per_part,
        "one_per_part": shows_one_of_each(train) if one is None else one,
        "state_balance": options.state_balance,
        "state_weight": options.state_weight,
    }
    if options.presence_threshold is not None:
        fields |= {"presence_threshold": options.presence_threshold, "threshold_rule": "given"}
    if ABSENT not in id2state.values():
        fields["absent_state"] = None
    if is_sample:
        fields = dict(sample) | fields
    elif not pretrained:
        fields["norm"] = "group"
    given = {"norm": options.norm, "image_size": options.image_size}
    fields |= {name: value for name, value in given.items() if value is not None}
    return name, pretrained, fields
