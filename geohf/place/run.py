"""A whole place run: load, audit, measure the frozen towers, train, measure, compare, and leave everything on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.audit import Finding, audit, judge
from geohf.place.card import card_facts
from geohf.place.comparison import comparison_rows, summary_rows
from geohf.place.experiment import PlaceRun, confidence_of, run_one
from geohf.place.index import PlaceIndex
from geohf.place.logs import write_log
from geohf.place.outputs import plot_answers, write_answers
from geohf.place.phase import PlacePhaseTrainer
from geohf.place.plots import plot_run
from geohf.place.sample import write_sample
from geohf.place.splits import PlaceData, load_data
from geohf.report import write_csv
from geohf.training.run import finish_run

# what the sample is trained with: a tower of random weights that takes seconds on a CPU
SAMPLE_MODEL, SAMPLE_IMAGE_SIZE = "test_resnet", 160
SAMPLE_MIX = {"mix_depth": 2, "mix_channels": 96, "mix_rows": 8}
REAL_MODEL = "dinov2_b"


@dataclass
class PlaceResult:
    """What `run_place` ends with: all runs, the one whose model is kept, and what the audit found."""

    runs: list[PlaceRun]
    kept: PlaceRun
    findings: list[Finding]


def run_place(options: PlaceArguments, args: PlaceTrainingArguments) -> PlaceResult:
    """Train and compare; write models, metrics, logs, plots, answers, map, index and card.

    Raises:
        DataError: the data cannot be used, see `geohf.place.splits.load_data`, or leaks and `--audit` stops there.
    """
    generated = options.train_csv is None
    options = _with_sample(options, args)
    data = load_data(options, args.seed, generated)
    findings = _audit(data, options)
    seeds = options.seeds or [args.seed]
    methods = options.methods if args.num_train_epochs > 0 else options.methods[:1]
    runs = [
        run_one(name, seed, method, data, options, args)
        for name, seed, method in product(options.models, seeds, methods)
    ]
    ours = [run for run in runs if run.method == options.methods[0]]
    kept = max(ours, key=lambda run: run.validation_score)
    findings += kept.duplicates
    if args.should_save:
        _write(kept, runs, findings, data, options, args)
    return PlaceResult(runs, kept, findings)


def _with_sample(options: PlaceArguments, args: PlaceTrainingArguments) -> PlaceArguments:
    """The options with the built-in sample and a tower for it where none are given."""
    if options.train_csv is not None:
        return replace(options, models=options.models or [REAL_MODEL])
    folder = Path(args.output_dir).parent / "place-sample"
    with args.main_process_first(desc="writing the sample"):
        write_sample(folder, seed=0, size=options.sample_size)
    options = replace(options, train_csv=[str(folder / name / "poses.csv") for name in ("noon", "dusk")])
    if options.models is not None:
        return options
    return replace(
        options,
        models=[SAMPLE_MODEL],
        pretrained=False if options.pretrained is None else options.pretrained,
        image_size=options.image_size or SAMPLE_IMAGE_SIZE,
        pooling=options.pooling or "mixvpr",
        **SAMPLE_MIX,
    )


def _audit(data: PlaceData, options: PlaceArguments) -> list[Finding]:
    if options.audit == "off":
        return []
    queries = np.concatenate([data.validation, data.test])
    findings = audit(
        data.files,
        data.points,
        data.sequences,
        data.times_ns,
        data.train,
        data.database,
        queries,
        options.radii_m[0],
    )
    judge(findings, options.audit == "strict")
    return findings


def _write(kept: PlaceRun, runs, findings, data: PlaceData, options: PlaceArguments, args) -> None:
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if data.skipped.rows:
        write_csv(folder / "skipped.csv", data.skipped.rows)
    for run in runs:
        if run.log:
            path = write_log(folder / "logs", run.label, run.log)
            plot_run(folder / "plots" / f"{path.stem}_plots.png", run.log, f"{run.label}: {run.method}")
        if len(runs) > 1:
            run.model.save_pretrained(folder / "trained_models" / run.label)
    write_csv(folder / "logs" / "training_summary.csv", summary_rows(runs))
    write_csv(folder / "comparison.csv", comparison_rows(runs))
    sure = confidence_of(kept, data)
    write_answers(folder, data, kept.trained, sure)
    stages = {"frozen": kept.baseline} | {
        run.method: run.trained
        for run in runs
        if run.seed == kept.seed and run.name == kept.name and run is not kept
    }
    plot_answers(folder, data, stages | {"trained": kept.trained})
    database = data.database
    names = [data.names[row] for row in database]
    index = PlaceIndex(kept.descriptors[database], data.points[database], names, kept.model.fingerprint())
    index.save(folder / "index.parquet")  # positions of one's own pictures: a push leaves it at home
    metrics = {
        "eval": kept.trained.metrics,
        "baseline": kept.baseline.metrics,
        "intervals": {name: ends for name, ends in kept.trained.intervals.items() if ends is not None},
        "runs": comparison_rows(runs),
        "protocol": data.protocol,
        "leaks": [asdict(finding) for finding in findings],
        "rows": {name: len(getattr(data, name)) for name in ("train", "database", "validation", "test")},
        "skipped": len(data.skipped.rows),
    }
    card = card_facts(kept, runs, findings, data, options, sure)
    finish_run(kept.model, args, kept.history, metrics, card, PlacePhaseTrainer.shown_metrics)
