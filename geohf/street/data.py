"""Loading places: the competition's layout, folders and tables of photographs, datasets of the Hub.

Whatever the source, a place is a row with the columns of `place_features`: an id, one to eight views (kept
undecoded) with their headings, the state's name and index where known, latitude and longitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.geo.cells import geo_cells
from geohf.street.processing import COMPASS, split_views
from geohf.tables import (
    FILE_COLUMNS,
    HEADING_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    RowErrors,
    any_case,
    bad_point_reasons,
    file_in,
    find_column,
    line_of,
    points_of,
    read_table,
    text_of,
    wrap_degrees,
)
from geohf.training.splits import split_dataset
from geohf.vision.exif import exif_position
from geohf.vision.images import ImageError, check_images, image_files, open_image, undecoded

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

TRAIN_TABLE, TEMPLATE, MAPPING = "train_ground_truth.csv", "sample_submission.csv", "state_mapping.csv"
VIEW_COLUMNS = tuple(f"image_{name}" for name in COMPASS)
STATE_COLUMNS = ("state", "label", "region", "country")

# The 50 states reach from 18.9 to 71.4 north and, over the antimeridian, from 172.4 east to 66.9 west.
_US_STATES = """
    Alabama, Alaska, Arizona, Arkansas, California, Colorado, Connecticut, Delaware, Florida, Georgia, Hawaii,
    Idaho, Illinois, Indiana, Iowa, Kansas, Kentucky, Louisiana, Maine, Maryland, Massachusetts, Michigan,
    Minnesota, Mississippi, Missouri, Montana, Nebraska, Nevada, New Hampshire, New Jersey, New Mexico, New
    York, North Carolina, North Dakota, Ohio, Oklahoma, Oregon, Pennsylvania, Rhode Island, South Carolina,
    South Dakota, Tennessee, Texas, Utah, Vermont, Virginia, Washington, West Virginia, Wisconsin, Wyoming
"""
US_STATES = frozenset(" ".join(_US_STATES.split()).split(", "))


def load_places(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load places from a folder, a table, or a dataset's name on the Hub.

    Args:
        source: a folder in the competition's layout (`train_ground_truth.csv` in it); a folder of photographs
            with positions in their EXIF, or with a `metadata.csv`; a CSV or Parquet table of photographs
            with latitude and longitude; or the name of a dataset.
        on_error: `raise` stops at rows that cannot be used, `skip` leaves them out.

    Returns:
        (a DatasetDict with `train`, and `test` where the source has one; the rows left out).

    Raises:
        DataError: see `load_competition` and `load_photos`.
    """
    path = Path(source)
    if (path / TRAIN_TABLE).is_file():
        return load_competition(path, on_error)
    if path.exists():
        return load_photos(path, on_error)
    return _load_from_hub(str(source), on_error)


