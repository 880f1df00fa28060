"""`pipeline("place-recognition", model="org/geo-place")`."""

from __future__ import annotations

from dataclasses import asdict

from geohf.hub.pipelines import GeoPipeline
from geohf.place.head import GeoPlaceOutput


class PlaceRecognitionPipeline(GeoPipeline):
    """Says where photographs were taken: each input is an image and each answer a dict.

    Options: `index`, a `PlaceIndex` or the file that holds one, and `top_k`; without an index the answer is the
    descriptor alone.
    """

    def _sanitize_parameters(self, index=None, top_k=None):
        options = {"index": self.model.open_index(index), "top_k": top_k}
        return {}, {}, {name: value for name, value in options.items() if value is not None}

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs):
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(GeoPlaceOutput(**model_outputs), **options)[0])
