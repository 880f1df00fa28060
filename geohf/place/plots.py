"""The reference implementation's plot of a run: six panels from its log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from geohf.report.style import EVAL, EXTRA, SERIES, TRAIN, drawing


def plot_run(path: str | os.PathLike, rows: Sequence[Mapping], title: str) -> None:
    """Draw batch loss, epoch loss, recall, learning rate, a histogram of losses, and recall over loss.

    Args:
        path: the PNG file.
        rows: of the run's log, see `geohf.place.logs`; panels without numbers stay empty.
    """
    batches, epochs, checks = (
        [row for row in rows if row["event"] == event] for event in ("batch", "epoch", "validation")
    )

    def column(of: Sequence[Mapping], name: str) -> np.ndarray:
        return np.array([np.nan if row[name] is None else row[name] for row in of], np.float64)

    with drawing(path, 13.0, 7.2) as figure:
        panels = figure.subplots(2, 3).ravel()
        for name, color in (("train_loss", TRAIN), ("contrastive_loss", EXTRA), ("triplet_loss", SERIES[3])):
            panels[0].plot(
                column(batches, "batch"), column(batches, name), color=color, linewidth=1, label=_words(name)
            )
        for name, color in (
            ("avg_train_loss", TRAIN),
            ("avg_contrastive_loss", EXTRA),
            ("avg_triplet_loss", SERIES[3]),
        ):
            panels[1].plot(
                column(epochs, "epoch"),
                column(epochs, name),
                color=color,
                marker="o",
                markersize=3,
                label=_words(name),
            )
        panels[1].plot(
            column(checks, "epoch"),
            column(checks, "val_loss"),
            color=EVAL,
            marker="o",
            markersize=3,
            label="validation",
        )
        for name, color in zip(("val_r1", "val_r5", "val_r10"), SERIES, strict=False):
            panels[2].plot(
                column(checks, "epoch"),
                column(checks, name),
                color=color,
                marker="o",
                markersize=3,
                label=f"recall@{name[5:]}",
            )
        panels[3].plot(column(batches, "batch"), column(batches, "learning_rate"), color=EXTRA)
        panels[4].hist(column(batches, "train_loss"), bins=30, color=TRAIN)
        n = min(len(epochs), len(checks))
        panels[5].scatter(
            column(epochs[:n], "avg_train_loss"), column(checks[:n], "val_r1"), color=EVAL, s=18
        )
        for axes, head, x, y in zip(panels, *zip(*_PANELS, strict=True), strict=True):
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
    return {"train": "total"}.get(
        name.removeprefix("avg_").removesuffix("_loss"), name.removeprefix("avg_").removesuffix("_loss")
    )
