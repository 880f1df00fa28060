"""The filters of a region run next to pandas and scikit-learn, and what a region that is given saves.

OMP_NUM_THREADS=1 python benchmarks/bench_region.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from measure import Row, make_parser, medians, report, require
from memory import alone, peak_added
from points import chord, town
from sklearn.cluster import DBSCAN

from geohf.geo import EARTH_RADIUS_M, unit_vectors
from geohf.geo.filters import dbscan_filter, filter_groups, mad_filter, min_rows_filter, percentile_filter
from geohf.region import GeoRegionConfig, GeoRegionModel
from geohf.vision.backbones import TimmTowerConfig

EPS_M, MIN_SAMPLES = 50.0, 10


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
    model = DBSCAN(eps=chord(EPS_M) / EARTH_RADIUS_M, min_samples=MIN_SAMPLES)
    table = table[model.fit(unit_vectors(table[columns].to_numpy())).labels_ >= 0]
    groups = table.groupby("region")[columns]
    low, high = groups.transform("quantile", 0.01), groups.transform("quantile", 0.99)
    table = table[((table[columns] >= low) & (table[columns] <= high)).all(axis=1)]
    sizes = table.groupby("region")["latitude"].transform("size")
    return table.index[sizes >= 20].to_numpy()


def added_by_filters(count: int) -> float:
    """MiB that the filters add to the process's peak."""
    ours(*town(1000))  # imports
    points, region = town(count)
    return peak_added(lambda: ours(points, region))


def filters(count: int, large: int, rounds: int) -> list[Row]:
    table = town(count)
    require(np.array_equal(ours(*table), theirs(*table)), "the filters against pandas and scikit-learn")
    took = medians({"ours": lambda: ours(*table), "theirs": lambda: theirs(*table)}, rounds)
    return [
        Row(f"all filters of {count:,} rows", "pandas and scikit-learn", took["theirs"] / took["ours"]),
        Row(
            f"memory of all filters, {large:,} rows",
            f"{large * 24 / 2**20:.0f} MiB of points and regions",
            alone(added_by_filters, large),
            cost=True,
            unit="MiB",
        ),
    ]


def routing(experts: str, regions: int, rounds: int) -> Row:
    """What it costs to find the region first."""
    config = GeoRegionConfig(
        vision_config=TimmTowerConfig(architecture="resnet10t", image_size=64),
        feature_size=512,
        id2label={i: str(i) for i in range(regions)},
        scalers=[{"center": [36.0, 127.0 + i], "scale": [0.1, 0.1]} for i in range(regions)],
        experts=experts,
    )
    model = GeoRegionModel(config).eval()
    pixels, numbers = torch.randn(32, 3, 64, 64), torch.arange(32) % regions
    with torch.inference_mode():
        took = medians(
            {"routed": lambda: model(pixels), "given": lambda: model(pixels, regions=numbers)}, rounds
        )
    return Row(
        f"a routed photograph, {experts} experts of {regions} regions",
        "one with its region given",
        took["routed"] / took["given"],
        cost=True,
    )


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=100_000, help="of the table that is timed")
    parser.add_argument("--large", type=int, default=1_000_000, help="rows of the table whose memory counts")
    parser.add_argument("--regions", type=int, default=8)
    options = parser.parse_args()
    rows = filters(options.rows, options.large, options.rounds)
    rows += [routing(experts, options.regions, options.rounds) for experts in ("separate", "shared")]
    report(rows, options.json)


if __name__ == "__main__":
    main()
