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

    def _sanitize_parameters(self, top_k=None, credible_regions=None, test_time=None):
        looks = {} if test_time is None else {"test_time": test_time}
        options = {"top_k": top_k, "credible_regions": credible_regions}
        return {}, looks, {name: value for name, value in options.items() if value is not None}

    def preprocess(self, inputs):
        return dict(self.model.prepare([inputs]))
