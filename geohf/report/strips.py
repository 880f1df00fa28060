"""Strips of pictures: a question and its answers, right ones framed in green and wrong ones in red."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geohf.errors import DataError
from geohf.report.style import INK, drawing

RIGHT, WRONG = "#2e9e57", "#d1345b"


@dataclass
class Answer:
    """One answer in a strip: a picture, a caption, and whether it is right; None where nobody knows."""

    image: Any
    caption: str
    right: bool | None


def plot_strips(
    path: str | os.PathLike, strips: Sequence[tuple[Any, str, Sequence[Answer]]], title: str = ""
) -> None:
    """Draw a row for every question: its picture, then its answers, best first.

    Args:
        path: the PNG file.
        strips: (picture, caption, answers); pictures are anything that matplotlib's `imshow` takes.

    Raises:
        DataError: no strip, or one without an answer.
    """
    if not strips or not all(answers for _, _, answers in strips):
        raise DataError("strips: nothing to draw, or a question without an answer")
    columns = 1 + max(len(answers) for _, _, answers in strips)
    with drawing(path, 1.75 * columns, 1.62 * len(strips) + (0.4 if title else 0.1)) as figure:
        grid = figure.subplots(len(strips), columns, squeeze=False)
        for row, (image, caption, answers) in zip(grid, strips, strict=True):
            cells = [Answer(image, caption, True), *answers]
            for column, axes in enumerate(row):
                axes.set(xticks=[], yticks=[])
                if column >= len(cells):
                    axes.set_visible(False)
                    continue
                unknown = column == 0 or cells[column].right is None
                color = INK if unknown else RIGHT if cells[column].right else WRONG
                axes.imshow(cells[column].image)
                axes.set_title(cells[column].caption, fontsize=8, fontweight="normal", color=color, pad=3)
                for spine in axes.spines.values():
                    spine.set(visible=True, color=color, linewidth=1.2 if column == 0 else 3)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
