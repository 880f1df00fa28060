"""The base of every geohf model: how it starts, loads, is saved and pushed; how it answers stands in `answering.py`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import PreTrainedModel

from geohf.errors import DataError
from geohf.hub.files import RUN_FILES, copy_files, measured_weights, push_folder
from geohf.models.answering import AnsweringModel
from geohf.vision.backbones import Backbone, load_tower, require_weights, resolve_backbone
from geohf.vision.licenses import published_name
from geohf.vision.preprocessing import with_fit
from geohf.vision.towers import keep_statistics
from geohf.vision.weights import AlignedLoading, mark_initialized, weights_fingerprint

# what `save_pretrained(push_to_hub=True)` takes for `push_to_hub`
HUB_OPTIONS = ("repo_id", "private", "commit_message", "commit_description", "create_pr", "revision", "tags")

Model = TypeVar("Model", bound="GeoPreTrainedModel")


class GeoPreTrainedModel(AlignedLoading, AnsweringModel):
    """A transformers model that answers in the user's units.

    A subclass has a `tower` (its vision backbone), calls `self.finish_init()` at the end of `__init__`, and defines
    `decode`. Its config is a `GeoConfig` with `vision_config` and `feature_size`.
    """

    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012  transformers declares it so
    if TYPE_CHECKING:
        config: Any  # the task's
        config_class: Any
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

        A batch's own statistics would differ from those of the frozen features, and the gradient would depend on how a
        batch is spread over processes and micro-batches.
        """
        super().train(mode)
        keep_statistics(self.tower)
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
        backbone = resolve_backbone(name, image_size, backbone_weights)
        published = str(backbone_weights or name) if pretrained else None
        processing = with_fit(backbone.image_processor, fit)
        return cls.around(backbone, published, image_processor=processing, **config_fields)

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
        repo, kwargs["use_safetensors"] = pretrained_model_name_or_path, True
        try:
            model, info = super().from_pretrained(repo, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise DataError(f"{repo}: the weights cannot be read: {error}") from None
        except (DataError, OSError, MemoryError):
            raise
        except Exception as error:
            if "ignore_mismatched_sizes" in str(error):
                raise DataError(f"{repo}: weights do not fit config.json: {error}") from None
            # a repo is data: whatever fails as a model is made of it is for its owner to mend
            raise DataError(f"{repo}: config.json describes no {cls.__name__}: {error}") from error
        for kind, problem in (
            ("missing_keys", "weights that config.json asks for are missing in the repo"),
            ("unexpected_keys", "weights in the repo have no place in the model of config.json"),
        ):
            if info[kind]:
                names = ", ".join(sorted(info[kind])[:5])
                told = f"{repo}: {len(info[kind])} {problem} ({names})"
                raise DataError(f"{told}; it is damaged, or its config was changed")
        try:
            _ = model.dummy_inputs
        except Exception as error:
            raise DataError(f"{repo}: image_processor in config.json cannot be used: {error}") from error
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

    # ---- saving and pushing: as data, without pickle, code or numbers of other weights

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json, and push if asked to."""
        push = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        for code in ("custom_pipelines", "auto_map"):  # a repo of ours holds none
            vars(self.config).pop(code, None)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self.processor.save_pretrained(save_directory)
        if push:
            hub |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    def push_to_hub(  # type: ignore[override]  # all but the repo by name; use_temp_dir and the like mean nothing here
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Upload the model, its processor and its card in one commit, without pickle and code; the commit's address.

        The card, metrics, predictions and plots of the folder that the model was loaded from go along where they were
        measured with these very weights; any other model gets a card without numbers.

        Args:
            tags: added to those of the card.
        """
        from geohf.hub.card import write_card

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            source = self.config._name_or_path
            if source and (Path(source) / "README.md").is_file() and self._was_measured_in(Path(source)):
                copy_files(source, folder, RUN_FILES)
            else:
                write_card(folder, self.card_template, self.config, repo_id=repo_id)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
                tags=tags,
            )

    def _was_measured_in(self, folder: Path) -> bool:
        """Whether the numbers in a run's folder are those of this model's weights."""
        measured = measured_weights(folder)
        if measured is None:  # a run that does not say so can only have measured what lies there
            try:
                measured = weights_fingerprint(type(self).from_pretrained(folder))
            except (OSError, ValueError):
                return False
        return measured == weights_fingerprint(self)
