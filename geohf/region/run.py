"""A whole region run: load, filter, split, scale, train, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import set_seed

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import frame_distance, frame_mean
from geohf.geo.scalers import CoordinateScaler, fit_scaler
from geohf.models.loading import load_model
from geohf.models.settings import settings_refused
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.card import card_facts, region_intervals
from geohf.region.configuration import GeoRegionConfig
from geohf.region.data import of_regions
from geohf.region.evaluation import RegionAnswers, answers_of, measure, truth_of
from geohf.region.experts import RegionOutput
from geohf.region.loading import RegionData, load_data, with_sample
from geohf.region.metrics import error_summary
from geohf.region.modeling import GeoRegionModel
from geohf.region.outputs import plot_run, write_dropped, write_predictions
from geohf.region.phase import RegionPhaseTrainer, calibrate, train_apart, train_together
from geohf.report import write_csv
from geohf.training.phase import phase_arguments
from geohf.training.run import finish_run
from geohf.training.trainer import phase_history

logger = logging.getLogger(__name__)

# what the sample is trained with: a tower that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "test_resnet", 48
REAL_BACKBONE = "convnext_small"
MODEL_FIELDS = ("frame", "experts", "scaler", "point_loss", "radius_coverage")


@dataclass
class RegionResult:
    """What a run ends with.

    Attributes:
        model: trained and calibrated.
        table: a row of numbers a region and one for all, see `evaluation_rows`.
        baseline: the numbers of answers that look at no image.
    """

    model: GeoRegionModel
    table: list[dict]
    baseline: dict[str, float]


def run_region(options: RegionArguments, args: RegionTrainingArguments) -> RegionResult:
    """Train, evaluate, and write model, metrics, tables, predictions, plots, map and card.

    Raises:
        DataError: the data cannot be used, or options do not go together.
    """
    set_seed(args.seed)
    is_sample = options.train_csv is None
    if is_sample:
        with args.main_process_first(desc="writing the sample"):
            options = with_sample(options, Path(args.output_dir).parent / f"region-sample-{options.frame}")
    model = None if options.start_from is None else _load_model(options)
    data = load_data(options, args.seed, None if model is None else model.config.regions)
    retrained = list(options.regions or ()) if model is not None else []
    if model is None:
        model = make_model(options, data, is_sample)
    else:
        for name in retrained or data.regions:
            model.set_scaler(name, _fitted(data, name, model.config.scaler, options.frame))
    phases = _train(model, data, args, retrained)
    if len(data.validation):
        outputs = _outputs(model, data.validation, args)
        calibrate(model, outputs, *truth_of(model, data.validation), router=not retrained)
    else:  # what was promised of other weights, if anything, does not hold for these
        model.config.routed_factor = model.config.given_factor = None
    answers = answers_of(model, data.test, _outputs(model, data.test, args))
    centres = _centres(model, data)[answers.labels]
    table = measure(model, answers, {"centre": centres})
    baseline = _baseline(table, data, answers, model.config)
    if args.should_save:
        card = card_facts(options, args, data, table, model.config.unit, is_sample)
        _write(args, data, model, answers, centres, table, baseline, card, phases)
    return RegionResult(model, table, baseline)


def make_model(options: RegionArguments, data: RegionData, is_sample: bool = False) -> GeoRegionModel:
    """A model of the training rows' regions, scaled by these rows, around the tower that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    tiny = is_sample and options.backbone is None
    with settings_refused():
        return GeoRegionModel.from_backbone(
            options.backbone or (SAMPLE_BACKBONE if tiny else REAL_BACKBONE),
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            backbone_weights=options.backbone_weights,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            id2label=dict(enumerate(data.regions)),
            scalers=[_fitted(data, name, options.scaler, options.frame).to_dict() for name in data.regions],
            **fields,
        )


def _load_model(options: RegionArguments) -> GeoRegionModel:
    model = load_model(options.start_from, "cpu", GeoRegionModel)
    if model.config.frame != options.frame:
        raise DataError(
            f"{options.start_from} is a {model.config.frame} model, but --frame is {options.frame}"
        )
    for name in options.regions or ():
        model.region_number(name)  # raises for one that it does not know
    return model


def _fitted(data: RegionData, region: str, kind: str, frame: str) -> CoordinateScaler:
    return fit_scaler(_points(data.train, region), kind, frame)


def _train(model: GeoRegionModel, data: RegionData, args, retrained: list[str]) -> dict[str, list[dict]]:
    resume = bool(args.resume_from_checkpoint)
    if model.config.experts == "shared" and not retrained:
        phases = train_together(model, data.train, data.validation, args, resume)
    else:
        regions = retrained or data.regions
        phases = train_apart(model, data.train, data.validation, args, regions, not retrained, resume)
    model.eval()
    return phases


def _points(dataset: Dataset, region: str) -> np.ndarray:
    return points_of(of_regions(dataset, [region]))


def _outputs(model: GeoRegionModel, dataset: Dataset, args) -> RegionOutput:
    plain = phase_arguments(args, "", eval_strategy="no", save_strategy="no")
    return RegionPhaseTrainer(model, plain).outputs(dataset)


def _centres(model: GeoRegionModel, data: RegionData) -> np.ndarray:
    """(regions, 2) the mean of each region's training points, which is the answer that looks at no image."""
    centres = model.scaler.center.copy()  # of regions that have no training rows this time
    for name in data.regions:
        centres[model.region_number(name)] = _centre(_points(data.train, name), model.config.frame)
    return centres


def _centre(points: np.ndarray, frame: str) -> np.ndarray:
    try:
        return frame_mean(points, frame=frame)
    except ValueError as error:
        raise DataError(f"the training points have no mean: {error}") from None


def _baseline(table, data: RegionData, answers: RegionAnswers, config: GeoRegionConfig) -> dict[str, float]:
    """The errors of answers that look at no image: the region's centre where it is given, the centre of all."""
    given = {
        name.replace("centre_", "given_"): value for name, value in table[-1].items() if "centre_" in name
    }
    everywhere = _centre(points_of(data.train), config.frame)
    errors = frame_distance(np.broadcast_to(everywhere, answers.truth.shape), answers.truth, config.frame)
    return given | error_summary(errors, config.unit, "routed_")


def _write(
    args, data: RegionData, model, answers: RegionAnswers, centres, table, baseline, card: dict, phases
) -> None:
    folder, frame = Path(args.output_dir), model.config.frame
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    if data.dropped:
        write_dropped(folder, data.train, data.dropped, frame)
    write_csv(folder / "evaluation.csv", table)
    write_predictions(folder, data.test, answers, frame)
    plot_run(folder, model.config.regions, answers, centres, frame)
    final = {name: value for name, value in table[-1].items() if name != "region"}
    metrics = {
        "eval": final,
        "baseline": baseline,
        "intervals": region_intervals(answers, model.config),
        "regions": table[:-1],
        "split": {name: len(getattr(data, name)) for name in ("train", "validation", "test")},
        "left_out_for_buffer": data.buffer,
        "skipped": len(data.skipped),
        "dropped": dict(Counter(row["filter"] for row in data.dropped)),
    }
    shown = (*RegionPhaseTrainer.shown_metrics, f"routed_mean_{model.config.unit}")
    finish_run(model, args, phase_history(**phases), metrics, card, shown)
