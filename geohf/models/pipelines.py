"""What the pipelines of all tasks share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from transformers import Pipeline
from transformers.utils import ModelOutput

from geohf.data.inputs import names_one
from geohf.data.samples import is_one
from geohf.errors import DataError, listed
from geohf.vision.weights import in_eval_mode


class GeoPipeline(Pipeline):
    """A pipeline over samples that its model's own processor prepares; each answer is a dict.

    A list is always many inputs. Options of a call are those of the model's `decode`.
    """

    output_class: ClassVar[type[ModelOutput]]  # what the model's forward returns
    looks: ClassVar[tuple[str, ...]] = ()  # options of a call that `_forward` takes
    tells: ClassVar[tuple[str, ...]] = ()  # options of a call that `postprocess` takes
    model: Any
    image_processor: Any
    _load_processor: Any = False
    _load_image_processor: Any = True
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __call__(self, inputs=None, *args, images=None, **kwargs):
        """A dict for one sample, a list of them for many, an iterator for a dataset or whatever has no length.

        Args:
            inputs: as for the model's `predict`.
            images: the same, by the name that transformers' own pipelines of images have for it.
        """
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise DataError("there is nothing to predict: give a sample, or many")
        named, sized = isinstance(inputs, (str, os.PathLike)), hasattr(inputs, "__len__")
        one = names_one(inputs) if named else is_one(inputs, self.model.sample_dimensions)
        if one or (isinstance(inputs, torch.utils.data.Dataset) and sized):  # the loader's workers read it
            return super().__call__(inputs, *args, **kwargs)
        samples = self.model.samples(inputs)
        if isinstance(samples, list):
            return super().__call__(samples, *args, **kwargs) if samples else []
        rows = super().__call__((sample for sample in samples), *args, **kwargs)
        streamed = hasattr(inputs, "cast_column") or isinstance(inputs, Mapping) or not sized
        return rows if streamed and not named else list(rows)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save the model and the image processor: a pipeline is found by its task, and leaves no code in a repo."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As `GeoPreTrainedModel.push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)

    def _sanitize_parameters(self, **options):
        unknown = options.keys() - {*self.looks, *self.tells}
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no {listed(sorted(unknown))}")
        given = {name: value for name, value in options.items() if value is not None}
        # an option such as `captions` may be of both
        parts = ({name: given[name] for name in part if name in given} for part in (self.looks, self.tells))
        return {}, *parts

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs, **looks):
        model_inputs["pixel_values"] = self.model.as_read(model_inputs["pixel_values"])
        return in_eval_mode(self.model)(**model_inputs, **looks)

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(self.output_class(**model_outputs), **options)[0])
