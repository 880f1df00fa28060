"""A whole parts run: load, split, train, measure, and leave everything on disk."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import set_seed

from geohf.errors import DataError
from geohf.metrics.intervals import bootstrap_intervals
from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.augment import make_augmentation
from geohf.parts.baseline import constant_predictions
from geohf.parts.card import DRAWS, card_facts
from geohf.parts.data import load_parts, split_parts
from geohf.parts.modeling import PartStateModel
from geohf.parts.outputs import plot_precision, plot_states, write_photos, write_predictions
from geohf.parts.phase import PartPhaseTrainer, dataset_targets, part_evaluator
from geohf.parts.sample import write_sample
from geohf.parts.vocabulary import absent_index, names_of
from geohf.report import plain, write_csv
from geohf.training.finetuning import unfreeze_last
from geohf.training.phase import phase_arguments
from geohf.training.run import finish_run
from geohf.training.trainer import phase_history

logger = logging.getLogger(__name__)

REAL_BACKBONE = "fasterrcnn_resnet50_fpn"
# torchvision's own number of stages that learn when it starts from published weights
TRAINED_STAGES = 3
# what the sample is trained with: a small detector that learns in minutes on a CPU, from random weights
SAMPLE_FIELDS = {
    "backbone": "test_byobnet",
    "norm": "group",
    "image_size": [192, 224],
    "pyramid_channels": 48,
    "anchor_sizes": [[10], [20], [36], [64], [100]],
    "aspect_ratios": [0.4, 1.0, 2.5],
    "rpn_fg_iou": 0.6,
    "rpn_batch_size_per_image": 128,
    "rpn_pre_nms_top_n_train": 400,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 100,
    "roi_canonical_size": 64,
    "box_hidden_size": 256,
    "box_batch_size_per_image": 64,
    "box_positive_fraction": 0.5,
    "state_hidden_size": 128,
}


@dataclass
class PartResult:
    """What a run ends with: the trained model, the numbers of the constant answer and of the model."""

    model: PartStateModel
    stages: dict[str, dict[str, float]]
    held_out: str


@dataclass
class _Data:
    """A run's photos: how they were split, and what was left out."""

    splits: dict[str, Dataset]
    held_out: str  # the split that the numbers are measured on
    skipped: list[dict]


def run_parts(options: PartArguments, args: PartTrainingArguments) -> PartResult:
    """Train, evaluate, and write model, metrics, inspection table, predictions, plots, overlays and card.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    data = _load(options, args)
    set_seed(args.seed)
    model = make_model(options, data.splits["train"])
    _freeze(model, options)
    trainer = PartPhaseTrainer(
        model,
        phase_arguments(args, "train"),
        train_dataset=data.splits["train"],
        eval_dataset=data.splits["validation"],
        augment=_augmentation(model, args),
        trust_weighted=options.trust_weighted,
    )
    trainer.run(bool(args.resume_from_checkpoint))
    model.requires_grad_(True).eval()
    photos = data.splits[data.held_out]
    metrics, predictions = trainer.measure(photos)
    evaluator = part_evaluator(model.config)
    targets = dataset_targets(photos)
    evaluator.add(constant_predictions(data.splits["train"], photos, model.config), targets)
    stages = {"constant answer": evaluator.compute(), "model": metrics}
    if args.should_save:
        _write(options, args, data, model, trainer, predictions, targets, stages)
    return PartResult(model, stages, data.held_out)


def _load(options: PartArguments, args) -> _Data:
    source = options.data
    if source is None:
        source = str(Path(args.output_dir).parent / "parts-sample")
        with args.main_process_first(desc="writing the sample"):
            write_sample(source, seed=0, size=options.sample_size)
    with args.main_process_first(desc="reading the photos"):
        loaded, errors = load_parts(
            source, options.on_error, options.min_trust, state_attribute=options.state_attribute
        )
    splits = dict(loaded)
    if "validation" not in splits:
        if not options.validation_share:
            raise DataError("--validation_share must be above 0: the best weights are chosen on these photos")
        test = 0.0 if "test" in splits else options.test_share
        splits |= split_parts(splits["train"], options.split, options.validation_share, test, args.seed)
    return _Data(splits, "test" if "test" in splits else "validation", errors.rows)


def make_model(options: PartArguments, train: Dataset) -> PartStateModel:
    """A detector for the vocabulary of these photos, as the options want it.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    is_sample = options.data is None and options.backbone is None
    name = options.backbone or (SAMPLE_FIELDS["backbone"] if is_sample else REAL_BACKBONE)
    pretrained = not is_sample if options.pretrained is None else options.pretrained
    id2label, id2state = names_of(train)
    one = options.one_per_part
    fields = {
        "id2label": id2label,
        "id2state": id2state,
        "state_attribute": options.state_attribute,
        "absent": options.absent,
        "state_per_part": options.state_per_part,
        "one_per_part": shows_one_of_each(train) if one is None else one,
        "state_weight": options.state_weight,
        "presence_threshold": options.presence_threshold,
    }
    if absent_index(list(id2state.values())) is None:
        fields["absent_state"] = None
    if is_sample:
        fields = SAMPLE_FIELDS | fields
    elif not pretrained:
        fields["norm"] = "group"
    if options.norm is not None:
        fields["norm"] = options.norm
    if options.image_size is not None:
        fields["image_size"] = options.image_size
    overrides = _overrides(options)
    try:
        return PartStateModel.from_backbone(name, pretrained=pretrained, **fields | overrides)
    except (TypeError, RuntimeError) as error:
        if not overrides:
            raise
        raise DataError(f"--config_overrides {options.config_overrides}: {error}") from None


