"""Frames from zarr stores, as xarray writes them: one place, an image per time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import DataError, listed, optional_package

if TYPE_CHECKING:
    import xarray

MARKS = ("zarr.json", ".zgroup", ".zmetadata")  # files of a store's root
TIME, BAND = ("time", "t", "date"), ("band", "bands", "channel")
Y, X = ("y", "latitude", "lat"), ("x", "longitude", "lon")
STEP_TOLERANCE = 1e-3  # of a pixel, within which coordinates are evenly apart


@dataclass(frozen=True)
class StoreFrame:
    """The image of one time in a zarr store.

    Attributes:
        store: its folder.
        names: of the variables: several are a band each, one may have bands.
        step: the number of the time.
        date: its date, for messages.
        facts: what tells when the store changed: number, size and newest time of change of its files.
        lines: the first of the image, from the north, and the one behind the last; None: all.
    """

    store: str
    names: tuple[str, ...]
    step: int
    date: str
    facts: str
    lines: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.store} ({', '.join(self.names)}, {self.date})"

    def raster(self) -> bytes:
        """The image as the bytes of a GeoTIFF, with its nodata value, scales and names of bands.

        Raises:
            DataError: see `store_frames`; or its numbers are no pixels.
        """
        from rasterio.io import MemoryFile

        with _opened(self.store) as store:
            transform, turned = _transform(store[self.names[0]], self.store)
            height = store[self.names[0]].sizes[_plane(store[self.names[0]], self.store)[0]]
            top, bottom = self.lines or (0, height)
            lines = slice(height - bottom, height - top) if turned else slice(top, bottom)
            bands: list[np.ndarray] = []
            named: list[tuple[str, dict[str, Any]]] = []
            for name in self.names:
                variable = store[name]
                down = _plane(variable, self.store)[0]
                image = variable.isel({_axis(variable, TIME, self.store): self.step, down: lines})
                kind = _band_axis(image)
                pixels = image.transpose(*([kind] if kind else []), *_plane(image, self.store)).values
                if _is_unsigned(variable):
                    pixels = pixels.view(pixels.dtype.str.replace("i", "u"))
                bands += [pixels] if kind is None else list(pixels)
                words = [name] if kind is None else _words(image, kind)
                named += [(word, variable.attrs) for word in words]
            transform @= transform.translation(0, top)
            crs = _crs(store, self.names[0], self.store)
        pixels = np.stack(bands)[:, ::-1] if turned else np.stack(bands)
        if pixels.dtype.kind not in "buif":
            raise DataError(f"{self}: holds {pixels.dtype}, which are no pixels")
        kept = {"?": "uint8", "e": "float32"}  # of what GeoTIFF has no type for
        pixels = pixels.astype(kept.get(pixels.dtype.char, pixels.dtype))
        values = [_nodata(attributes, pixels.dtype) for _, attributes in named]
        if len({str(value) for value in values}) > 1:  # NaN is not itself, but its text is
            shown = listed(list(dict.fromkeys(values)))
            raise DataError(f"{self}: its variables name different values without data, {shown}")
        profile = {"driver": "GTiff", "dtype": pixels.dtype, "crs": crs, "transform": transform}
        profile |= {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
        profile |= {"nodata": values[0], "photometric": "minisblack", "bigtiff": "if_safer"}
        scales, offsets = (
            [_number(facts, key, default, str(self)) for _, facts in named]
            for key, default in (("scale_factor", 1), ("add_offset", 0))
        )
        with MemoryFile() as memory:
            with memory.open(**profile) as file:
                file.write(pixels)
                file.descriptions = [word for word, _ in named]
                file.scales, file.offsets = scales, offsets
                file.units = [str(facts.get("units", "")) for _, facts in named]
            return bytes(memory.getbuffer())


def is_store(path: str | Path) -> bool:
    """A folder is the root of a zarr store."""
    return any(Path(path, mark).is_file() for mark in MARKS)


def store_frames(path: str | Path, names: str | Sequence[str] | None = None) -> dict[str, StoreFrame]:
    """The images of a zarr store by their dates, oldest first.

    Args:
        names: variables with a time, y and x: several are a band each, one may have a band axis. None: the only one.

    Raises:
        DataError: xarray or zarr is missing, the store cannot be read, has no such variable or no CRS (as rioxarray writes it,
            in `spatial_ref`), its coordinates are not evenly apart, or two images are of one date.
    """
    path = os.fspath(path)
    with _opened(path) as store:
        maps = [str(name) for name, variable in store.data_vars.items() if variable.ndim >= 3]
        chosen = tuple([names] if isinstance(names, str) else names or maps)
        lost = [name for name in chosen if name not in store.data_vars]
        if len(set(chosen)) < len(chosen):
            raise DataError(f"--asset {' '.join(chosen)}: name each variable once")
        if not maps:
            raise DataError(f"{path}: holds no variable with the axes time, y and x")
        if lost or (len(chosen) > 1 and not names):
            what = f"has no variable {lost[0]}; has" if lost else "has"
            there = listed(sorted(maps), 12)
            raise DataError(f"{path}: {what} the variables {there} of images; choose with --asset")
        for name in chosen:
            variable = store[name]
            axes = {_axis(variable, TIME, path), *_plane(variable, path), _band_axis(variable)}
            other = [axis for axis in variable.dims if axis not in axes]
            if other or (len(chosen) > 1 and _band_axis(variable)):
                raise DataError(
                    f"{path}: {name} has the axes {', '.join(map(str, variable.dims))}; read are time, y and x, and band of a variable alone"
                )
            if variable.sizes != store[chosen[0]].sizes:
                raise DataError(f"{path}: {name} has other axes than {chosen[0]}; take variables of one grid")
        _transform(store[chosen[0]], path)
        _crs(store, chosen[0], path)
        times = store[chosen[0]][_axis(store[chosen[0]], TIME, path)].values
    dates = [str(time)[:10] for time in times]
    if "NaT" in dates:
        number = dates.index("NaT")
        raise DataError(f"{path}: the image number {number}, from 0, has no time; drop it or give it one")
    facts = _facts(path)
    frames: dict[str, StoreFrame] = {}
    for step in np.argsort(times, kind="stable").tolist():
        if dates[step] in frames:
            raise DataError(f"{path}: two images are of {dates[step]}; keep one of a date")
        frames[dates[step]] = StoreFrame(path, chosen, step, dates[step], facts)
    return frames


def _opened(path: str) -> xarray.Dataset:
    """The store with pixels as they are stored, which are read when they are asked for."""
    xarray = optional_package("xarray", "zarr", f"{path}: reading a zarr store needs")
    optional_package("zarr", "zarr", f"{path}: reading a zarr store needs")  # xarray does not name it
    try:
        return xarray.open_zarr(path, chunks=None, mask_and_scale=False, decode_coords="all")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a zarr store ({error})") from None


def _axis(variable: Any, names: Sequence[str], path: str) -> str:
    axes = [str(axis) for axis in variable.dims if str(axis).lower() in names]
    if len(axes) != 1 or axes[0] not in variable.coords:
        raise DataError(
            f"{path}: {variable.name} has the axes {', '.join(map(str, variable.dims)) or 'none'}; one of them with coordinates "
            f"must be called {' or '.join(names)}"
        )
    return axes[0]


def _band_axis(variable: Any) -> str | None:
    return next((str(axis) for axis in variable.dims if str(axis).lower() in BAND), None)


def _plane(variable: Any, path: str) -> tuple[str, str]:
    return _axis(variable, Y, path), _axis(variable, X, path)


def _words(image: Any, axis: str) -> list[str]:
    """Names of an image's bands."""
    return [str(word) for word in image[axis].values] if axis in image.coords else [""] * image.sizes[axis]


