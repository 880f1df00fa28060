"""Several runs of one recipe: which there are, which one is kept, and all of them side by side."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.drives import told_apart
from geohf.place.metrics import RECALLS, Retrieval

if TYPE_CHECKING:
    from geohf.place.trainer import GeoPlaceTrainer


def variants(
    options: PlaceArguments, args: PlaceTrainingArguments
) -> Iterator[tuple[PlaceArguments, PlaceTrainingArguments]]:
    """The options and arguments of every run that `models`, `seeds` and `methods` ask for.

    Of several runs each has a folder of its own in `output_dir/trained_models`, and none is pushed. With no epochs to
    train, a new model has no head, and there is one method.
    """
    methods = options.methods
    if args.epochs_of_heads <= 0 and not args.finetunes:
        methods, options = methods[:1], replace(options, head="none", projection_dim=None)
    # the sample's own model is told by no name
    names: list[str | None] = list(options.models) if options.models else [None]
    every = list(dict.fromkeys(product(names, options.seeds or [args.seed], methods)))
    short = _short_names([name or "sample" for name in names])
    for name, seed, method in every:
        own = copy.copy(args)
        own.seed = seed
        own.clique_m = args.clique_m if method == "ours" else None
        if len(every) > 1:
            folder = _label(short[name or "sample"], seed, method)
            own.output_dir = str(Path(args.output_dir) / "trained_models" / folder)
            own.push_to_hub = False
            if args.resume_from_checkpoint and str(args.resume_from_checkpoint).lower() != "false":
                own.resume_from_checkpoint = "true"
        yield replace(options, models=[name] if name else None, methods=[method]), own


def keep_best(runs: Sequence[GeoPlaceTrainer], args: PlaceTrainingArguments) -> GeoPlaceTrainer:
    """The run whose model is the best on validation queries; it goes on in `args.output_dir`.

    Args:
        runs: evaluated; those of the first one's method are chosen from. Of several, each model is saved in its
            run's own folder.
    """
    kept = max((run for run in runs if run.method == runs[0].method), key=lambda run: run.validation_score)
    if len(runs) == 1:
        return kept
    kept.runs, folder, own = list(runs), Path(args.output_dir), Path(kept.args.output_dir)
    if args.should_save:
        for run in runs:
            run.model.save_pretrained(run.args.output_dir)
        if kept.adapter_of is not None:  # it is pushed beside the model
            for part in (Path("adapter"), kept.base_folder(kept.adapter_of).relative_to(own)):
                shutil.copytree(own / part, folder / part, dirs_exist_ok=True)
    kept.args.output_dir, kept.args.push_to_hub = args.output_dir, args.push_to_hub
    return kept


def details_of(run: GeoPlaceTrainer) -> dict[str, Any]:
    """What stands behind the numbers of a run that was evaluated, see `GeoPlaceTrainer.measure`."""
    assert run.evaluated is not None
    return run.evaluated.details


def labels_of(runs: Sequence[GeoPlaceTrainer]) -> list[str]:
    """The runs' names for files."""
    short = _short_names([run.name for run in runs])
    return [_label(short[run.name], run.args.seed, run.method) for run in runs]


def _label(name: str, seed: int, method: str) -> str:
    kind = "" if method == "ours" else f"_{method}"
    return f"{name.replace('/', '_')}_seed{seed}{kind}"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """What tables call models: by the last part of the name, with those before it where models share that."""
    return told_apart({name: Path(name).parts for name in names})


def comparison_rows(runs: Sequence[GeoPlaceTrainer]) -> list[dict]:
    """The comparison table: a row for every frozen model, then one for every run, on the same queries."""
    rows, seen, short = [], set(), _short_names([run.name for run in runs])
    for run in runs:
        model, seed, details = short[run.name], run.args.seed, details_of(run)
        # a backbone of random weights is another one with every seed
        frozen = (run.name, seed if run.model.config.backbone_name is None else None)
        if frozen not in seen:
            seen.add(frozen)
            rows.append({"model": model, "seed": frozen[1], "stage": "frozen", **_shown(details["frozen"])})
        rows.append({"model": model, "seed": seed, "stage": _stage(run), **_shown(details["retrieval"])})
    return rows


def _stage(run: GeoPlaceTrainer) -> str:
    if run.method == "original":
        return "trained by the original recipe"
    if run.kept not in (None, "trained"):
        return f"kept: {run.kept}"
    if run.kept or run.args.epochs_of_heads > 0 or run.args.finetunes:
        return "trained"
    return "not trained" if run.model.config.whitening_dim is None else "whitened"


def _shown(retrieval: Retrieval) -> dict:
    values = retrieval.values
    every = next(name for name in values if name.startswith("recall@1_all"))
    columns = {f"R@{n}": f"r{n}" for n in RECALLS}
    columns |= {"R@1, drives": "drive_r1", "R@1, verified": "verified_r1"}
    columns |= {"R@1, all queries": every, "median m": "median_m"}
    return {column: values[name] for column, name in columns.items() if name in values}


def summary_rows(runs: Sequence[GeoPlaceTrainer]) -> list[dict]:
    """A row per run: what was trained, how long, how well."""
    rows = []
    for run in runs:
        details, epochs = details_of(run), [row for row in run.log_rows if row["event"] == "epoch"]
        last = epochs[-1] if epochs else {}
        row = {
            "timestamp": last.get("timestamp"),
            "model": run.name,
            "seed": run.args.seed,
            "method": run.method,
            "epochs": len(epochs),
            "training_time": sum(row["epoch_time"] for row in epochs),
            "final_train_loss": last.get("avg_train_loss"),
            "best_val_r1": run.validation_r1,
            "trainable_parameters": sum(p.numel() for p in run.model.head.parameters()),
            "baseline_r1": details["frozen"].values["r1"],
        }
        rows.append(row | {f"test_{name}": details["retrieval"].values[name] for name in ("r1", "r5", "r10")})
    return rows
