"""The detectors of transformers that answer with queries: which there are, and how one is built or loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from packaging.version import Version
from torch import nn
from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedModel

from geohf.errors import DataError, require_choice
from geohf.parts.backbone import replace_batch_norms
from geohf.parts.configuration import DETECTORS, PartStateConfig, side_multiple
from geohf.parts.pretrained import is_place
from geohf.parts.query_losses import PhotoLosses
from geohf.vision.backbones import backbone_config
from geohf.vision.licenses import published_license
from geohf.vision.repos import hub_weights, reason_of

LEAST_TRANSFORMERS = "5.24"  # before, some of them learn wrong losses
# of a published config: names of classes, where it came from, and sizes that ours are not bound to
NOT_KEPT = {
    *("model_type", "id2label", "label2id", "num_labels", "architectures", "dtype", "torch_dtype"),
    *("_name_or_path", "transformers_version", "anchor_image_size", "eval_size"),
}
PRIOR = 0.01  # a new class's probability before it has learned anything
# layers as wide as the number of classes
CLASS_LAYERS = {"class_embed", "enc_score_head", "denoising_class_embed", "enc_out_class_embed"}
CONSTANTS = {"up", "reg_scale"}
SIDE_OF = {"rf_detr": 560}  # that the default config fits


def require_transformers(installed: str = transformers.__version__) -> None:
    """Raise DataError where transformers is too old for these detectors."""
    if Version(installed) < Version(LEAST_TRANSFORMERS):
        raise DataError(
            f"architectures other than faster_rcnn need transformers {LEAST_TRANSFORMERS} or newer, this is {installed}: "
            "pip install -U transformers"
        )


def build_detector(architecture: str, fields: dict | None, num_labels: int, norm: str) -> PreTrainedModel:
    """A detector with random weights.

    Args:
        fields: of its own config, see transformers' documentation of the architecture; None: its defaults.
        norm: `group` puts group norms in the place of batch norms.

    Raises:
        DataError: transformers is too old; ValueError: the fields do not go together.
    """
    require_transformers()
    settings = plain_fields(fields) | {"num_labels": num_labels, "initializer_bias_prior_prob": PRIOR}
    if norm == "group":
        settings["freeze_backbone_batch_norms"] = False
    if architecture == "lw_detr":  # its own default gives no feature map
        settings.setdefault("projector_scale_factors", [1.0])
    detector = AutoModelForObjectDetection.from_config(AutoConfig.for_model(architecture, **settings))
    if norm != "batch":
        replace_batch_norms(detector, norm)
    detector.loss_function = PhotoLosses(detector.loss_function)
    return detector


def detector_backbone(detector: PreTrainedModel) -> nn.Module:
    """A detector's backbone."""
    inner: Any = detector.model
    return inner.conv_encoder if hasattr(inner, "conv_encoder") else inner.backbone


def keep_constants(detector: PreTrainedModel) -> None:
    """Let all of a detector learn but what D-FINE and DEIMv2 keep among their parameters and never change."""
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] not in CONSTANTS)


def plain_fields(fields: dict | None) -> dict[str, Any]:
    """Of a detector's config what ours keeps."""
    return {name: value for name, value in (fields or {}).items() if name not in NOT_KEPT}


def names_detector(name: str) -> bool:
    """Whether a folder or repo holds one of these detectors, as transformers or geohf saved it."""
    if not is_place(name):
        return False
    raw = backbone_config(name)[1]
    return raw.get("model_type") in DETECTORS or raw.get("architecture") in DETECTORS


def published_fields(name: str) -> dict[str, Any]:
    """Fields of `PartStateConfig` for the detector in a folder or repo of transformers' or geohf's.

    Raises:
        DataError: it holds none of these detectors.
    """
    folder, raw = backbone_config(name)
    ours = raw.get("model_type") == PartStateConfig.model_type
    kind = raw.get("architecture" if ours else "model_type")
    if kind not in DETECTORS or folder is None:
        raise DataError(
            f"{name}: holds no detector of {', '.join(DETECTORS)}, but {kind or 'nothing that says what'}"
        )
    require_transformers()
    if ours:
        known = ("architecture", "detector_config", "image_size", "image_processor", "norm")
        return {key: raw[key] for key in known if key in raw}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: its config.json cannot be used: {reason_of(error)}") from None
    fields = plain_fields(config.to_dict())
    return {
        "architecture": kind,
        "detector_config": fields,
        "norm": "batch",
        "backbone_license": published_license(name, folder),
        **_photos(folder, side_multiple(kind, fields)),
    }


def random_fields(architecture: str) -> dict[str, Any]:
    """Fields of `PartStateConfig` for random weights: group norms learn from them, and batch norms do not."""
    require_choice(DETECTORS, architecture=architecture)
    return {"architecture": architecture, "norm": "group", "image_size": [SIDE_OF.get(architecture, 640)] * 2}


def _photos(folder: Path, multiple: int) -> dict[str, Any]:
    """How photos are prepared, as the repo's own processor says."""
    path = folder / "preprocessor_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size = given.get("size") or {}
    sides = [size.get("height", 640), size.get("width", 640)]
    fields: dict[str, Any] = {"image_size": [max(1, round(side / multiple)) * multiple for side in sides]}
    if given and not given.get("do_normalize", True):
        fields["image_processor"] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    elif "image_mean" in given and "image_std" in given:
        fields["image_processor"] = {key: list(given[key]) for key in ("image_mean", "image_std")}
    return fields


def published_detector(name: str, norm: str) -> PreTrainedModel:
    """The detector in a folder or repo of transformers'; `norm` as `build_detector` takes it.

    Raises:
        DataError: there are no weights, or they cannot be read.
    """
    folder = Path(name) if Path(name).is_dir() else hub_weights(name)
    try:
        published = AutoModelForObjectDetection.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: the published weights cannot be loaded: {reason_of(error)}") from None
    if norm != "batch":
        replace_batch_norms(published, norm)
    return published


def take_weights(
    detector: PreTrainedModel, published: PreTrainedModel, name: str, same_classes: bool = False
) -> None:
    """Take a published detector's weights into one that was built like it, but for other classes not what depends on them.

    Raises:
        DataError: they are not those that the config asks for.
    """
    own, source = detector.state_dict(), published.state_dict()
    fitting = {key: value for key, value in source.items() if key in own and value.shape == own[key].shape}
    of_classes = {key for key in own if {*key.split(".")} & CLASS_LAYERS}
    if not same_classes:
        fitting = {key: value for key, value in fitting.items() if key not in of_classes}
    lacking = [key for key in own if key not in fitting and key not in of_classes]
    lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
    if lacking:
        raise DataError(
            f"{name}: its weights lack {len(lacking)} that its config asks for, among them {lacking[0]}"
        )
    detector.load_state_dict(fitting, strict=False)
