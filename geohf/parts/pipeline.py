"""`pipeline("part-state-detection", model="org/bike-parts")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.parts.answers import PartStateOutput


class PartStatePipeline(GeoPipeline):
    """Finds parts and their states: each input is a photo, each answer a dict of `PhotoPrediction`.

    Call option: `threshold`, see `PartStateModel.decode`.
    """

    output_class = PartStateOutput

    def _sanitize_parameters(self, threshold=None):
        return {}, {}, {} if threshold is None else {"threshold": threshold}
