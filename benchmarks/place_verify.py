"""Verification on real photographs walked twice: recall of a frozen backbone, its answers verified, and behind a learned gate.

    python benchmarks/place_verify.py path/to/corridor:2 --backbone tf_efficientnet_lite0

The set is one of `place_real.py`. A gate is learned on every second query and measured on the others, and the other way round.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from place_real import RADIUS_M, write_tables

from geohf.data.tables import points_of
from geohf.geo import great_circle_m
from geohf.place import GeoPlaceModel, PlaceIndex
from geohf.place.drives import files_of, load_drives
from geohf.place.evaluation import maps_of_files
from geohf.place.verification import fit_gate, gap_of, gated, verified
from geohf.report.tables import markdown_table


def row_of(model: GeoPlaceModel, index: PlaceIndex, described: np.ndarray, queries, k: int) -> dict:
    """Recall at 1, and what verification costs, of a model's descriptors of queries in an index."""
    points, asked = index.points, points_of(queries)
    similarity, ranked = index.search(described, k)
    maps = partial(maps_of_files, model, files_of(queries), 32)
    _, after = verified(similarity, ranked, index.local, maps, np.arange(len(queries)), k)
    right = [great_circle_m(points[rows[:, 0]], asked) <= RADIUS_M for rows in (ranked, after)]
    gap = gap_of(similarity, points[ranked], model.config.negative_m)
    behind, opened = right[0].copy(), 0
    for half in (slice(0, None, 2), slice(1, None, 2)):
        others = np.setdiff1d(np.arange(len(gap)), np.arange(len(gap))[half])
        fit_gate(model.config, gap[others], right[0][others], right[1][others])
        doubtful = np.arange(len(gap))[half][gated(gap[half], model.config)]
        behind[doubtful], opened = right[1][doubtful], opened + len(doubtful)
    return {
        "verified answers": k,
        "frozen": right[0].mean(),
        "verified": right[1].mean(),
        "behind the gate": behind.mean(),
        "share verified": opened / len(gap),
        "bytes a picture": index.local.bytes_per_row,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("set", help="FOLDER:FRAMES")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--image_sizes", type=int, nargs="+", default=[224, 320])
    parser.add_argument("--verify", type=int, nargs="+", default=[10, 50])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        parts = [load_drives([table])[0] for table in write_tables(options.set, Path(scratch))]
        rows = []
        for side in options.image_sizes:
            model = GeoPlaceModel.from_backbone(options.backbone, image_size=side, pooling="avg")
            index = PlaceIndex.build(model, files_of(parts[0]), points_of(parts[0]), local=True)
            described = model.encode(files_of(parts[1]))
            rows += [{"pixels": side} | row_of(model, index, described, parts[1], k) for k in options.verify]
        print(markdown_table(rows, digits=3))


if __name__ == "__main__":
    main()
