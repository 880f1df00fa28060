"""The pictures of the region sample: one view to the north from a place in one of the sample's regions."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_Color = tuple[int, int, int]
_SKY = np.array([[70, 150, 225], [120, 130, 215], [205, 120, 170]])  # south, middle, north
_HAZE = np.array([[215, 238, 245], [232, 226, 238], [250, 214, 196]])
_GROUND = np.array([[214, 176, 112], [158, 166, 92], [64, 138, 72]])  # west, middle, east
_HILLS = {"1": (138, 118, 112), "3": (112, 120, 140), "5": (120, 134, 112)}
# the landmark of each region: color of its shaft, of its head, and the head's outline around (0, 0)
HIDDEN = 0.03  # share of pictures in which mist hides the landmark
LANDMARKS: dict[str, tuple[_Color, _Color, list[tuple[float, float]]]] = {
    "1": ((120, 60, 50), (232, 80, 60), [(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "3": ((60, 80, 120), (70, 120, 235), [(-1.2, -0.8), (1.2, -0.8), (0, 1.4)]),
    "5": ((90, 90, 60), (245, 205, 60), [(0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)]),
}


def paint_view(region: str, east: float, north: float, side: int, rng: np.random.Generator) -> Image.Image:
    """Paint what a camera sees that looks north.

    Args:
        region: a key of `LANDMARKS`.
        east, north: where it stands in its region, 0 (west, south) to 1 (east, north).
        side: of the square picture in pixels.
        rng: everything that is by chance.
    """
    turned = rng.normal(0, 0.04)  # the camera's heading, in widths of the picture
    light = rng.uniform(0.8, 1.1)
    horizon = 0.52 + rng.normal(0, 0.015)
    sky = _between(_SKY, north) + rng.normal(0, 8, 3)
    haze = _between(_HAZE, north) + rng.normal(0, 6, 3)
    ground = _between(_GROUND, east) + rng.normal(0, 8, 3)
    rows = np.linspace(0, 1, side)[:, None]
    above = sky + (haze - sky) * np.clip(rows / horizon, 0, 1)
    below = ground * (0.75 + 0.35 * rows)
    pixels = np.where(rows < horizon, above, below)[:, None].repeat(side, 1)
    image = Image.fromarray(np.clip(pixels * light, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)

    def fill(outline, color):
        points = [(float((x + turned) * side), float(y * side)) for x, y in outline]
        draw.polygon(points, tuple(int(c) for c in np.clip(np.multiply(color, light), 0, 255)))

    for _ in range(rng.integers(0, 4)):
        x, y, w = rng.uniform(0, 1), rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.14)
        fill(_oval(x, y, w, 0.3 * w), (250, 250, 250))
    # hills stand in the north: they rise as one walks towards them
    along = np.linspace(-0.3, 1.3, 9)
    top = (
        horizon
        - (0.05 + 0.17 * north) * (0.75 + 0.25 * np.sin(5 * along + 4 * east))
        + rng.normal(0, 0.006, 9)
    )
    fill(
        [*zip(along, top, strict=True), (1.3, horizon), (-0.3, horizon)], _HILLS[region] + rng.normal(0, 9, 3)
    )
    if rng.random() > HIDDEN:
        _stand_landmark(fill, region, east, north, horizon)
    for _ in range(rng.poisson(1 + 9 * east)):
        x, y = rng.uniform(-0.1, 1.1), rng.uniform(horizon + 0.02, 0.98)
        size = 0.25 * (y - horizon) + 0.02
        fill([(x - 0.1 * size, y), (x + 0.1 * size, y), (x, y - size)], (80, 60, 45))
        fill(_oval(x, y - size, 0.5 * size, 0.6 * size), (40 + rng.uniform(0, 30), 110, 60))
    for _ in range(rng.poisson(0.7)):
        x, y, w = rng.uniform(0, 1), rng.uniform(0.7, 0.9), rng.uniform(0.06, 0.12)
        fill([(x, y), (x + w, y), (x + w, y - 0.05), (x, y - 0.05)], rng.uniform(40, 240, 3))
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(side / 200)), float)
    noisy = noisy + rng.normal(0, 4, noisy.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _stand_landmark(fill, region: str, east: float, north: float, horizon: float) -> None:
    """The landmark stands half a region north of its middle: bearing and height tell where one is."""
    shaft, head, outline = LANDMARKS[region]
    ahead = 1.5 - north  # in sides of the region
    x, foot = 0.5 + 0.35 * (0.5 - east) / ahead, horizon + 0.03 / ahead
    height, width = 0.25 / ahead, 0.025 / ahead
    fill(
        [(x - width, foot), (x + width, foot), (x + width, foot - height), (x - width, foot - height)], shaft
    )
    fill([(x + 2 * width * dx, foot - height - 2 * width * dy) for dx, dy in outline], head)


def _between(colors: np.ndarray, share: float) -> np.ndarray:
    return np.array([np.interp(share, (0, 0.5, 1), channel) for channel in colors.T])


def _oval(x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * np.pi, 16)
    return list(zip(x + rx * np.cos(turn), y + ry * np.sin(turn), strict=True))
