"""The base of every geohf model: how it starts, loads, saves, predicts and is pushed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import BatchFeature, PreTrainedModel

from geohf.data.inputs import find_images, names_one
from geohf.data.samples import samples_of
from geohf.errors import DataError, require_whole
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.models.repo import ModelRepo
from geohf.vision.backbones import describe_backbone, load_tower, require_weights
from geohf.vision.initialization import mark_initialized
from geohf.vision.licenses import published_name
from geohf.vision.preprocessing import with_fit
from geohf.vision.processing import GeoImageProcessor, SampleProcessor
from geohf.vision.weights import AlignedLoading, in_eval_mode

if TYPE_CHECKING:
    from geohf.data.inputs import Inputs, Part

Model = TypeVar("Model", bound="GeoPreTrainedModel")


class GeoPreTrainedModel(ModelRepo, AlignedLoading, PreTrainedModel):
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
    processor_class: ClassVar[type[SampleProcessor]] = GeoImageProcessor
    card_template: ClassVar[str]  # a file of model_cards/
    sample_dimensions: ClassVar[int] = 3  # of one sample as an array; one more are many samples
    # what `predict` takes beside inputs: name -> keyword arguments of argparse's add_argument, for recipes/predict.py
    predict_options: ClassVar[dict[str, dict]] = {}
    evaluate_options: ClassVar[dict[str, dict]] = {}  # what `evaluate` takes beside data, likewise
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
        config = cls.config_class(
            vision_config=backbone.config,
            image_processor=with_fit(backbone.image_processor, fit),
            feature_size=backbone.feature_size,
            backbone_name=published_name(str(backbone_weights or name)) if pretrained else None,
            backbone_license=backbone.license if pretrained else None,
            **config_fields,
        )
        model = cls(config)
        if pretrained:
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

    # ---- answering

    @property
    def processor(self) -> Any:  # of `processor_class`
        """The image processor that belongs to this model: one, as long as its settings in the config stay the same."""
        settings = self.processor_settings
        made = vars(self).get("_processor")
        if made is None or made[0] != settings:
            made = self._processor = (copy.deepcopy(settings), self.processor_class(**settings))
        return made[1]

    @property
    def processor_settings(self) -> dict[str, Any]:
        """What the processor is made with, from the config."""
        return self.config.image_processor or {}

    def decode(self, outputs: Any, *args: Any, **options: Any) -> list:
        """Turn one batch of outputs into a list of the task's answers."""
        raise TypeError(f"{type(self).__name__} does not say how its outputs are decoded")

    def prepare(self, samples: list) -> BatchFeature:
        """One batch of samples as `forward` takes it; a task whose samples name classes looks them up here."""
        return self.processor(samples)

    def steps(self, **options) -> tuple[Callable[[list], BatchFeature], Callable[[BatchFeature], list]]:
        """The two steps of `predict` for a batch of samples: to tensors, which threads may do, and to answers.

        Args:
            options: of `predict`; a task whose options need work before the first batch does it here.
        """
        model = in_eval_mode(self)

        @torch.inference_mode()
        def answer(tensors: BatchFeature) -> list:
            tensors = tensors.to(self.device)
            tensors["pixel_values"] = tensors["pixel_values"].to(self.dtype)
            return model.decode(model(**tensors, return_dict=True), **options)

        return model.prepare, answer

    def predict(self, inputs: Any, batch_size: int = 32, **options) -> list:
        """Answer for images of any kind.

        Threads prepare the next batches while the model computes.

        Args:
            batch_size: samples in one pass.
            options: the task's own, see its `decode`.

        Returns:
            One dataclass for each sample, in the order of the inputs.

        Raises:
            ImageError: an image cannot be opened; the message names it.
            DataError: a batch of no samples.
        """
        from tqdm.auto import tqdm

        require_whole(1, batch_size=batch_size)
        answers = []
        samples = self.samples(inputs)
        prepare, answer = self.steps(**options)
        total = len(samples) if isinstance(samples, Sized) else None
        bar = tqdm(total=total, desc="predict", disable=total is not None and total <= batch_size)
        with bar, closing(prepared_ahead(prepare, batches_of(samples, batch_size))) as ahead:
            for batch, tensors in ahead:
                answers += answer(tensors.result())
                bar.update(len(batch))
        return answers

    def samples(self, inputs: Any) -> Sequence | Iterable:
        """The samples of whatever `predict` and pipelines are given; a name means what it means to `find_inputs`."""
        if isinstance(inputs, (str, os.PathLike)):
            return [inputs] if names_one(inputs) else self.find_inputs(inputs).parts[0][1]
        return samples_of(inputs, self.sample_dimensions)

    def find_inputs(self, sources: Any) -> Inputs:
        """Samples with their names: of files, folders, globs, tables, datasets, or as they are; see `find_images`."""
        return find_images(sources, self.read_source, self.sample_dimensions)

    def read_source(self, source: str) -> Part | None:
        """What a task reads in its own way: names and samples; None for what every task reads alike."""
        return None

    def rows_of(self, answer: Any) -> list[dict[str, Any]]:
        """One answer as flat rows for a table: one row, where a task does not say otherwise.

        `latitude` and `longitude` in a row are degrees: such rows can be put on a map.
        """
        return [asdict(answer)]

    def predict_to_file(self, sources, output: str | os.PathLike, batch_size: int = 32, **options) -> int:
        """Predict many inputs into a CSV, JSON Lines, GeoJSON or HTML file; see `geohf.models.predicting`."""
        from geohf.models.predicting import predict_to_file

        return predict_to_file(self, sources, output, batch_size, **options)

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """What an exported file answers to (batch, 3, height, width) prepared pixels, by name, each (batch, ...)."""
        raise DataError(f"{type(self).__name__} has no outputs for ONNX yet")

    def export_onnx(self, path: str | os.PathLike) -> Path:
        """Write the model as ONNX, with all that stands before and behind it; see `geohf.models.export`."""
        from geohf.models.export import export_onnx

        return export_onnx(self, path)

    def evaluate(
        self, data: str | os.PathLike, batch_size: int = 32, on_error: str = "raise"
    ) -> dict[str, float]:
        """The task's metrics on data with a truth.

        Args:
            data: a source as the task's recipe takes it; all its rows are measured.
            on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

        Raises:
            DataError: data that cannot be used, or without truth.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated")

    @torch.inference_mode()
    def outputs_on(self, dataset, collator: Callable[[list], dict], batch_size: int = 32):
        """The outputs of `forward` on rows with labels, on the CPU; the model itself stays in its mode.

        Args:
            dataset: rows by number.
            collator: makes a batch of a list of rows, as `forward` takes it.

        Returns:
            An output whose tensors have an entry a row; its losses are left out.
        """
        require_whole(1, batch_size=batch_size)
        model, batches = in_eval_mode(self), []
        for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
            batch = {
                name: part.to(self.device) if isinstance(part, torch.Tensor) else part
                for name, part in batch.items()
            }
            batch["pixel_values"] = batch["pixel_values"].to(self.dtype)
            batches.append(model(**batch))
        names = [name for name, part in batches[0].items() if isinstance(part, torch.Tensor) and part.ndim]
        joined = {name: torch.cat([batch[name].float().cpu() for batch in batches]) for name in names}
        return type(batches[0])(**joined)
