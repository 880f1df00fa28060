"""One phase of a street model's training, and what stands between the phases."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.metrics.calibration import conformal_quantile, fit_temperature
from geohf.metrics.directions import bare_name
from geohf.metrics.headings import HEADING_METRICS, heading_metrics
from geohf.models.heading import degrees_of_directions
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.classes import labels_of
from geohf.street.configuration import GeoStreetConfig
from geohf.street.decoding import points_and_candidates, probabilities_and_matches
from geohf.street.density import calibrate_density
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.metrics import CLASS_METRICS, street_metrics
from geohf.street.modeling import GeoStreetModel
from geohf.street.processing import StreetCollator
from geohf.training.phase import PhaseTrainer
from geohf.vision.weights import in_eval_mode

logger = logging.getLogger(__name__)


class StreetPhaseTrainer(PhaseTrainer):
    """Trains a street model, or its head on features; evaluates by the competition's score.

    Args:
        model: a `GeoStreetModel`, or a `StreetHead`.
        train_dataset, eval_dataset: datasets of places for a model, `TensorDictDataset`s for a head.
    """

    shown_metrics = ("score", "top1", "mean_km")
    class_columns = ("state",)
    arguments_class = StreetTrainingArguments

    def _fit(self, model) -> None:
        super()._fit(model)
        self.label_names = ["labels", "coordinates"] + ["headings"] * model.config.predict_heading

    def make_collator(self, model, training: bool):
        """Of places; a head's features come in tables."""
        if isinstance(model, StreetHead):
            return None
        return StreetCollator(model, augment=training and self.args.augment)

    def measured(self):
        """As `METRICS`, without what the model's classes cannot give."""
        config = self.config
        lacking = ["score"] * config.cells
        lacking += [] if config.num_classes else [*CLASS_METRICS, "class_loss"]
        lacking += ["gps_loss"] * (config.gps_head == "gallery")
        lacking += ["match_loss"] * (config.location_encoder == "none")
        lacking += [] if config.predict_heading else [*HEADING_METRICS, "heading_loss"]
        return {name: metric for name, metric in super().measured().items() if name not in lacking}

    def outputs(self, dataset) -> GeoStreetOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        return self._named(self.predict(dataset).predictions)

    def _named(self, predictions) -> GeoStreetOutput:
        arrays = [predictions] if isinstance(predictions, np.ndarray) else list(predictions)
        config = self.config
        names = ["logits"] * bool(config.num_classes) + ["coordinates"] * (config.gps_head != "gallery")
        names += ["candidates"] * (config.gps_head == "offset")
        names += ["embeddings"] * (config.location_encoder != "none")
        names += ["mixture"] * (config.gps_head == "vmf")
        names += ["directions"] * config.predict_heading
        names += ["place"] * config.keeps_places
        named: dict[str, Any] = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
        return GeoStreetOutput(**named)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs = self._named(prediction.predictions)
        labels, coordinates, *others = map(torch.from_numpy, prediction.label_ids)
        # joined batches are filled up with -100, which is no heading
        headings = torch.where(others[0] >= 0, others[0], torch.nan) if others else None
        placed = bool(coordinates.isfinite().any())  # the rows that a submission answers for have neither
        if self.config.num_classes and placed and not bool((labels >= 0).any()):
            logger.warning("no row of the evaluation names a state: it is measured by the distance alone")
        head = self.accelerator.unwrap_model(self.model)
        head = head if isinstance(head, StreetHead) else head.head
        # over all places at once: the mean of the batches' means would depend on their sizes
        device = next(head.parameters()).device
        seen_headings = None if headings is None else headings.to(device)
        moved = GeoStreetOutput(**{name: part.to(device) for name, part in outputs.items()})
        truth = labels.to(device), coordinates.to(device)
        with torch.no_grad():
            loss, parts = in_eval_mode(head).losses(moved, *truth, seen_headings)
        points = outputs.coordinates
        if points is None:
            assert outputs.embeddings is not None
            points = head.match.matches(outputs.embeddings).points[:, 0]
        metrics = street_metrics(
            None if outputs.logits is None else outputs.logits.numpy(),
            points.numpy(),
            labels.numpy(),
            coordinates.numpy(),
            scored=not self.config.cells,
        )
        if headings is not None and outputs.directions is not None:
            seen = degrees_of_directions(outputs.directions)[:, : headings.shape[1]]
            metrics |= heading_metrics(seen.numpy(), headings.numpy())
        return {"loss": float(loss)} | {name: float(part) for name, part in parts.items()} | metrics


