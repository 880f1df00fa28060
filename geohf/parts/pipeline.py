"""`pipeline("part-state-detection", model="org/bike-parts")`."""

from __future__ import annotations

from geohf.models.pipelines import GeoPipeline
from geohf.parts.answers import PartStateOutput
from geohf.parts.video import VideoFrames, is_video


class PartStatePipeline(GeoPipeline):
    """Finds parts and their states: each input is a photo, each answer a dict of `PhotoPrediction`; a video has one a frame.

    Call option: `threshold`, see `PartStateModel.decode`.
    """

    output_class = PartStateOutput
    tells = ("threshold",)

    def __call__(self, inputs=None, *args, images=None, **kwargs):
        """As `GeoPipeline.__call__`."""
        inputs = images if inputs is None else inputs
        if is_video(inputs):
            return list(super().__call__(VideoFrames(inputs), *args, **kwargs))
        return super().__call__(inputs, *args, **kwargs)
