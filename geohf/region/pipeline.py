"""`pipeline("geo-region", model="org/geo-region")`."""

from __future__ import annotations

from dataclasses import asdict

from geohf.hub.pipelines import GeoPipeline
from geohf.region.experts import RegionOutput


class RegionPipeline(GeoPipeline):
    """Locates photographs: each input is an image, or a dict with `image` and `region`, and each answer a dict.

    Call option: `top_k`, see `GeoRegionModel.decode`.
    """

    def _sanitize_parameters(self, top_k=None):
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs):
        return dict(self.model.prepare([inputs]))

    def _forward(self, model_inputs):
        return self.model(model_inputs["pixel_values"].to(self.model.dtype), model_inputs["regions"])

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(RegionOutput(**model_outputs), **options)[0])