def enough_steps(places: int, args) -> dict:
    """Few places make few steps an epoch; on cached features more of them cost nothing.

    Each of their epochs is then stretched to its share of `head_min_steps`, unless the user says the steps.
    """
    steps = math.ceil(places / (args.head_batch_size * args.world_size)) * args.epochs_of_heads
    if steps >= args.head_min_steps or args.max_steps > 0:
        return {}
    changes: dict = {"max_steps": args.head_min_steps}
    for what, strategy in (("eval", IntervalStrategy), ("save", SaveStrategy), ("logging", IntervalStrategy)):
        if getattr(args, f"{what}_strategy") == "epoch":
            changes[f"{what}_strategy"] = strategy.STEPS
            changes[f"{what}_steps"] = math.ceil(args.head_min_steps / args.epochs_of_heads)
    return changes


def best_metric(model: GeoStreetModel, validation, args, by_user: bool = False) -> str | None:
    """The best checkpoint is chosen by the score; by the mean distance where no validation place has one.

    Args:
        by_user: the metrics are the user's own; then, and without validation, this has no say.

    Raises:
        DataError: another one was asked for, which needs what no validation place has.
    """
    if validation is None or by_user:
        return None
    labeled, located = labels_of(validation, model.config) >= 0, np.isfinite(points_of(validation)).all(1)
    asked = bare_name(args.asked_metric or "")
    needs = ["states"] * (asked in CLASS_METRICS and not labeled.any())
    needs += ["positions"] * (asked.endswith(("_km", "geoscore", "gps_loss", "score")) and not located.any())
    if needs:
        raise DataError(
            f"metric_for_best_model {args.asked_metric!r} needs {' and '.join(needs)}, which no validation place has"
        )
    return "score" if (labeled & located).any() and not model.config.cells else "mean_km"


def forget_calibration(config: GeoStreetConfig) -> None:
    """What was fitted belonged to other weights: it must not stand beside new ones where nothing is fitted."""
    config.temperature, config.radius_factor, config.radius_floor_m = 1.0, None, 0.0
    config.radius_new_area, config.density_scale, config.region_masses = False, None, None


def calibrate(
    model: GeoStreetModel,
    outputs: GeoStreetOutput,
    labels: np.ndarray,
    points: np.ndarray,
    blocks: np.ndarray | None = None,
) -> None:
    """Fit the temperature and the radius on validation places and keep them in the config.

    Args:
        outputs: of the model on the validation places.
        labels: (n,) class numbers, negative where unknown.
        points: (n, 2) true degrees, NaN where unknown.
        blocks: (n,) which block of the map each lies in, where whole blocks were held out: the radius is then promised
            for areas that the model never saw, or not at all, where there are too few blocks.
    """
    config, head = model.config, model.head.cpu()
    forget_calibration(config)
    if outputs.logits is not None:
        config.temperature = round(fit_temperature(outputs.logits.numpy(), labels), 6)
    answers, candidates, weights = points_and_candidates(
        head, outputs, *probabilities_and_matches(head, outputs)
    )
    located = np.isfinite(points).all(1)
    if not located.any():
        return
    missed = great_circle_m(answers.double().numpy()[located], points[located])
    spread = head.spread_m(weights, candidates, answers).numpy()[located]
    config.radius_floor_m = float(np.median(missed))
    scores, apart = missed / (spread + config.radius_floor_m), None if blocks is None else blocks[located]
    config.radius_factor = conformal_quantile(scores, config.radius_coverage, apart)
    config.radius_new_area = blocks is not None
    if config.density and weights is not None and candidates is not None:
        own = torch.from_numpy(located)
        calibrate_density(config, weights[own], candidates[own], points[located], apart)
