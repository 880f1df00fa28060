"""Photos with the parts that were found in them, colored by state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from geohf.io import atomic_write
from geohf.parts.vocabulary import ABSENT
from geohf.report.style import INK, SERIES
from geohf.vision.images import open_image

STATE_COLORS = {"intact": "#2e9e57", "damaged": "#e07b1a", "absent": "#c3203f", "occluded": "#2f6fab"}
_MIN_WIDTH = 720  # smaller photos are enlarged, so that names can be read
_MAX_WIDTH = 1600
_FONT, _LINE = 13, 17


def write_overlays(
    folder: str | Path,
    images: Iterable,
    predictions: Iterable[Mapping],
    id2label: Mapping[int, str],
    id2state: Mapping[int, str],
    image_ids: Sequence[str] | None = None,
    targets: Sequence[Mapping] | None = None,
    score_threshold: float | Sequence[float] = 0.5,
    attributes: Mapping[str, Sequence[str]] | None = None,
    absent_state: str = ABSENT,
) -> list[Path]:
    """Write `<image_id>.png` for each photo: box, name and score (percent) of each part found, colored by state.

    Args:
        folder: made where it does not exist.
        images: anything that `open_image` takes.
        predictions: as for `inspection_rows`.
        image_ids: names of the photos, by default their numbers.
        targets: with them, detections of parts that are absent (`hallucinated`) are drawn dashed.
        score_threshold: of the detections that are drawn; one for all parts, or one for each.
        attributes: as for `inspection_rows`; their values stand behind the part's name.
        absent_state: that of targets which are not there.

    Returns:
        The files.
    """
    paths = []
    for number, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        name = str(number) if image_ids is None else str(image_ids[number])
        absent = [] if targets is None else _absent_parts(targets[number], id2state, absent_state)
        picture = overlay(image, prediction, id2label, id2state, absent, score_threshold, attributes)
        name = name.replace("/", "_").replace("\\", "_")
        path = Path(folder) / f"{Path(name).stem}.png"
        if path in paths:  # a.jpg after a.png
            path = Path(folder) / f"{name}.png"
        with atomic_write(path, binary=True) as file:
            picture.save(file, "PNG")
        paths.append(path)
    return paths


def overlay(
    image,
    prediction: Mapping,
    id2label: Mapping[int, str],
    id2state: Mapping[int, str],
    hallucinated: Iterable[int] = (),
    score_threshold: float | Sequence[float] = 0.5,
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> Image.Image:
    """One photo with its parts, and a legend of the states below; see `write_overlays`."""
    photo = open_image(image)
    scale = min(max(1.0, _MIN_WIDTH / photo.width), _MAX_WIDTH / photo.width)
    size = (round(photo.width * scale), round(photo.height * scale))
    picture = Image.new("RGB", (size[0], size[1] + _LINE + 8), "white")
    picture.paste(photo.resize(size, Image.Resampling.LANCZOS), (0, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    colors = state_colors(id2state)
    boxes, scores = np.asarray(prediction["boxes"], float) * scale, np.asarray(prediction["scores"], float)
    labels, states = np.asarray(prediction["labels"]), np.asarray(prediction["states"])
    limit = np.asarray(score_threshold)
    shown = np.flatnonzero(np.asarray(prediction["scores"]) >= (limit[labels] if limit.ndim else limit))
    large_first = sorted(shown, key=lambda i: -np.prod(boxes[i, 2:] - boxes[i, :2]))
    for i in large_first:
        _rectangle(draw, boxes[i].tolist(), colors[int(states[i])], int(labels[i]) in set(hallucinated))
    placed: list[tuple] = []
    for i in reversed(large_first):  # the names of small parts have the least choice of places
        listed = enumerate((attributes or {}).values())
        values = [values[int(prediction["attributes"][i][k])] for k, values in listed]
        text = " ".join([id2label[int(labels[i])], *values, f"{100 * scores[i]:.0f}"])
        _tag(draw, font, text, boxes[i].tolist(), colors[int(states[i])], placed, size)
    left = 6
    for state, name in id2state.items():
        text = f"{name} {int((states[shown] == state).sum())}"
        draw.rectangle([left, size[1] + 8, left + 12, size[1] + 20], colors[state])
        draw.text((left + 18, size[1] + 5), text, INK, font)
        left += 36 + round(draw.textlength(text, font))
    return picture


def state_colors(id2state: Mapping[int, str]) -> dict[int, str]:
    """A color for each state: the usual ones by name, others from the palette of the figures."""
    return {i: STATE_COLORS.get(name, SERIES[i % len(SERIES)]) for i, name in id2state.items()}


def _absent_parts(target: Mapping, id2state: Mapping[int, str], absent_state: str) -> list[int]:
    absent = [i for i, name in id2state.items() if name == absent_state]
    return np.asarray(target["labels"])[np.isin(target["states"], absent)].tolist()


def _rectangle(draw, box, color, dashed: bool) -> None:
    x0, y0, x1, y1 = box
    if not dashed:
        draw.rectangle(box, outline=color, width=2)
        return
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    for start, end in pairwise(corners):
        corner, side = np.array(start), np.subtract(end, start)
        pieces = max(2, round(float(np.abs(side).sum()) / 6))
        for k in range(0, pieces, 2):
            ends = np.concatenate([corner + side * k / pieces, corner + side * (k + 1) / pieces])
            draw.line(ends.tolist(), color, 2)


def _tag(draw, font, text, box, color, placed, size) -> None:
    """Write the name beside its box, at the first of some places where no other name stands."""
    width, (x0, y0, x1, y1) = round(draw.textlength(text, font)) + 4, box
    corners = [(x, y) for x in (x0, x1 - width) for y in (y0 - _LINE, y1)] + [(x1, y0), (x0 - width, y0)]
    corners += [(x0, y0 - k * _LINE) for k in (2, 3)] + [(x0, y1 + k * _LINE) for k in (1, 2)] + [(x0, y0)]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - _LINE)) for x, y in corners]

    def is_free(x: float, y: float) -> bool:
        return all(x + width <= u or u + w <= x or y + _LINE <= v or v + _LINE <= y for u, v, w in placed)

    x, y = next((place for place in inside if is_free(*place)), inside[0])
    placed.append((x, y, width))
    draw.rectangle([x, y, x + width, y + _LINE - 1], color)
    draw.text((x + 2, y), text, "white", font)
