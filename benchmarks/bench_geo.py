"""Distance matrices next to scikit-learn and to the textbook form, and how exact they are in float32.

OMP_NUM_THREADS=1 python benchmarks/bench_geo.py
"""

from __future__ import annotations

import numpy as np
import torch
from measure import Row, make_parser, medians, report, require
from points import world
from sklearn.metrics.pairwise import haversine_distances

from geohf.geo import EARTH_RADIUS_M, distance_matrix_m, great_circle_m


def textbook(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The haversine as it is usually written: inexact, and NaN, towards the antipode."""
    p, q = torch.deg2rad(a)[:, None], torch.deg2rad(b)[None]
    half = torch.sin((p - q) / 2) ** 2
    h = half[..., 0] + torch.cos(p[..., 0]) * torch.cos(q[..., 0]) * half[..., 1]
    return 2 * EARTH_RADIUS_M * torch.asin(torch.sqrt(h))


def at_all_distances(points: np.ndarray) -> np.ndarray:
    """Of these points (n, 2), the first third moved by 1 m to 1,000 km, the antipodes of these, and points anywhere."""
    third = len(points) // 3
    moved = points[:third] + np.geomspace(1e-5, 10, third)[:, None] * [0.6, 0.8]
    moved[:, 0] = moved[:, 0].clip(-90, 90)
    opposite = moved * [-1, 1] + [0, 180]
    near = np.concatenate([moved, opposite])
    near[:, 1] = (near[:, 1] + 180) % 360 - 180
    return np.concatenate([near, world(len(points) - len(near), 1)])


def worst(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error in meters; infinite where a distance is NaN."""
    return float((found.double() - exact).abs().nan_to_num(torch.inf).max())


def main() -> None:
    parser = make_parser(__doc__, rounds=9)
    parser.add_argument("--points", type=int, default=3000, help="in each of the two tables")
    options = parser.parse_args()
    a, b = world(options.points), at_all_distances(world(options.points))
    single_a, single_b = torch.from_numpy(a).float(), torch.from_numpy(b).float()

    def scikit():
        return haversine_distances(np.radians(a), np.radians(b)) * EARTH_RADIUS_M

    exact, matrix = great_circle_m(a[:, None], b[None]), distance_matrix_m(a, b)
    ordinary = exact < 0.9 * np.pi * EARTH_RADIUS_M  # scikit-learn is meters off at the antipode
    require(np.abs(matrix - exact).max() < 1e-7, "distance matrix against great_circle_m")
    require(np.abs(matrix - scikit())[ordinary].max() < 1e-6, "distance matrix against scikit-learn")
    double = great_circle_m(single_a.double()[:, None], single_b.double()[None])
    errors = {
        "great_circle_m": worst(great_circle_m(single_a[:, None], single_b[None]), double),
        "distance_matrix_m": worst(distance_matrix_m(single_a, single_b), double),
        "textbook asin form": worst(textbook(single_a, single_b), double),
    }
    took = medians(
        {
            "float64": lambda: distance_matrix_m(a, b),
            "scikit-learn": scikit,
            "float32": lambda: distance_matrix_m(single_a, single_b),
            "textbook": lambda: textbook(single_a, single_b),
        },
        options.rounds,
    )
    size = f"{options.points} x {options.points}"
    rows = [
        Row(
            f"distance matrix {size}, float64",
            "scikit-learn haversine",
            took["scikit-learn"] / took["float64"],
        ),
        Row(
            f"distance matrix {size}, float32",
            "textbook asin form, float32",
            took["textbook"] / took["float32"],
        ),
    ]
    rows += [
        Row(f"largest error in float32, {name}", "0 m to the antipode, float64", error, cost=True, unit="m")
        for name, error in errors.items()
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
