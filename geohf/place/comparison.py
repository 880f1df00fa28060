"""Runs side by side, as rows of tables."""

from __future__ import annotations

from pathlib import Path

from geohf.place.evaluation import Search
from geohf.place.experiment import PlaceRun


def comparison_rows(runs: list[PlaceRun]) -> list[dict]:
    """The comparison table: a row for every frozen model, then one for every run, on the same test queries.

    A tower of random weights is another one with every seed.
    """
    rows, seen = [], set()
    for run in runs:
        model = Path(run.name).name
        frozen = (run.name, run.seed if run.model.config.backbone_name is None else None)
        if frozen not in seen:
            seen.add(frozen)
            rows.append({"model": model, "seed": frozen[1], "stage": "frozen", **_shown(run.baseline)})
        stage = "trained" if run.method == "ours" else "trained by the original recipe"
        rows.append({"model": model, "seed": run.seed, "stage": stage, **_shown(run.trained)})
    return rows


def _shown(found: Search) -> dict:
    names = ("r1", "r5", "r10")
    shown = {f"R@{name[1:]}": found.metrics[name] for name in names if name in found.metrics}
    every = next(name for name in found.metrics if name.startswith("recall@1_all"))
    return shown | {"R@1, all queries": found.metrics[every], "median m": found.metrics["median_m"]}


def summary_rows(runs: list[PlaceRun]) -> list[dict]:
    """A row a run: what was trained, how long, how well."""
    rows = []
    for run in runs:
        epochs = [row for row in run.log if row["event"] == "epoch"]
        trained = sum(p.numel() for p in run.model.head.parameters())
        rows.append(
            {
                "timestamp": epochs[-1]["timestamp"] if epochs else None,
                "model": run.name,
                "seed": run.seed,
                "method": run.method,
                "epochs": len(epochs),
                "training_time": sum(row["epoch_time"] for row in epochs),
                "final_train_loss": epochs[-1]["avg_train_loss"] if epochs else None,
                "best_val_r1": run.validation_r1,
                "trainable_parameters": trained,
                "baseline_r1": run.baseline.metrics["r1"],
                **{f"test_{name}": run.trained.metrics[name] for name in ("r1", "r5", "r10")},
            }
        )
    return rows
