"""The painted scenes of the street sample; the rules of their look are in `sample`."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw


@dataclass
class Place:
    """A place and what its four photos share; latitude and longitude in degrees."""

    sample_id: int
    split: str
    state: str
    state_idx: int
    latitude: float
    longitude: float
    wet: float  # 0 desert to 1 lush
    relief: float  # 0 plain to 1 high mountains
    overcast: float  # 0 clear to 1 gray
    tint: np.ndarray  # (3,) added to the color of its ground
    road_runs_north: bool  # else it runs east


# Colors at these latitudes, and between them.
_LATITUDES = (20, 30, 38, 45, 52, 66)
_ZENITH = ((30, 120, 225), (55, 135, 220), (85, 150, 215), (120, 165, 205), (140, 165, 195), (150, 150, 195))
_HAZE = ((215, 240, 235), (250, 238, 205), (238, 236, 222), (225, 232, 236), (232, 225, 228), (250, 205, 200))
_LEAVES = ((40, 125, 50), (70, 135, 50), (115, 140, 45), (205, 120, 40), (190, 75, 40), (150, 110, 60))
_SOIL = ((165, 80, 50), (180, 105, 70), (150, 115, 85), (115, 95, 80), (105, 100, 95), (120, 115, 115))
_DRY, _LUSH, _SNOW = (214, 172, 108), (108, 152, 70), (242, 245, 250)
_BARK, _ASPHALT, _YELLOW, _LINE = (95, 70, 50), (98, 98, 104), (235, 190, 60), (235, 235, 230)
_EYE_M, _FOCAL = 2.6, 0.8  # height of the camera; focal length in widths of the photo


def _at(latitude: float, table) -> np.ndarray:
    return np.array([np.interp(latitude, _LATITUDES, channel) for channel in zip(*table, strict=True)])


def _mix(a, b, share: float | np.ndarray) -> np.ndarray:
    return np.multiply(a, 1.0 - share) + np.multiply(b, share)


def _disc(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 20)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


def _box(left: float, low: float, right: float, high: float) -> np.ndarray:
    return np.array([(left, low), (right, low), (right, high), (left, high)])


def _stencil(*parts) -> tuple:
    """A thing that stands at (0, 0), x to the right and y up, of parts (share of own color, color, outline)."""
    own = np.array([[share] for share, _, _ in parts], float)
    colors = np.array([np.broadcast_to(color, 3) for _, color, _ in parts], float)
    outlines = [np.asarray(outline, float) for _, _, outline in parts]
    ends = np.cumsum([2 * len(outline) for outline in outlines]).tolist()
    return own, colors, np.concatenate(outlines), ends


def _frond(angle: float) -> tuple:
    x, y = 0.3 * np.cos(angle), 0.2 * np.sin(angle)
    leaf = [(0, 0.03), (0.6 * x, y + 0.03), (x, y - 0.15), (0.5 * x, 0.8 * y - 0.06)]
    return 0, (42, 115 + 140 * y, 52), np.add(leaf, (0.11, 1))


def _house(pitch: float) -> tuple:
    frames = ((248, 0.04), ((95, 125, 150), 0))  # a white one and the pane in it
    panes = [(0, c, _box(x - g, 0.38 - g, x + 0.26 + g, 0.72 + g)) for x in (-0.72, 0.46) for c, g in frames]
    roof = [(-1.1, 0.98), (1.1, 0.98), (0.15, 1 + pitch), (-0.15, 1 + pitch)]
    door = (0, (95, 75, 65), _box(-0.12, 0, 0.12, 0.6))
    return _stencil((1, 0, _box(-1, 0, 1, 1)), (0.25, (68, 45, 42), roof), door, *panes)


def _sign(plate) -> tuple:
    post = (0, 120, _box(-0.05, 0, 0.05, 2.7))
    rim, face = (np.add(np.multiply(plate, grow), (0, 2.7)) for grow in (1.15, 1))
    return _stencil(post, (0, 246, rim), (1, 0, face))


_SIGNS = [
    _sign(_box(-0.7, -0.5, 0.7, 0.5)),
    _sign([(0, -0.8), (0.8, 0), (0, 0.8), (-0.8, 0)]),
    _sign([(-0.65, 0.6), (0.65, 0.6), (0.65, -0.1), (0, -0.8), (-0.65, -0.1)]),
]
_PALM = _stencil(
    (0, (135, 105, 75), [(-0.02, 0), (0.02, 0), (0.06, 0.6), (0.13, 1), (0.1, 1), (0.03, 0.6)]),
    *map(_frond, np.linspace(-0.25, np.pi + 0.25, 8)),
)
_CACTUS = _stencil(
    (0, (85, 125, 75), [(-0.08, 0), (0.08, 0), (0.08, 0.92), (0.04, 1), (-0.04, 1), (-0.08, 0.92)]),
    (0, (85, 125, 75), [(0, 0.4), (0.28, 0.4), (0.28, 0.75), (0.18, 0.75), (0.18, 0.5), (0, 0.5)]),
    (0, (85, 125, 75), [(0, 0.3), (-0.25, 0.3), (-0.25, 0.6), (-0.15, 0.6), (-0.15, 0.4), (0, 0.4)]),
)
_CONIFER = _stencil(
    (0, _BARK, _box(-0.025, 0, 0.025, 0.2)),
    (0, (34, 74, 56), [(-0.24, 0.12), (0.24, 0.12), (0, 0.55)]),
    (0, (42, 86, 58), [(-0.19, 0.36), (0.19, 0.36), (0, 0.78)]),
    (0, (50, 98, 62), [(-0.13, 0.6), (0.13, 0.6), (0, 1)]),
)
_BROADLEAF = _stencil(
    (0, _BARK, _box(-0.03, 0, 0.03, 0.6)),
    (1, -14, _disc(-0.2, 0.55, 0.22, 0.2)),
    (1, -6, _disc(0.2, 0.58, 0.23, 0.2)),
    (1, 4, _disc(0, 0.75, 0.27, 0.24)),
    (1, 20, _disc(-0.07, 0.82, 0.14, 0.12)),
)
_SHRUB = _stencil(
    (0, (130, 136, 92), _disc(0, 0.45, 0.9, 0.5)), (0, (155, 160, 112), _disc(-0.1, 0.6, 0.5, 0.3))
)
_CAR = _stencil(
    (1, 0, [(-1, 0.2), (1, 0.2), (1, 0.6), (-1, 0.65)]),
    (0.3, (42, 50, 62), [(-0.8, 0.64), (0.75, 0.6), (0.5, 1), (-0.6, 1)]),
    (0, 42, _disc(-0.62, 0.2, 0.18, 0.22)),
    (0, 42, _disc(0.62, 0.2, 0.18, 0.22)),
)
_POLE = _stencil((0, _BARK, _box(-0.014, 0, 0.014, 1)), (0, _BARK, _box(-0.13, 0.89, 0.13, 0.91)))


def paint_photo(place: Place, heading: int, size: int, rng: np.random.Generator) -> Image.Image:
    """One photo (size, size) of a place; heading counts quarter turns clockwise from north."""
    scene = _Scene(place, heading, size, rng)
    scene.sky()
    scene.mountains()
    scene.road()
    for thing in sorted(scene.things(), key=lambda thing: -thing[0]):  # far things first
        scene.stand(*thing)
    pixels = np.asarray(scene.image.reduce(2), np.float32)
    gain = (rng.normal(1, 0.06) * rng.normal(1, 0.025, 3)).astype(np.float32)  # exposure, white balance
    noise = rng.standard_normal((size, size, 1), np.float32) * rng.uniform(1.5, 5)
    return Image.fromarray(np.clip(pixels * gain + noise, 0, 255).astype(np.uint8))


class _Scene:
    """A photo in the making, at twice its size; ground positions in meters across and ahead of the camera."""

    def __init__(self, place: Place, heading: int, size: int, rng: np.random.Generator):
        self.place, self.heading, self.rng, self.side = place, heading, rng, 2 * size
        self.along = place.road_runs_north == (heading % 2 == 0)  # the road runs ahead, not across
        self.horizon = 0.55 + rng.normal(0, 0.012)
        gray = 0.75 * place.overcast
        self.zenith = _mix(_at(place.latitude, _ZENITH), rng.uniform(150, 220), gray)
        self.haze = _mix(_at(place.latitude, _HAZE), 226, gray)
        self.leaves = _at(place.latitude, _LEAVES)
        grass = _mix(_DRY, _LUSH, np.clip(place.wet + rng.normal(0, 0.08), 0, 1)) + place.tint
        snow = (place.latitude - 44) / 22 + rng.normal(0, 0.06) if place.latitude > 44 else 0
        self.image = self._sky_and_ground(_mix(grass, _SNOW, np.clip(snow, 0, 0.8)))
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def _sky_and_ground(self, grass: np.ndarray) -> Image.Image:
        y = (np.arange(self.side)[:, None] + 0.5) / self.side - self.horizon
        up, down = np.clip(-y / self.horizon, 0, 1) ** 0.8, np.clip(y / (1 - self.horizon), 0, 1)
        ground = _mix(grass * (0.92 - 0.16 * down), self.haze, 0.7 * np.exp(-9 * down))
        rows = np.where(y < 0, _mix(self.haze, self.zenith, up), ground)
        column = Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)[:, None])
        return column.resize((self.side, self.side), Image.Resampling.NEAREST)

    def fill(self, outline, color, alpha: float = 1.0) -> None:
        """Fill an outline, (n, 2) in photo widths from the top left."""
        ink = [min(max(int(channel), 0), 255) for channel in color]
        self.draw.polygon((np.asarray(outline) * self.side).ravel().tolist(), (*ink, int(255 * alpha)))

    def hazy(self, color, ahead: float) -> np.ndarray:
        """A color as it is seen from so many meters."""
        return _mix(color, self.haze, 1 - np.exp(-ahead / 160))

    def project(self, across, ahead, up=0.0) -> np.ndarray:
        """Meters to photo widths from the top left, (n, 2)."""
        scale = _FOCAL / np.maximum(ahead, 1.5)
        return np.stack([0.5 + across * scale, self.horizon + (_EYE_M - up) * scale], 1)

    def sky(self) -> None:
        """The sun, in a south view, and clouds."""
        rng, overcast = self.rng, self.place.overcast
        if self.heading == 2:
            x, y = 0.5 + rng.normal(0, 0.12), self.horizon - (90 - self.place.latitude) / 140
            for radius, light in ((0.15, 0.1), (0.1, 0.16), (0.07, 0.27), (0.045, 1)):
                self.fill(_disc(x, y, radius, radius), (255, 244, 190), light * (1 - 0.8 * overcast))
        white = _mix(255, self.zenith, 0.2 + 0.3 * overcast)
        for _ in range(rng.poisson(1 + 4 * overcast)):
            x, y, width = rng.random(), rng.uniform(0.04, 0.42), rng.uniform(0.04, 0.11)
            for dx, part in ((-0.8, 0.6), (0.75, 0.7), (0, 1)):
                puff = _disc(x + dx * width, y, width * part, 0.5 * width * part)
                self.fill(np.minimum(puff, (2, y)), white + 12 * (part == 1))  # flat below

    def mountains(self) -> None:
        """Rocks with snow far away, woods before them."""
        rng, relief, x = self.rng, self.place.relief, np.linspace(0, 1, 49)
        snow_line = np.interp(self.place.latitude, (30, 45, 64), (0.32, 0.17, 0.04))
        woods = _mix((135, 118, 108), 0.8 * self.leaves, 0.8 * self.place.wet)
        for high, color in ((0.24, self.hazy((110, 120, 150), 110)), (0.1, self.hazy(woods, 80))):
            waves = (1, 2, 4, 7, 11) if relief > 0.5 else (1, 2, 3)
            shape = sum(np.sin(2 * np.pi * (k * x + rng.random())) / k**0.8 for k in waves)
            ridge = (high * relief * rng.uniform(0.75, 1.2) + 0.008) * np.clip(0.6 + 0.3 * shape, 0.1, 1.3)
            self.fill(
                [(0, self.horizon), *zip(x, self.horizon - ridge, strict=True), (1, self.horizon)], color
            )
            snow = 0.6 * np.maximum(ridge - snow_line, 0)
            if high > 0.2 and snow.any():
                cap = np.concatenate([self.horizon - ridge, (self.horizon - ridge + snow)[::-1]])
                self.fill(np.stack([np.concatenate([x, x[::-1]]), cap], 1), self.hazy(_SNOW, 30))

    def road(self) -> None:
        """Boxes on the ground, meters across the road and along it, as this view sees them."""
        end = 400 if self.along else 120
        strips = [(-5.2, 5.2, _at(self.place.latitude, _SOIL) + self.place.tint), (-3.8, 3.8, _ASPHALT)]
        strips += [(-3.5, -3.3, _LINE), (3.3, 3.5, _LINE)]
        boxes = [(_box(left, 2, right, end), color) for left, right, color in strips]
        boxes += [(_box(-0.1, start, 0.1, start + 5), _YELLOW) for start in range(2, 120, 9)]
        for box, color in boxes:
            x, z = box.T
            self.fill(self.project(x - 1.8, z) if self.along else self.project(z - 60, 11 - x), color)

    def things(self) -> list[tuple]:
        """What stands on the ground: arguments of `stand`."""
        rng, wet, index = self.rng, self.place.wet, self.place.state_idx
        things = [self._plant() for _ in range(rng.poisson(3 + 13 * wet))]
        if rng.random() < 0.5:
            pitch = np.interp(self.place.latitude, (28, 48), (0.12, 1.1)) * rng.uniform(0.85, 1.15)
            paint = self._hue(index * 0.7549, 0.55, 0.42, 0.92)
            things.append(
                (*self._spot(17, 32), _house(pitch), rng.uniform(3.5, 5), rng.uniform(3, 4.2), paint)
            )
        if rng.random() < 0.4:
            across = rng.choice((-1, 1)) * rng.uniform(1.8, 3.5) + 0.5
            paint = self._hue(index * 0.6180, 0.65, 0.85, 0.8)
            things.append((rng.uniform(6.5, 9), across, _SIGNS[index % 3], 1, 1, paint))
        if rng.random() < 0.35:
            paint = self._hue(0, 0, rng.uniform(0, 0.8), rng.uniform(0.35, 0.95))
            where = (rng.uniform(9, 40), -3.6) if self.along else (12.5, rng.uniform(-6, 6))
            things.append((*where, _CAR, 0.95 if self.along else 2.1, 1.5, paint))
        if rng.random() < 0.4:
            row = ((12, 5.5), (26, 5.5), (50, 5.5)) if self.along else ((18, -4), (26, 4))
            things += [(ahead, across, _POLE, 8, 8, 0) for ahead, across in row]
        return things

    def _plant(self) -> tuple:
        rng, wet, relief, latitude = self.rng, self.place.wet, self.place.relief, self.place.latitude

        def south_of(limit: float, width: float) -> float:
            return 1 / (1 + np.exp((latitude - limit) / width))

        kinds = (
            (2 * wet * south_of(29.5, 1), _PALM, 6, 10),
            (2 * (1 - wet) ** 3 * south_of(38, 1.5), _CACTUS, 2.5, 5),
            ((0.3 + relief) * (1 - south_of(42 - 6 * relief, 2)), _CONIFER, 6, 12),
            (wet * south_of(50, 2), _BROADLEAF, 5, 9),
            (1.2 * (1 - wet), _SHRUB, 0.6, 1.2),
        )
        chances = np.cumsum([kind[0] for kind in kinds])
        _, stencil, low, high = kinds[np.searchsorted(chances, rng.random() * chances[-1])]
        height = rng.uniform(low, high)
        return (*self._spot(11, rng.uniform(20, 90)), stencil, height, height, self.leaves + rng.normal(0, 8))

    def _spot(self, near: float, far: float) -> tuple[float, float]:
        """Meters ahead and across: beside a road that runs ahead, behind one that crosses the view."""
        ahead = self.rng.uniform(near, far)
        if self.along:
            return ahead, self.rng.choice((-1, 1)) * self.rng.uniform(6.5, 6.5 + 0.6 * ahead) - 1.8
        return max(ahead, 18.0), self.rng.uniform(-0.6, 0.6) * ahead

    def _hue(self, typical: float, chance: float, saturation: float, value: float) -> np.ndarray:
        # Multiples of an irrational number modulo 1 spread the states' own hues.
        hue = typical % 1 if self.rng.random() < chance else self.rng.random()
        return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))

    def stand(self, ahead: float, across: float, stencil, width: float, height: float, own) -> None:
        """Paint a thing and, before it, its shadow; width and height are meters of the stencil's units."""
        shares, colors, outlines, ends = stencil
        points = outlines * (self.rng.choice((-1, 1)) * width, height)
        half, tall = 0.3 * np.ptp(points[:, 0]), points[:, 1].max()
        long = min(tall * np.tan(np.radians(self.place.latitude)), 14.0)
        x, z = ((0, 1), (-1, 0), (0, -1), (1, 0))[self.heading]  # away from the sun in the south
        side, tip = np.array([-half, half, half, -half]), np.array([0, 0, long, long])
        corners = np.maximum(ahead + side * abs(x) + tip * z, 3.0)
        shade = self.project(across + side * abs(z) + tip * x, corners)
        self.fill(shade, (25, 30, 50), 0.37 * (1 - 0.8 * self.place.overcast))
        inks = np.clip(self.hazy(shares * own + colors, ahead), 0, 255).astype(int).tolist()
        flat = (self.project(across + points[:, 0], ahead, points[:, 1]) * self.side).ravel().tolist()
        for ink, start, end in zip(inks, [0, *ends], ends, strict=False):
            self.draw.polygon(flat[start:end], tuple(ink))
