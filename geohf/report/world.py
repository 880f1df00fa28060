"""Coasts, lakes, borders of countries and of states under every map: Natural Earth 1:50m, see NATURAL_EARTH.md."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np

NARROWEST_DEG = 1.0
"""Maps of fewer degrees from west to east show none of this: the outlines are right to about 3 km."""


@lru_cache(maxsize=1)
def encoded_world() -> dict[str, list[list[str]]]:
    """Layer -> outlines -> lines, each in Google's encoded polyline format with two decimals.

    The layers are `land` and `lakes`, whose outlines are a ring and its holes, `countries` and `states`, whose
    outlines are one open line. Land that crosses the antimeridian or holds a pole is cut there.
    """
    return json.loads((resources.files("geohf.report") / "world.json").read_text("utf-8"))


@lru_cache(maxsize=1)
def world() -> dict[str, list[list[np.ndarray]]]:
    """As `encoded_world`, each line (k, 2) latitude and longitude in degrees."""
    return {
        layer: [[decode_line(text) for text in outline] for outline in outlines]
        for layer, outlines in encoded_world().items()
    }


def decode_line(text: str) -> np.ndarray:
    """(k, 2) numbers of a line in Google's encoded polyline format, with two decimals.

    >>> decode_line("_`FvvV~@oA").tolist()
    [[36.0, -121.56], [35.68, -121.16]]
    """
    steps, value, shift = [], 0, 0
    for character in text:
        digit = ord(character) - 63
        value |= (digit & 31) << shift
        shift += 5
        if digit < 32:
            steps.append(~(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    return np.cumsum(np.array(steps).reshape(-1, 2), axis=0) / 100


def coasts(ring: np.ndarray) -> list[np.ndarray]:
    """The lines of a ring of land that are coast, and not where the map was cut: on the antimeridian, at the pole."""
    pieces: list[list[np.ndarray]] = [[ring[0]]]
    for start, end in pairwise(ring):
        if (abs(start[1]) == abs(end[1]) == 180) or (start[0] == end[0] == -90):
            pieces.append([])
        pieces[-1].append(end)
    return [np.array(piece) for piece in pieces if len(piece) > 1]
