"""Photos of bicycles against a wall: where the parts go in the picture, what stands before them, light and noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from geohf.parts.bicycle import Build, damaged, frame_of, shapes
from geohf.parts.vocabulary import BIKE_PARTS

HIDDEN = 0.6  # a part is occluded where more than this share of its box is covered
_FINE = 2  # pictures are drawn this many times larger
# shares of intact, damaged, absent and occluded parts; few bicycles have all the extras
_COMMON, _EXTRA = (0.68, 0.16, 0.12, 0.04), (0.48, 0.14, 0.34, 0.04)
_EXTRAS = frozenset(
    {"back_reflector", "bell", "dress_guard", "dynamo", "gear_case", "kickstand", "lock", "front_light"}
)
_SMALL_COVER = ("leaves", "cloth", "paper")


def paint_photo(
    rng: np.random.Generator, width: int
) -> tuple[Image.Image, dict[str, tuple[np.ndarray, str]]]:
    """Paint one bicycle by chance, `width` pixels wide and 3/4 of that high.

    Returns:
        (the picture, part -> (box xmin, ymin, xmax, ymax in pixels, state)) of all 22 parts; the box of an absent
        part says where it would be.
    """
    height = width * 3 // 4
    build, place = Build.draw(rng), _pose(rng, width, height)
    states = _states(rng)
    drawn = shapes(build)
    for part in drawn:
        if states[part] == "damaged":
            drawn[part] = damaged(part, drawn[part], rng)
    boxes = {part: _box(strokes, place, width, height) for part, strokes in drawn.items()}
    image = _background(rng, width * _FINE, height * _FINE)
    draw = ImageDraw.Draw(image)
    there = {part: strokes for part, strokes in drawn.items() if states[part] != "absent"}
    wheels = [there.pop(part, []) for part in ("back_wheel", "front_wheel")]
    for strokes in (*wheels, frame_of(build), *there.values()):  # from the farthest to the nearest
        _paint(draw, strokes, place)
    cover = _cover(rng, image, [boxes[part] for part in BIKE_PARTS if states[part] == "occluded"])
    for part, box in boxes.items():
        # what is behind something is occluded whatever it is, and what can be seen is not
        if _covered(cover, box) > HIDDEN:
            states[part] = "occluded"
        elif states[part] == "occluded":
            states[part] = "intact"
    return _develop(rng, image, width, height), {part: (boxes[part], states[part]) for part in BIKE_PARTS}


def _states(rng) -> dict[str, str]:
    care = rng.uniform(0.5, 1.5)  # a neglected bicycle misses more, and more of it is broken
    states = {}
    for part in BIKE_PARTS:
        share = np.array(_EXTRA if part in _EXTRAS else _COMMON)
        share[1:3] *= care
        share[0] = 1 - share[1:].sum()
        states[part] = ("intact", "damaged", "absent", "occluded")[rng.choice(4, p=share)]
    return states


def _pose(rng, width, height):
    """(2, 2) and (2,): pixels are points @ matrix + offset."""
    scale = width * rng.uniform(0.43, 0.54)
    turn, facing = rng.normal(0, 0.05), rng.choice((-1, 1))
    matrix = np.array([[facing * rng.uniform(0.88, 1.0), 0.0], [rng.normal(0, 0.04), -1.0]])
    matrix = scale * matrix @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = np.array([width * rng.uniform(0.46, 0.54), height * rng.uniform(0.48, 0.56)])
    return matrix, middle - np.array([0.49, 0.21]) @ matrix


def _box(strokes, place, width, height) -> np.ndarray:
    matrix, offset = place
    unit = np.linalg.norm(matrix[1])
    half = np.concatenate([0.5 * each.width * unit * np.ones((len(each.points), 1)) for each in strokes])
    points = np.concatenate([stroke.points for stroke in strokes]) @ matrix + offset
    low, high = (points - half).min(0), (points + half).max(0)
    return np.concatenate([low, high]).clip(0, [width, height, width, height]).round(1)


def _paint(draw, strokes, place) -> None:
    matrix, offset = place[0] * _FINE, place[1] * _FINE
    unit = np.linalg.norm(matrix[1])
    for stroke in strokes:
        points, color = (stroke.points @ matrix + offset).ravel().tolist(), _rgb(stroke.color)
        if stroke.width:
            joint = "curve" if len(points) < 12 else None
            draw.line(points, color, max(1, round(stroke.width * unit)), joint)
        else:
            draw.polygon(points, color)


def _background(rng, width, height) -> Image.Image:
    """A wall and the ground before it, with things that are round or straight and no part of a bicycle."""
    wall, ground = rng.uniform(80, 225) + rng.normal(0, 22, 3), rng.uniform(70, 190) + rng.normal(0, 12, 3)
    horizon = round(height * rng.uniform(0.62, 0.85))
    image = Image.new("RGB", (width, height), _rgb(wall))
    draw = ImageDraw.Draw(image)
    kind = rng.integers(4)
    if kind == 0:  # bricks
        step = rng.integers(18, 34)
        for row, y in enumerate(range(0, horizon, step)):
            draw.line([0, y, width, y], _rgb(wall * 0.82), 2)
            for x in range(-(row % 2) * step, width, 2 * step):
                draw.line([x, y, x, y + step], _rgb(wall * 0.82), 2)
    elif kind == 1:  # planks
        for x in range(int(rng.integers(40)), width, int(rng.integers(30, 60))):
            draw.line([x, 0, x, horizon], _rgb(wall * 0.75), 3)
    elif kind == 2:  # a hedge
        places = rng.uniform(0, width, 60), rng.uniform(0, horizon, 60), rng.uniform(8, 30, 60)
        for x, y, r in zip(*places, strict=True):
            green = np.array([70, 110, 60]) + rng.normal(0, 15, 3)
            draw.ellipse([x - r, y - r, x + r, y + r], _rgb(green))
    for _ in range(rng.integers(0, 4)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, horizon), rng.uniform(6, 50)
        color = _rgb(rng.uniform(40, 220) + rng.normal(0, 30, 3))
        if rng.random() < 0.5:
            draw.ellipse([x - r, y - r, x + r, y + r], outline=color, width=int(rng.integers(2, 8)))
        else:
            draw.rectangle([x, y - 2 * r, x + 0.4 * r, y + r], color)
    draw.rectangle([0, horizon, width, height], _rgb(ground))
    for y in range(horizon + 14, height, int(rng.integers(16, 40))):
        draw.line([0, y, width, y + int(rng.integers(-4, 5))], _rgb(ground * 0.9), 2)
    return image


def _cover(rng, image, boxes) -> np.ndarray:
    """Put something before each box; returns (height, width) of what is covered, 0 to 1, at the picture's own size."""
    mask = Image.new("L", image.size)
    draws = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    for box in boxes:
        x0, y0, x1, y1 = (_FINE * box).tolist()
        large = x1 - x0 > image.width / 5
        grow = -0.05 * (x1 - x0) if large else 2 * _FINE  # the rim of a large part looks out
        x0, y0, x1, y1 = x0 - grow, y0 - grow, x1 + grow, y1 + grow
        kind = "leaves" if large else rng.choice(_SMALL_COVER)
        if kind == "paper":
            draws[0].rectangle([x0, y0, x1, y1], _rgb(rng.uniform(60, 250, 3)))
            draws[1].rectangle([x0, y0, x1, y1], 255)
        elif kind == "cloth":
            color, turn = _rgb(rng.uniform(30, 220, 3)), np.linspace(0, 2 * np.pi, 12)
            radius = 0.66 + 0.06 * rng.random(12)
            x = (x0 + x1) / 2 + (x1 - x0) * radius * np.cos(turn)
            y = (y0 + y1) / 2 + (y1 - y0) * radius * np.sin(turn)
            points = np.stack([x, y], 1)
            draws[0].polygon(points.ravel().tolist(), color)
            draws[1].polygon(points.ravel().tolist(), 255)
        else:
            size = max(4.0, 0.2 * min(x1 - x0, y1 - y0))
            count = int(4.5 * (x1 - x0) * (y1 - y0) / (size * size * np.pi)) + 4
            green = np.array([50, 105, 40]) + rng.normal(0, 12, 3)
            places = rng.uniform(x0, x1, count).tolist(), rng.uniform(y0, y1, count).tolist()
            for x, y in zip(*places, strict=True):
                leaf = [x - size, y - 0.7 * size, x + size, y + 0.7 * size]
                draws[0].ellipse(leaf, _rgb(green + rng.normal(0, 14, 3)))
                draws[1].ellipse(leaf, 255)
    return np.asarray(mask.reduce(_FINE), np.float32) / 255


def _covered(cover, box) -> float:
    x0, y0, x1, y1 = np.floor(box).astype(int)
    part = cover[y0 : y1 + 1, x0 : x1 + 1]
    return float(part.mean()) if part.size else 0.0


def _develop(rng, image, width, height) -> Image.Image:
    image = image.reduce(_FINE)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7) * width / 224))
    light = rng.uniform(0.75, 1.15)
    image = image.point([min(255, round(value * light)) for value in range(256)] * 3)
    grain = rng.normal(128, rng.uniform(2, 8), (height, width)).clip(0, 255).astype(np.uint8)
    return ImageChops.add(image, Image.merge("RGB", [Image.fromarray(grain)] * 3), 1, -128)


def _rgb(color) -> tuple[int, int, int]:
    red, green, blue = np.clip(color, 0, 255)
    return int(red), int(green), int(blue)
