"""`pipeline("geo-region", model="org/geo-region")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.region.experts import RegionOutput


class RegionPipeline(GeoPipeline):
    """Locates photographs: each input is an image, or a dict with `image` and `region`, and each answer a dict.

    Options of a call, or of all calls where the pipeline is made with them: `top_k` and
    `credible_regions`, see `GeoRegionModel.decode`, and `test_time`, see `GeoRegionModel.predict`.
    """

    output_class = RegionOutput
    looks = ("test_time",)
    tells = ("top_k", "credible_regions")

    def preprocess(self, inputs):
        return dict(self.model.prepare([inputs]))
