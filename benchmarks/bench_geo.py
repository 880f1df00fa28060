"""Distances, radius pairs, matches and DBSCAN next to scikit-learn and SciPy.

Results are compared first and the script stops where they differ. Then the ways run in turn, round by round, and
the medians of their CPU time are printed as ratios: how many times the other way's time is that of geohf.

    OMP_NUM_THREADS=1 python benchmarks/bench_geo.py [--quick] [--only dbscan]
    OMP_NUM_THREADS=1 python benchmarks/bench_geo.py --points table.csv   # id, lat, lon, no header
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from geohf.geo import (
    EARTH_RADIUS_M,
    dbscan,
    distance_matrix_m,
    great_circle_m,
    matches_within_m,
    pairs_within_m,
    unit_vectors,
)

R = EARTH_RADIUS_M


def chord(radius_m: float) -> float:
    return 2 * R * np.sin(radius_m / (2 * R))


def world(count: int, seed: int = 0) -> np.ndarray:
    """Points spread evenly over the sphere."""
    rng = np.random.default_rng(seed)
    return np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], 1)


def cities(count: int, seed: int = 0) -> np.ndarray:
    """Points about twelve cities, and a twentieth anywhere between them."""
    rng = np.random.default_rng(seed)
    centre = np.stack([rng.uniform(28, 47, 12), rng.uniform(-122, -72, 12)], 1)
    member = rng.choice(12, count, p=rng.dirichlet(np.full(12, 2.0)))
    points = centre[member] + rng.normal(0, 1, (count, 2)) * rng.uniform(0.1, 0.4, 12)[member, None]
    stray = rng.random(count) < 0.05
    points[stray] = np.stack([rng.uniform(25, 49, count), rng.uniform(-124, -67, count)], 1)[stray]
    return points


def drives(count: int, seed: int = 0) -> np.ndarray:
    """Twenty winding drives through one town, a point every 5 m with 3 m of GPS noise."""
    rng = np.random.default_rng(seed)
    length = count // 20
    heading = np.cumsum(rng.normal(0, 0.05, (20, length)), 1)
    path = np.cumsum(5 * np.stack([np.sin(heading), np.cos(heading)], -1), 1)
    path = (path + rng.uniform(-5000, 5000, (20, 1, 2)) + rng.normal(0, 3, path.shape)).reshape(-1, 2)
    metre = np.degrees(1 / R)
    return np.array([36.3, 127.4]) + path * metre / [1, np.cos(np.radians(36.3))]


def compare(title: str, ways: dict, rounds: int, slow: tuple[str, ...] = ()) -> None:
    """Print how many times the first way's CPU time the others take; ``slow`` ones run once."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first round warms up
        for name, way in ways.items():
            if name in slow and number != 1:
                continue
            begin = time.process_time()
            way()
            if number:
                spent[name].append(time.process_time() - begin)
    median = {name: statistics.median(values) for name, values in spent.items()}
    first = next(iter(median))
    print(f"\n{title}")
    for name, value in median.items():
        print(f"  {name:<58}{value / median[first]:8.2f}")


def require(same: bool, what: str) -> None:
    if not same:
        sys.exit(f"results differ: {what}")


