"""Where rasters lie: in folders, in zip files, at the addresses of a STAC item collection."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geohf.data.cells import resolve_inside
from geohf.errors import DataError, listed
from geohf.tiles.stores import StoreFrame

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BandFiles:
    """One image whose bands lie in files of their own.

    Attributes:
        name: of the image, for messages.
        names: of the bands, in order.
        files: of one band each.
        vrt: the raster that they make together, see `geohf.tiles.stacks.stacked`.
    """

    name: str
    names: tuple[str, ...]
    files: tuple[str | Path, ...]
    vrt: bytes = b""

    def raster(self) -> bytes:
        """What GDAL opens."""
        return self.vrt

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.names)})"


Folder = Path | zipfile.Path
RasterFile = str | Path | BandFiles | StoreFrame  # text of what only GDAL opens
OF_MAC = "__MACOSX"  # a folder in zip files that holds no data
VIRTUAL = "/vsi"  # how GDAL's names of files begin that no folder holds
SCHEMES = {
    "https://": "/vsicurl/https://",
    "http://": "/vsicurl/http://",
    "s3://": "/vsis3/",
    "gs://": "/vsigs/",
}


def raster_folder(path: str | Path) -> Folder:
    """A folder of rasters: one on the disk, a zip file, or a folder in it, `rasters.zip/Images`.

    Of a zip file that holds one folder and nothing beside it, as a folder is zipped, that folder is meant.

    Raises:
        DataError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        return path
    for above in (path, *path.parents):
        if above.is_file() and zipfile.is_zipfile(above):
            inner = "" if path == above else f"{path.relative_to(above).as_posix()}/"
            folder = zipfile.Path(above, inner)
            if not inner:
                return _below_lone_folders(folder)
            if folder.exists():
                return folder
    raise DataError(f"{path}: no such folder")


def _below_lone_folders(folder: Folder) -> Folder:
    inside = shown_in(folder)
    while len(inside) == 1 and inside[0].is_dir():
        folder = inside[0]
        inside = shown_in(folder)
    return folder


def shown_in(folder: Folder) -> list[Folder]:
    """What a folder holds, without hidden files and what a Mac adds to zip files."""
    return [x for x in folder.iterdir() if not x.name.startswith(".") and x.name != OF_MAC]


def raster_in(folder: Folder, name: str) -> RasterFile | None:
    """The file of this name in a folder of rasters, as GDAL opens it; None where there is none.

    Raises:
        DataError: the name leads out of the folder.
    """
    if isinstance(folder, Path):
        path = resolve_inside(folder, name)
        return path if path.is_file() else None
    member = folder / name
    archive = Path(str(folder.root.filename)).absolute()
    return f"/vsizip/{{{archive}}}/{member.at}" if member.is_file() else None


def require_no_other_case(folder: Folder, name: str, extension: str) -> None:
    """Raise DataError where a raster that lacks is there, but for the case of letters of its extension."""
    for other in {extension.lower(), extension.upper(), extension.title()} - {extension}:
        if raster_in(folder, name + other) is not None:
            raise DataError(
                f"{folder}: holds {name}{other}, which does not end in {extension}; write all endings alike"
            )


def names_in(folder: Folder, extension: str) -> list[str]:
    """Names, without the extension, of the rasters that lie in a folder.

    Raises:
        DataError: beside them lie some whose extension is in another case of letters.
    """
    names = sorted(file.name for file in shown_in(folder) if file.is_file())
    alike = [name for name in names if name.lower().endswith(extension.lower())]
    other = [name for name in alike if not name.endswith(extension)]
    if other and len(other) < len(alike):
        raise DataError(
            f"{folder}: holds {other[0]} beside files that end in {extension}; write all endings alike"
        )
    return [name[: -len(extension)] for name in alike if name not in other]


def files_of(images: Iterable[RasterFile | None]) -> list[str | Path]:
    """The single files of some images."""
    files: list[str | Path] = []
    for image in images:
        if isinstance(image, BandFiles):
            files += image.files
        elif image is not None:
            files.append(image.store if isinstance(image, StoreFrame) else image)
    return files


def local_file(path: str | os.PathLike) -> Path | None:
    """The file on the disk that holds a raster: itself, or its zip file; None of what lies elsewhere."""
    name = os.fspath(path)
    if name.startswith("/vsizip/{"):
        return Path(name[len("/vsizip/{") :].partition("}")[0])
    return None if name.startswith(VIRTUAL) else Path(path)


