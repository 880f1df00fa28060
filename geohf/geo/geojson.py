"""Areas from GeoJSON (RFC 7946); the file is untrusted."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from geohf.errors import DataError, listed
from geohf.geo.areas import Area

# of Natural Earth, GADM (from the smallest unit up), geoBoundaries, the US census, OpenStreetMap
_NAME_KEYS = (
    *("name", "NAME", "NAME_5", "NAME_4", "NAME_3", "NAME_2", "NAME_1", "NAME_0", "COUNTRY", "shapeName"),
    *("ADMIN", "admin", "STATE_NAME", "NAMELSAD", "NAME_EN", "name_en", "NAME_LONG", "name_long"),
    *("NAME_ENGLI", "COUNTY_NAME", "REGION_NAME", "title", "Name", "id"),
)
# what units lie in, from the next one up: of GADM, the US census, Natural Earth, geoBoundaries
_WIDER_KEYS: tuple[tuple[str, ...], ...] = (
    *(("NAME_4",), ("NAME_3",), ("NAME_2",), ("NAME_1", "STATE_NAME", "STUSPS", "STATEFP")),
    ("NAME_0", "COUNTRY", "ADMIN", "admin", "country", "shapeGroup"),
)
_PARTS = {"Polygon": "rings", "MultiPolygon": "polygons", "GeometryCollection": "geometries"}
_MAX_DEPTH = 20


def area_from_geojson(source, names: str | Iterable[str] | None = None) -> Area:
    """Read an area from GeoJSON: Feature, FeatureCollection, Polygon, MultiPolygon or GeometryCollection.

    Holes are kept and the orientation of rings is ignored. Edges are as drawn, straight in longitude and latitude
    (RFC 7946, 3.1.1): a rectangle from -170 to 170 is 340° wide, and a step from -180 to 180 runs along the edge of
    the map. What crosses the antimeridian is cut there into two, or its longitudes run on (170 to 190). Any other
    step of more than 180° could mean either and is refused. A geometry without coordinates is empty, as null is.

    Args:
        source: path of a file, or the parsed object.
        names: the features to take, by `properties.name` or another of the usual keys (`NAME_1`, `ADMIN`,
            `shapeName`, `STATE_NAME` ...), or by `id`; None takes all.

    Raises:
        DataError: malformed JSON or geometry, or unknown names (the message lists those that exist, or the
            properties where none is a name).

    >>> area_from_geojson({"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [0, 4], [0, 0]]]})
    Area(1 polygons, 3 edges)
    """
    label, features = _features(source)
    if names is not None:
        features = _pick(features, [names] if isinstance(names, str) else list(names), label)
    polygons = [polygon for title, item in features for polygon in _polygons(item, f"{label}: {title}")]
    if not polygons:
        raise DataError(f"{label}: no Polygon or MultiPolygon in it")
    return Area(polygons)


def named_areas(source) -> dict[str, Area]:
    """The areas of a GeoJSON, see `area_from_geojson`, by the names of their features, which all need one and a polygon.

    Features of one name are one area, but where their country or state, in the usual keys (`NAME_0`, `admin`,
    `STATE_NAME`, `shapeGroup` ...), is another: `Amazonas, Peru`.
    """
    polygons: defaultdict[tuple[str, ...], list] = defaultdict(list)
    for title, item, own in _drawn(source):
        names = _names_of(item)
        if not names:
            raise DataError(f"{title} has no name; its properties need 'name', or it an id")
        polygons[tuple(dict.fromkeys([names[0], *_wider(item, names[0])]))] += own
    count = Counter(name for name, *_ in polygons)
    return {
        ", ".join(names) if count[names[0]] > 1 else names[0]: Area(own) for names, own in polygons.items()
    }


def feature_areas(source) -> list[tuple[dict, Area]]:
    """The properties of each feature of a GeoJSON, see `area_from_geojson`, and its area, which all need a polygon."""
    return [(_properties(item), Area(polygons)) for _, item, polygons in _drawn(source)]


def _drawn(source) -> list[tuple[str, dict, list]]:
    """What messages call each feature, itself, and its polygons, of which it has some."""
    label, features = _features(source)
    if not features:
        raise DataError(f"{label}: no feature in it")
    drawn = []
    for title, item in features:
        polygons = _polygons(item, f"{label}: {title}")
        if not polygons:
            name = "".join(f" ({name})" for name in _names_of(item)[:1])
            raise DataError(f"{label}: {title}{name} has no polygon; take it out")
        drawn.append((f"{label}: {title}", item, polygons))
    return drawn


def _read(source: str | os.PathLike) -> dict:
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(f"GeoJSON is a file's path or the parsed object, not a {type(source).__name__}")
    path = os.fspath(source)
    try:
        with open(path, encoding="utf-8-sig") as file:
            document = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not GeoJSON: the top level must be an object")
    return document


def _features(source) -> tuple[str, list[tuple[str, dict]]]:
    """What a source is called in messages, and its (title, feature or geometry)."""
    document, label = (source, "GeoJSON") if isinstance(source, dict) else (_read(source), os.fspath(source))
    if document.get("type") != "FeatureCollection":
        return label, [("feature 0" if document.get("type") == "Feature" else "geometry", document)]
    features = document.get("features")
    if not isinstance(features, list):
        raise DataError(f"{label}: a FeatureCollection needs a list of features")
    return label, [(f"feature {index}", feature) for index, feature in enumerate(features)]


def _names_of(feature) -> list[str]:
    if not isinstance(feature, dict):
        return []
    properties = _properties(feature)
    candidates = [properties.get(key) for key in _NAME_KEYS] + [feature.get("id")]
    return [str(name) for name in candidates if isinstance(name, (str, int)) and not isinstance(name, bool)]


def _wider(feature, name: str) -> list[str]:
    """The names of what a feature of this name lies in, from the smallest: there is an Amazonas in four countries."""
    properties = _properties(feature)
    told = [next((properties[key] for key in keys if properties.get(key)), None) for keys in _WIDER_KEYS]
    names = [str(one) for one in told if isinstance(one, (str, int))]
    own = max((i for i, one in enumerate(names) if one == name), default=-1)
    return names[own + 1 :]


def _properties(feature) -> dict:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    return properties if isinstance(properties, dict) else {}


def _pick(features: list, wanted: list[str], label: str) -> list:
    known = [(item, _names_of(item[1])) for item in features]
    missing = [name for name in wanted if not any(str(name) in titles for _, titles in known)]
    if missing:
        existing = sorted({titles[0] for _, titles in known if titles})
        there = listed(existing, 100)
        if not there:
            keys = sorted({str(key) for item, _ in known for key in _properties(item[1])})
            there = f"none, as the features have only the properties {', '.join(keys) or '(none)'}"
        raise DataError(f"{label}: no feature named {', '.join(map(repr, missing))}; there are: {there}")
    asked = {str(name) for name in wanted}
    return [item for item, titles in known if asked.intersection(titles)]


def _polygons(item, label: str, depth: int = 0) -> list[list[np.ndarray]]:
    """Polygons of a feature or geometry; points and lines have none."""
    if item is None:  # a feature may have no geometry
        return []
    if not isinstance(item, dict) or depth > _MAX_DEPTH:
        raise DataError(f"{label}: not a GeoJSON geometry")
    kind = item.get("type")
    if kind == "Feature":
        return _polygons(item.get("geometry"), label, depth + 1)
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return []
    if str(kind) not in _PARTS:
        raise DataError(f"{label}: unknown GeoJSON type {kind!r}")
    parts = item.get("geometries" if kind == "GeometryCollection" else "coordinates")
    if not isinstance(parts, list):
        raise DataError(f"{label}: a {kind} needs a list of {_PARTS[str(kind)]}")
    if kind == "Polygon":  # one without rings is as null (RFC 7946, 3.1)
        rings = [_ring(ring, f"{label}, ring {index}") for index, ring in enumerate(parts)]
        return [rings] if rings else []
    if kind == "MultiPolygon":
        parts = [{"type": "Polygon", "coordinates": polygon} for polygon in parts]
    return [polygon for part in parts for polygon in _polygons(part, label, depth + 1)]


def _ring(ring, label: str) -> np.ndarray:
    """One ring of [longitude, latitude] -> (n, 2) latitude and longitude without jumps."""
    try:
        # Positions may carry an altitude, and not all of them need to.
        points = np.array([[position[1], position[0]] for position in ring], np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise DataError(f"{label}: not a list of [longitude, latitude] numbers") from None
    if len(points) < 4 or not np.array_equal(points[0], points[-1]):
        raise DataError(f"{label}: a ring needs at least 4 positions, the last equal to the first")
    if not np.isfinite(points).all():
        raise DataError(f"{label}: a coordinate is not finite")
    if (np.abs(points[:, 0]) > 90.0).any() or (np.abs(points[:, 1]) > 360.0).any():
        raise DataError(
            f"{label}: outside the range of [longitude, latitude] in degrees; swapped, or a projected file?"
        )
    step = np.abs(np.diff(points[:, 1]))
    ambiguous = (step > 180.0) & (step < 360.0)
    if ambiguous.any() and len(np.unique(points[:, 1])) > 2:
        (_, west), (_, east) = points[[at := int(ambiguous.argmax()), at + 1]]
        raise DataError(
            f"{label}: the step from longitude {west:g} to {east:g} is wider than 180 degrees; cut the polygon at the "
            "antimeridian (RFC 7946, 3.1.9) or let its longitudes run on beyond 180, or add a point in between"
        )
    return points