def load_competition(folder: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load the competition's files as they are; see `load_places`.

    File names come from the table's columns. Rows of the test template may stand in any order. A view whose
    cell is empty is missing; a place needs at least one.

    Raises:
        DataError: names file and line of: a missing column, an image that is missing, broken, or outside its
            folder, a duplicate sample_id, a state outside the mapping or at odds with its index, a position
            that is not a number, out of range, swapped, or of a US state but not in the United States.
    """
    from datasets import DatasetDict

    folder, errors = Path(folder), RowErrors(on_error)
    splits = {}
    table_path = folder / TRAIN_TABLE
    table = read_table(
        table_path,
        required=["sample_id", *VIEW_COLUMNS, "state", "latitude", "longitude"],
        numbers=["state_idx", "latitude", "longitude"],
    )
    rows = _view_rows(table, table_path, folder / "train_images", errors)
    names = table["state"].str.strip().tolist()
    indices = table["state_idx"].tolist() if "state_idx" in table else [math.nan] * len(table)
    fixed = (folder / MAPPING).is_file()
    mapping = _read_mapping(folder / MAPPING) if fixed else _first_indices(names, indices)
    points = table[["latitude", "longitude"]].to_numpy(np.float64)
    _check_points(points, table_path, errors, rows, names)
    for position, row in list(rows.items()):
        reason = _state_reason(names[position], indices[position], mapping, fixed)
        if reason:
            errors.add(table_path, line_of(position), reason)
            del rows[position]
            continue
        row["state"] = names[position]
        row["state_idx"] = mapping.get(names[position])
        row["latitude"], row["longitude"] = float(points[position, 0]), wrap_degrees(points[position, 1])
    splits["train"] = _dataset(rows.values())
    if (folder / TEMPLATE).is_file():
        template = read_table(folder / TEMPLATE, required=["sample_id", *VIEW_COLUMNS])
        rows = _view_rows(template, folder / TEMPLATE, folder / "test_images", errors)
        splits["test"] = _dataset(rows.values())
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def load_photos(source: str | Path, on_error: str = "raise") -> tuple[DatasetDict, RowErrors]:
    """Load single photographs: a table beside them, or a folder with the positions in their EXIF.

    A table needs a column for the file (`image`, `file_name`, `filename`, `file` or `path`, relative to the
    table's folder), `latitude` (`lat`) and `longitude` (`lon`, `lng`); `state` and `heading` are optional.

    Raises:
        DataError: as `load_competition`, and for a photograph without a position.
    """
    from datasets import DatasetDict

    source, errors = Path(source), RowErrors(on_error)
    if source.is_dir() and (source / "metadata.csv").is_file():
        source = source / "metadata.csv"
    rows = _rows_of_folder(source, errors) if source.is_dir() else _rows_of_table(source, errors)
    _drop_broken(rows, errors)
    errors.settle(kept=len(rows))
    return DatasetDict(train=_dataset(rows.values())), errors


def place_features() -> Features:
    """The columns of a dataset of places."""
    from datasets import Features, Image, List, Value

    return Features(
        {
            "sample_id": Value("string"),
            "views": List(Image(decode=False)),
            "headings": List(Value("float64")),
            "state": Value("string"),
            "state_idx": Value("int64"),
            "latitude": Value("float64"),
            "longitude": Value("float64"),
        }
    )


def split_places(
    places: Dataset,
    how: str = "stratified",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 42,
    block_km: float = 50.0,
    buffer_km: float = 10.0,
) -> tuple[DatasetDict, int]:
    """Divide places into train, validation and test.

    Args:
        how: `stratified` by state (by geocell where there are no states), `random`, or `blocks`: whole
            squares of the map are held out, and training places within `buffer_km` of them are left out, so
            that no held-out place has a neighbour in training.
        validation, test: shares of all places; a share of 0 gives no such split.

    Returns:
        (the splits, the number of places left out for the buffer).

    Raises:
        DataError: too few places for the split.
    """
    points, names = points_of(places), places["state"]
    groups = np.unique([name or "" for name in names], return_inverse=True)[1]
    if how == "stratified" and groups.max() == 0 and np.isfinite(points).all():
        groups = geo_cells(points)[0]
    return split_dataset(
        places,
        {"test": test, "validation": validation},
        how,
        points=points,
        groups=groups,
        seed=seed,
        block_m=block_km * 1000,
        buffer_m=buffer_km * 1000,
    )


def _read_mapping(path: Path) -> dict[str, int]:
    table = read_table(path, required=["state_idx", "state"], numbers=["state_idx"])
    mapping: dict[str, int] = {}
    for position, (index, name) in enumerate(
        zip(table["state_idx"], table["state"].str.strip(), strict=True)
    ):
        where = f"{path}, row {line_of(position)}"
        if math.isnan(index) or index != int(index) or index < 0:
            raise DataError(f"{where}: state_idx {index:g} is no whole number from 0")
        if name in mapping or int(index) in mapping.values():
            raise DataError(f"{where}: the state {name!r} or its index {int(index)} appears twice")
        mapping[name] = int(index)
    return mapping


def _first_indices(names: list[str], indices: list[float]) -> dict[str, int]:
    """The mapping that a table without state_mapping.csv implies: each state's first index, no index twice."""
    mapping: dict[str, int] = {}
    for name, index in zip(names, indices, strict=True):
        if name not in mapping and index >= 0 and index == int(index) and index not in mapping.values():
            mapping[name] = int(index)
    return mapping


def _state_reason(name: str, index: float, mapping: dict[str, int], fixed: bool) -> str | None:
    if not name:
        return "the state is empty"
    origin = MAPPING if fixed else "an earlier row"
    if name in mapping:
        if math.isnan(index) or index == mapping[name]:
            return None
        return f"state_idx is {index:g}, but {origin} gives {mapping[name]} to {name}"
    if fixed:
        return f"the state {name!r} is not in {MAPPING}"
    if math.isnan(index):
        return None
    if index in mapping.values():
        return f"state_idx {index:g} of {name} belongs to another state in {origin}"
    return f"state_idx {index:g} is no whole number from 0"


def _view_rows(table, path: Path, images: Path, errors: RowErrors) -> dict[int, dict]:
    """Rows with their views, by position in the table; rows without any usable view are noted and left out."""
    rows, seen = {}, {}
    for position, cells in enumerate(table[["sample_id", *VIEW_COLUMNS]].itertuples(index=False)):
        sample_id, line = str(cells[0]).strip(), line_of(position)
        if not sample_id:
            errors.add(path, line, "sample_id is empty")
            continue
        if sample_id in seen:
            errors.add(path, line, f"sample_id {sample_id} stands in row {seen[sample_id]} already")
            continue
        seen[sample_id] = line
        views, headings = [], []
        for cell, heading in zip(cells[1:], COMPASS.values(), strict=True):
            if cell is None or str(cell).strip() in ("", "nan", "None"):
                continue
            try:
                views.append(file_in(images, str(cell).strip()))
                headings.append(heading)
            except DataError as error:
                errors.add(path, line, str(error))
        if views:
            rows[position] = _row(sample_id, views, headings, source=path, line=line)
        else:
            errors.add(path, line, "has no view that can be used")
    _drop_broken(rows, errors)
    return rows


def _row(sample_id, views, headings, *, source, line, point=(math.nan, math.nan), state=None) -> dict:
    return {
        "sample_id": sample_id,
        "views": views,
        "headings": headings,
        "state": state,
        "state_idx": None,
        "latitude": float(point[0]),
        "longitude": wrap_degrees(point[1]),
        "where": (source, line),
    }


def _drop_broken(rows: dict[int, dict], errors: RowErrors) -> None:
    """Leave out views that cannot be decoded, and rows that then have none; each is noted."""
    broken = check_images([Path(view) for row in rows.values() for view in row["views"]])
    if not broken:
        return
    for position, row in list(rows.items()):
        good = []
        for view, heading in zip(row["views"], row["headings"], strict=True):
            if Path(view) in broken:
                errors.add(*row["where"], f"{view}: {broken[Path(view)]}")
            else:
                good.append((view, heading))
        row["views"], row["headings"] = [view for view, _ in good], [heading for _, heading in good]
        if not good:
            del rows[position]


def _check_points(points, path: Path, errors: RowErrors, rows: dict[int, dict], names=None) -> None:
    """Note and drop rows whose position cannot be right."""
    for position, reason in _reasons(points, str(path), names).items():
        if position in rows:
            errors.add(path, line_of(position), reason)
            del rows[position]


def _reasons(points: np.ndarray, source: str, names: Sequence[str | None] | None = None) -> dict[int, str]:
    """Position -> why this row's point cannot be right."""
    reasons = bad_point_reasons(points, source)
    stated = {name for name in names or () if name}
    if 2 * len(stated & US_STATES) < max(1, len(stated)):  # Georgia among countries is no state
        return reasons
    for position, name in enumerate(names):
        latitude, longitude = points[position]
        if position in reasons or name not in US_STATES or math.isnan(latitude) or math.isnan(longitude):
            continue
        if not (18 <= latitude <= 72 and (longitude <= -66 or longitude >= 172)):
            swapped = 18 <= longitude <= 72 and (latitude <= -66 or latitude >= 172)
            hint = "; latitude and longitude look swapped" if swapped else ""
            reasons[position] = (
                f"({latitude:g}, {longitude:g}) is not in the United States, but the state is {name}{hint}"
            )
    return dict(sorted(reasons.items()))


def _rows_of_folder(folder: Path, errors: RowErrors) -> dict[int, dict]:
    rows = {}
    for position, path in enumerate(image_files(folder)):
        name = str(path.relative_to(folder))
        found = exif_position(path)
        if found is not None:
            rows[position] = _row(
                name, [str(path)], [found.heading], source=folder, line=name, point=found[:2]
            )
        else:
            broken = check_images([path]).get(path)
            errors.add(
                folder,
                name,
                broken or "carries no position in its EXIF; give a metadata.csv with latitude and longitude",
            )
    points = np.array([[row["latitude"], row["longitude"]] for row in rows.values()]).reshape(-1, 2)
    for position, reason in _reasons(points, str(folder)).items():
        row = list(rows.values())[position]
        errors.add(folder, row["sample_id"], reason)
        row["views"] = []
    return {position: row for position, row in rows.items() if row["views"]}


def _rows_of_table(path: Path, errors: RowErrors) -> dict[int, dict]:
    numbers = [*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *HEADING_COLUMNS]
    table = read_table(path, numbers=any_case(numbers))
    file_column, *axes = (
        find_column(table.columns, names, path)
        for names in (FILE_COLUMNS, LATITUDE_COLUMNS, LONGITUDE_COLUMNS)
    )
    state, heading = find_column(table.columns, STATE_COLUMNS), find_column(table.columns, HEADING_COLUMNS)
    points = table[axes].to_numpy(np.float64)
    labels = [text_of(cell) for cell in table[state]] if state else None
    rows, seen = {}, {}
    for position, cell in enumerate(table[file_column]):
        if isinstance(cell, (bytes, dict)):
            raise DataError(
                f"{path}: column {file_column!r} holds images, not file names; load it as a dataset"
            )
        name, line = text_of(cell) or "", line_of(position)
        if name and name in seen:
            errors.add(path, line, f"{file_column} {name!r} stands in row {seen[name]} already")
            continue
        seen[name] = line
        try:
            view = file_in(path.parent, name)
        except DataError as error:
            errors.add(path, line, str(error))
            continue
        direction = table[heading].iloc[position] if heading else math.nan
        label = labels[position] if labels else None
        rows[position] = _row(
            name, [view], [float(direction)], source=path, line=line, point=points[position], state=label
        )
    _check_points(points, path, errors, rows, labels if state and state.lower() != "country" else None)
    return rows


def _dataset(rows: Iterable[dict]) -> Dataset:
    from datasets import Dataset

    features = place_features()
    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in features}
    columns["views"] = [[{"path": view, "bytes": None} for view in views] for views in columns["views"]]
    return Dataset.from_dict(columns, features=features)


def _load_from_hub(name: str, on_error: str) -> tuple[DatasetDict, RowErrors]:
    """A dataset with `views` or `image` (or north, east, south, west), `latitude`, `longitude`, perhaps `state`."""
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetsError

    errors = RowErrors(on_error)
    try:
        loaded = load_dataset(name)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"{name}: no such file or folder, and no dataset that can be loaded ({error})"
        ) from None
    if "train" not in loaded:
        raise DataError(f"{name}: has no split 'train' but {', '.join(loaded)}")
    splits = {key: _places_of(undecoded(split), name, key, errors) for key, split in loaded.items()}
    errors.settle(kept=len(splits["train"]))
    return DatasetDict(splits), errors


