"""A whole street run: load, split, train in two phases, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import set_seed

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.models.settings import settings_refused
from geohf.report import write_csv
from geohf.report.paths import outline_rings
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.card import card_facts, street_intervals
from geohf.street.classes import describe_classes, labels_of, without_strange_states
from geohf.street.competition import MAPPING, TEMPLATE
from geohf.street.data import load_places, split_places
from geohf.street.metrics import constant_baseline, street_metrics
from geohf.street.modeling import GeoStreetModel
from geohf.street.outputs import coverage_of, plot_run, write_predictions
from geohf.street.phase import (
    StreetPhaseTrainer,
    base_folder,
    calibrate,
    finetune,
    place_outputs,
    train_heads,
)
from geohf.street.sample import write_sample
from geohf.street.submission import check_submission, write_submission
from geohf.training.finetuning import require_finetunable
from geohf.training.run import finish_run, phase_history
from geohf.training.settings import require_a_batch

logger = logging.getLogger(__name__)

# what the sample is trained with: a tower that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "test_byobnet", 64
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


@dataclass
class _Data:
    """A run's places: where they came from, how they were split, what was left out."""

    source: str
    splits: DatasetDict
    held_out: str  # the split that the numbers are measured on
    template: Dataset | None
    skipped: list[dict]
    buffer: int


@dataclass
class _Trained:
    """A trained model, the log of each phase, the numbers of each stage."""

    model: GeoStreetModel
    frozen: bool  # the tower is as its cached features know it
    phases: dict[str, list[dict]]
    stages: dict[str, dict[str, float]]


def run_street(options: StreetArguments, args: StreetTrainingArguments) -> StreetResult:
    """Train, evaluate, and write model, metrics, submission, predictions, plots, map and card.

    Raises:
        DataError: the data cannot be used; see `geohf.street.data`.
    """
    data = _load(options, args)
    run = _train(options, args, data)
    outputs = place_outputs(run.model, data.splits[data.held_out], args, run.frozen)
    submission = None
    if data.template is not None and run.model.config.class_indices is not None:
        submission = run.model.decode(place_outputs(run.model, data.template, args, run.frozen))
    shown = _for_map(run, data, outputs, args, options.map_places)
    if args.should_save:
        _write(options, args, data, run, outputs, submission, shown)
    return StreetResult(run.model, run.stages, data.held_out)


def _load(options, args) -> _Data:
    outline_rings(options.outlines)  # before the work, not after it
    source = options.data
    if source is None:
        source = str(Path(args.output_dir).parent / "street-sample")
        with args.main_process_first(desc="writing the sample"):
            write_sample(source, seed=0, size=options.sample_size)
    places, errors = load_places(source, options.on_error)
    splits, buffer = split_places(
        places["train"],
        options.split,
        options.validation_share,
        options.test_share,
        args.seed,
        options.block_km,
        options.buffer_km,
    )
    if "validation" not in splits:
        raise DataError("--validation_share must be above 0: the best checkpoint is chosen on these places")
    held_out = "test" if "test" in splits else "validation"
    template = places.get("test") if (Path(source) / TEMPLATE).is_file() else None
    return _Data(source, splits, held_out, template, errors.rows, buffer)


def _train(options, args, data: _Data) -> _Trained:
    train, resume = data.splits["train"], bool(args.resume_from_checkpoint)
    set_seed(args.seed)
    model = make_model(options, train)
    require_a_batch(args, len(train), args.phase1_batch_size)
    if args.num_train_epochs:
        require_finetunable(model, args, len(train))
    for name in data.splits:
        data.splits[name] = without_strange_states(data.splits[name], model.config, name)
    validation, held_out = data.splits["validation"], data.splits[data.held_out]
    labels, truth = labels_of(held_out, model.config), points_of(held_out)

    def score(model, frozen=True):
        return _score(model, place_outputs(model, held_out, args, frozen), labels, truth)

    stages = {"constant answer": _constant(train, model, labels, truth), "before training": score(model)}
    first = train_heads(model, train, validation, args, resume)
    stages["after phase 1"] = score(model)
    phases, frozen, last = {"phase1": first.state.log_history}, True, "phase 1, calibrated"
    if args.finetune != "none" and args.num_train_epochs:
        model, second = finetune(model, train, validation, args, resume)
        phases["phase2"], frozen, last = second.state.log_history, False, "after phase 2"
        if second.best_score() < first.best_score():
            stages[last] = score(model, frozen)
            model = GeoStreetModel.from_pretrained(base_folder(args)).to(args.device)
            frozen, last = True, "kept: phase 1"
            logger.info("phase 2 did not beat phase 1 on validation places: the model of phase 1 is kept")
    checked = place_outputs(model, validation, args, frozen)
    calibrate(model, checked, labels_of(validation, model.config), points_of(validation))
    stages[last] = score(model, frozen)
    return _Trained(model, frozen, phases, stages)