def _transform(variable: Any, path: str) -> tuple[Any, bool]:
    """The transform, north up, of coordinates of the pixels' middles, and whether y ascends in the store."""
    from rasterio import Affine

    steps, starts = [], []
    for axis in _plane(variable, path):
        middles = variable[axis].values.astype(np.float64)
        step = np.diff(middles).mean() if len(middles) > 1 else 0.0
        if not step or np.abs(np.diff(middles) - step).max() > STEP_TOLERANCE * abs(step):
            raise DataError(f"{path}: the coordinates {axis} are not evenly apart: its pixels lie on no grid")
        steps.append(step)
        starts.append(middles[0])
    turned = steps[0] > 0
    if turned:
        starts[0] += steps[0] * (variable.sizes[_plane(variable, path)[0]] - 1)
        steps[0] = -steps[0]
    return Affine(steps[1], 0, starts[1] - steps[1] / 2, 0, steps[0], starts[0] - steps[0] / 2), turned


def _crs(store: xarray.Dataset, name: str, path: str) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    told = (facts.get("grid_mapping") for facts in (store[name].encoding, store[name].attrs))
    mapping = next(filter(None, told), "spatial_ref")
    facts = store[mapping].attrs if mapping in store.variables else {}
    text = facts.get("crs_wkt") or facts.get("spatial_ref")
    try:
        return CRS.from_user_input(text)
    except CRSError:
        raise DataError(
            f"{path}: {name} has no CRS; rioxarray writes it (`data.rio.write_crs('EPSG:32632')`) into {mapping}"
        ) from None


def _is_unsigned(variable: Any) -> bool:
    """Its whole numbers are stored as signed ones, as netCDF's classic format had no others."""
    return variable.dtype.kind == "i" and str(variable.attrs.get("_Unsigned")).lower() == "true"


def _nodata(attributes: dict[str, Any], dtype: np.dtype) -> float | None:
    """The value that means "not measured"; None also where pixels of this type cannot hold it."""
    names = ("_FillValue", "missing_value", "nodata")
    value = next((attributes[name] for name in names if name in attributes), None)
    if value is None:
        return None
    value = float(value)
    if value < 0 and dtype.kind == "u" and "_Unsigned" in attributes:
        value += 2.0 ** (8 * dtype.itemsize)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    held = limits.min <= value <= limits.max or (dtype.kind == "f" and not np.isfinite(value))
    return value if held else None


def _number(attributes: dict[str, Any], key: str, default: float, name: str) -> float:
    value = np.asarray(attributes.get(key, default))
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise DataError(f"{name}: {key} is {attributes[key]}; read is one number for all bands of a variable")
    return float(value.item())


def _facts(path: str) -> str:
    stats = [file.stat() for file in Path(path).rglob("*") if file.is_file()]
    return f"{len(stats)} {sum(s.st_size for s in stats)} {max(s.st_mtime_ns for s in stats)}"
