"""What a detector answers: names, states and boxes in pixels, of photos, of views of large ones, and of videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from geohf.data.inputs import Inputs, Part
from geohf.errors import require_share
from geohf.models.modeling import GeoPreTrainedModel
from geohf.parts.answers import AttributedPart, PartPrediction, PartStateOutput, PhotoPrediction
from geohf.parts.attribute_values import attributes_told
from geohf.parts.video import VideoFrames, is_video, require_apart, require_no_video, tracked_rows
from geohf.parts.views import steps_of_views

_KEYS = ("labels", "scores", "states", "state_scores", "boxes")


class AnsweringDetector(GeoPreTrainedModel):
    """The ways in which a `PartStateModel` answers."""

    def decode(self, outputs: PartStateOutput, threshold: float | None = None) -> list[PhotoPrediction]:
        """Turn outputs into answers.

        Args:
            threshold: score from which a part is there; default: that of each part, the config's `thresholds`.
        """
        if threshold is not None:
            require_share(threshold=threshold)
        limits = self.config.thresholds if threshold is None else threshold
        names, states = self.config.id2label, self.config.id2state
        detections = self.processor.post_process_object_detection(outputs, limits, outputs.original_sizes)
        whole = [[1, 1]] * len(detections)
        sizes = whole if outputs.original_sizes is None else outputs.original_sizes.tolist()
        answers = []
        for parts, size in zip(detections, sizes, strict=True):
            rows = zip(*(parts[key].tolist() for key in _KEYS), strict=True)
            shown = [
                PartPrediction(names[label], score, states[state], sure, tuple(box))
                for label, score, state, sure, box in rows
            ]
            if self.config.attributes:
                told = attributes_told(parts["attribute_probs"], self.config)
                shown = [
                    AttributedPart(**vars(part), attributes=own[0], attribute_scores=own[1])
                    for part, own in zip(shown, told, strict=True)
                ]
            seen = set(parts["labels"].tolist())
            missing = [name for i, name in sorted(names.items()) if i not in seen]
            answers.append(PhotoPrediction(int(size[1]), int(size[0]), shown, missing))
        return answers

    def rows_of(self, answer: PhotoPrediction) -> list[dict[str, Any]]:
        """A row for every part that the model knows: those that were found, then the missing ones."""
        return answer.as_rows(self.config.absent_state)

    def steps(self, **options: Any) -> tuple[Callable[[list], Any], Callable[[Any], list]]:
        """The two steps of `predict`; with options of `steps_of_views` over several views of each photo."""
        if options.keys() & {"slice_size", "overlap", "tta"}:
            return steps_of_views(self, **options)
        return super().steps(**options)

    def predict(self, inputs: Any, batch_size: int = 8, **options) -> list[PhotoPrediction]:
        """Find parts in photos: paths, folders, videos, PIL images, arrays, bytes or datasets.

        Args:
            options: of `decode`, and of `geohf.parts.views.steps_of_views`: `slice_size`, `overlap`, `tta`.
        """
        return super().predict(inputs, batch_size, **options)

    def samples(self, inputs: Any) -> Sequence | Iterable:
        """As every task's, and the frames of a video."""
        require_no_video(inputs)
        return VideoFrames(inputs) if is_video(inputs) else super().samples(inputs)

    def read_source(self, source: str) -> Part | None:
        """The frames of a video."""
        return (None, VideoFrames(source)) if is_video(source) else None

    def predict_to_file(
        self,
        sources: Any,
        output: str | os.PathLike,
        batch_size: int = 32,
        track: bool = False,
        **options: Any,
    ) -> int:
        """As every task's; with `track`, each box of a video or of frames in order has the number of its part's track."""
        if not track:
            return super().predict_to_file(sources, output, batch_size, **options)
        require_apart(sources if isinstance(sources, Inputs) else self.find_inputs(sources))
        return super().predict_to_file(sources, output, batch_size, finish=tracked_rows, **options)
