"""A whole tile run: load, split, train, calibrate, measure, and leave everything on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from geohf.errors import DataError
from geohf.report import write_csv
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.dataset import TileSequences, band_statistics
from geohf.tiles.load import TileData, data_range, load_data
from geohf.tiles.metrics import all_targets, coverage, metrics_by
from geohf.tiles.modeling import TileSequenceModel, TileSequenceOutput
from geohf.tiles.outputs import plot_held_out, plot_images, prediction_rows, write_numbers
from geohf.tiles.trainer import TileSequenceTrainer, calibrate, image_measures, measure
from geohf.training.run import finish_run, phase_history
from geohf.training.trainer import phase_arguments

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
CARD_METRICS = (
    "mae",
    "rmse",
    "r2",
    "r2_rate",
    "skill_persistence",
    "skill_trend",
    "coverage",
    "psnr",
    "ssim",
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
        name: TileSequences(
            data.cache, data.table.sizes, samples, model.config, augment=args.augment and name == "train"
        )
        for name, samples in data.splits.items()
    }
    phase = phase_arguments(args, "train", metric_for_best_model="nrmse", greater_is_better=False)
    trainer = TileSequenceTrainer(model, phase, sets["train"], sets["validation"])
    trainer.run(bool(args.resume_from_checkpoint))
    model.eval()
    # in one order on every process
    values = {name: trainer.values(sets[name]) for name in dict.fromkeys(("validation", data.held_out))}
    if model.config.head == "numbers":
        calibrate(model, values["validation"], data.splits["validation"].truth)
    stages = _stages(model, data, sets[data.held_out], values[data.held_out])
    if args.should_save:
        _write(options, args, data, model, trainer, values, stages)
    return TileResult(model, stages, data.held_out)


def make_model(options: TileArguments, data: TileData) -> TileSequenceModel:
    """A model for these training samples: their scales, and the network that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    train, table = data.splits["train"], data.table
    mean, std = band_statistics(data.cache, table.sizes, train)
    image = options.target_type == "last-image"
    fields = {name: getattr(options, name) for name in MODEL_FIELDS} | {
        "image_size": options.image_size or [32, 32],
        "head": "image" if image else "numbers",
        "frames": train.window.shape[1],
        "labels": table.labels,
        "band_mean": mean,
        "band_std": std,
        "nodata": data.cache.nodata,
    }
    if not image:
        fields |= {"targets": table.targets} | target_scales(train, options.predict_change)
    try:
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
    except StrictDataclassError as error:
        raise DataError(str(error.__cause__ or error)) from None  # what the config said, without the wrapping


def target_scales(train, predict_change: bool) -> dict:
    """Mean and spread of the training samples' levels and changes, and which of them the head shall answer with."""
    known = np.isfinite(train.truth)
    has_last = np.isfinite(train.last) & known
    if not predict_change or not has_last.any():
        answers = "level"
    else:
        answers = "change" if has_last[known].all() else "both"
    scales: dict = {"answers": answers}
    for name, values in (("level", train.truth), ("change", train.truth - train.last)):
        if np.isfinite(values).any(0).all():
            spread = np.nanstd(values, 0)
            scales[f"{name}_mean"] = np.nanmean(values, 0).tolist()
            scales[f"{name}_std"] = np.where(spread > 1e-12, spread, 1.0).tolist()
    return scales


def _stages(model, data: TileData, dataset: TileSequences, values) -> dict[str, dict[str, float]]:
    samples, config = data.splits[data.held_out], model.config
    if config.head == "image":
        return _image_stages(dataset, values, config)
    stages = {}
    for name, guess in (("persistence", samples.last), ("trend", samples.trend)):
        known = np.isfinite(guess)
        if known.any():
            truth = np.where(known, samples.truth, np.nan)  # measured where the baseline has an answer
            filled = np.where(known, guess, 0.0)
            stages[name] = all_targets(config.targets, filled, truth, samples.last, samples.trend)
    stages["model"] = measure(model, values, None, samples)
    if config.interval_margin is not None:
        _, low, high = model.intervals(values)
        stages["model"]["coverage"] = coverage(low, high, samples.truth)
    return stages


def _image_stages(dataset: TileSequences, values, config) -> dict[str, dict[str, float]]:
    batches = _batches(dataset)
    labels = torch.cat([batch["labels"] for batch in batches])
    last = torch.cat([last_frames(batch) for batch in batches])
    stages = {
        "persistence": image_measures(last, labels, config),
        "model": image_measures(values, labels, config),
    }
    skill = 1 - (stages["model"]["nrmse"] / stages["persistence"]["nrmse"]) ** 2
    stages["model"]["skill_persistence"] = skill
    return stages


