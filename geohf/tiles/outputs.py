"""What a run leaves of its predictions: tables, GeoJSON, mosaics, an error map, a filmstrip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geohf.report import plot_filmstrip, plot_tile_errors, write_csv, write_polygons
from geohf.tiles.cache import TileCache
from geohf.tiles.samples import TileSamples
from geohf.tiles.table import TileTable

STRIPS = 4  # so many of the worst and of the best tiles are shown


def prediction_rows(
    table: TileTable, samples: TileSamples, splits: Sequence[str], answers: Sequence[np.ndarray]
) -> list[dict]:
    """A row for each sample: the tile, the truth, the prediction with its interval, and the baselines.

    Args:
        splits: (n,) name of each sample's split.
        answers: the values, and the interval's ends or None: (n, targets) each.
    """
    middle, low, high = answers
    rows = []
    for i, (row, step) in enumerate(zip(samples.rows.tolist(), samples.steps.tolist(), strict=True)):
        line = {
            "tile_id": table.tile_ids[row],
            "region_id": table.regions[table.region[row]],
            "label_id": table.labels[step],
            "region_coordinates": str(tuple(table.boxes[row].tolist())),
            "split": splits[i],
        }
        for k, name in enumerate(table.targets):
            line |= {name: samples.truth[i, k], f"predicted_{name}": middle[i, k]}
            if low is not None:
                line |= {f"low_{name}": low[i, k], f"high_{name}": high[i, k]}
            line |= {f"last_{name}": samples.last[i, k], f"trend_{name}": samples.trend[i, k]}
        rows.append(line)
    return rows


def write_numbers(folder: Path, table: TileTable, samples: TileSamples, rows: list[dict]) -> None:
    """Write predictions.csv and, where the images are georeferenced, predictions.geojson and a mosaic a region."""
    write_csv(folder / "predictions.csv", rows)
    located = np.array([raster.crs is not None for raster in table.rasters])[table.region[samples.rows]]
    if not located.any():
        return
    chosen = np.flatnonzero(located)
    rings = [_ring(table, row) for row in samples.rows[chosen].tolist()]
    write_polygons(folder / "predictions.geojson", rings, [rows[i] for i in chosen])
    newest = chosen[samples.steps[chosen] == samples.steps[chosen].max()]
    for region in np.unique(table.region[samples.rows[newest]]).tolist():
        here = newest[table.region[samples.rows[newest]] == region]
        path = folder / "mosaics" / f"{table.regions[region]}.tif"
        values = np.array([[rows[i][f"predicted_{name}"] for name in table.targets] for i in here])
        write_mosaic(
            path, table, region, samples.rows[here], values, [f"predicted_{name}" for name in table.targets]
        )


def write_mosaic(
    path: Path, table: TileTable, region: int, rows: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> None:
    """Write a region's tiles as a GeoTIFF on the grid of its images, float32, NaN where no tile lies.

    Args:
        rows: (n,) tiles of the table.
        values: (n, bands) what each tile's pixels hold.
        names: of the bands.
    """
    import rasterio

    raster = table.rasters[region]
    bands = np.full((values.shape[1], raster.height, raster.width), np.nan, np.float32)
    for row, value in zip(rows.tolist(), values, strict=True):
        x0, y0, x1, y1 = table.boxes[row].tolist()
        bands[:, y0:y1, x0:x1] = value[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=raster.height,
        width=raster.width,
        count=len(bands),
        dtype="float32",
        nodata=np.nan,
        crs=raster.crs,
        transform=rasterio.Affine(*raster.transform),
        compress="deflate",
    ) as file:
        file.write(bands)
        file.descriptions = tuple(names)


def _ring(table: TileTable, row: int) -> np.ndarray:
    """(4, 2) latitude and longitude of a tile's corners, counter-clockwise for an image with north up."""
    from rasterio import Affine
    from rasterio.warp import transform

    raster = table.rasters[table.region[row]]
    x0, y0, x1, y1 = table.boxes[row].tolist()
    corners = [Affine(*raster.transform) @ corner for corner in ((x0, y1), (x1, y1), (x1, y0), (x0, y0))]
    xs, ys = zip(*corners, strict=True)
    longitude, latitude = transform(raster.crs, "EPSG:4326", xs, ys)
    return np.stack([latitude, longitude], 1)


def plot_held_out(
    folder: Path, table: TileTable, cache: TileCache, samples: TileSamples, predicted: np.ndarray
) -> None:
    """Draw tile_errors.png and filmstrip.png of held-out samples, for the first target.

    Args:
        predicted: (n, targets).
    """
    name = table.targets[0]
    error = np.abs(predicted[:, 0] - samples.truth[:, 0])
    tiles, number = np.unique(samples.rows, return_inverse=True)
    mean = np.bincount(number, error) / np.bincount(number)
    sizes = {region: (r.height, r.width) for region, r in zip(table.regions, table.rasters, strict=True)}
    regions = [table.regions[region] for region in table.region[tiles]]
    plot_tile_errors(folder / "tile_errors.png", table.boxes[tiles], mean, regions, sizes, name)
    order = np.argsort(-error, kind="stable")
    count = min(STRIPS, len(order) // 2) or 1
    strips = []
    for which, chosen in (("worst", order[:count]), ("best", order[-count:][::-1])):
        for i in chosen.tolist():
            text = f"{which}: tile {table.tile_ids[samples.rows[i]]}, {table.labels[samples.steps[i]]}"
            text += f"\ntrue {samples.truth[i, 0]:.3g}, predicted {predicted[i, 0]:.3g}"
            strips.append((text, seen_frames(cache, table, samples, i)))
    columns = _headings(samples)
    plot_filmstrip(folder / "filmstrip.png", strips, columns)


def plot_images(
    folder: Path,
    table: TileTable,
    cache: TileCache,
    samples: TileSamples,
    predicted: np.ndarray,
    error: np.ndarray,
) -> None:
    """Draw filmstrip.png of held-out samples whose answer is an image: the frames seen, the truth, the prediction.

    Args:
        predicted: (n, height, width, bands) in the images' unit.
        error: (n,) to sort by.
    """
    order = np.argsort(-error, kind="stable")
    count = min(STRIPS, len(order) // 2) or 1
    strips = []
    for which, chosen in (("worst", order[:count]), ("best", order[-count:][::-1])):
        for i in chosen.tolist():
            truth = cache.read([samples.rows[i]], samples.steps[i : i + 1, None])[0, 0]
            height, width = table.sizes[samples.rows[i]]
            frames = [*seen_frames(cache, table, samples, i), truth[:height, :width], predicted[i]]
            strips.append((f"{which}: tile {table.tile_ids[samples.rows[i]]}", frames))
    columns = _headings(samples)
    plot_filmstrip(folder / "filmstrip.png", strips, [*columns, "truth", "predicted"])


def _headings(samples: TileSamples) -> list[str]:
    """Each frame's distance in steps from the target's."""
    newest = int((samples.window[:, -1] - samples.steps).max())
    return [str(newest - n) for n in range(samples.window.shape[1] - 1, -1, -1)]


def seen_frames(cache: TileCache, table: TileTable, samples: TileSamples, i: int) -> list[np.ndarray | None]:
    """The native frames of a sample's window, None where masked."""
    height, width = table.sizes[samples.rows[i]]
    frames = cache.read([samples.rows[i]], samples.window[i][None])[0, :, :height, :width]
    return [frame if seen else None for frame, seen in zip(frames, samples.mask[i], strict=True)]
