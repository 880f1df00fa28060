"""What a run leaves of its predictions: tables, GeoJSON, mosaics, an error map, a filmstrip."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.geo.angles import wrap_degrees
from geohf.geo.crs import transformed
from geohf.io import refuse_overwriting
from geohf.metrics.records import Evaluation
from geohf.report.geojson import write_polygons
from geohf.report.tables import write_csv
from geohf.report.tiles import plot_filmstrip, plot_occlusion, plot_tile_errors
from geohf.tiles.answers import Answers, answers_of
from geohf.tiles.dataset import TileSequences
from geohf.tiles.frames import fill_holes
from geohf.tiles.geotiff import write_geotiff
from geohf.tiles.metrics import coverage_by, metrics_by
from geohf.tiles.occlusion import occlusion
from geohf.tiles.sources import files_of
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows

logger = logging.getLogger(__name__)
if TYPE_CHECKING:
    from geohf.tiles.folds import CrossValidation
    from geohf.tiles.trainer import TileSequenceTrainer

EDGE_POINTS = 16  # of a tile near a pole
STRIPS = 4  # so many of the worst and of the best tiles are shown


def write_outputs(
    trainer: TileSequenceTrainer, folder: Path, evaluation: Evaluation, folds: CrossValidation | None = None
) -> Mapping[str, Any]:
    """Write the predictions and what a person looks at, see `write_numbers` and `image_filmstrip`.

    Args:
        folds: of a cross-validation, whose tables and error map are written, too.

    Returns:
        For metrics.json: `baselines`, what persistence, the trend and the training mean would have said; `folds`, the
            spread of every metric.
    """
    extra = {"baselines": evaluation.details["baselines"]}
    extra |= {} if folds is None else {"folds": folds.summary()}
    if not trainer.args.should_save:
        return extra
    if folds is not None:
        folds.write(folder)
    rows, outputs, config = evaluation.dataset, evaluation.details["outputs"], trainer.config
    mapped = isinstance(rows, TileSequences) and rows.table is not None
    if config.head == "image":
        if config.prediction_length > 1:
            write_csv(folder / "metrics_by_lead.csv", lead_rows(evaluation))
        if mapped:
            labels, _ = evaluation.details["images"]
            error = (outputs.raw - labels).square().flatten(1).nanmean(1).sqrt().numpy()
            images = [answer.image for answer in evaluation.predictions]
            image_filmstrip(folder / "filmstrip.png", rows, images, error)
    elif mapped:
        answers = answers_of(config, outputs.raw, outputs.region)
        split = trainer.data_facts(evaluation, "samples")["split_name"]
        write_numbers(folder, rows, split, answers)
        write_occlusion(folder, trainer, rows)
        _, low, high = answers
        if config.clusters is not None and outputs.region is not None and low is not None:
            names = np.array(["the others", *(config.region_margins or {})])[outputs.region.long().numpy()]
            covered = coverage_by(names, config.targets, low, high, rows.windows.truth)
            write_csv(folder / "coverage_by_cluster.csv", covered)
    else:
        named = {name: f"predicted_{name}" for name in config.targets}
        cells = [answer.as_row().items() for answer in evaluation.predictions]
        records = [{"row": i} | {named.get(k, k): v for k, v in row} for i, row in enumerate(cells)]
        write_csv(folder / "predictions.csv", records)
    return extra


def lead_rows(evaluation: Evaluation) -> list[dict[str, float]]:
    """A row for each frame that is predicted: how good it is, and how good the last image is in its place."""
    rows: dict[int, dict[str, float]] = {}
    for metric in evaluation.metrics:
        word, _, rest = metric.name.partition("_")
        if word != "lead":
            continue
        lead, _, name = rest.partition("_")
        row = rows.setdefault(int(lead), {"lead": int(lead)})
        row[name] = metric.value
        if metric.baseline is not None:
            row[f"persistence_{name}"] = metric.baseline
    return list(rows.values())


def write_occlusion(folder: Path, trainer: TileSequenceTrainer, rows: TileSequences) -> None:
    """Write occlusion.csv and occlusion.png: how far answers move without a band of a frame, or without the frame."""
    table, model = rows.known_table, trainer.model
    moved = occlusion(model, rows.bound_to(model.config))
    names = table.rasters[0].names
    classes = table.reading.class_values
    bands = [names[i] or f"band {i + 1}" for i in table.reading.chosen(len(names))]
    bands = bands if classes is None else [f"class {number}" for number in classes]
    frames, columns = _headings(rows.windows), [*bands, "the frame"]
    cells = [dict(zip(columns, line, strict=True)) for line in moved]
    lines = [{"frame": frame} | row for frame, row in zip(frames, cells, strict=True)]
    write_csv(folder / "occlusion.csv", lines)
    plot_occlusion(folder / "occlusion.png", moved, frames, columns, table.targets[0])


def write_numbers(folder: Path, rows: TileSequences, split: str, answers: Answers) -> None:
    """Write all that can be said of predicted numbers.

    predictions.csv, metrics_by_region.csv, metrics_by_year.csv, tile_errors.png, filmstrip.png, with intervals
    coverage_by_region.csv; of georeferenced images mosaics/<region>.tif, each region's newest predictions, and
    predictions.geojson; a warning names regions whose CRS has no place on the globe.

    Args:
        rows: that were predicted.
        split: their name.
        answers: the values, and the interval's ends or None: (n, targets) each.
    """
    (predicted, low, high), table, windows = answers, rows.known_table, rows.windows
    records = prediction_rows(table, windows, split, answers)
    write_csv(folder / "predictions.csv", records)
    regions, years = table.names_of_regions(windows.rows), np.array(table.labels)[windows.steps]
    for name, groups in (("region", regions), ("year", years)):
        numbers = metrics_by(groups, table.targets, predicted, windows.truth, windows.last, windows.trend)
        write_csv(folder / f"metrics_by_{name}.csv", numbers)
    if low is not None and high is not None:
        covered = coverage_by(regions, table.targets, low, high, windows.truth)
        write_csv(folder / "coverage_by_region.csv", covered)
    _write_mosaics(folder / "mosaics", table, windows, predicted)
    errors = np.abs(predicted[:, 0] - windows.truth[:, 0])
    known = np.flatnonzero(np.isfinite(errors))
    if len(known):  # of the first target
        plot_errors(folder / "tile_errors.png", table, windows.rows[known], errors[known])
        strips = []
        for word, chosen in _worst_and_best(windows.rows[known], errors[known]):
            i = known[chosen]
            caption = f"true {windows.truth[i, 0]:.3g}, predicted {predicted[i, 0]:.3g}"
            strips.append((f"{word}: {_title(rows, i)}\n{caption}", seen_frames(rows, i)))
        plot_filmstrip(folder / "filmstrip.png", strips, _headings(windows))
    _write_areas(folder / "predictions.geojson", table, windows, records)


def prediction_rows(table: TileTable, windows: TileWindows, split: str, answers: Answers) -> list[dict]:
    """A row for each window: the tile, the truth, the prediction with its interval, and the baselines."""
    named = dict(zip(("predicted", "low", "high"), answers, strict=True))
    named |= {"last": windows.last, "trend": windows.trend}
    rows = []
    for i, (row, step) in enumerate(zip(windows.rows.tolist(), windows.steps.tolist(), strict=True)):
        line = {
            "tile_id": table.tile_ids[row],
            "region_id": table.regions[table.region[row]],
            "label_id": table.labels[step],
            "region_coordinates": str(tuple(table.boxes[row].tolist())),
            "split": split,
        }
        for k, target in enumerate(table.targets):
            line[target] = windows.truth[i, k]
            line |= {f"{name}_{target}": part[i, k] for name, part in named.items() if part is not None}
        rows.append(line)
    return rows


def _write_areas(path: Path, table: TileTable, windows: TileWindows, rows: list[dict]) -> None:
    """The tiles of all regions with a CRS; a local one, for example, has no place on the globe."""
    rings: dict[int, np.ndarray] = {}
    regions = table.region[windows.rows]
    for region in np.unique(regions).tolist():
        if table.rasters[region].crs is None:
            continue
        own = {tile: _ring(table, tile) for tile in windows.rows[regions == region].tolist()}
        if all(np.isfinite(ring).all() for ring in own.values()):
            rings |= own
        else:
            name = table.regions[region]
            logger.warning("%s has no areas of the region %s: its CRS has no latitudes for them", path, name)
    placed = [i for i, tile in enumerate(windows.rows.tolist()) if tile in rings]
    path.unlink(missing_ok=True)  # an earlier run's
    if placed:
        write_polygons(path, [rings[windows.rows[i]] for i in placed], [rows[i] for i in placed])


def _write_mosaics(folder: Path, table: TileTable, windows: TileWindows, predicted: np.ndarray) -> None:
    """The newest predictions of each region; those of an earlier run, of regions that this one did not ask, go."""
    names = [f"predicted_{target}" for target in table.targets]
    regions = table.region[windows.rows]
    for region, raster in enumerate(table.rasters):
        path, here = folder / f"{table.regions[region]}.tif", np.flatnonzero(regions == region)
        if raster.located and len(here):
            here = here[windows.steps[here] == windows.steps[here].max()]
            write_mosaic(path, table, region, windows.rows[here], predicted[here], names)
        elif path.exists():
            refuse_overwriting(path, files_of(table.files[region]))
            path.unlink()


def write_mosaic(
    path: Path, table: TileTable, region: int, rows: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> None:
    """Write a region's tiles as a GeoTIFF on the grid of its images, float32, NaN where no tile lies.

    Args:
        rows: (n,) tiles of the table.
        values: (n, bands) what each tile's pixels hold.
        names: of the bands.

    Raises:
        DataError: the path is that of one of the region's images, or cannot be written.
    """
    raster = table.rasters[region]
    bands = np.full((values.shape[1], raster.height, raster.width), np.nan, np.float32)
    for row, value in zip(rows.tolist(), values, strict=True):
        x0, y0, x1, y1 = table.boxes[row].tolist()
        bands[:, y0:y1, x0:x1] = value[:, None, None]
    with write_geotiff(path, raster, names, files_of(table.files[region])) as file:
        file.write(bands)


def _ring(table: TileTable, row: int) -> np.ndarray:
    """(n, 2) latitude and longitude of a tile's corners, near a pole of points along its edges, too; NaN without."""
    raster = table.rasters[table.region[row]]
    x0, y0, x1, y1 = table.boxes[row].tolist()
    corners = [raster.affine @ corner for corner in ((x0, y1), (x1, y1), (x1, y0), (x0, y0))]
    ring = transformed(raster.crs, "EPSG:4326", np.array(corners))[:, ::-1]
    steps = wrap_degrees(np.diff(ring[:, 1], append=ring[0, 1]))
    if np.abs(steps).max() > 30:  # edges that are straight in the image are bent on the map
        ends = np.roll(corners, -1, axis=0)
        dense = np.linspace(corners, ends, EDGE_POINTS, endpoint=False).swapaxes(0, 1).reshape(-1, 2)
        ring = transformed(raster.crs, "EPSG:4326", dense)[:, ::-1]
    return ring