def _batches(dataset: TileSequences) -> list[dict[str, torch.Tensor]]:
    rows = np.arange(len(dataset))
    return [dataset.__getitems__(list(part)) for part in np.array_split(rows, 1 + len(rows) // 256)]


def last_frames(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last seen frame of every sample of a batch, (n, bands, height, width) standardised."""
    steps = torch.arange(batch["step_mask"].shape[1])
    last = torch.where(batch["step_mask"], steps, 0).amax(1)
    return batch["pixel_values"][torch.arange(len(last)), last]


def _write(options, args, data: TileData, model, trainer, values, stages) -> None:
    folder, table = Path(args.output_dir), data.table
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped:
        write_csv(folder / "skipped.csv", data.skipped)
    samples, held_out = data.splits[data.held_out], values[data.held_out]
    if model.config.head == "image":
        answers = model.decode(TileSequenceOutput(values=held_out))
        images = np.stack([answer.image for answer in answers])
        dataset = TileSequences(data.cache, table.sizes, samples, model.config)
        labels = torch.cat([batch["labels"] for batch in _batches(dataset)])
        error = (held_out - labels).square().nanmean((1, 2, 3)).numpy()
        plot_images(folder, table, data.cache, samples, images, error)
    else:
        calibrated = model.config.interval_margin is not None
        parts = [part.double().numpy() for part in model.intervals(held_out)]
        shown = parts if calibrated else [parts[0], None, None]
        rows = prediction_rows(table, samples, [data.held_out] * len(samples), shown)
        write_numbers(folder, table, samples, rows)
        plot_held_out(folder, table, data.cache, samples, parts[0])
        for name, groups in (
            ("region", np.array(table.regions, object)[table.region[samples.rows]].astype(str)),
            ("year", np.array(table.labels)[samples.steps]),
        ):
            numbers = metrics_by(groups, table.targets, parts[0], samples.truth, samples.last, samples.trend)
            write_csv(folder / f"metrics_by_{name}.csv", numbers)
    metrics = {
        "eval": stages["model"],
        "baseline": stages.get("persistence", {}),
        "stages": stages,
        "split": {
            "held_out": data.held_out,
            "how": options.split or "default",
            "left_out_for_buffer": data.buffer,
        }
        | {name: len(part) for name, part in data.splits.items()},
        "skipped": len(data.skipped),
    }
    history = phase_history(train=trainer.state.log_history)
    finish_run(model, args, history, metrics, _card(options, data, stages), TileSequenceTrainer.shown_metrics)


def _card(options: TileArguments, data: TileData, stages) -> dict:
    n, name = len(data.splits[data.held_out]), data.held_out
    rows = [
        {"": f"{stage} ({n} {name} samples)"} | {key: numbers[key] for key in CARD_METRICS if key in numbers}
        for stage, numbers in stages.items()
    ]
    how = options.split or ("region" if len(data.table.regions) >= 5 else "blocks")
    facts = {
        "name": "generated sample" if options.data is None else Path(options.data).stem,
        "split_name": name,
        "generated": options.data is None,
        "images": data_range(data.table),
        "samples": ", ".join(f"{len(part)} {key}" for key, part in data.splits.items()) + " samples",
        "split": how,
        "leaks": how == "random",
        "chosen_on_held_out": name == "validation",
    }
    wanted = {
        "mae": "MAE",
        "r2_rate": "R2 of the rate",
        "skill_persistence": "Skill over persistence",
        "psnr": "PSNR",
    }
    final = stages["model"]
    results = [
        {"type": key, "name": title, "value": final[key]}
        for key, title in wanted.items()
        if key in final and np.isfinite(final[key])
    ]
    return {"metrics": rows, "data": facts, "results": results}


def summary_rows(stages: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """A row a way to predict, with the numbers that a person asks for first."""
    shown = {
        "mae": "MAE",
        "rmse": "RMSE",
        "r2": "R2 level",
        "r2_rate": "R2 rate",
        "skill_persistence": "skill over persistence",
        "skill_trend": "skill over trend",
        "psnr": "PSNR dB",
        "ssim": "SSIM",
    }
    return [
        {"": stage} | {title: numbers[key] for key, title in shown.items() if key in numbers}
        for stage, numbers in stages.items()
    ]
