"""A whole region run: load, filter, split, scale, train, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from geohf.errors import DataError
from geohf.geo import frame_distance, frame_mean
from geohf.geo.scalers import fit_scaler
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.experts import RegionOutput
from geohf.region.loading import RegionData, load_data, of_regions, with_sample
from geohf.region.metrics import error_summary, evaluation_rows
from geohf.region.modeling import GeoRegionModel, RegionPrediction
from geohf.region.outputs import coverage, plot_run, points_array, write_dropped, write_predictions
from geohf.region.trainer import GeoRegionTrainer, calibrate, given_logits, train_apart, train_together
from geohf.report import write_csv
from geohf.tables import points_of
from geohf.training.run import finish_run, phase_history
from geohf.training.trainer import phase_arguments

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


@dataclass
class _Answers:
    """The model's answers on the photographs that the numbers are measured on, and their truth."""

    labels: np.ndarray
    truth: np.ndarray
    centres: np.ndarray  # of every region's training points
    routed: list[RegionPrediction]
    given: list[RegionPrediction]


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
    data = load_data(options, args.seed, None if model is None else list(model.config.label2id))
    retrained = list(options.regions or ()) if model is not None else []
    if model is None:
        model = make_model(options, data, is_sample)
    else:
        _fit_scalers(model, data, retrained or data.regions)
    phases = _train(model, data, args, retrained)
    checked = data.validation if len(data.validation) else data.train
    calibrate(model, _outputs(model, checked, args), *_truth(model, checked), router=not retrained)
    answers = _answer(model, data, _outputs(model, data.test, args))
    table, baseline = _measure(model, data, answers)
    if args.should_save:
        facts = _facts(options, data, is_sample)
        _write(args, data, model, answers, table, baseline, facts, phases)
    return RegionResult(model, table, baseline)


