"""`pipeline("part-state-detection", model="org/bike-parts")`."""

from __future__ import annotations

from dataclasses import asdict

from transformers import Pipeline

from geohf.parts.answers import PartStateOutput
from geohf.vision.images import undecoded


class PartStatePipeline(Pipeline):
    """Finds parts and their states: each input is a photo, each answer a dict of `PhotoPrediction`.

    A list is always many photos. A dataset gives an iterator over its answers. Call option: `threshold`, see
    `PartStateModel.decode`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs, *args, **kwargs):
        if hasattr(inputs, "cast_column"):  # a dataset: its rows, as a generator, which transformers streams
            inputs = (row for row in (undecoded(inputs) if inputs.features else inputs))
        return super().__call__(inputs, *args, **kwargs)

    def _sanitize_parameters(self, threshold=None):
        return {}, {}, {} if threshold is None else {"threshold": threshold}

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs):
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(PartStateOutput(**model_outputs), **options)[0])
