"""A whole street run: load, split, train in two phases, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import set_seed

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.report import write_csv
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.classes import describe_classes, labels_of
from geohf.street.data import MAPPING, TEMPLATE, load_places, points_of, split_places
from geohf.street.metrics import constant_baseline, street_metrics
from geohf.street.modeling import GeoStreetModel
from geohf.street.outputs import coverage_of, plot_run, score_interval, write_predictions
from geohf.street.sample import write_sample
from geohf.street.submission import check_submission, write_submission
from geohf.street.trainer import GeoStreetTrainer, calibrate, finetune, place_outputs, train_heads
from geohf.training.run import finish_run, phase_history

logger = logging.getLogger(__name__)

# what the sample is trained with: a tower that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "resnet10t", 64
REAL_BACKBONE = "geolocal/StreetCLIP"
MODEL_FIELDS = (
    "fusion",
    "heading_aware",
    "point_estimate",
    "smoothing",
    "smoothing_km",
    "gps_loss",
    "gps_scale",
    "class_weight",
    "gps_weight",
    "radius_coverage",
)


@dataclass
class StreetResult:
    """What a run ends with: the trained model, and its numbers a stage on held-out places."""

    model: GeoStreetModel
    stages: dict[str, dict[str, float]]
    held_out: str


def run_street(options: StreetArguments, args: StreetTrainingArguments) -> StreetResult:
    """Train, evaluate, and write model, metrics, submission, predictions, plots, map and card.

    Raises:
        DataError: the data cannot be used; see `geohf.street.data`.
    """
    folder, resume = Path(args.output_dir), bool(args.resume_from_checkpoint)
    source = _source(options, args, folder)
    places, skipped = load_places(source, options.on_error)
    splits, dropped = split_places(
        places["train"],
        options.split,
        options.validation_share,
        options.test_share,
        args.seed,
        options.block_km,
        options.buffer_km,
    )
    train, validation = splits["train"], splits["validation"]
    name = "test" if "test" in splits else "validation"
    held_out = splits[name]

    set_seed(args.seed)
    model = make_model(options, train)
    frozen = args.finetune == "none" or not args.num_train_epochs
    labels, truth = labels_of(held_out, model.config), points_of(held_out)
    stages = {"constant answer": _constant(train, model, labels, truth)}
    stages["before training"] = _score(
        model, place_outputs(model, held_out, args, frozen=True), labels, truth
    )
    phases = {"phase1": train_heads(model, train, validation, args, resume).state.log_history}
    stages["after phase 1"] = _score(model, place_outputs(model, held_out, args, frozen=True), labels, truth)
    if not frozen:
        model, trainer = finetune(model, train, validation, args, resume)
        phases["phase2"] = trainer.state.log_history
    checked = place_outputs(model, validation, args, frozen)
    calibrate(model, checked, labels_of(validation, model.config), points_of(validation))
    outputs = place_outputs(model, held_out, args, frozen)
    stages["calibrated" if frozen else "after phase 2"] = _score(model, outputs, labels, truth)

    tested = places.get("test")
    submission = model.decode(place_outputs(model, tested, args, frozen)) if tested is not None else None
    shown, predictions, origin = _for_map(model, splits, name, outputs, args, frozen, options.map_places)
    if args.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        if skipped.rows:
            write_csv(folder / "skipped.csv", skipped.rows)
        if submission is not None and model.config.class_indices is not None:
            _submit(folder, Path(source), tested["sample_id"], submission)
        write_predictions(folder, shown, predictions, origin, options.outlines)
        plot_run(folder, model, outputs, labels, truth, _constant_km(train, truth), options.outlines)
        metrics = {"eval": stages[list(stages)[-1]], "baseline": stages["constant answer"], "stages": stages}
        metrics["eval"]["coverage"] = coverage_of(model.decode(outputs), truth)
        metrics["split"] = {"held_out": name, "how": options.split, "left_out_for_buffer": dropped}
        metrics["split"] |= {key: len(split) for key, split in splits.items()}
        metrics["skipped"] = len(skipped.rows)
        card = _card(options, splits, name, stages, outputs, labels, truth, model, metrics)
        finish_run(model, args, phase_history(**phases), metrics, card, GeoStreetTrainer.shown_metrics)
        if args.finetune == "lora" and not frozen and args.push_to_hub:
            _push_adapter(folder, args)
    return StreetResult(model, stages, name)


def make_model(options: StreetArguments, train) -> GeoStreetModel:
    """A model for these training places: their classes and box, and the tower that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    fields |= {"gps_head": options.gps_head} | describe_classes(train, options.max_cells)
    is_sample = options.data is None
    backbone = options.backbone or (SAMPLE_BACKBONE if is_sample else REAL_BACKBONE)
    tiny = is_sample and options.backbone is None
    try:
        return GeoStreetModel.from_backbone(
            backbone,
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            **fields,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def _source(options, args, folder: Path) -> str:
    if options.data is not None:
        return options.data
    sample = folder.parent / "street-sample"
    with args.main_process_first(desc="writing the sample"):
        write_sample(sample, seed=0, size=options.sample_size)
    return str(sample)


def _score(model, outputs, labels, truth) -> dict[str, float]:
    points = [[answer.latitude, answer.longitude] for answer in model.decode(outputs, top_k=1)]
    logits = None if outputs.logits is None else outputs.logits.numpy()
    return street_metrics(logits, points, labels, truth, model.config.temperature)


def _constant(train, model, labels, truth) -> dict[str, float]:
    logits, point = constant_baseline(
        labels_of(train, model.config), points_of(train), model.config.num_classes
    )
    logits = None if logits is None else np.tile(logits, (len(labels), 1))
    return street_metrics(logits, np.tile(point, (len(labels), 1)), labels, truth)


def _constant_km(train, truth) -> np.ndarray:
    _, point = constant_baseline(np.empty(0, int), points_of(train), 0)
    return great_circle_m(truth[np.isfinite(truth).all(1)], point) / 1000


def _for_map(model, splits, held_out, outputs, args, frozen, limit):
    """Predictions for the map: all held-out places, then validation, then training, up to a limit."""
    from datasets import concatenate_datasets

    parts, predictions, origin = [splits[held_out]], model.decode(outputs), [held_out] * len(splits[held_out])
    for name in ("validation", "train"):
        room = limit - len(origin)
        if name == held_out or room <= 0:
            continue
        part = splits[name].select(range(min(room, len(splits[name]))))
        parts.append(part)
        predictions += model.decode(place_outputs(model, part, args, frozen))
        origin += [name] * len(part)
    return concatenate_datasets(parts), predictions, origin


def _submit(folder: Path, source: Path, sample_ids, predictions) -> None:
    write_submission(folder / "submission.csv", source / TEMPLATE, sample_ids, predictions)
    mapping = source / MAPPING
    problems = check_submission(
        folder / "submission.csv", source / TEMPLATE, mapping if mapping.is_file() else None
    )
    if problems:
        raise DataError(f"{folder / 'submission.csv'}: " + "; ".join(problems))


def _card(options, splits, name, stages, outputs, labels, truth, model, metrics) -> dict:
    shown = (
        "score",
        "top1",
        "top5",
        "ece",
        "mean_km",
        "median_km",
        "within_25_km",
        "within_200_km",
        "geoscore",
    )
    n = len(splits[name])
    rows = [
        {"": f"{stage} ({n} {name} places)"} | {key: numbers[key] for key in shown if key in numbers}
        for stage, numbers in stages.items()
    ]
    final = metrics["eval"]
    data = {
        "name": "generated sample" if options.data is None else Path(options.data).name,
        "split_name": name,
        "generated": options.data is None,
        "places": ", ".join(f"{len(split)} {key}" for key, split in splits.items()) + " places",
        "split": options.split + (f", {options.block_km:g} km blocks" if options.split == "blocks" else ""),
    }
    if name == "validation":
        data["split"] += "; the measured places are the validation places that the model was chosen on"
    if final.get("coverage") is not None:
        data["coverage"] = final["coverage"]
    usable = (labels >= 0) & np.isfinite(truth).all(1)
    if "score" in final and usable.any():
        points = np.array([[a.latitude, a.longitude] for a in model.decode(outputs, top_k=1)])
        top5 = np.argsort(-outputs.logits.numpy(), 1, kind="stable")[:, :5]
        low, high = score_interval(top5[usable], points[usable], labels[usable], truth[usable])
        data["interval"] = (
            f"95 % interval of the last score over places: {low:.3f} to {high:.3f} (bootstrap)."
        )
        final["score_interval"] = [low, high]
    wanted = {"score": "Competition score", "top1": "Top-1 state accuracy", "mean_km": "Mean distance (km)"}
    results = [
        {"type": key, "name": title, "value": final[key]} for key, title in wanted.items() if key in final
    ]
    return {"metrics": rows, "data": data, "results": results}


def _push_adapter(folder: Path, args) -> None:
    from geohf.hub.card import write_card
    from geohf.hub.files import push_folder

    for part in ("base", "adapter"):
        repo_id = f"{args.hub_model_id}-{part}"
        config = GeoStreetModel.config_class.from_pretrained(folder / "base")
        write_card(folder / part, GeoStreetModel.card_template, config, repo_id=repo_id)
        push_folder(folder / part, repo_id, private=args.hub_private_repo, token=args.hub_token)


def summary_rows(stages: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """A row a stage with the numbers that a person asks for first."""
    shown = {
        "score": "score",
        "top1": "top-1",
        "top5": "top-5",
        "mean_km": "mean km",
        "median_km": "median km",
    }
    return [
        {"stage": stage} | {title: numbers[key] for key, title in shown.items() if key in numbers}
        for stage, numbers in stages.items()
    ]