def _write(options, args, data: _Data, run: _Trained, outputs, submission, shown) -> None:
    folder, model, held_out = Path(args.output_dir), run.model, data.splits[data.held_out]
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    if submission is not None:
        _submit(folder, Path(data.source), data.template["sample_id"][:], submission)
    labels, truth = labels_of(held_out, model.config), points_of(held_out)
    write_predictions(folder, *shown, options.outlines)
    plot_run(
        folder, model, outputs, labels, truth, _constant_km(data.splits["train"], truth), options.outlines
    )
    final = dict(list(run.stages.values())[-1])
    final["coverage"] = coverage_of(model.decode(outputs), truth)
    metrics = {
        "eval": final,
        "baseline": run.stages["constant answer"],
        "intervals": _intervals(model, outputs, labels, truth),
        "stages": run.stages,
        "split": {"held_out": data.held_out, "how": options.split, "left_out_for_buffer": data.buffer}
        | {name: len(split) for name, split in data.splits.items()},
        "skipped": len(data.skipped),
    }
    card = card_facts(options, args.seed, data, run.stages, final["coverage"])
    finish_run(model, args, phase_history(**run.phases), metrics, card, StreetPhaseTrainer.shown_metrics)
    if args.finetune == "lora" and args.push_to_hub and not run.frozen:  # a kept phase 1 has no adapter
        _push_adapter(folder, model, args)


def make_model(options: StreetArguments, train) -> GeoStreetModel:
    """A model for these training places: their classes and box, and the tower that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    fields |= {"gps_head": options.gps_head} | describe_classes(train, options.max_cells)
    if fields["smoothing_km"] is None:
        # the published temperatures: 300 km for states, 75 km for PIGEON's geocells
        fields["smoothing_km"] = 300.0 if options.smoothing == "cell" and not fields.get("cells") else 75.0
    is_sample = options.data is None
    backbone = options.backbone or (SAMPLE_BACKBONE if is_sample else REAL_BACKBONE)
    tiny = is_sample and options.backbone is None
    with settings_refused():
        return GeoStreetModel.from_backbone(
            backbone,
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            **fields,
        )


def _score(model, outputs, labels, truth) -> dict[str, float]:
    logits, points = _answers(model, outputs)
    return street_metrics(
        logits, points, labels, truth, model.config.temperature, scored=not model.config.cells
    )


def _intervals(model, outputs, labels, truth) -> dict[str, tuple[float, float]]:
    return street_intervals(*_answers(model, outputs), labels, truth, scored=not model.config.cells)


def _answers(model, outputs) -> tuple[np.ndarray | None, list]:
    points = [[answer.latitude, answer.longitude] for answer in model.decode(outputs, top_k=1)]
    return (None if outputs.logits is None else outputs.logits.numpy()), points


def _constant(train, model, labels, truth) -> dict[str, float]:
    logits, point = constant_baseline(
        labels_of(train, model.config), points_of(train), model.config.num_classes
    )
    logits = None if logits is None else np.tile(logits, (len(labels), 1))
    points = np.tile(point, (len(labels), 1))
    return street_metrics(logits, points, labels, truth, scored=not model.config.cells)


def _constant_km(train, truth) -> np.ndarray:
    _, point = constant_baseline(np.empty(0, int), points_of(train), 0)
    return great_circle_m(truth[np.isfinite(truth).all(1)], point) / 1000


def _for_map(run: _Trained, data: _Data, outputs, args, limit: int):
    """Places, predictions and splits for the map: all held-out places, then validation, then training."""
    parts, predictions = [data.splits[data.held_out]], run.model.decode(outputs)
    origin = [data.held_out] * len(predictions)
    for name in ("validation", "train"):
        room = limit - len(origin)
        if name == data.held_out or room <= 0:
            continue
        part = data.splits[name].select(range(min(room, len(data.splits[name]))))
        parts.append(part)
        predictions += run.model.decode(place_outputs(run.model, part, args, run.frozen))
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


def _push_adapter(folder: Path, model: GeoStreetModel, args) -> None:
    """Push the adapter, and the model that it belongs to, as `<repo>-adapter` and `<repo>-base`."""
    from huggingface_hub import HfApi

    from geohf.hub.card import write_card
    from geohf.hub.files import push_folder

    api = HfApi(token=args.hub_token)
    repo_id = api.create_repo(args.hub_model_id or folder.name, exist_ok=True).repo_id  # with its owner
    for part, source in (("base", base_folder(args)), ("adapter", folder / "adapter")):
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(source, copy, dirs_exist_ok=True)
            described = Path(copy) / "adapter_config.json"
            if part == "base":
                model.config.save_pretrained(copy)  # what was calibrated holds for base and adapter together
            else:
                adapter = json.loads(described.read_text()) | {"base_model_name_or_path": f"{repo_id}-base"}
                described.write_text(json.dumps(adapter, indent=2))
            write_card(copy, model.card_template, model.config, repo_id=f"{repo_id}-{part}")
            push_folder(copy, f"{repo_id}-{part}", private=args.hub_private_repo, token=args.hub_token)