def plot_errors(path: Path, table: TileTable, rows: np.ndarray, errors: np.ndarray) -> None:
    """Every tile of `rows` in the color of its mean error in the first target, where that is known."""
    rows, errors = rows[np.isfinite(errors)], errors[np.isfinite(errors)]
    tiles, number = np.unique(rows, return_inverse=True)
    mean = np.bincount(number, errors) / np.bincount(number)
    sizes = {region: (r.height, r.width) for region, r in zip(table.regions, table.rasters, strict=True)}
    regions = [table.regions[region] for region in table.region[tiles]]
    plot_tile_errors(path, table.boxes[tiles], mean, regions, sizes, table.targets[0])


def image_filmstrip(
    path: Path, rows: TileSequences, predicted: Sequence[np.ndarray], errors: np.ndarray
) -> None:
    """Draw windows whose answer is an image: the frames seen, the truth, the prediction.

    Args:
        predicted: n images (height, width, bands) in the images' unit, or sequences (frames, height, width, bands).
        errors: (n,) to sort by.
    """
    windows, strips = rows.windows, []
    height, width, bands = predicted[0].shape[-3:]
    answered = len(predicted[0].reshape(-1, height, width, bands))
    for word, i in _worst_and_best(windows.rows, errors):
        frames, answers = seen_frames(rows, i), predicted[i].reshape(-1, height, width, bands)
        truth = rows.cache.tile(windows.rows[i], windows.steps[i] + np.arange(answered))
        for true, answer in zip(truth, answers, strict=True):
            frames += [true, _as_pixels(answer, true.dtype)]
        strips.append((f"{word}: {_title(rows, i)}", frames))
    pairs = [("truth", "predicted")] if answered == 1 else [(f"true +{k}", f"+{k}") for k in range(answered)]
    plot_filmstrip(path, strips, [*_headings(windows), *(name for pair in pairs for name in pair)])


