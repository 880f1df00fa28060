"""The base of every geohf model: how it starts, loads and is made; how it answers stands in `answering.py`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from geohf.errors import DataError
from geohf.models.answering import AnsweringModel
from geohf.models.repo import ModelRepo
from geohf.vision.backbones import Backbone, describe_backbone, load_tower, require_weights
from geohf.vision.licenses import published_name
from geohf.vision.preprocessing import with_fit
from geohf.vision.weights import AlignedLoading, mark_initialized

Model = TypeVar("Model", bound="GeoPreTrainedModel")


class GeoPreTrainedModel(ModelRepo, AlignedLoading, AnsweringModel):
    """A transformers model that answers in the user's units.

    A subclass has a `tower` (its vision backbone), calls `self.finish_init()` at the end of `__init__`, and
    defines `decode`. Its config has the fields `vision_config`, `image_processor`, `feature_size`,
    `backbone_name` and `backbone_license`.
    """

    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012  transformers declares it so
    if TYPE_CHECKING:
        config_class: Any  # the task's
    tower: Any  # of transformers or timm
    card_template: ClassVar[str]  # a file of model_cards/
    starts_frozen: ClassVar[bool] = False  # its backbone does not learn unless a training says so
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def finish_init(self) -> None:
        """Keep the values that the parts were built with, then let transformers finish."""
        mark_initialized(self)
        self.post_init()

    def _init_weights(self, module):
        pass  # what is not in a checkpoint keeps the values it was built with, see finish_init

    def train(self, mode: bool = True):
        """Set training mode, but leave the backbone's batch norms as they are.

        Statistics of a batch would differ from those that the frozen features were computed with, and would make
        the gradient depend on how a batch is spread over processes and micro-batches.
        """
        super().train(mode)
        for module in self.tower.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _apply(self, fn, recurse=True):
        """As torch's, which `half`, `double` and `to` call; what `from_pretrained` keeps in float32 stays so here."""
        kept = set()
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if not {*name.split(".")}.isdisjoint(self._keep_in_fp32_modules_strict or ()):
                kept |= {id(tensor), id(tensor.grad)} if tensor.grad is not None else {id(tensor)}

        def keeping(tensor):
            changed = fn(tensor)
            cast = id(tensor) in kept and changed.dtype != tensor.dtype
            return tensor.to(changed.device) if cast else changed

        return super()._apply(keeping, recurse)

    # ---- starting and loading

    @classmethod
    def from_backbone(
        cls: type[Model],
        name: str,
        *,
        pretrained: bool = True,
        image_size: int | None = None,
        backbone_weights: str | os.PathLike | None = None,
        fit: str | None = None,
        **config_fields,
    ) -> Model:
        """A new model around a backbone.

        Args:
            name: any timm name, a repo or folder of transformers or timm (`"geolocal/StreetCLIP"`), or a geohf model,
                whose tower is taken.
            pretrained: load the backbone's published weights; False builds it with random ones.
            image_size: input side in pixels, where the backbone allows another than its own.
            backbone_weights: a file of weights for the backbone (`.safetensors`, or `.pth` and `.bin` as tensors alone),
                instead of its published ones.
            fit: how a picture is brought to the input's sides: `squeeze`, `crop` or `pad`, see
                `geohf.vision.preprocessing.with_fit`; None: as the backbone was published.
            config_fields: the task's own settings.
        """
        require_weights(backbone_weights, pretrained)
        backbone = describe_backbone(name, image_size, backbone_weights)
        published, processing = str(backbone_weights or name), with_fit(backbone.image_processor, fit)
        return cls.around(
            backbone, published if pretrained else None, image_processor=processing, **config_fields
        )

    @classmethod
    def around(cls: type[Model], backbone: Backbone, published: str | None, **config_fields) -> Model:
        """A new model around a backbone that was described.

        Args:
            published: where its weights come from, which are loaded then; None: random ones.
        """
        config = cls.config_class(
            vision_config=backbone.config,
            feature_size=backbone.feature_size,
            backbone_name=published_name(published) if published is not None else None,
            backbone_license=backbone.license if published is not None else None,
            **config_fields,
        )
        model = cls(config)
        if published is not None:
            model.tower = load_tower(backbone)
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """As in transformers, but only from safetensors, and never with weights missing or left over.

        Raises:
            DataError: the repo's weights are damaged, not those that its config asks for, or have another shape.
        """
        kwargs["use_safetensors"] = True
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise DataError(f"{pretrained_model_name_or_path}: the weights cannot be read: {error}") from None
        except (DataError, OSError, MemoryError):
            raise
        except Exception as error:
            if "ignore_mismatched_sizes" in str(error):
                raise DataError(
                    f"{pretrained_model_name_or_path}: weights do not fit config.json: {error}"
                ) from None
            # a repo is data: whatever fails as a model is made of it is for its owner to mend
            raise DataError(
                f"{pretrained_model_name_or_path}: config.json describes no {cls.__name__}: {error}"
            ) from error
        for kind, problem in (
            ("missing_keys", "weights that config.json asks for are missing in the repo"),
            ("unexpected_keys", "weights in the repo have no place in the model of config.json"),
        ):
            if info[kind]:
                names = ", ".join(sorted(info[kind])[:5])
                raise DataError(
                    f"{pretrained_model_name_or_path}: {len(info[kind])} {problem} ({names}); "
                    "it is damaged, or its config was changed"
                )
        try:
            _ = model.dummy_inputs
        except Exception as error:
            raise DataError(
                f"{pretrained_model_name_or_path}: image_processor in config.json cannot be used: {error}"
            ) from error
        return (model, info) if output_loading_info else model

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """A small sample as `forward` takes it, as in transformers."""
        return dict(self.processor([Image.new("RGB", (8, 8))]))

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs):
        # transformers would unpickle what an index of safetensors names, if it names something else
        for file in checkpoint_files or ():
            if not str(file).endswith(".safetensors"):
                raise DataError(f"{file}: is no safetensors file; geohf loads no others")
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)
