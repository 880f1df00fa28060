"""`pipeline("tile-sequence-regression", model="org/geo-tiles")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.tiles.answers import TileSequenceOutput


class TileSequencePipeline(GeoPipeline):
    """Predicts tiles: each input is a dict with `frames` and perhaps `last_values`, each answer a dict."""

    output_class = TileSequenceOutput
