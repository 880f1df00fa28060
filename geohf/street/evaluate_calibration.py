"""Expected calibration error for `evaluate`: `evaluate.load(geohf.street.evaluate_calibration.__file__)`."""

import datasets
import evaluate

from geohf.street.metrics import expected_calibration_error

_DESCRIPTION = "Expected calibration error of the top probability, 15 bins of equal width (Guo et al. 2017)."


class CalibrationError(evaluate.Metric):
    """`ece` of class probabilities (predictions) against class numbers (references)."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        return {"ece": expected_calibration_error(predictions, references)}
