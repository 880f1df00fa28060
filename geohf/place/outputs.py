"""What a place run leaves for people: predictions as CSV, GeoJSON and a map, strips of pictures, plots, an index."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.tables import points_of
from geohf.data.task_data import facts_of
from geohf.geo import great_circle_m
from geohf.metrics.records import Evaluation
from geohf.place.comparison import comparison_rows, details_of, labels_of, summary_rows
from geohf.place.index import PlaceIndex
from geohf.place.logs import write_log
from geohf.place.metrics import Retrieval
from geohf.place.rows import images_of
from geohf.report.geojson import write_geojson
from geohf.report.map_png import error_map_png
from geohf.report.maps import write_map
from geohf.report.plots import plot_error_cdf
from geohf.report.strips import Answer, plot_strips
from geohf.report.style import EVAL, EXTRA, SERIES, TRAIN, drawing
from geohf.report.tables import write_csv
from geohf.training.report import thumbnails_of
from geohf.vision.images import open_image

if TYPE_CHECKING:
    from geohf.place.trainer import GeoPlaceTrainer

STRIPS, STRIP_ANSWERS = 8, 5


def write_outputs(
    trainer: GeoPlaceTrainer, folder: Path, evaluation: Evaluation, thumbnails: int = 0
) -> Mapping[str, Any]:
    """Write predictions, the index, the plots of the card, and of all of `trainer.runs` the logs and comparison.csv.

    Args:
        thumbnails: of how many queries map.html holds a small photograph.
    """
    if not trainer.args.should_save:
        return {}
    runs = trainer.runs
    for run, label in zip(runs, labels_of(runs), strict=True):
        if run.log_rows:
            path = write_log(folder / "logs", label, run.log_rows)
            plot_run(folder / "plots" / f"{path.stem}_plots.png", run.log_rows, f"{run.name}: {run.method}")
    write_csv(folder / "logs" / "training_summary.csv", summary_rows(runs))
    write_csv(folder / "comparison.csv", comparison_rows(runs))
    write_answers(folder, trainer, evaluation, thumbnails)
    curves = {"frozen": evaluation.details["frozen"]}
    rivals = [run for run in runs if (run.name, run.args.seed) == (trainer.name, trainer.args.seed)]
    curves |= {run.method: details_of(run)["retrieval"] for run in rivals if run is not trainer}
    plot_answers(folder, trainer, evaluation, curves | {"trained": evaluation.details["retrieval"]})
    database, details = trainer.database_of(evaluation.dataset), evaluation.details
    named = points_of(database), details["database_names"], trainer.model.fingerprint()
    index = PlaceIndex(details["database_descriptors"], *named)
    index.save(folder / "index.parquet")  # positions of one's own pictures: a push leaves it at home
    facts, counts = facts_of(evaluation.dataset), trainer.data_facts(evaluation, "queries")["counts"]
    return {
        "runs": comparison_rows(runs),
        "protocol": facts.get("split"),
        "leaks": [*(facts.get("leaks") or []), *map(asdict, details["duplicates"])],
        "rows": counts | {"database": len(database)},
    }


def write_answers(folder: Path, trainer: GeoPlaceTrainer, evaluation: Evaluation, thumbnails: int) -> None:
    """Write predictions.csv, predictions.geojson and map.html of the queries."""
    details = evaluation.details
    queries, retrieval = trainer.read_rows(evaluation.dataset), details["retrieval"]
    points, top = points_of(queries), retrieval.answer_points[:, 0]
    told = zip(details["names"], queries["sequence"][:], evaluation.predictions, strict=True)
    rows = [
        {
            "image": name,
            "sequence": sequence,
            "latitude": points[i, 0],
            "longitude": points[i, 1],
            "answer": prediction.answers[0].image,
            "predicted_latitude": top[i, 0],
            "predicted_longitude": top[i, 1],
            "similarity": prediction.answers[0].similarity,
            "confidence": prediction.confidence,
            **({} if prediction.abstains is None else {"abstains": prediction.abstains}),
            "distance_m": float(retrieval.error_m[i]),
            "right": bool(retrieval.right[i, 0]),
        }
        for i, (name, sequence, prediction) in enumerate(told)
    ]
    write_csv(folder / "predictions.csv", rows)
    shown = [{name: row[name] for name in ("sequence", "similarity", "confidence", "right")} for row in rows]
    # of the distance it has a column of its own
    properties = [{name: cell for name, cell in row.items() if name != "distance_m"} for row in rows]
    write_geojson(folder / "predictions.geojson", top, properties, truth=points)
    write_map(
        folder / "map.html",
        top,
        points,
        labels=[row["image"] for row in rows],
        details=shown,
        title=f"{len(rows)} queries: where they were taken, and where their top answers were",
        thumbnails=thumbnails_of(trainer, queries, thumbnails),
    )


def plot_answers(
    folder: Path, trainer: GeoPlaceTrainer, evaluation: Evaluation, curves: Mapping[str, Retrieval]
) -> None:
    """Draw strips of queries and their answers, errors as a curve, and errors on a map.

    Args:
        curves: name -> a search whose errors are a curve.
    """
    errors_km = {name: (retrieval.error_m / 1000).tolist() for name, retrieval in curves.items()}
    plot_error_cdf(folder / "error_cdf.png", errors_km)
    queries, retrieval = trainer.read_rows(evaluation.dataset), evaluation.details["retrieval"]
    searched = trainer.database_of(evaluation.dataset)
    points, pictures, searched = points_of(queries), images_of(queries), images_of(searched)
    error_map_png(folder / "error_map.png", retrieval.answer_points[:, 0], points, "Test queries", unit="m")
    # right and wrong ones in the proportion in which they occur, spread over the drives
    shown = np.unique(np.linspace(0, len(points) - 1, STRIPS).round().astype(int)).tolist()
    sequences, strips = queries["sequence"][:], []
    for i in shown:
        answers = [
            Answer(
                open_image(searched[row], size=256),
                f"{_meters(retrieval.answer_points[i, j], points[i])}, cos {retrieval.similarity[i, j]:.2f}",
                bool(retrieval.right[i, j]),
            )
            for j, row in enumerate(retrieval.ranked[i, :STRIP_ANSWERS].tolist())
        ]
        strips.append((open_image(pictures[i], size=256), f"query ({sequences[i]})", answers))
    plot_strips(
        folder / "answers.png", strips, "Queries and their top answers: green within the radius, red beyond"
    )


def _meters(a: np.ndarray, b: np.ndarray) -> str:
    meters = float(great_circle_m(a, b))
    return f"{meters:.0f} m" if meters < 1000 else f"{meters / 1000:.1f} km"


def plot_run(path: str | os.PathLike, rows: Sequence[Mapping], title: str) -> None:
    """Draw the reference implementation's six panels, `_PANELS`, as a PNG file.

    Args:
        rows: of the run's log, see `geohf.place.logs`; panels without numbers stay empty.
    """
    events = ("batch", "epoch", "validation")
    batches, epochs, checks = ([row for row in rows if row["event"] == event] for event in events)

    def column(of: Sequence[Mapping], name: str) -> np.ndarray:
        return np.array([np.nan if row[name] is None else row[name] for row in of], np.float64)

    with drawing(path, 13.0, 7.2) as figure:
        panels = figure.subplots(2, 3).ravel()
        dots = {"marker": "o", "markersize": 3}

        def curve(panel: int, rows: Sequence[Mapping], x: str, y: str, **style) -> None:
            panels[panel].plot(column(rows, x), column(rows, y), **style)

        for name, color in (("train_loss", TRAIN), ("contrastive_loss", EXTRA), ("triplet_loss", SERIES[3])):
            curve(0, batches, "batch", name, color=color, label=_words(name), linewidth=1)
            curve(1, epochs, "epoch", f"avg_{name}", color=color, label=_words(name), **dots)
        curve(1, checks, "epoch", "val_loss", color=EVAL, label="validation", **dots)
        for name, color in zip(("val_r1", "val_r5", "val_r10"), SERIES, strict=False):
            curve(2, checks, "epoch", name, color=color, label=f"recall@{name[5:]}", **dots)
        curve(3, batches, "batch", "learning_rate", color=EXTRA)
        panels[4].hist(column(batches, "train_loss"), bins=30, color=TRAIN)
        n = min(len(epochs), len(checks))
        losses, recalls = column(epochs[:n], "avg_train_loss"), column(checks[:n], "val_r1")
        panels[5].scatter(losses, recalls, color=EVAL, s=18)
        for axes, (head, x, y) in zip(panels, _PANELS, strict=True):
            axes.set(title=head, xlabel=x, ylabel=y)
            axes.grid(True)
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


_PANELS = (
    ("Batch loss", "batch", "loss"),
    ("Epoch loss", "epoch", "loss"),
    ("Validation recall", "epoch", "recall"),
    ("Learning rate", "batch", "learning rate"),
    ("Batch losses", "loss", "batches"),
    ("Recall over loss", "average loss of the epoch", "recall@1"),
)


def _words(name: str) -> str:
    return "total" if name == "train_loss" else name.removesuffix("_loss")
