"""`pipeline("tile-sequence-regression", model="org/geo-tiles")`."""

from __future__ import annotations

from dataclasses import asdict

from transformers import Pipeline

from geohf.tiles.answers import TileSequenceOutput


class TileSequencePipeline(Pipeline):
    """Predicts tiles: each input is a dict with `frames` and perhaps `last_values`, each answer a dict.

    A list is always many inputs.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs):
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        return self.model(**model_inputs)

    def postprocess(self, model_outputs):
        return asdict(self.model.decode(TileSequenceOutput(**model_outputs))[0])
