"""`pipeline("geo-region", model="org/geo-region")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.region.experts import RegionOutput


class RegionPipeline(GeoPipeline):
    """Locates photographs: each input is an image, or a dict with `image` and `region`, and each answer a dict.

    Call option: `top_k`, see `GeoRegionModel.decode`.
    """

    output_class = RegionOutput

    def _sanitize_parameters(self, top_k=None):
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs):
        return dict(self.model.prepare([inputs]))