def shows_one_of_each(dataset: Dataset) -> bool:
    """No photo shows two of one part, or a crowd."""
    rows = zip(dataset["parts"][:], dataset["iscrowd"][:], strict=True)
    return all(len(set(parts)) == len(parts) and not any(crowds) for parts, crowds in rows)


def _overrides(options: PartArguments) -> dict:
    given = options.config_overrides
    if not given:
        return {}
    try:
        fields = json.loads(given) if isinstance(given, str) else dict(given)
    except ValueError as error:
        raise DataError(f"--config_overrides is not JSON: {error}") from None
    from geohf.parts.configuration import PartStateConfig

    if not isinstance(fields, dict):
        raise DataError(f"--config_overrides must be a JSON object, got {given}")
    unknown = sorted(set(fields) - set(PartStateConfig.__annotations__))
    if unknown:
        raise DataError(f"--config_overrides: PartStateConfig has no field {', '.join(unknown)}")
    return fields


def _freeze(model: PartStateModel, options: PartArguments) -> None:
    published = model.config.backbone_name is not None
    stages = options.trained_stages
    stages = TRAINED_STAGES if stages is None and published else stages
    if stages is not None:
        model.tower.requires_grad_(False)
        if stages:
            unfreeze_last(model.tower, stages)


def _augmentation(model: PartStateModel, args):
    if not args.augment:
        return None
    return make_augmentation(flip=args.flip, part_names=model.config.id2label.values())


def _write(options, args, data: _Data, model, trainer, predictions, targets, stages) -> None:
    folder, photos = Path(args.output_dir), data.splits[data.held_out]
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    write_predictions(folder, photos, predictions, targets, model.config)
    evaluator = part_evaluator(model.config)
    evaluator.add(predictions, targets)
    confusion = evaluator.confusion()
    plot_states(folder / "confusion.png", confusion, model.config)
    plot_precision(folder / "average_precision.png", stages["model"])
    write_photos(folder, photos, predictions, targets, model.config, options.overlays)
    if options.export_onnx:
        from geohf.parts.export import export_onnx

        export_onnx(model, folder / "model.onnx")
    metrics = plain(
        {
            "eval": stages["model"],
            "baseline": stages["constant answer"],
            "intervals": bootstrap_intervals(evaluator.statistics(), np.arange(len(photos)), DRAWS),
            "stages": stages,
            "confusion": confusion,
            "split": {"held_out": data.held_out, "how": options.split}
            | {name: len(split) for name, split in data.splits.items()},
            "skipped": len(data.skipped),
        }
    )
    history = phase_history(train=trainer.state.log_history)
    finish_run(
        model, args, history, metrics, card_facts(options, args.seed, data, stages), trainer.shown_metrics
    )
