"""The competition's score for `evaluate`: `evaluate.load(geohf.street.evaluate_score.__file__)`."""

import datasets
import evaluate
import numpy as np

from geohf.geo import great_circle_m
from geohf.street.metrics import competition_score, distance_metrics

_DESCRIPTION = (
    "Score of the four-street-views competition: 0.7 x ranked state credit + 0.3 x distance credit."
)
_INPUTS = """
Args:
    predictions: dicts with `states` (up to five state indices, best first), `latitude` and `longitude`.
    references: dicts with `state`, `latitude` and `longitude`.
"""


class CompetitionScore(evaluate.Metric):
    """`score`, and the distance metrics of `geohf.street.metrics`."""

    def _info(self):
        point = {"latitude": datasets.Value("float64"), "longitude": datasets.Value("float64")}
        states = {"states": datasets.List(datasets.Value("int64"))}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": states | point, "references": {"state": datasets.Value("int64")} | point}
            ),
        )

    def _compute(self, predictions, references):
        top5 = np.full((len(predictions), 5), -1)
        for row, prediction in enumerate(predictions):
            top5[row, : len(prediction["states"])] = prediction["states"][:5]
        points, truth = (
            np.array([[r["latitude"], r["longitude"]] for r in rows]) for rows in (predictions, references)
        )
        score = competition_score(top5, points, [reference["state"] for reference in references], truth)
        return {"score": score} | distance_metrics(great_circle_m(points, truth) / 1000)
