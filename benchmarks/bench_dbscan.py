"""Exact DBSCAN next to scikit-learn, and the memory that it takes.

OMP_NUM_THREADS=1 python benchmarks/bench_dbscan.py
"""

from __future__ import annotations

import numpy as np
from measure import Row, make_parser, medians, report, require
from memory import alone, peak_added
from points import chord, cities, world
from sklearn.cluster import DBSCAN

from geohf.geo import EARTH_RADIUS_M, dbscan, unit_vectors

TABLES = {"cities": cities, "world": world}
MIN_SAMPLES = 10


def same_clusters(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labelings are one up to numbering, noise included."""
    both = np.unique(np.stack([a, b]), axis=1)
    one_to_one = len(np.unique(both[0])) == both.shape[1] == len(np.unique(both[1]))
    return one_to_one and np.array_equal(a < 0, b < 0)


def compare(title: str, points: np.ndarray, eps_m: float, rounds: int, goals: tuple) -> list[Row]:
    """Ours to scikit-learn's two ways that measure great circles."""
    found = {}

    def ours():
        return dbscan(points, eps_m, MIN_SAMPLES)

    def ball_tree():
        model = DBSCAN(
            eps=eps_m / EARTH_RADIUS_M, min_samples=MIN_SAMPLES, metric="haversine", algorithm="ball_tree"
        )
        found["haversine BallTree"] = model.fit_predict(np.radians(points))

    def vectors():
        model = DBSCAN(eps=chord(eps_m), min_samples=MIN_SAMPLES)
        found["unit vectors"] = model.fit_predict(EARTH_RADIUS_M * unit_vectors(points))

    ways = {"haversine BallTree": ball_tree, "unit vectors": vectors}
    took = medians({"ours": ours, **ways}, rounds, slow=tuple(ways))  # their labels are compared below
    for name, labels in found.items():
        require(same_clusters(ours(), labels), f"DBSCAN against scikit-learn, {name}, {title}")
    return [
        Row(f"exact DBSCAN, {title}", f"scikit-learn, {name}", took[name] / took["ours"], goal)
        for name, goal in zip(ways, goals, strict=True)
    ]


def added_by(kind: str, count: int, eps_m: float) -> float:
    """MiB that DBSCAN adds to the process's peak."""
    points = TABLES[kind](count)
    dbscan(points[:1000], eps_m, MIN_SAMPLES)  # SciPy's imports are no memory of dbscan
    return peak_added(lambda: dbscan(points, eps_m, MIN_SAMPLES))


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--points", type=int, default=100_000, help="in the tables that are timed")
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="points of the table whose memory counts"
    )
    options = parser.parse_args()
    count = f"{options.points:,}"
    rows = [
        *compare(f"{count} dense points, eps 5 km", cities(options.points), 5000, options.rounds, (20, 5)),
        *compare(
            f"{count} sparse points, eps 5 km", world(options.points), 5000, options.rounds, (None, None)
        ),
    ]
    for kind, eps_m in (("cities", 500), ("cities", 5000), ("world", 5000), ("world", 20_000)):
        what = f"memory of DBSCAN, {options.large:,} points, {kind}, eps {eps_m / 1000:g} km"
        table = f"{options.large * 16 / 2**20:.0f} MiB of points"
        rows.append(
            Row(what, table, alone(added_by, kind, options.large, eps_m), 1024, cost=True, unit="MiB")
        )
    report(rows, options.json)


if __name__ == "__main__":
    main()
