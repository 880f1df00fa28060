"""The seed's table and folders: which tile lies where, what is known of it in which year, and which file shows it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.tables import RowErrors, line_of, read_table, require_columns, resolve_inside
from geohf.tiles.rasters import RasterInfo, inspect_raster

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("tile_id", "region_id", "region_coordinates")
TARGET, LABEL = "target", "label_id"


@dataclass
class TileTable:
    """Tiles, in the order of the table.

    Attributes:
        source: where the table comes from, for messages.
        tile_ids: (tiles,) text, unique.
        regions: names; `region` holds each tile's index into it, (tiles,) int32.
        boxes: (tiles, 4) int32 xmin, ymin, xmax, ymax in pixels, half open.
        labels: the steps (years) in order.
        targets: names of the target columns.
        values: (tiles, steps, targets) float64, NaN where the table does not know.
        files: `files[region][step]`, None where a year has no image.
        rasters: header of every region's images; they agree within a region.
        nodata: the pixel value that means "not measured" in all files; None where there is none.
    """

    source: str
    tile_ids: np.ndarray
    regions: list[str]
    region: np.ndarray
    boxes: np.ndarray
    labels: list[str]
    targets: list[str]
    values: np.ndarray
    files: list[list[Path | None]]
    rasters: list[RasterInfo]
    nodata: float | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sizes(self) -> np.ndarray:
        """(tiles, 2) height and width in pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2])[:, ::-1]

    @property
    def present(self) -> np.ndarray:
        """(regions, steps) bool: which region has an image of which step."""
        return np.array([[file is not None for file in files] for files in self.files])


def load_tiles(
    data: str | Path | pd.DataFrame,
    image_dir: str | Path,
    labels: Sequence[str | int],
    extension: str = ".tif",
    targets: Sequence[str] = (TARGET,),
    max_missing: float = 0.5,
    nodata: float | None = None,
    errors: RowErrors | None = None,
) -> TileTable:
    """Read the seed's table and find its images, `image_dir/<label>/<region_id><extension>`.

    A table with a column `label_id` has a row a tile and year: the rows of the last label give the tiles, the
    others what is known of them in earlier years, matched by region and coordinates. A table without it has a
    row a tile, and its targets are those of the last label.

    Args:
        data: CSV or Parquet file, or a DataFrame; `region_coordinates` as a tuple, a list or text.
        image_dir: the folder of the labels' folders.
        labels: steps in order, usually years.
        extension: of the image files.
        targets: names of the target columns, none for tiles whose targets are not known.
        max_missing: share of a region's years that may have no image; these steps are masked. 0: none may.
        nodata: the pixel value that means "not measured", where the files do not say.
        errors: the policy for bad rows; by default the first stops.

    Raises:
        DataError: the table or an image cannot be used; the message names the file and the row.
    """
    errors = errors or RowErrors()
    labels = _labels(labels)
    frame, source = _frame(data, targets)
    last, years = _rows_of_labels(frame, labels, source)
    rows = np.flatnonzero(years == len(labels) - 1)
    if not len(rows):
        raise DataError(f"{source}: no row has the {LABEL} {last}, the last of the labels")
    regions = frame["region_id"].map(_name).to_numpy(object)
    boxes, bad = _boxes(frame["region_coordinates"], rows)
    values = frame[list(targets)].to_numpy(np.float64) if targets else np.empty((len(frame), 0))
    names = frame["tile_id"].map(_name).to_numpy(object)
    kept = _check_rows(rows, names, boxes, values, bad, source, errors)
    files, rasters = _find_images(sorted({regions[row] for row in kept}), image_dir, labels, extension)
    kept = _check_regions(kept, regions, boxes, files, rasters, max_missing, source, errors)
    errors.settle(len(kept))
    found = sorted({regions[row] for row in kept})
    number = {name: i for i, name in enumerate(found)}
    return TileTable(
        source=source,
        tile_ids=names[kept],
        regions=found,
        region=np.array([number[regions[row]] for row in kept], np.int32),
        boxes=boxes[kept],
        labels=labels,
        targets=list(targets),
        values=_history(kept, years, regions, boxes, values, len(labels)),
        files=[files[name] for name in found],
        rasters=[rasters[name] for name in found],
        nodata=_common_nodata(found, rasters, nodata),
    )


def grid_tiles(
    image_dir: str | Path, labels: Sequence[str | int], tile_size: int, extension: str = ".tif", nodata=None
) -> TileTable:
    """Tiles of equal size over one place whose images are `image_dir/<label><extension>`; no targets.

    Rows and columns at the right and lower rim that do not fill a tile are left out.

    Raises:
        DataError: an image is missing or cannot be used, or is smaller than a tile.
    """
    folder, labels = Path(image_dir), _labels(labels)
    files = [folder / f"{label}{extension}" for label in labels]
    raster = _agreeing(folder.name, files)
    if tile_size < 1 or tile_size > min(raster.height, raster.width):
        raise DataError(
            f"{files[0]}: is {raster.width} x {raster.height} pixels, no tile of {tile_size} x {tile_size} fits in"
        )
    y, x = np.mgrid[: raster.height // tile_size, : raster.width // tile_size].reshape(2, -1) * tile_size
    boxes = np.stack([x, y, x + tile_size, y + tile_size], 1).astype(np.int32)
    return TileTable(
        source=str(folder),
        tile_ids=np.array([str(i) for i in range(len(boxes))], object),
        regions=[folder.resolve().name],
        region=np.zeros(len(boxes), np.int32),
        boxes=boxes,
        labels=labels,
        targets=[],
        values=np.empty((len(boxes), len(labels), 0)),
        files=[files],
        rasters=[raster],
        nodata=raster.nodata if nodata is None else nodata,
    )


def _labels(labels) -> list[str]:
    labels = [str(label) for label in labels]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise DataError(f"labels must be two or more different steps in order, got {labels}")
    return labels


def _frame(data, targets) -> tuple[pd.DataFrame, str]:
    if isinstance(data, (str, Path)):
        return read_table(data, required=[*REQUIRED, *targets], numbers=targets), str(data)
    require_columns(data.columns, [*REQUIRED, *targets], "the table")
    if data.empty:
        raise DataError("the table has no rows")
    return data.reset_index(drop=True), "the table"


def _rows_of_labels(frame, labels, source) -> tuple[str, np.ndarray]:
    """The last label, and each row's step number, -1 for labels that were not asked for."""
    if LABEL not in frame:
        return labels[-1], np.full(len(frame), len(labels) - 1)
    number = {label: i for i, label in enumerate(labels)}
    return labels[-1], frame[LABEL].map(lambda cell: number.get(_name(cell), -1)).to_numpy(np.int64)


def _name(cell) -> str:
    """A cell as text: 1225.0, as pandas makes of a column with holes, is the region 1225."""
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        cell = int(cell)
    return str(cell).strip()


def _boxes(column, rows) -> tuple[np.ndarray, dict[int, str]]:
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
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError):
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


