"""`pipeline("place-recognition", model="org/geo-place")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.place.head import GeoPlaceOutput


class PlaceRecognitionPipeline(GeoPipeline):
    """Says where photographs were taken: each input is an image and each answer a dict.

    Options: `index`, a `PlaceIndex` or the file that holds one, and `top_k`; without an index the answer is the
    descriptor alone.
    """

    output_class = GeoPlaceOutput

    def _sanitize_parameters(self, index=None, top_k=None):
        options = {"index": self.model.open_index(index), "top_k": top_k}
        return {}, {}, {name: value for name, value in options.items() if value is not None}
