"""A whole tile run: load, split, train, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from geohf.errors import DataError
from geohf.models.settings import settings_refused
from geohf.report import write_csv
from geohf.tiles.answers import TileSequenceOutput
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.card import card_facts, tile_intervals
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dataset import TileSequences, band_statistics, class_numbers
from geohf.tiles.evaluation import calibrate, image_stages, number_stages
from geohf.tiles.frames import last_seen
from geohf.tiles.grid import pixel_kind
from geohf.tiles.load import TileData, load_data
from geohf.tiles.modeling import TileSequenceModel
from geohf.tiles.outputs import image_filmstrip, write_numbers
from geohf.tiles.phase import TilePhaseTrainer
from geohf.tiles.table import own_resampling
from geohf.training.phase import phase_arguments
from geohf.training.run import finish_run
from geohf.training.trainer import phase_history

logger = logging.getLogger(__name__)
MODEL_FIELDS = (
    "hidden_sizes",
    "kernel_sizes",
    "peephole",
    "norm",
    "patch_size",
    "dropout",
    "loss",
    "quantiles",
    "coverage",
    "max_nodata",
    "task",
)


@dataclass
class TileResult:
    """What a run ends with: the trained model, and the numbers of each way to predict on held-out tiles."""

    model: TileSequenceModel
    stages: dict[str, dict[str, float]]
    held_out: str


def run_tiles(options: TileArguments, args: TileTrainingArguments) -> TileResult:
    """Train, evaluate, and write model, metrics, predictions, mosaics, plots and card.

    Raises:
        DataError: the data cannot be used, or the options do not go together.
    """
    data = load_data(options, args)
    set_seed(args.seed)
    model = make_model(options, data)
    sets = {
        name: TileSequences(data.cache, windows, model.config, augment=args.augment and name == "train")
        for name, windows in data.splits.items()
    }
    phase = phase_arguments(args, "train", "nrmse")
    trainer = TilePhaseTrainer(model, phase, train_dataset=sets["train"], eval_dataset=sets["validation"])
    trainer.run(bool(args.resume_from_checkpoint))
    model.eval()
    # in one order on every process
    answers = {name: trainer.answers(sets[name]) for name in dict.fromkeys(("validation", data.held_out))}
    values, labels = answers[data.held_out]
    if model.config.head == "image":
        stages = image_stages(values, labels, _last_frames(sets[data.held_out]), model.config)
    else:
        calibrate(model, answers["validation"][0], data.splits["validation"].truth)
        stages = number_stages(model, values, data.splits[data.held_out])
    if args.should_save:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        _write_answers(folder, model, data, values, labels)
        history = phase_history(train=trainer.state.log_history)
        card = card_facts(options, args.seed, data, stages)
        metrics = _metrics(data, stages) | {"intervals": tile_intervals(model, data, values, labels)}
        finish_run(model, args, history, metrics, card, TilePhaseTrainer.shown_metrics)
    return TileResult(model, stages, data.held_out)


def make_model(options: TileArguments, data: TileData) -> TileSequenceModel:
    """A model for these training windows: their scales, and the network that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    train, table = data.splits["train"], data.table
    mean, std = band_statistics(data.cache, train)
    image = options.target_type == "last-image"
    fields = {name: getattr(options, name) for name in MODEL_FIELDS} | {
        "image_size": options.image_size or [32, 32],
        "head": "image" if image else "numbers",
        "frames": train.frames.shape[1],
        "labels": table.labels,
        "band_mean": mean,
        "band_std": std,
        "nodata": data.cache.nodata,
        "resampling": options.resampling or own_resampling(table),
        "pixel_kind": pixel_kind(table.rasters[0]),
    }
    size, backbone = fields["image_size"], options.encoder == "attention"
    if fields["resampling"] == "bicubic" and (backbone or (table.sizes != size).any()):
        numbers = class_numbers(data.cache, train)
        if numbers:
            logger.warning(
                "%s: the pixels hold the %d numbers %s alone; if these are classes, say --resampling nearest: the mean "
                "of two classes is a third",
                table.source,
                len(numbers),
                ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else ""),
            )
    if not image:
        fields |= {"targets": table.targets} | target_scales(data, options.predict_change)
    with settings_refused():
        if options.encoder != "attention":
            return TileSequenceModel(TileSequenceConfig(encoder=options.encoder, **fields))
        if options.backbone is None:
            raise DataError("--encoder attention needs a frame encoder: --backbone with any timm name")
        height, width = fields.pop("image_size")
        if height != width:
            raise DataError(f"--encoder attention takes square tiles, --image_size is {height} x {width}")
        return TileSequenceModel.from_backbone(
            options.backbone, pretrained=options.pretrained, image_size=height, **fields | {"patch_size": 1}
        )


def target_scales(data: TileData, predict_change: bool) -> dict:
    """Mean and spread of the training windows' levels and changes, and which of them the head shall answer with."""
    train = data.splits["train"]
    slope = np.array([_slope(*pair) for pair in zip(train.last.T, train.truth.T, strict=True)])
    change = train.truth - slope * train.last
    if not predict_change or not np.isfinite(change).any():
        answers = "level"
    else:
        lacking = (np.isfinite(part.truth) & ~np.isfinite(part.last) for part in data.splits.values())
        answers = "both" if any(part.any() for part in lacking) else "change"
    scales: dict = {"answers": answers, "last_slope": slope.tolist()}
    for name, values in (("level", train.truth), ("change", change)):
        if np.isfinite(values).any(0).all():
            spread = np.nanstd(values, 0)
            scales[f"{name}_mean"] = np.nanmean(values, 0).tolist()
            scales[f"{name}_std"] = np.where(spread > 1e-12, spread, 1.0).tolist()
    return scales


def _slope(last: np.ndarray, truth: np.ndarray) -> float:
    """Of the least-squares line from last values to the truth; 1 where they do not tell."""
    known = np.isfinite(last) & np.isfinite(truth)
    last, truth = last[known], truth[known]
    if len(last) < 2 or np.var(last) < 1e-12:
        return 1.0
    return float(((last - last.mean()) * (truth - truth.mean())).mean() / np.var(last))


def _last_frames(dataset: TileSequences) -> torch.Tensor:
    """The last seen frame of every window, (n, bands, height, width) standardised."""
    batches = (dataset.__getitems__(rows.tolist()) for rows in torch.arange(len(dataset)).split(256))
    return torch.cat([last_seen(batch["pixel_values"], batch["step_mask"]) for batch in batches])


def _write_answers(folder: Path, model, data: TileData, values: torch.Tensor, labels: torch.Tensor) -> None:
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    windows = data.splits[data.held_out]
    if model.config.head == "image":
        images = [answer.image for answer in model.decode(TileSequenceOutput(predictions=values))]
        error = (values - labels).square().nanmean((1, 2, 3)).sqrt().numpy()
        image_filmstrip(folder / "filmstrip.png", data.table, data.cache, windows, images, error)
    else:
        answers = [part.double().numpy() for part in model.intervals(values)]
        if model.config.interval_margin is None:
            answers = [answers[0], None, None]
        write_numbers(folder, data.table, data.cache, windows, data.held_out, answers)


def _metrics(data: TileData, stages: dict) -> dict:
    split = {"held_out": data.held_out, "how": data.how, "tiles_left_out_for_buffer": data.buffer}
    return {
        "eval": stages["model"],
        "baseline": stages.get("persistence", {}),
        "stages": stages,
        "split": split | {name: len(part) for name, part in data.splits.items()},
        "skipped": len(data.skipped),
    }
