"""The reference implementation's table and folders: which tile lies where, what is known of it in which year, and which file shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.tables import RowErrors, read_table, read_table_in_chunks, require_columns
from geohf.data.times import StepTimes, step_times
from geohf.errors import DataError
from geohf.tiles.images import RegionImages, common_nodata, dotted, find_images, mosaic_images, place_of
from geohf.tiles.rasters import RasterInfo
from geohf.tiles.reading import Reading
from geohf.tiles.rows import LABEL, boxes_of, check_regions, check_rows, history_of, name_of, steps_of_rows
from geohf.tiles.sources import RasterFile

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("tile_id", "region_id", "region_coordinates")
TARGET = "target"
TARGET_TYPES = (TARGET, "last-image")


@dataclass
class TileTable:
    """Tiles, in the order of the table.

    Attributes:
        source: where the table comes from, for messages.
        tile_ids: (tiles,) text, unique.
        regions: names; `region` holds each tile's index into it, (tiles,) int32.
        boxes: (tiles, 4) int32 xmin, ymin, xmax, ymax in pixels, half open.
        labels: the steps (years, months, dates, numbers) in order; `steps` says when they are.
        targets: names of the target columns.
        values: (tiles, steps, targets) float64, NaN where the table does not know.
        files: `files[region][step]`, None where a year has no image.
        rasters: header of every region's images; they agree within a region.
        nodata: the pixel value that means "not measured" in files that do not say it themselves; None where there
            is none.
        reading: what of the rasters becomes a frame.
        window: side in pixels of tiles that are windows around points; None of tiles that have boxes.
    """

    source: str
    tile_ids: np.ndarray
    regions: list[str]
    region: np.ndarray
    boxes: np.ndarray
    labels: list[str]
    steps: StepTimes
    targets: list[str]
    values: np.ndarray
    files: list[list[RasterFile | None]]
    rasters: list[RasterInfo]
    nodata: float | None = None
    reading: Reading = field(default_factory=Reading)
    window: int | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: np.ndarray) -> TileTable:
        """The table of some of its tiles; regions keep their numbers."""
        columns = ("tile_ids", "region", "boxes", "values")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def names_of_regions(self, rows: np.ndarray) -> np.ndarray:
        """(n,) the region of each of these tiles."""
        return np.array(self.regions)[self.region[rows]]

    @property
    def bands(self) -> int:
        """Bands of a frame."""
        return self.reading.frame_bands(self.rasters[0].bands)

    @property
    def dtype(self) -> str:
        """Type of a frame's pixels."""
        return self.reading.dtype(self.rasters[0])

    @property
    def sizes(self) -> np.ndarray:
        """(tiles, 2) height and width in pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2])[:, ::-1]


def load_tiles(
    data: str | Path | pd.DataFrame,
    image_dir: str | Path,
    labels: Sequence[str | int],
    extension: str = ".tif",
    targets: Sequence[str] = (TARGET,),
    max_missing: float = 0.5,
    nodata: float | None = None,
    errors: RowErrors | None = None,
    reading: Reading | None = None,
) -> TileTable:
    """Read the reference implementation's table and find its images, `image_dir/<label>/<region_id><extension>`.

    A table with a column `label_id` has a row per tile and year: the rows of the last label give the tiles, the
    others what is known of them in earlier years, matched by region and coordinates. A table without it has a
    row per tile, and its targets are those of the last label.

    Args:
        data: CSV or Parquet file, or a DataFrame; `region_coordinates` as a tuple, a list or text.
        image_dir: the folder of the labels' folders.
        labels: steps in order, see `geohf.data.times.step_times`.
        extension: of the image files.
        targets: names of the target columns, none for tiles whose targets are not known.
        max_missing: share of a region's years that may have no image; these steps are masked. 0: none may.
        nodata: the pixel value that means "not measured", where the files do not say.
        errors: the policy for bad rows; by default the first stops.
        reading: what of the rasters becomes a frame; None: all of them, which must lie on one grid.

    Raises:
        DataError: the table or an image cannot be used; the message names the file and the row.
    """
    errors, reading = errors or RowErrors(), reading or Reading()
    labels, extension = labels_of(labels), dotted(extension)
    times = step_times(labels)
    frame, source = _frame(data, targets)
    years = steps_of_rows(frame, labels, source, errors)
    rows = np.flatnonzero(years == len(labels) - 1)
    if not len(rows):
        raise DataError(f"{source}: no row has the {LABEL} {labels[-1]}, the last of the labels")
    regions = frame["region_id"].map(name_of).to_numpy(object)
    boxes, bad = boxes_of(frame["region_coordinates"], np.flatnonzero(years >= 0))
    values = frame[list(targets)].to_numpy(np.float64) if targets else np.empty((len(frame), 0))
    names = frame["tile_id"].map(name_of).to_numpy(object)
    kept = check_rows(rows, names, regions, boxes, values, bad, frame.index, source, errors)
    asked = sorted({regions[row] for row in kept})
    images = find_images(asked, image_dir, labels, extension, errors.on_error, reading)
    kept = check_regions(kept, regions, boxes, images, extension, max_missing, frame.index, source, errors)
    history = history_of(kept, years, regions, boxes, values, labels, bad, frame.index, source, errors)
    errors.settle(len(kept))
    fields: dict[str, Any] = {"labels": labels, "steps": times, "targets": list(targets), "values": history}
    fields |= {"source": source, "reading": reading, "tile_ids": names[kept], "boxes": boxes[kept]}
    return table_of_regions(regions[kept], images, nodata, **fields)


def table_of_regions(
    regions: Sequence[str], images: Mapping[str, RegionImages], nodata: float | None, **fields: Any
) -> TileTable:
    """The table of tiles of these regions, with the images of each.

    Args:
        regions: (tiles,) names.
        nodata: see `load_tiles`.
        fields: the others of `TileTable`.
    """
    names, region = np.unique(np.asarray(regions, str), return_inverse=True)
    chosen = [images[name] for name in names]
    return TileTable(
        regions=names.tolist(),
        region=region.astype(np.int32),
        files=[image.files for image in chosen],
        rasters=[image.header for image in chosen],
        nodata=common_nodata(chosen) if nodata is None else float(nodata),
        **fields,
    )


def table_in(data: str | Path) -> Path:
    """A folder in the sample's layout stands for the `tiles.csv` in it; every other path for itself."""
    table = Path(data, "tiles.csv")
    return table if table.is_file() else Path(data)