def _places_of(dataset: Dataset, name: str, split: str, errors: RowErrors) -> Dataset:
    source, features = f"{name} [{split}]", dataset.features
    if not len(dataset):
        raise DataError(f"{source}: the dataset is empty")
    _check_view_columns(features, source)
    latitude, longitude = (find_column(features, names) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS))
    state, heading = find_column(features, STATE_COLUMNS), find_column(features, HEADING_COLUMNS)
    points, labels = np.full((len(dataset), 2), math.nan), [None] * len(dataset)
    if state:
        names = getattr(features[state], "names", None)
        labels = [text_of(_class_name(cell, names)) for cell in dataset[state]]
    reasons = {}
    if latitude or longitude:
        axes = [find_column(features, names, source) for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
        try:
            points = np.stack([np.array(dataset[axis][:], np.float64) for axis in axes], 1)
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: columns {axes} must hold numbers ({error})") from None
        reasons = _reasons(points, source, labels if state and state.lower() != "country" else None)
        if split != "train":  # places to be found
            reasons = {i: reason for i, reason in reasons.items() if not np.isnan(points[i]).all()}
    rows, good, seen = {}, [], {}
    for position, row in enumerate(dataset):
        if position in reasons:
            errors.add(source, position, reasons[position])
            continue
        sample_id = text_of(row.get("sample_id")) or str(position)
        if sample_id in seen:
            errors.add(source, position, f"sample_id {sample_id} stands in row {seen[sample_id]} already")
            continue
        seen[sample_id] = position
        try:
            views, headings = split_views(row | ({"heading": row[heading]} if heading else {}))
        except ValueError as error:
            errors.add(source, position, str(error))
            continue
        usable = [k for k, view in enumerate(views) if _opens(view, source, position, errors)]
        if usable:
            headings, index = [headings[k] for k in usable], row.get("state_idx")
            place = _row(sample_id, [], headings, source=source, line=position, point=points[position])
            place["state"], place["state_idx"] = labels[position], None if index is None else int(index)
            del place["where"]
            rows[position] = place
            good.append(usable)
    if not rows:
        return _dataset([])
    places = list(rows.values())

    def place_of(row, i):  # written to disk batch by batch: the images need not fit into memory
        views, _ = split_views({key: value for key, value in row.items() if key != "headings"})
        return places[i] | {"views": [views[k] for k in good[i]]}

    return dataset.select(list(rows)).map(
        place_of, with_indices=True, features=place_features(), remove_columns=dataset.column_names
    )


def _check_view_columns(features: Features, source: str) -> None:
    from datasets import Image

    columns = [name for name in ("views", "image", *COMPASS) if name in features]
    if not columns:
        raise DataError(
            f"{source}: needs a column 'views', 'image' or one of {', '.join(COMPASS)}; "
            f"the columns are: {', '.join(features)}"
        )
    for name in columns:
        if not isinstance(getattr(features[name], "feature", features[name]), Image):
            # text could name any file of this machine
            raise DataError(f"{source}: column {name!r} must hold images, but holds {features[name]}")


def _opens(view, source: str, position: int, errors: RowErrors) -> bool:
    try:
        open_image(view, size=1)
    except ImageError as error:
        errors.add(source, position, str(error))
        return False
    return True


def _class_name(cell, names: list[str] | None):
    """A state's name: classes of datasets are numbers, -1 where unknown."""
    if names is None or cell is None:
        return cell
    return names[cell] if cell >= 0 else None
