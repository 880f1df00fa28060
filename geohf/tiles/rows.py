"""Rows of a table of tiles: which step and which box each is of, which can be used, and what earlier ones tell."""

from __future__ import annotations

import ast
import logging
from functools import cache
from pathlib import Path

import numpy as np

from geohf.data.cells import text_of
from geohf.data.times import shorten, step_key

logger = logging.getLogger(__name__)

LABEL = "label_id"


def steps_of_rows(frame, labels, source, errors) -> np.ndarray:
    """Each row's step number, -1 for labels that were not asked for."""
    if LABEL not in frame:
        return np.full(len(frame), len(labels) - 1)
    number = {step_key(label): i for i, label in enumerate(labels)}
    number |= {label: i for i, label in enumerate(labels)}

    @cache
    def step(name: str) -> int:
        return number.get(name, number.get(step_key(name), -1))

    names = frame[LABEL].map(name_of)
    steps = names.map(step).to_numpy(np.int64)
    for row in np.flatnonzero(names == "").tolist():
        errors.add(source, int(frame.index[row]), f"{LABEL} is empty")
    others = names[(steps < 0) & (names != "")]
    if len(others):
        shown = shorten(others.unique())
        logger.warning("%s: %d rows of the labels %s are not used", source, len(others), shown)
    return steps


def name_of(cell) -> str:
    """A cell as text: 1225.0, as pandas makes of a column with holes, is the region 1225."""
    text = text_of(cell) or ""
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def boxes_of(column, rows) -> tuple[np.ndarray, dict[int, str]]:
    """(rows of the table, 4) int32, and why a row of `rows` has no box."""
    known: dict[str, tuple] = {}
    boxes, bad = np.zeros((len(column), 4), np.int32), {}
    wanted = set(rows.tolist())
    for position, cell in enumerate(column):
        try:
            if isinstance(cell, str):
                if cell not in known:
                    known[cell] = _four(ast.literal_eval(cell))
                boxes[position] = known[cell]
            else:
                boxes[position] = _four(cell)
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
            if position in wanted:
                bad[position] = (
                    f"region_coordinates {cell!r} are not (xmin, ymin, xmax, ymax) in whole pixels"
                )
    return boxes, bad


def _four(cell) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in cell)
    if len(numbers) != 4 or any(a != b for a, b in zip(numbers, cell, strict=True)):
        raise ValueError
    return numbers


def check_rows(rows, names, regions, boxes, values, bad, lines, source, errors) -> np.ndarray:
    """Numbers of the rows that can be used: names that differ, boxes that hold pixels; the others go to `errors`."""
    seen: dict[str, int] = {}
    places: dict[tuple, int] = {}
    kept, repeated = [], 0
    for row in rows.tolist():
        x0, y0, x1, y1 = boxes[row].tolist()
        first, place = seen.get(names[row]), (regions[row], x0, y0, x1, y1)
        there = places.get(place)
        if row not in bad and first is not None and first == there and (values[row] == values[first]).all():
            repeated += 1  # the same row again
            continue
        if row in bad:
            reason = bad[row]
        elif not names[row]:
            reason = "tile_id is empty"
        elif Path(regions[row]).is_absolute() or ".." in Path(regions[row]).parts:
            reason = f"region_id {regions[row]!r} leads out of the folder of images"
        elif x1 <= x0 or y1 <= y0:
            reason = f"tile {names[row]}: {(x0, y0, x1, y1)} has no area (xmin < xmax and ymin < ymax)"
        elif first is not None:
            reason = f"tile_id {names[row]} stands in row {lines[first]} already"
        elif there is not None and (values[row] != values[there]).any():
            reason = f"tile {names[row]} lies where the tile of row {lines[there]} lies, with other values"
        elif not np.isfinite(values[row]).all():
            reason = f"tile {names[row]}: its target is empty or not a finite number"
        else:
            seen[names[row]] = places[place] = row
            kept.append(row)
            continue
        errors.add(source, int(lines[row]), reason)
    if repeated:
        logger.warning("%s: %d rows repeat an earlier one and count once", source, repeated)
    return np.array(kept, np.int64)


def check_regions(kept, regions, boxes, images, extension, max_missing, lines, source, errors) -> np.ndarray:
    """Numbers of the kept rows whose box lies in the rasters of its region; the others go to `errors`."""
    good = []
    for row in kept.tolist():
        region, box = regions[row], tuple(boxes[row].tolist())
        raster, files = images[region].raster, images[region].files
        missing = files.count(None)
        if images[region].reason is not None:
            reason = f"region {region!r}: {images[region].reason}"
        elif raster is None:
            reason = f"region {region!r} has no image {region}{extension} in any label's folder"
        elif missing > max_missing * len(files):
            reason = (
                f"region {region!r} has no image for {missing} of {len(files)} labels, more than the share of "
                f"{max_missing:g} that may be missing"
            )
        elif min(box) < 0 or box[2] > raster.width or box[3] > raster.height:
            reason = f"tile {box} reaches out of its image, region {region!r} of {raster.width} x {raster.height} pixels"
        else:
            good.append(row)
            continue
        errors.add(source, int(lines[row]), reason)
    return np.array(good, np.int64)


def history_of(kept, years, regions, boxes, values, labels, bad, lines, source, errors) -> np.ndarray:
    """(tiles, steps, targets): what rows of earlier labels say of the tiles of the last one."""
    place: dict[tuple, list[int]] = {}
    for i, row in enumerate(kept.tolist()):
        place.setdefault((regions[row], *boxes[row].tolist()), []).append(i)
    history = np.full((len(kept), len(labels), values.shape[1]), np.nan)
    history[:, -1] = values[kept]
    unmatched = 0
    seen: dict[tuple, int] = {}
    for row in np.flatnonzero((years >= 0) & (years < len(labels) - 1)).tolist():
        if row in bad:
            errors.add(source, int(lines[row]), bad[row])
            continue
        key, step = (regions[row], *boxes[row].tolist()), years[row]
        tiles, new = place.get(key, ()), np.where(np.isfinite(values[row]), values[row], np.nan)
        unmatched += not tiles
        for i in tiles:
            old = history[i, step]
            if (np.isfinite(old) & np.isfinite(new) & (old != new)).any():
                reason = f"tile {key[1:]} of region {key[0]} has other values for {labels[step]} in row {lines[seen[key, step]]}"
                errors.add(source, int(lines[row]), reason)
                break
            history[i, step] = np.where(np.isfinite(new), new, old)
        seen.setdefault((key, step), row)
    if unmatched:
        logger.warning("%s: %d rows of earlier labels are of no tile of %s", source, unmatched, labels[-1])
    return history