def items_of(path: str | Path, asset: str | Sequence[str] | None = None) -> dict[str, RasterFile]:
    """The rasters of a STAC item collection (a GeoJSON file), by their dates, oldest first: one a date, of one place.

    Addresses are opened by GDAL (`/vsicurl/`, `/vsis3/`, `/vsigs/`), relative ones lie beside the file.

    Args:
        asset: the name of the items' asset, or several of one band each, which become bands in this order; None: the only
            one, or the only one with the role `data`.

    Raises:
        DataError: it is no item collection, an item has no date or no such asset, or an address that leads out of the
            file's folder, or two are of one date.
    """
    path = Path(path)
    rasters: dict[str, RasterFile] = {}
    for date, name, held in _dated_items(path):
        if date in rasters:
            raise DataError(f"{path}: the item {name} is of {date}, as another one; keep one of a date")
        try:
            chosen = _chosen(held, [asset] if isinstance(asset, str) else asset)
            files = tuple(_opened(held[key]["href"], path.parent) for key in chosen)
        except DataError as error:
            raise DataError(f"{path}, item {name}: {error}") from None
        bands = BandFiles(f"{path}, item {name}", tuple(chosen), files)
        rasters[date] = files[0] if len(files) == 1 else bands
    return rasters


def look_at_items(path: str | Path, dates: Sequence[str], asset: str | Sequence[str] | None = None) -> None:
    """Tell where the items of these dates say that their numbers stand for other measurements, in a scale or an offset.

    Their files may say nothing of it, as those of Sentinel-2 before and after its baseline 04.00; and where they do, items and
    files contradict each other often enough that none of it is applied.
    """
    told: dict[tuple, str] = {}
    for date, _, held in _dated_items(Path(path)):
        if date in dates:
            chosen = _chosen(held, [asset] if isinstance(asset, str) else asset)
            told.setdefault(tuple(unit for key in chosen for unit in _units(held[key])), date)
    if len(told) > 1:
        (one, first), (other, second) = list(told.items())[:2]
        logger.warning(
            "%s: the items of %s and %s tell other scales or offsets (%s and %s), which are not applied: unless the files hold "
            "the same units already, bring them to one scale and offset",
            path,
            first,
            second,
            _shown(one),
            _shown(other),
        )


def _units(asset: dict[str, Any]) -> list[tuple[float, float]]:
    """(scale, offset) of each band of an asset, in the words of STAC's raster extension before and since 1.1."""
    bands = asset.get("raster:bands") or asset.get("bands") or [{}]
    units = []
    for band in bands:
        facts = [asset, band] if isinstance(band, dict) else [asset]
        values = {key.removeprefix("raster:"): value for fact in facts for key, value in fact.items()}
        units.append((values.get("scale", 1), values.get("offset", 0)))
    return units


def _shown(units: Iterable[tuple[float, float]]) -> str:
    return ", ".join(dict.fromkeys(f"{scale} * number + {offset}" for scale, offset in units))


def _dated_items(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """(date, name, assets) of a collection's items, oldest first."""
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["features"]
        named = ((_date(item), str(item.get("id", number)), item) for number, item in enumerate(items))
        dated = sorted(named, key=lambda row: row[:2])
        dated_items = [(date, name, dict(item["assets"])) for date, name, item in dated]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no STAC item collection with dates and assets ({error!r})") from None
    if not dated_items:
        raise DataError(f"{path}: holds no items")
    return dated_items


def _date(item: dict[str, Any]) -> str:
    properties = item["properties"]
    return (properties.get("datetime") or properties["start_datetime"])[:10]


def _chosen(assets: dict[str, Any], names: Sequence[str] | None) -> list[str]:
    data = [key for key, value in assets.items() if "data" in (value.get("roles") or ())]
    candidates = list(names or (assets if len(assets) == 1 else data))
    lost = [name for name in candidates if name not in assets]
    if lost or not candidates or (len(candidates) > 1 and not names):
        raise DataError(f"has the assets {listed(list(assets), 12)}; name those that you mean with --asset")
    bare = [name for name in candidates if not isinstance(assets[name].get("href"), str)]
    if bare:
        raise DataError(f"its asset {bare[0]} has no href")
    if len(set(candidates)) < len(candidates):
        raise DataError(f"--asset {' '.join(candidates)}: name each asset once")
    return candidates


def _opened(href: str, folder: Path) -> str | Path:
    """What GDAL opens: what lies at an address, or below the folder, which a name may not leave."""
    for scheme, prefix in SCHEMES.items():
        if href.startswith(scheme):
            return prefix + href[len(scheme) :]
        if href.startswith(prefix):
            return href
    return resolve_inside(folder, href.removeprefix("file://"))
