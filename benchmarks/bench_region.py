"""The filters of a region run next to pandas and scikit-learn, and what a region that is given saves.

Results are compared first and the script stops where they differ. CPU seconds, ways interleaved, medians of the
rounds, ratios.

    OMP_NUM_THREADS=1 python benchmarks/bench_region.py [--rows 100000] [--large 1000000] [--regions 8]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import DBSCAN

from geohf.geo import EARTH_RADIUS_M, unit_vectors
from geohf.geo.filters import (
    dbscan_filter,
    filter_groups,
    mad_filter,
    min_rows_filter,
    percentile_filter,
)
from geohf.region import GeoRegionConfig, GeoRegionModel
from geohf.report import markdown_table
from geohf.vision.backbones import TimmTowerConfig

EPS_M, MIN_SAMPLES = 50.0, 10


def town(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of twenty regions of a town, a fiftieth anywhere about it, and their regions."""
    rng = np.random.default_rng(seed)
    region = rng.integers(0, 20, rows)
    middle = np.array([36.35, 127.38]) + rng.uniform(-0.1, 0.1, (20, 2))
    points = middle[region] + rng.normal(0, 0.006, (rows, 2))
    stray = rng.random(rows) < 0.02
    points[stray] = np.array([36.35, 127.38]) + rng.normal(0, 0.5, (int(stray.sum()), 2))
    return points, region


def ours(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Rows that all filters keep."""
    rows = np.arange(len(points))
    for apply in (
        lambda p, r: mad_filter(p, 4.0),
        lambda p, r: dbscan_filter(p, EPS_M, MIN_SAMPLES),
        lambda p, r: filter_groups(p, r, percentile_filter, low=1, high=99),
        lambda p, r: min_rows_filter(r, 20),
    ):
        rows = rows[apply(points[rows], region[rows]).kept]
    return rows


def theirs(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The same with pandas and scikit-learn, on unit vectors, because on degrees it has the wrong metric."""
    table = pd.DataFrame({"latitude": points[:, 0], "longitude": points[:, 1], "region": region})
    columns = ["latitude", "longitude"]
    away = (table[columns] - table[columns].median()).abs()
    table = table[(away <= 4.0 * away.median()).all(axis=1)]
    eps = 2 * np.sin(EPS_M / EARTH_RADIUS_M / 2)
    labels = DBSCAN(eps=eps, min_samples=MIN_SAMPLES).fit(unit_vectors(table[columns].to_numpy())).labels_
    table = table[labels >= 0]
    groups = table.groupby("region")[columns]
    low, high = groups.transform("quantile", 0.01), groups.transform("quantile", 0.99)
    table = table[((table[columns] >= low) & (table[columns] <= high)).all(axis=1)]
    sizes = table.groupby("region")["latitude"].transform("size")
    return table.index[sizes >= 20].to_numpy()


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each way."""
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def filters(rows: int, large: int) -> list[dict]:
    """Ours to theirs, and a large table in a process of its own."""
    points, region = town(rows)
    if ours(points, region).tolist() != theirs(points, region).tolist():
        sys.exit("the filters differ from those of pandas and scikit-learn")
    found = medians({"ours": lambda: ours(points, region), "theirs": lambda: theirs(points, region)}, 3)
    alone = subprocess.run(
        [sys.executable, __file__, "--alone", str(large)], capture_output=True, text=True, check=True
    )
    seconds, mebibytes = map(float, alone.stdout.split())
    return [
        {"what": f"filters of {rows:,} rows, pandas and scikit-learn to geohf", "ratio": found["theirs"] / found["ours"]},
        {"what": f"filters of {large:,} rows, CPU seconds", "value": seconds},
        {"what": "its memory above the table, MiB", "value": mebibytes},
    ]  # fmt: skip


def alone(rows: int) -> None:
    """CPU seconds and additional peak memory of our filters on a large table."""
    points, region = town(rows)
    ours(*town(1000))  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    ours(points, region)
    seconds = time.process_time() - start
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def answers(regions: int) -> list[dict]:
    """What it costs to find the region: routed answers to answers with the region given."""
    pixels = torch.randn(32, 3, 64, 64)
    numbers = torch.arange(32) % regions
    rows = []
    for experts in ("separate", "shared"):
        config = GeoRegionConfig(
            vision_config=TimmTowerConfig(architecture="resnet10t", image_size=64),
            feature_size=512,
            id2label={i: str(i) for i in range(regions)},
            scalers=[{"center": [36.0, 127.0 + i], "scale": [0.1, 0.1]} for i in range(regions)],
            experts=experts,
        )
        model = GeoRegionModel(config).eval()
        with torch.inference_mode():
            found = medians(
                {"routed": lambda: model(pixels), "given": lambda: model(pixels, regions=numbers)},  # noqa: B023
                5,
            )
        name = f"{experts} experts of {regions} regions, routed to given"
        rows.append({"what": name, "ratio": found["routed"] / found["given"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone)
        return
    print(markdown_table(filters(options.rows, options.large) + answers(options.regions)))


if __name__ == "__main__":
    main()