def bench_distance(quick: bool, rounds: int) -> None:
    from sklearn.metrics.pairwise import haversine_distances

    count = 1000 if quick else 3000
    a, b = world(count), world(count, 1)
    single_a, single_b = torch.from_numpy(a).float(), torch.from_numpy(b).float()

    def textbook():
        p, q = torch.deg2rad(single_a)[:, None], torch.deg2rad(single_b)[None]
        half = torch.sin((p - q) / 2) ** 2
        return (
            2
            * R
            * torch.asin(
                torch.sqrt(half[..., 0] + torch.cos(p[..., 0]) * torch.cos(q[..., 0]) * half[..., 1])
            )
        )

    exact = great_circle_m(a[:, None], b[None])
    matrix = distance_matrix_m(a, b)
    require(np.abs(matrix - exact).max() < 1e-7, "distance matrix against great_circle_m")
    ordinary = exact < 0.9 * np.pi * R
    scikit = haversine_distances(np.radians(a), np.radians(b)) * R
    require(np.abs(matrix - scikit)[ordinary].max() < 1e-6, "distance matrix against scikit-learn")
    double = great_circle_m(single_a.double()[:, None], single_b.double()[None])
    print("\nlargest error in metres, all distances of two tables spread over the sphere, float32")
    for name, found in (
        ("great_circle_m", great_circle_m(single_a[:, None], single_b[None])),
        ("distance_matrix_m", distance_matrix_m(single_a, single_b)),
        ("textbook asin form", textbook()),
    ):
        print(f"  {name:<58}{(found.double() - double).abs().nan_to_num(np.inf).max().item():8.2f}")
    compare(
        f"distance matrix, {count} x {count}",
        {
            "distance_matrix_m, numpy float64": lambda: distance_matrix_m(a, b),
            "distance_matrix_m, torch float32": lambda: distance_matrix_m(single_a, single_b),
            "great_circle_m, torch float32, at once": lambda: great_circle_m(
                single_a[:, None], single_b[None]
            ),
            "textbook asin form, torch float32, at once": textbook,
            "scikit-learn haversine_distances, float64": lambda: haversine_distances(
                np.radians(a), np.radians(b)
            ),
        },
        rounds,
    )


def bench_pairs(points: np.ndarray, title: str, rounds: int, radius_m: float = 25.0) -> None:
    from scipy.spatial import cKDTree
    from sklearn.neighbors import BallTree

    def plain():
        return cKDTree(R * unit_vectors(points)).query_pairs(chord(radius_m), output_type="ndarray")

    def ball_tree():
        radians = np.radians(points)
        return BallTree(radians, metric="haversine").query_radius(radians, radius_m / R)

    found, expected = pairs_within_m(points, radius_m), plain()
    require(np.array_equal(found, expected[np.lexsort(expected.T[::-1])]), "pairs against the plain k-d tree")
    compare(
        f"pairs within {radius_m:g} m, {title}: {len(points)} points, {len(found)} pairs",
        {
            "pairs_within_m (sorted, exact at the rim)": lambda: pairs_within_m(points, radius_m),
            "SciPy k-d tree on unit vectors, unsorted": plain,
            "scikit-learn BallTree haversine": ball_tree,
        },
        rounds,
    )


def bench_matches(quick: bool, rounds: int, radius_m: float = 25.0) -> None:
    from sklearn.neighbors import NearestNeighbors

    database = drives(4000 if quick else 20_000)
    rng = np.random.default_rng(1)
    count = 1000 if quick else 5000
    queries = database[rng.integers(0, len(database), count)] + rng.normal(0, 3e-5, (count, 2))

    def search():
        return NearestNeighbors(radius=radius_m / R, metric="haversine", algorithm="ball_tree").fit(
            np.radians(database)
        )

    def batch():
        return [np.sort(row) for row in search().radius_neighbors(np.radians(queries), return_distance=False)]

    def loop():
        tree, rows = search(), np.radians(queries)
        return [np.sort(tree.radius_neighbors(row[None], return_distance=False)[0]) for row in rows]

    offsets, indices = matches_within_m(database, queries, radius_m)
    expected = batch()
    require(
        np.array_equal(np.concatenate(expected), indices)
        and np.array_equal(np.diff(offsets), [len(row) for row in expected]),
        "matches against scikit-learn",
    )
    compare(
        f"matches within {radius_m:g} m, {len(database)} x {count}, {len(indices)} matches",
        {
            "matches_within_m": lambda: matches_within_m(database, queries, radius_m),
            "scikit-learn radius search, all queries at once": batch,
            "scikit-learn radius search in a Python loop": loop,
        },
        rounds,
        slow=("scikit-learn radius search in a Python loop",),
    )


