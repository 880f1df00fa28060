"""A painted street that one drives through: lots along a loop, seen from a car by day and at dusk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

_FOCAL, _NEAR_M, _FAR_M = 0.62, 1.0, 90.0  # focal length in widths of the picture; what is drawn, in meters

# Walls recur along the loop, so no single color says where one is.
_WALLS = np.array(
    [
        (196, 164, 132),
        (178, 92, 72),
        (214, 205, 190),
        (122, 132, 140),
        (226, 196, 120),
        (150, 170, 140),
        (168, 150, 176),
        (205, 140, 110),
    ],
    float,
)
_DOORS = np.array([(70, 50, 40), (30, 70, 110), (120, 30, 30), (40, 90, 60), (225, 225, 215)], float)
_LEAVES, _TRUNK = np.array([74, 116, 58.0]), np.array([92, 72, 54.0])


@dataclass(frozen=True)
class Light:
    """What the hour does to a picture: colors of the sky from top to horizon, of the light, of lit windows."""

    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    sun: tuple[float, float, float]  # times the color of a wall that the sun meets
    shade: tuple[float, float, float]  # times the color of one that it does not
    lit: float  # share of windows with a lamp behind them
    haze: float  # share of the horizon's color at 50 m
    noise: float  # gray levels


NOON = Light((70, 130, 215), (190, 215, 240), (1.08, 1.06, 1.0), (0.62, 0.66, 0.74), 0.0, 0.12, 3.0)
DUSK = Light((42, 40, 86), (232, 138, 92), (0.72, 0.58, 0.56), (0.5, 0.46, 0.54), 0.3, 0.2, 4.0)


class Loop:
    """A closed road in a plane, in meters east and north of its middle, and what stands beside it.

    Args:
        seed: another one is another town.
        length_m: of the loop.
    """

    def __init__(self, seed: int = 0, length_m: float = 4000.0):
        self.length_m = length_m
        rng = np.random.default_rng([seed, 0])
        turn = np.linspace(0, 2 * np.pi, 4001)
        path = np.stack([np.cos(turn), 0.7 * np.sin(turn)], 1)
        for k in (2, 3, 4):
            for column in path.T:  # east, north
                column += 0.16 / k * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
        path[-1] = path[0]
        along = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
        self.path, self.along = path * (length_m / along[-1]), along * (length_m / along[-1])
        self.lots = [lot for side in (-1, 1) for lot in self._lots(rng, side)]
        self._middles = self.at(np.array([lot["start"] + lot["width"] / 2 for lot in self.lots]))

    def at(self, meters, offset=0.0) -> np.ndarray:
        """(n, 2) points this far along the road and this far to its right."""
        meters = np.asarray(meters, float) % self.length_m
        point = np.stack([np.interp(meters, self.along, column) for column in self.path.T], -1)
        forward = self.forward(meters)
        right = np.stack([forward[..., 1], -forward[..., 0]], -1)
        return point + right * np.asarray(offset, float)[..., None]

    def forward(self, meters) -> np.ndarray:
        """(n, 2) unit vectors in which one drives."""
        ends = np.stack([np.add(meters, 2.0), np.subtract(meters, 2.0)]) % self.length_m
        points = np.stack([np.interp(ends, self.along, column) for column in self.path.T], -1)
        step = points[0] - points[1]
        return step / np.linalg.norm(step, axis=-1, keepdims=True)

    def _lots(self, rng, side: int) -> list[dict]:
        lots, start = [], 0.0
        while start < self.length_m - 8:
            width = min(rng.uniform(9, 22), self.length_m - start)
            floors = int(rng.integers(1, 6))
            lots.append(
                {
                    "side": side,
                    "start": start,
                    "width": width - 1.0,
                    "away": rng.uniform(7.5, 13),
                    "garden": rng.random() < 0.15,
                    "wall": _WALLS[rng.integers(len(_WALLS))] + rng.normal(0, 20, 3),
                    "door": _DOORS[rng.integers(len(_DOORS))],
                    "door_at": rng.uniform(0.15, 0.75),
                    "floors": floors,
                    "columns": int(rng.integers(2, 6)),
                    "glass": rng.uniform(0.35, 0.7),
                    "height": 3.1 * floors + rng.uniform(0.3, 1.5),
                    "lamp": rng.random((floors, 6)),
                    "trees": rng.uniform(0.05, 0.95, int(rng.integers(0, 2)) + 3),
                }
            )
            start += width
        return lots

    def near(self, point: np.ndarray) -> list[dict]:
        """The lots that a camera here may see, far ones first."""
        distance = np.linalg.norm(self._middles - point, axis=1)
        return [self.lots[i] for i in np.argsort(-distance) if distance[i] < _FAR_M]


def photograph(
    loop: Loop,
    meters: float,
    offset: float,
    yaw: float,
    eye_m: float,
    light: Light,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Image.Image:
    """One picture from the loop.

    Args:
        meters, offset: where the camera is, along the road and to the right of its middle.
        yaw: degrees that it looks to the right of the road's direction.
        eye_m: its height.
        size: width and height in pixels.
        rng: of what is there by chance: cars, exposure, noise.
    """
    view = _View(loop.at(meters, offset), loop.forward(meters), yaw, eye_m, light, size)
    view.ground_and_road(loop, meters)
    for lot in loop.near(view.eye):
        view.lot(loop, lot)
    for _ in range(rng.poisson(1.2)):
        ahead, aside = rng.uniform(8, 50), rng.choice([-4.6, 4.6, -1.8, 1.8])
        view.car(loop, meters + ahead, aside, rng.uniform(40, 220, 3))
    pixels = np.asarray(view.image.reduce(2), np.float32)
    gain = rng.normal(1, 0.06) * rng.normal(1, 0.02, 3)
    grain = rng.standard_normal((*pixels.shape[:2], 1), np.float32) * light.noise
    return Image.fromarray(np.clip(pixels * gain + grain, 0, 255).astype(np.uint8))


class _View:
    """A picture in the making, at twice its size."""

    def __init__(self, eye, forward, yaw, eye_m, light, size):
        turn = np.deg2rad(yaw)
        right = np.array([forward[1], -forward[0]])
        self.ahead = forward * np.cos(turn) + right * np.sin(turn)
        self.right = np.array([self.ahead[1], -self.ahead[0]])
        self.eye, self.eye_m, self.light = eye, eye_m, light
        self.width, self.height = 2 * size[0], 2 * size[1]
        self.image = self._sky()
        self.draw = ImageDraw.Draw(self.image)

    def _sky(self) -> Image.Image:
        share = np.clip(np.arange(self.height) / (0.5 * self.height), 0, 1)[:, None]
        rows = np.array(self.light.zenith) * (1 - share) + np.array(self.light.horizon) * share
        column = Image.fromarray(rows.astype(np.uint8)[:, None])
        return column.resize((self.width, self.height), Image.Resampling.NEAREST)

    def camera(self, points) -> np.ndarray:
        """(n, 2) meters on the ground to (n, 2) meters to the right and ahead of the camera."""
        away = np.asarray(points) - self.eye
        return np.stack([away @ self.right, away @ self.ahead], -1)

    def pixels(self, across, ahead, up) -> list[tuple[float, float]]:
        scale = _FOCAL * self.width / ahead
        x = 0.5 * self.width + across * scale
        y = 0.52 * self.height + (self.eye_m - up) * scale
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def fill(self, corners, color, ahead: float) -> None:
        """Fill a polygon, hazier with distance."""
        veil = 1 - (1 - self.light.haze) ** (ahead / 50)
        color = np.asarray(color) * (1 - veil) + np.array(self.light.horizon) * veil
        self.draw.polygon(corners, tuple(np.clip(color, 0, 255).astype(int).tolist()))

    def ground_and_road(self, loop: Loop, meters: float) -> None:
        ambient = (np.array(self.light.sun) + self.light.shade) / 2
        horizon = round(0.52 * self.height)
        ground = [(0, horizon), (self.width, horizon), (self.width, self.height), (0, self.height)]
        self.fill(ground, (118, 122, 96) * ambient, 12)
        steps = meters + np.array([-4, 1.5, 4, 7, 11, 16, 22, 30, 40, 55.0])
        for half, color in ((5.8, (172, 168, 160)), (4.2, (92, 92, 98)), (0.12, (225, 205, 120))):
            edges = [self.camera(loop.at(steps, offset)) for offset in (-half, half)]
            keep = (edges[0][:, 1] > _NEAR_M) & (edges[1][:, 1] > _NEAR_M)
            left, right = (self.pixels(edge[keep, 0], edge[keep, 1], np.zeros(keep.sum())) for edge in edges)
            if keep.sum() > 1:
                self.fill(left + right[::-1], np.array(color) * ambient, 10)

    def lot(self, loop: Loop, lot: dict) -> None:
        ends = lot["start"] + np.array([0.0, lot["width"]])
        front = self.camera(loop.at(ends, lot["side"] * lot["away"]))
        if (front[:, 1] < _NEAR_M).all():
            return
        if lot["garden"]:
            for share in lot["trees"]:
                self.tree(front[0] + share * (front[1] - front[0]))
            return
        back = self.camera(loop.at(ends, lot["side"] * (lot["away"] + 9)))
        sunny = self.light.sun if lot["side"] < 0 else self.light.shade
        for i in (0, 1):  # the walls that look along the road
            self.wall(np.stack([front[i], back[i]]), lot, self.light.shade, windows=False)
        self.wall(front, lot, sunny, windows=True)

    def wall(self, ends, lot: dict, factor, windows: bool) -> None:
        behind, low = ends[:, 1] < _NEAR_M, 0.0
        if behind.all():
            return
        if behind.any():  # cut off what is behind the camera
            if ends[0, 1] > _NEAR_M:  # it runs away from us backwards: turn it round
                return self.wall(ends[::-1], lot, factor, windows)
            low = (_NEAR_M - ends[0, 1]) / (ends[1, 1] - ends[0, 1])
        middle = max(float(ends[:, 1].mean()), _NEAR_M)
        self.panel(ends, (low, 1.0), (0.0, lot["height"]), lot["wall"] * factor, middle)
        self.panel(ends, (low, 1.0), (lot["height"], lot["height"] + 0.5), lot["wall"] * factor * 0.6, middle)
        if not windows:
            return
        cell = 1 / lot["columns"]
        margin, lamp, dark = cell * (1 - lot["glass"]) / 2, (255, 214, 130), np.array((62, 78, 96))
        for floor, column in product(range(lot["floors"]), range(lot["columns"])):
            span = (max(low, column * cell + margin), (column + 1) * cell - margin)
            lit = lot["lamp"][floor, column] < self.light.lit
            glass = lamp if lit else dark * (0.6 + 0.5 * factor[0])
            self.panel(ends, span, (3.1 * floor + 1.0, 3.1 * floor + 2.5), glass, middle)
        span = (max(low, lot["door_at"]), min(1.0, lot["door_at"] + 1.4 / lot["width"]))
        self.panel(ends, span, (0.0, 2.3), lot["door"] * factor, middle)

    def panel(self, ends, span, up, color, middle: float) -> None:
        """A part of a wall: shares of its length, and meters over the ground; nothing where it would end before it begins."""
        if span[0] < span[1]:
            line = ends[0] + np.array(span)[:, None] * (ends[1] - ends[0])
            across, ahead = line[[0, 1, 1, 0]].T
            self.fill(self.pixels(across, np.maximum(ahead, 0.5), np.repeat(up, 2)), color, middle)

    def tree(self, foot) -> None:
        across, ahead = foot
        if ahead < 2 * _NEAR_M:
            return
        ambient = np.array(self.light.shade) * 1.2
        trunk = np.array([-0.15, 0.15, 0.15, -0.15]) + across
        self.fill(self.pixels(trunk, np.full(4, ahead), np.array([0, 0, 3, 3.0])), _TRUNK * ambient, ahead)
        turn = np.linspace(0, 2 * np.pi, 12)
        crown = self.pixels(across + 1.8 * np.cos(turn), np.full(12, ahead), 4.4 + 2.2 * np.sin(turn))
        self.fill(crown, _LEAVES * ambient, ahead)

    def car(self, loop: Loop, meters: float, offset: float, paint) -> None:
        across, ahead = self.camera(loop.at(np.array([meters]), offset))[0]
        if ahead < 5:
            return
        factor = np.array(self.light.shade)
        for half, up, color in (
            (0.9, (0.3, 1.0), paint),
            (0.75, (1.0, 1.5), (60, 70, 80)),
            (0.9, (0.0, 0.3), (25, 25, 28)),
        ):
            box = np.array([-half, half, half, -half]) + across
            corners = self.pixels(box, np.full(4, ahead), np.repeat(up, 2))
            self.fill(corners, np.array(color) * factor, ahead)
