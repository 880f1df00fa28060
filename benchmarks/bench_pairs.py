"""Pairs and matches within meters next to scikit-learn and SciPy.

OMP_NUM_THREADS=1 python benchmarks/bench_pairs.py [--points poses.csv ...]   # real points: id, lat, lon, no header
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from measure import Row, make_parser, medians, report, require
from points import chord, drives
from scipy.spatial import cKDTree
from sklearn.neighbors import BallTree, NearestNeighbors

from geohf.geo import EARTH_RADIUS_M, matches_within_m, pairs_within_m, unit_vectors
from geohf.place.metrics import recall_of_ranks

RADIUS_M = 25.0
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "daejeon"


def read_points(paths: list[Path]) -> np.ndarray:
    return np.concatenate([np.loadtxt(path, delimiter=",", usecols=(1, 2)) for path in paths])


def pairs_of(name: str, points: np.ndarray, rounds: int) -> list[Row]:
    def kd_tree():
        vectors = EARTH_RADIUS_M * unit_vectors(points)
        return cKDTree(vectors).query_pairs(chord(RADIUS_M), output_type="ndarray")

    def ball_tree():
        radians = np.radians(points)
        return BallTree(radians, metric="haversine").query_radius(radians, RADIUS_M / EARTH_RADIUS_M)

    found, plain, lists = pairs_within_m(points, RADIUS_M), kd_tree(), ball_tree()
    require(np.array_equal(found, plain[np.lexsort(plain.T[::-1])]), "pairs against the k-d tree")
    i, j = np.repeat(np.arange(len(points)), [len(row) for row in lists]), np.concatenate(lists)
    both = np.stack([i, j], 1)[i < j]
    require(np.array_equal(found, both[np.lexsort(both.T[::-1])]), "pairs against the BallTree")
    took = medians(
        {"ours": lambda: pairs_within_m(points, RADIUS_M), "k-d": kd_tree, "ball": ball_tree}, rounds
    )
    what = f"all {len(found):,} pairs within 25 m of {len(points):,} points, {name}"
    return [
        Row(what, "scikit-learn BallTree haversine", took["ball"] / took["ours"], 5),
        Row(what, "SciPy query_pairs on unit vectors, unsorted", took["ours"] / took["k-d"], 1.2, cost=True),
    ]


def recall(rounds: int) -> list[Row]:
    """Ground truth of 5,000 queries in 20,000 places, and recall of given ranks."""
    rng = np.random.default_rng(1)
    database = drives(20_000)
    queries = database[rng.integers(0, len(database), 5000)] + rng.normal(0, 3e-5, (5000, 2))
    ranked = rng.integers(0, len(database), (5000, 10))
    offsets, matches = matches_within_m(database, queries, RADIUS_M)
    for query in range(0, 5000, 2):  # half of the queries have a right answer somewhere
        own = matches[offsets[query] : offsets[query + 1]]
        if len(own):
            ranked[query, rng.integers(10)] = rng.choice(own)

    def ours():
        return recall_of_ranks(ranked, matches_within_m(database, queries, RADIUS_M))

    def tree():
        radius = RADIUS_M / EARTH_RADIUS_M
        search = NearestNeighbors(radius=radius, metric="haversine", algorithm="ball_tree")
        return search.fit(np.radians(database))

    def count(positives):
        right, counted = np.zeros(3), 0
        for answers, own in zip(ranked, positives, strict=True):
            counted += len(own) > 0
            for at, n in enumerate((1, 5, 10)):
                right[at] += np.isin(answers[:n], own).any()
        return dict(zip((1, 5, 10), right / counted, strict=True))

    def at_once():
        return count(tree().radius_neighbors(np.radians(queries), return_distance=False))

    def one_by_one():
        search, rows = tree(), np.radians(queries)
        return count([search.radius_neighbors(row[None], return_distance=False)[0] for row in rows])

    expected = ours()
    for way in (at_once, one_by_one):
        require(all(abs(way()[n] - expected[n]) < 1e-12 for n in expected), "recall against scikit-learn")
    took = medians({"ours": ours, "at once": at_once, "loop": one_by_one}, rounds)
    what = f"recall@1, 5, 10 and its {len(matches):,} matches, 20k x 5k"
    return [
        Row(what, "scikit-learn radius search in a loop", took["loop"] / took["ours"], 30),
        Row(
            what,
            "scikit-learn radius search at once, then a loop that counts",
            took["at once"] / took["ours"],
        ),
    ]


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--points", type=Path, nargs="+", help="tables of real points")
    options = parser.parse_args()
    files = options.points or sorted(SHARED.glob("*.csv"))
    rows = pairs_of("generated drives", drives(100_000), options.rounds)
    if files:
        rows += pairs_of("real drives", read_points(files), options.rounds)
    report(rows + recall(options.rounds), options.json)


if __name__ == "__main__":
    main()