def _check_rows(rows, names, boxes, values, bad, source, errors) -> np.ndarray:
    seen: dict[str, int] = {}
    kept = []
    for row in rows.tolist():
        x0, y0, x1, y1 = boxes[row].tolist()
        reason = bad.get(row)
        if reason is None and (x1 <= x0 or y1 <= y0):
            reason = f"tile {names[row]}: {(x0, y0, x1, y1)} has no area (xmin < xmax and ymin < ymax)"
        if reason is None and names[row] in seen:
            reason = f"tile_id {names[row]} stands in row {line_of(seen[names[row]])} already"
        if reason is None and not np.isfinite(values[row]).all():
            reason = f"tile {names[row]}: its target is empty or not a finite number"
        if reason is None:
            seen[names[row]] = row
            kept.append(row)
        else:
            errors.add(source, line_of(row), reason)
    return np.array(kept, np.int64)


def _find_images(regions, image_dir, labels, extension):
    folder = Path(image_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for label in labels:
        if not (folder / label).is_dir():
            raise DataError(f"{folder / label}: no such folder, so there is no image of the label {label}")
    files, rasters = {}, {}
    for region in regions:
        paths = [resolve_inside(folder, f"{label}/{region}{extension}") for label in labels]
        files[region] = [path if path.is_file() else None for path in paths]
        there = [path for path in files[region] if path is not None]
        rasters[region] = _agreeing(region, there) if there else None
    found = [raster for raster in rasters.values() if raster is not None]
    for name, raster in rasters.items():
        if raster is not None and (raster.bands, raster.dtype) != (found[0].bands, found[0].dtype):
            raise DataError(
                f"{folder}: region {name} has {raster.bands} bands of {raster.dtype}, but others have "
                f"{found[0].bands} of {found[0].dtype}; they cannot be mixed"
            )
    return files, rasters


def _agreeing(region: str, files: Sequence[Path]) -> RasterInfo:
    """The header that all images of a region share."""
    first = inspect_raster(files[0])
    for path in files[1:]:
        other = inspect_raster(path)
        for name in ("width", "height", "bands", "dtype"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise DataError(
                    f"{path}: its {name} is {two}, but {files[0]} of the same region {region} has {one}"
                )
        if (
            first.crs
            and other.crs
            and not np.allclose(first.transform, other.transform, rtol=0, atol=abs(first.transform[0]) / 2)
        ):
            raise DataError(f"{path}: lies elsewhere than {files[0]}; warp them to one grid")
    return first


def _check_regions(kept, regions, boxes, files, rasters, max_missing, source, errors) -> np.ndarray:
    good = []
    for row in kept.tolist():
        region, (x0, y0, x1, y1) = regions[row], boxes[row].tolist()
        raster, missing = rasters[region], sum(path is None for path in files[region])
        if raster is None:
            errors.add(source, line_of(row), f"region {region} has no image in any label's folder")
        elif missing > max_missing * len(files[region]):
            errors.add(
                source,
                line_of(row),
                f"region {region} has no image for {missing} of {len(files[region])} labels, more than the "
                f"share of {max_missing:g} that may be missing",
            )
        elif x0 < 0 or y0 < 0 or x1 > raster.width or y1 > raster.height:
            size = f"{raster.width} x {raster.height}"
            errors.add(
                source,
                line_of(row),
                f"tile {(x0, y0, x1, y1)} reaches out of its image, region {region} of {size} pixels",
            )
        else:
            good.append(row)
    return np.array(good, np.int64)


def _history(kept, years, regions, boxes, values, steps) -> np.ndarray:
    place = {}
    for i, row in enumerate(kept.tolist()):
        place.setdefault((regions[row], *boxes[row].tolist()), []).append(i)
    history = np.full((len(kept), steps, values.shape[1]), np.nan)
    history[:, -1] = values[kept]
    for row in np.flatnonzero((years >= 0) & (years < steps - 1)).tolist():
        for i in place.get((regions[row], *boxes[row].tolist()), ()):
            history[i, years[row]] = values[row]
    return np.where(np.isfinite(history), history, np.nan)


def _common_nodata(regions, rasters, given) -> float | None:
    if given is not None:
        return float(given)
    found = {rasters[name].nodata for name in regions} - {None}
    finite = {value for value in found if np.isfinite(value)}  # NaN is always one
    if len(finite) > 1:
        raise DataError(
            f"the images name different nodata values ({sorted(finite)}); say which with --nodata"
        )
    return finite.pop() if finite else None
