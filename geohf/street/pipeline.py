"""`pipeline("street-geolocation", model="org/geo-street")`."""

from __future__ import annotations

from dataclasses import asdict

from transformers import Pipeline

from geohf.street.head import GeoStreetOutput


class StreetGeolocationPipeline(Pipeline):
    """Locates photographs: each input is an image, or a dict of views, and each answer a dict.

    A list is always many inputs, so one place with four views is a dict. Call options: `top_k`, `states`,
    `area`, see `GeoStreetModel.decode`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, top_k=None, states=None, area=None, **kwargs):
        options = {"top_k": top_k, "states": states, "area": area}
        return {}, {}, {name: value for name, value in options.items() if value is not None}

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs):
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(GeoStreetOutput(**model_outputs), **options)[0])
