"""The shape of a bicycle from its side: what is drawn of each of its 22 parts, in units of the wheelbase.

The back axle is the origin, x points to the front axle at (1, 0), y points up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

RUST = np.array([150.0, 78.0, 36.0])


@dataclass(frozen=True)
class Stroke:
    """Points (n, 2) joined by a line of a width, or, where the width is 0, a filled polygon; and an RGB color."""

    points: np.ndarray
    color: np.ndarray
    width: float = 0.0


@dataclass
class Build:
    """What differs from one bicycle to the next: lengths in wheelbases, angles in radians, RGB colors."""

    wheel: float
    saddle: float
    steer: float
    crank: float
    sweep: float
    step_through: bool
    frame: np.ndarray
    guard: np.ndarray
    leather: np.ndarray
    metal: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """A bicycle by chance."""
        frame = rng.uniform(25, 215) + rng.normal(0, 45, 3)
        black = rng.uniform(15, 45) * np.ones(3)
        return cls(
            wheel=rng.uniform(0.31, 0.36),
            saddle=rng.uniform(0.60, 0.70),
            steer=rng.uniform(0.68, 0.78),
            crank=rng.uniform(-0.7, 0.7),
            sweep=rng.uniform(0.10, 0.18),
            step_through=bool(rng.integers(2)),
            frame=frame,
            guard=frame if rng.random() < 0.4 else black,
            leather=np.array([110.0, 65.0, 35.0]) if rng.random() < 0.4 else black,
            metal=rng.uniform(140, 200) * np.ones(3),
        )


def frame_of(build: Build) -> list[Stroke]:
    """The frame with its fork, seat post and stem, and the mounts that stay where a part is missing."""
    b, color = build, build.frame
    hub, crank, seat, head, fork = (0, 0), (0.43, -0.03), (0.31, 0.46), (0.80, 0.52), (0.85, 0.36)
    low = (0.36, 0.22) if b.step_through else (0.32, 0.42)
    tubes = [hub, crank], [hub, seat], [crank, seat], [low, head], [crank, fork], [head, fork], [fork, (1, 0)]
    gray = 0.8 * b.metal
    return [
        *(_line(tube, color, 0.034) for tube in tubes),
        _line([seat, (0.275, b.saddle - 0.02)], gray, 0.028),
        _line([head, (0.775, b.steer - 0.02)], gray, 0.03),
        _line([(0.87, 0.45), (0.90, 0.46)], gray, 0.02),  # of the front light
        _line([(-0.26, 0.26), (-0.31, 0.27)], gray, 0.02),  # of the back light
        _line([(0.945, 0.20), (0.975, 0.24)], gray, 0.02),  # of the dynamo
        _ring((0.43, -0.03), 0.085, gray, 0.02, 18),
    ]


def shapes(build: Build) -> dict[str, list[Stroke]]:
    """What is drawn of each whole part, from the farthest to the nearest."""
    b, r = build, build.wheel
    dark, far = np.full(3, 30.0), 0.6
    arm = np.array([np.cos(b.crank), -np.sin(b.crank)])
    pedal = [np.array([0.43, -0.03]) + turn * 0.17 * arm for turn in (1, -1)]
    grip = np.array([0.775 - b.sweep, b.steer + 0.01])
    grips = [grip, grip + np.array([0.13, 0.05])]  # on the camera's side, and on the other one
    return {
        "back_wheel": _wheel((0.0, 0.0), r, b.metal),
        "front_wheel": _wheel((1.0, 0.0), r, b.metal),
        "back_mudguard": [_arc((0, 0), r + 0.035, 35, 190, b.guard, 0.035)],
        "front_mudguard": [_arc((1, 0), r + 0.035, 25, 150, b.guard, 0.035)],
        "dress_guard": [
            _line([(0.02, 0.05), r * np.array([np.cos(a), np.sin(a)])], 0.4 * b.guard + 20, 0.016)
            for a in np.radians(np.linspace(55, 125, 9))
        ]
        + [_arc((0, 0), r - 0.015, 55, 125, 0.4 * b.guard + 20, 0.03)],
        "back_pedal": _pedal(pedal[1], far * b.metal, far * dark),
        "chain": [
            _line([(0, 0.05), (0.43, 0.055)], dark, 0.02),
            _line([(0, -0.05), (0.43, -0.115)], dark, 0.02),
            _ring((0, 0), 0.05, dark, 0.02, 12),
        ],
        "gear_case": [_blob([(-0.07, 0.0), (-0.04, 0.085), (0.30, 0.10), (0.50, 0.085), (0.50, 0.01), (0.0, 0.005)], 0.85 * b.guard + 25)],
        "kickstand": [_line([(0.30, -0.04), (0.20, -r - 0.01)], 0.9 * b.metal, 0.03), _line([(0.20, -r - 0.01), (0.25, -r - 0.01)], dark, 0.03)],
        "lock": [_ring((0.115, 0.235), 0.06, np.array([40.0, 60.0, 130.0]), 0.04, 14)],
        "front_pedal": [_line([(0.43, -0.03), pedal[0]], b.metal, 0.03), *_pedal(pedal[0], b.metal, dark)],
        "saddle": [_blob([(0.13, 0.05), (0.15, -0.015), (-0.03, -0.05), (-0.13, -0.055), (-0.16, 0.01), (-0.10, 0.05)], b.leather, (0.275, b.saddle))],
        "back_light": [_blob(_square(0.045, 0.04), np.array([205.0, 25.0, 30.0]), (-0.335, 0.28)), _blob(_square(0.015, 0.04), dark, (-0.29, 0.28))],
        "back_reflector": [_blob(_square(0.022, 0.05), np.array([240.0, 110.0, 30.0]), (-0.385, 0.12))],
        "front_light": [_blob([(-0.05, -0.045), (0.03, -0.055), (0.03, 0.055), (-0.05, 0.045)], b.metal, (0.92, 0.465)), _blob(_square(0.018, 0.055), np.array([255.0, 240.0, 150.0]), (0.955, 0.465))],
        "dynamo": [_line([(0.985, 0.17), (0.955, 0.29)], 0.55 * b.metal, 0.06), _line([(0.952, 0.30), (0.945, 0.33)], dark, 0.04)],
        "back_hand_break": [_line([grips[1] + (-0.02, -0.045), grips[1] + (0.07, -0.03), grips[1] + (0.12, 0.0)], far * b.metal, 0.022)],
        "back_handle": [_line([grips[1] + (-0.02, 0.0), grips[1] + (0.10, 0.02)], far * b.leather + 10, 0.045)],
        "steer": [_line([grips[0], (0.775, b.steer - 0.01), (0.80, b.steer + 0.02), grips[1] + (0.04, 0.01)], b.metal, 0.032), _line([(0.775, b.steer - 0.10), (0.775, b.steer)], b.metal, 0.04)],
        "front_handbreak": [_line([grips[0] + (0.10, -0.03), grips[0] + (0.02, -0.06), grips[0] + (-0.06, -0.065)], b.metal, 0.022)],
        "front_handle": [_line([grips[0] + (-0.06, 0.0), grips[0] + (0.09, 0.0)], b.leather, 0.05)],
        "bell": [_arc((0.72, b.steer + 0.035), 0.028, -10, 190, 1.2 * b.metal, 0.05), _line([(0.69, b.steer + 0.02), (0.75, b.steer + 0.02)], dark, 0.018)],
    }  # fmt: skip


def damaged(part: str, strokes: list[Stroke], rng: np.random.Generator) -> list[Stroke]:
    """The strokes of a broken part: bent, rusty, with pieces missing and a crack across."""
    points = np.concatenate([stroke.points for stroke in strokes])
    low, high = points.min(0), points.max(0)
    middle, reach = (low + high) / 2, max(float((high - low).max()), 0.06)
    broken = []
    for number, stroke in enumerate(strokes):
        color = 0.3 * stroke.color + 0.7 * RUST
        bent = stroke.points + rng.normal(0, 0.05 * reach, (len(stroke.points), 2))
        if part.endswith("wheel"):
            if number >= 2 and rng.random() < 0.5:
                continue  # a spoke that is gone
            angle = np.arctan2(*(stroke.points - middle).T)
            dent = 1 - 0.3 * np.exp(-(((angle - 2.4) / 0.5) ** 2)) + 0.05 * np.sin(3 * angle)
            bent = middle + (stroke.points - middle) * dent[:, None]
        elif not stroke.width:
            bite = rng.integers(len(bent))
            bent[bite] = 0.25 * bent[bite] + 0.75 * middle
        broken.append(replace(stroke, points=bent, color=color))
    zigzag = middle + reach * 0.5 * np.array([(-0.7, 0.5), (-0.1, 0.1), (-0.25, -0.1), (0.6, -0.6)])
    return [*broken, Stroke(zigzag.clip(low, high), np.array([235.0, 205.0, 160.0]), 0.02)]


def _wheel(middle, radius, metal) -> list[Stroke]:
    tyre = _ring(middle, radius - 0.015, np.full(3, 28.0), 0.045, 28)
    rim = _ring(middle, radius - 0.05, metal, 0.016, 28)
    turns = np.arange(9) * (np.pi / 9)
    ends = (radius - 0.05) * np.stack([np.cos(turns), np.sin(turns)], 1)
    spokes = [_line([middle + end, middle - end], 0.75 * metal, 0.008) for end in ends]
    return [tyre, rim, *spokes, _ring(middle, 0.02, metal, 0.04, 8)]


def _pedal(at, metal, dark) -> list[Stroke]:
    return [_blob(_square(0.055, 0.022), dark, at), _blob(_square(0.02, 0.022), metal, at)]


def _line(points, color, width) -> Stroke:
    return Stroke(np.array(points, float), np.asarray(color, float), width)


def _blob(points, color, at=(0.0, 0.0)) -> Stroke:
    return Stroke(np.array(points, float) + at, np.asarray(color, float))


def _arc(middle, radius, start, end, color, width) -> Stroke:
    turn = np.radians(np.linspace(start, end, 3 + abs(end - start) // 14))
    return _line(np.array(middle) + radius * np.stack([np.cos(turn), np.sin(turn)], 1), color, width)


def _ring(middle, radius, color, width, corners) -> Stroke:
    turn = np.linspace(0, 2 * np.pi, corners + 1)
    return _line(np.array(middle) + radius * np.stack([np.cos(turn), np.sin(turn)], 1), color, width)


def _square(x, y):
    return [(-x, -y), (x, -y), (x, y), (-x, y)]
