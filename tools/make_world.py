"""Remake geohf/report/world.json, the outlines under every map, from Natural Earth's GeoJSON.

    python tools/make_world.py path/to/natural-earth-geojson/50m

The folder is `50m` of github.com/martynafford/natural-earth-geojson, or any that holds the four files
below. Lines are simplified (Douglas and Peucker) and rounded to hundredths of a degree.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

LAYERS = {
    "land": "physical/ne_50m_land.json",
    "lakes": "physical/ne_50m_lakes.json",
    "countries": "cultural/ne_50m_admin_0_boundary_lines_land.json",
    "states": "cultural/ne_50m_admin_1_states_provinces_lines.json",
}
TOLERANCE = 0.02  # degrees, 2 km: a pixel of a map 20 degrees wide
SMALLEST = 0.004  # square degrees: smaller islands and lakes are a dot on any map that these outlines serve


def simplify(line: np.ndarray, tolerance: float) -> np.ndarray:
    """The vertices (longitude, latitude) of a line without those nearer than `tolerance` to what is left."""
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    stack = [(0, len(line) - 1)]
    if np.array_equal(
        line[0], line[-1]
    ):  # a ring has no chord: it is cut at the vertex farthest from its start
        middle = int(np.argmax(((line - line[0]) ** 2).sum(1)))
        keep[middle] = True
        stack = [(0, middle), (middle, len(line) - 1)]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        chord, away = line[last] - line[first], line[first + 1 : last] - line[first]
        length = float(chord @ chord)
        along = np.clip(away @ chord / length, 0, 1) if length else np.zeros(len(away))
        gap = np.hypot(*(away - along[:, None] * chord).T)
        worst = int(np.argmax(gap))
        if gap[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            stack += [(first, middle), (middle, last)]
    return line[keep]


def rounded(line: np.ndarray) -> np.ndarray:
    """Latitude and longitude in whole hundredths of a degree, no vertex twice in a row."""
    whole = np.round(line[:, ::-1] * 100).astype(int)
    return whole[np.concatenate([[True], (np.diff(whole, axis=0) != 0).any(1)])]


def encode(whole: np.ndarray) -> str:
    """A line in hundredths of a degree in Google's encoded polyline format."""
    text = []
    for step in np.diff(whole, axis=0, prepend=np.zeros((1, 2), int)).ravel().tolist():
        step = ~(step << 1) if step < 0 else step << 1
        while step >= 32:
            text.append(chr((32 | step & 31) + 63))
            step >>= 5
        text.append(chr(step + 63))
    return "".join(text)


def lines_of(geometry: dict) -> list[list]:
    """The groups of lines of a GeoJSON geometry: the rings of a polygon belong together."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    groups = {
        "LineString": lambda: [[coordinates]],
        "MultiLineString": lambda: [[line] for line in coordinates],
        "Polygon": lambda: [coordinates],
        "MultiPolygon": lambda: coordinates,
    }
    return groups[kind]()


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def main(folder: Path) -> None:
    world: dict[str, list] = {}
    for layer, name in LAYERS.items():
        features = json.loads((folder / name).read_text("utf-8"))["features"]
        world[layer] = []
        for group in (group for feature in features for group in lines_of(feature["geometry"])):
            lines = [np.array(line, float)[:, :2] for line in group]
            if layer in ("land", "lakes"):
                if area(lines[0]) < SMALLEST:
                    continue
                lines = [line for line in lines if area(line) >= SMALLEST]
            short = [rounded(simplify(line, TOLERANCE)) for line in lines]
            if len(short[0]) > 1:  # else the line is shorter than a hundredth of a degree
                world[layer].append([encode(line) for line in short])
        print(
            f"{layer}: {len(world[layer])} outlines, {sum(len(t) for g in world[layer] for t in g):,} characters"
        )
    target = Path(__file__).parents[1] / "geohf/report/world.json"
    target.write_text(json.dumps(world, separators=(",", ":")) + "\n", "utf-8")
    print(f"{target.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