def columns_of(path: str | Path) -> list[str]:
    """The names of a table's columns, of which its head alone is read."""
    first = next(read_table_in_chunks(path, 1), None)
    return [] if first is None else [str(name).strip() for name in first.columns]


def grid_tiles(
    image_dir: str | Path,
    labels: Sequence[str | int],
    tile_size: int,
    extension: str = ".tif",
    nodata: float | None = None,
    reading: Reading | None = None,
    asset: str | Sequence[str] | None = None,
) -> TileTable:
    """Tiles of equal size over one place whose images are `image_dir/<label><extension>`; no targets.

    The folder may be a zip file, or a STAC item collection whose `asset` is meant, see `mosaic_files`.
    Rows and columns at the right and lower rim that do not fill a tile are left out.

    Raises:
        DataError: an image is missing or cannot be used, or is smaller than a tile.
    """
    labels = labels_of(labels)
    times = step_times(labels)
    images = mosaic_images(image_dir, labels, extension, reading, asset, nodata)
    raster = images.header
    if tile_size < 1 or tile_size > min(raster.height, raster.width):
        size = f"{raster.width} x {raster.height} pixels"
        raise DataError(f"{images.files[0]}: is {size}, no tile of {tile_size} x {tile_size} fits in")
    y, x = np.mgrid[: raster.height // tile_size, : raster.width // tile_size].reshape(2, -1) * tile_size
    boxes = np.stack([x, y, x + tile_size, y + tile_size], 1).astype(np.int32)
    ids, values = np.arange(len(boxes)).astype(str).astype(object), np.empty((len(boxes), len(labels), 0))
    fields: dict[str, Any] = {
        "labels": labels,
        "steps": times,
        "targets": [],
        "values": values,
        "source": str(image_dir),
    }
    fields |= {"reading": reading or Reading(), "tile_ids": ids, "boxes": boxes}
    place = place_of(image_dir)
    return table_of_regions([place] * len(boxes), {place: images}, nodata, **fields)


def read_named(
    path: str | Path, required: Sequence[str], numbers: Sequence[str], optional: Sequence[str] = ()
) -> pd.DataFrame:
    """`read_table`, whose columns are called as asked for, in whatever case of letters the file has them.

    Raises:
        DataError: see `read_table`.
    """
    frame = read_table(path, numbers=[*numbers, *map(str.lower, numbers)])
    frame = _named(frame, [*required, *optional], path)
    require_columns(frame.columns, required, path)
    return frame


def _named(frame: pd.DataFrame, names: Iterable[str], source: str | Path) -> pd.DataFrame:
    renamed: dict[str, str] = {}
    for name in names:
        alike = [] if name in frame.columns else [c for c in frame.columns if str(c).lower() == name.lower()]
        if len(alike) > 1:
            both = " or ".join(map(repr, alike))
            raise DataError(f"{source}: {name!r} may be the column {both}; rename one")
        renamed |= dict.fromkeys(alike, name)
    return frame.rename(columns=renamed)


def own_resampling(table: TileTable) -> str:
    """How tiles are resized: to the nearest pixel where files have a color table, whose numbers are classes."""
    return "nearest" if any(raster.palette is not None for raster in table.rasters) else "bicubic"


def labels_of(labels: Sequence[str | int]) -> list[str]:
    """Labels as text, two or more that differ."""
    names = [name_of(label) for label in labels]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"labels must be two or more different steps in order, got {names}")
    return names


def _frame(data, targets) -> tuple[pd.DataFrame, str]:
    if isinstance(data, (str, Path)):
        return read_named(data, [*REQUIRED, *targets], targets, [LABEL]), str(data)
    import pandas as pd

    data = _named(data, [*REQUIRED, *targets, LABEL], "the table")
    require_columns(data.columns, [*REQUIRED, *targets], "the table")
    if data.empty:
        raise DataError("the table has no rows")
    numbers = {name: pd.to_numeric(data[name], errors="coerce") for name in targets}
    return data.assign(**numbers).set_axis(range(2, len(data) + 2)), "the table"