def seen_frames(rows: TileSequences, i: int) -> list[np.ndarray | None]:
    """The native frames that a window shows, None where masked. A -9999 would make all the rest look alike."""
    windows, cache = rows.windows, rows.cache
    frames = cache.tile(windows.rows[i], windows.frames[i])
    if frames.dtype != np.uint8:
        fill_holes(frames, cache.tile_mask(windows.rows[i], windows.frames[i]))
    return [frame if seen else None for frame, seen in zip(frames, windows.mask[i], strict=True)]


def _as_pixels(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return image
    limits = np.iinfo(dtype)
    return image.round().clip(limits.min, limits.max).astype(dtype)


def _worst_and_best(tiles: np.ndarray, errors: np.ndarray) -> list[tuple[str, int]]:
    """Windows with the largest and with the smallest errors, each of another tile."""
    order = np.argsort(-errors, kind="stable")
    _, first = np.unique(tiles[order], return_index=True)  # each tile's worst window
    order = order[np.sort(first)]
    count = min(STRIPS, len(order) // 2)
    worst, best = order[: max(count, 1)].tolist(), order[len(order) - count :].tolist()
    return [("worst", i) for i in worst] + [("best", i) for i in best]


def _title(rows: TileSequences, i: int) -> str:
    table, tile = rows.known_table, rows.windows.rows[i]
    label = table.labels[rows.windows.steps[i]]
    return f"{table.regions[table.region[tile]]}, tile {table.tile_ids[tile]}, {label}"


def _headings(windows: TileWindows) -> list[str]:
    """Each frame's distance in steps from the target's."""
    newest = int((windows.frames[:, -1] - windows.steps).max())
    return [str(newest - n) for n in range(windows.frames.shape[1] - 1, -1, -1)]
