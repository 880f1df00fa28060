"""`pipeline("geo-region", model="org/geo-region")`."""

from __future__ import annotations

from dataclasses import asdict

from transformers import Pipeline

from geohf.region.experts import RegionOutput
from geohf.vision.images import undecoded


class RegionPipeline(Pipeline):
    """Locates photographs: each input is an image, or a dict with `image` and `region`, and each answer a dict.

    A dataset gives an iterator over its answers. Call option: `top_k`, see `GeoRegionModel.decode`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs, *args, **kwargs):
        if hasattr(inputs, "cast_column"):  # a dataset: its rows, as a generator, which transformers streams
            inputs = (row for row in (undecoded(inputs) if inputs.features else inputs))
        return super().__call__(inputs, *args, **kwargs)

    def _sanitize_parameters(self, top_k=None):
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs):
        return dict(self.model.prepare([inputs]))

    def _forward(self, model_inputs):
        return self.model(model_inputs["pixel_values"].to(self.model.dtype), model_inputs["regions"])

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(RegionOutput(**model_outputs), **options)[0])
