"""The metrics of parts and states for `evaluate`: `evaluate.load(geohf.parts.evaluate_parts.__file__)`."""

import datasets
import evaluate

from geohf.parts.evaluator import evaluate_detections

_DESCRIPTION = "Average precision of parts, accuracy of their states, and how often missing parts are seen."
_INPUTS = """
Args:
    predictions: dicts with `boxes` (xmin, ymin, xmax, ymax in pixels), `labels`, `scores`, `states`, `state_scores`.
    references: dicts with `boxes`, `labels` and `states`; absent parts with the box where they would be.
    num_parts, num_states, absent_state, part_names, score_threshold: see `geohf.parts.evaluate_detections`.
"""


class PartStates(evaluate.Metric):  # type: ignore[name-defined]  # which `evaluate` imports by a star
    """The metrics of `geohf.parts.evaluator.PartEvaluator`."""

    def _info(self):
        truth = {
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
            "states": datasets.List(datasets.Value("int64")),
        }
        scores = {name: datasets.List(datasets.Value("float64")) for name in ("scores", "state_scores")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": truth | scores, "references": truth}),
        )

    def _compute(self, predictions, references, **settings):
        return evaluate_detections(predictions, references, **settings)
