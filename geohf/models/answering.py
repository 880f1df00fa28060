"""How every geohf model answers: a processor of its own, prediction with decoding ahead, files of answers."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader
from transformers import BatchFeature, PreTrainedModel

from geohf.data.inputs import find_images, names_one
from geohf.data.samples import samples_of
from geohf.errors import DataError, require_whole
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.vision.processing import GeoImageProcessor, SampleProcessor
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.data.inputs import Inputs, Part


class AnsweringModel(PreTrainedModel):
    """A transformers model that takes images of any kind and answers in the user's units: `decode` is the task's."""

    processor_class: ClassVar[type[SampleProcessor]] = GeoImageProcessor
    sample_dimensions: ClassVar[int] = 3  # of one sample as an array; one more are many samples
    # what `predict` takes beside inputs: name -> keyword arguments of argparse's add_argument, for recipes/predict.py
    predict_options: ClassVar[dict[str, dict]] = {}
    evaluate_options: ClassVar[dict[str, dict]] = {}  # what `evaluate` takes beside data, likewise

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

        A task whose options of `predict` need work before the first batch does it here.
        """
        model = in_eval_mode(self)

        @torch.inference_mode()
        def answer(tensors: BatchFeature) -> list:
            tensors = tensors.to(self.device)
            tensors["pixel_values"] = self.as_read(tensors["pixel_values"])
            return model.decode(model(**tensors, return_dict=True), **options)

        return model.prepare, answer

    def as_read(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels of any leading dimensions on the model's device, in its type, laid out as convolutions read them fastest.

        On a CPU that is `torch.channels_last`, which takes a CNN a fifth to nearly half of its time; values are the same.
        """
        pixels = pixel_values.to(self.device, self.dtype)
        if pixels.device.type != "cpu":
            return pixels
        images = pixels.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        return images.unflatten(0, pixels.shape[:-3])

    def predict(self, inputs: Any, batch_size: int = 32, **options) -> list:
        """Answer for images of any kind; threads prepare the next batches while the model computes.

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
        answers, samples = [], self.samples(inputs)
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
        """One answer as flat rows for a table, whose `latitude` and `longitude` are degrees; mostly one row."""
        return [answer.as_row()]

    def photo_of(self, sample: Any) -> Any:
        """The picture that stands for a sample, as `open_image` takes it; a task whose samples hold several says which."""
        return sample

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
            data: a source as the task's recipe takes it; all its rows are measured, or those that it holds out itself.
            on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

        Raises:
            DataError: data that cannot be used, or without truth.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is evaluated")

    @torch.inference_mode()
    def outputs_on(self, dataset, collator: Callable[[list], dict], batch_size: int = 32):
        """The outputs of `forward` on rows with labels, on the CPU, with an entry per row and without losses.

        The model itself stays in its mode.

        Args:
            dataset: rows by number.
            collator: makes a batch of a list of rows, as `forward` takes it.
        """
        require_whole(1, batch_size=batch_size)
        model, batches = in_eval_mode(self), []
        for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
            batch = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            batch["pixel_values"] = self.as_read(batch["pixel_values"])
            batches.append(model(**batch))
        names = [name for name, part in batches[0].items() if isinstance(part, torch.Tensor) and part.ndim]
        joined = {name: torch.cat([batch[name].float().cpu() for batch in batches]) for name in names}
        return type(batches[0])(**joined)