def same_clusters(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labelings are one up to numbering, noise included."""
    both = np.unique(np.stack([a, b]), axis=1)
    one_to_one = len(np.unique(both[0])) == both.shape[1] == len(np.unique(both[1]))
    return one_to_one and np.array_equal(a < 0, b < 0)


def bench_dbscan(points: np.ndarray, title: str, eps_m: float, rounds: int, haversine: bool = True) -> None:
    from sklearn.cluster import DBSCAN

    def vectors():
        return DBSCAN(eps=chord(eps_m), min_samples=10).fit_predict(R * unit_vectors(points))

    def ball_tree():
        model = DBSCAN(eps=eps_m / R, min_samples=10, metric="haversine", algorithm="ball_tree")
        return model.fit_predict(np.radians(points))

    found = dbscan(points, eps_m, 10)
    require(same_clusters(found, vectors()), f"dbscan against scikit-learn on unit vectors, {title}")
    ways = {"dbscan": lambda: dbscan(points, eps_m, 10), "scikit-learn on unit vectors": vectors}
    if haversine:
        ways["scikit-learn haversine BallTree"] = ball_tree
    compare(
        f"DBSCAN, {title}: {len(points)} points, eps {eps_m:g} m, {found.max() + 1} clusters, "
        f"{np.mean(found < 0):.0%} noise",
        ways,
        rounds,
        slow=("scikit-learn on unit vectors", "scikit-learn haversine BallTree"),
    )


def resident(field: str) -> int:
    """Bytes that the kernel reports for this process: VmRSS is now, VmHWM the peak."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def measure_memory(kind: str, count: int, eps_m: float) -> None:
    """Run in a process of its own: print how far the peak of resident memory rises during dbscan."""
    points = cities(count) if kind == "cities" else world(count)
    dbscan(points[:1000], eps_m, 10)  # SciPy's imports are no memory of dbscan
    # Forget the peak of making the points. Not ru_maxrss: a child starts from its parent's peak.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = resident("VmRSS")
    dbscan(points, eps_m, 10)
    print(resident("VmHWM") - before)


def bench_memory(quick: bool) -> None:
    count = 100_000 if quick else 1_000_000
    if not Path("/proc/self/clear_refs").exists():
        print("\npeak memory: only measured on Linux")
        return
    print(f"\npeak memory that DBSCAN adds, {count} points (table of points: {count * 16 / 2**20:.0f} MiB)")
    for kind, eps_m in (("cities", 500), ("cities", 5000), ("world", 5000), ("world", 20_000)):
        command = [sys.executable, __file__, "--memory", kind, str(count), str(eps_m)]
        added = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"  {f'{kind}, eps {eps_m} m':<58}{added / 2**20:5.0f} MiB")
        require(added < 2**30, f"more than 1 GiB for {kind}, eps {eps_m} m")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small tables, few rounds")
    parser.add_argument(
        "--only", choices=["distance", "pairs", "matches", "dbscan", "memory"], help="one part"
    )
    parser.add_argument("--points", help="also measure on this CSV of id, lat, lon without a header")
    parser.add_argument("--memory", nargs=3, metavar=("KIND", "COUNT", "EPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory[0], int(options.memory[1]), float(options.memory[2]))
        return
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 9
    table = None
    if options.points:
        table = np.loadtxt(options.points, delimiter=",", usecols=(1, 2))
    wanted = [options.only] if options.only else ["distance", "pairs", "matches", "dbscan", "memory"]
    size = 10_000 if options.quick else 100_000
    print("CPU time as a multiple of the first line's; medians of interleaved rounds, slow ways once")
    if "distance" in wanted:
        bench_distance(options.quick, rounds)
    if "pairs" in wanted:
        bench_pairs(drives(size), "drives", rounds)
        if table is not None:
            bench_pairs(table, "given table", rounds)
    if "matches" in wanted:
        bench_matches(options.quick, rounds)
    if "dbscan" in wanted:
        bench_dbscan(cities(size), "dense cities", 5000, rounds)
        bench_dbscan(cities(size), "cities, small eps", 500, rounds)
        bench_dbscan(world(size), "sparse world", 5000, rounds)
        if table is not None:
            bench_dbscan(table, "given table", 25, rounds)
    if "memory" in wanted:
        bench_memory(options.quick)


if __name__ == "__main__":
    main()