def make_model(options: RegionArguments, data: RegionData, is_sample: bool = False) -> GeoRegionModel:
    """A model of the training rows' regions, scaled by these rows, around the tower that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    tiny = is_sample and options.backbone is None
    try:
        return GeoRegionModel.from_backbone(
            options.backbone or (SAMPLE_BACKBONE if tiny else REAL_BACKBONE),
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            id2label=dict(enumerate(data.regions)),
            scalers=[
                fit_scaler(_points(data.train, name), options.scaler, options.frame).to_dict()
                for name in data.regions
            ],
            **fields,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def _load_model(options: RegionArguments) -> GeoRegionModel:
    try:
        model = GeoRegionModel.from_pretrained(options.start_from)
    except OSError as error:
        raise DataError(f"start_from: {str(error).partition(chr(10))[0]}") from None
    if model.config.frame != options.frame:
        raise DataError(
            f"{options.start_from} is a {model.config.frame} model, but --frame is {options.frame}"
        )
    for name in options.regions or ():
        model.region_number(name)  # raises for one that it does not know
    return model


def _fit_scalers(model: GeoRegionModel, data: RegionData, regions: Sequence[str]) -> None:
    scalers = list(model.config.scalers)
    for name in regions:
        scaler = fit_scaler(_points(data.train, name), model.config.scaler, model.config.frame)
        scalers[model.region_number(name)] = scaler.to_dict()
    model.config.scalers = scalers


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
    return GeoRegionTrainer(model, plain).outputs(dataset)


def _truth(model: GeoRegionModel, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return np.array([model.region_number(name) for name in dataset["region"]]), points_of(dataset)


def _answer(model: GeoRegionModel, data: RegionData, outputs: RegionOutput) -> _Answers:
    labels, truth = _truth(model, data.test)
    logits = given_logits(torch.from_numpy(labels), model.config.num_regions)
    given = RegionOutput(logits=logits, scaled=outputs.scaled)
    centres = np.full((model.config.num_regions, 2), np.nan)
    for name in data.regions:
        centres[model.region_number(name)] = _centre(_points(data.train, name), model.config.frame)
    return _Answers(labels, truth, centres, model.decode(outputs), model.decode(given))


def _centre(points: np.ndarray, frame: str) -> np.ndarray:
    try:
        return frame_mean(points, frame=frame)
    except ValueError as error:
        raise DataError(f"the training points of a region have no mean: {error}") from None


def _measure(model: GeoRegionModel, data: RegionData, answers: _Answers) -> tuple[list[dict], dict]:
    """A row of numbers a region and one for all, and what answers without an image would reach."""
    config = model.config
    table = evaluation_rows(
        list(config.label2id),
        answers.labels,
        answers.truth,
        points_array(answers.given),
        points_array(answers.routed),
        np.array([config.label2id[answer.regions[0].name] for answer in answers.routed]),
        answers.centres,
        model.scaler,
        config.unit,
    )
    for kind in ("given", "routed"):
        table[-1][f"{kind}_coverage"] = coverage(getattr(answers, kind), answers.truth, config.frame)
    everywhere = _centre(points_of(data.train), config.frame)
    baseline = {
        "given_": answers.centres[answers.labels],
        "routed_": np.broadcast_to(everywhere, answers.truth.shape),
    }
    numbers = {}
    for prefix, points in baseline.items():
        numbers |= error_summary(frame_distance(points, answers.truth, config.frame), config.unit, prefix)
    return table, numbers


def _write(args, data: RegionData, model, answers: _Answers, table, baseline, facts: dict, phases) -> None:
    folder, frame = Path(args.output_dir), model.config.frame
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    if data.dropped:
        write_dropped(folder, data.train, data.dropped, frame)
    write_csv(folder / "evaluation.csv", table)
    write_predictions(folder, data.test, answers.routed, answers.given, frame)
    names = list(model.config.label2id)
    plot_run(
        folder, names, answers.labels, answers.truth, answers.routed, answers.given, answers.centres, frame
    )
    final = {name: value for name, value in table[-1].items() if name != "region"}
    metrics = {
        "eval": final,
        "baseline": baseline,
        "regions": table[:-1],
        "split": {name: len(getattr(data, name)) for name in ("train", "validation", "test")},
        "left_out_for_buffer": data.buffer,
        "skipped": len(data.skipped),
        "dropped": dict(Counter(row["filter"] for row in data.dropped)),
    }
    unit = model.config.unit
    wanted = {
        f"routed_mean_{unit}": f"Mean error ({unit})",
        f"given_mean_{unit}": f"Mean error with the region given ({unit})",
        "router_accuracy": "Region accuracy",
    }
    results = [{"type": key, "name": title, "value": final[key]} for key, title in wanted.items()]
    card = {
        "metrics": summary_rows(table, unit),
        "data": facts,
        "results": results,
        "final": final,
        "baseline": baseline,
    }
    shown = (*GeoRegionTrainer.shown_metrics, f"routed_mean_{unit}")
    finish_run(model, args, phase_history(**phases), metrics, card, shown)


def _facts(options: RegionArguments, data: RegionData, is_sample: bool) -> dict:
    counts = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    return {
        "name": "generated sample" if is_sample else Path(options.train_csv).name,
        "split_name": "validation" if options.val_csv else "test",
        "generated": is_sample,
        "photographs": ", ".join(f"{count} {name}" for name, count in counts.items()),
        "split": options.split,
        "own_table": options.val_csv is not None,
        "dropped": dict(Counter(row["filter"] for row in data.dropped)),
    }


def summary_rows(table: Sequence[dict], unit: str) -> list[dict]:
    """A row a region, and one for all, with the numbers that a person asks for first."""
    shown = {
        "region": "region",
        "n": "photos",
        "mse_scaled": "MSE scaled",
        "mse": "MSE unscaled",
        f"given_mean_{unit}": f"mean {unit}, region given",
        f"routed_mean_{unit}": f"mean {unit}, routed",
        f"routed_median_{unit}": f"median {unit}, routed",
        f"routed_p90_{unit}": f"p90 {unit}, routed",
        f"centre_mean_{unit}": f"mean {unit} of the region's centre",
        "router_accuracy": "router right",
    }
    return [{title: row[key] for key, title in shown.items()} for row in table]
