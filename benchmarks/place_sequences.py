"""Drives answered as a whole, on a real corridor that was walked twice (VPR-Bench): recall without any training.

    python benchmarks/place_sequences.py path/to/corridor
    python benchmarks/place_sequences.py path/to/corridor --backbone tf_efficientnet_lite0

The folder holds `ref/`, `query/` and `ground_truth.json`; a descriptor is 32 x 24 gray pixels, standardized, or the feature
of a backbone that sees the whole picture.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from geohf.place import GeoPlaceModel
from geohf.place.metrics import recall_of_ranks
from geohf.place.search import top_k
from geohf.place.sequences import center_descriptors, match_sequences
from geohf.report.tables import markdown_table

CENTERS, METHODS = ("none", "database", "sequence", "online"), ("diagonal", "filter", "smooth")
SHUFFLES = 20


def gray_pixels(files: list[Path]) -> np.ndarray:
    """(n, 768) standardized gray pixels of photographs."""
    rows = []
    for path in files:
        gray = Image.open(path).convert("L").resize((32, 24), Image.Resampling.BILINEAR)
        pixels = np.asarray(gray, np.float64).ravel()
        rows.append((pixels - pixels.mean()) / pixels.std())
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", help="describe by its features instead of pixels")
    options = parser.parse_args()
    logging.getLogger("geohf.place.sequences").setLevel(logging.ERROR)  # of shuffles it warns
    truth = json.loads((options.folder / "ground_truth.json").read_text())
    right = [truth[str(query)] for query in range(len(truth))]
    matches = np.cumsum([0, *map(len, right)]), np.concatenate(right)
    describe = gray_pixels
    if options.backbone:
        describe = GeoPlaceModel.from_backbone(options.backbone, projection_dim=None, fit="squeeze").encode
    database, queries = (describe(sorted((options.folder / part).glob("*.jpg"))) for part in ("ref", "query"))

    def cell(rows: np.ndarray) -> str:
        return " / ".join(f"{value:.3f}" for value in recall_of_ranks(rows, matches).values())

    table = []
    for center in CENTERS:
        base, asked = center_descriptors(database, queries, None, center)
        row = {"center": center, "single frames": cell(top_k(base, asked, 10)[1].numpy())}
        for method in METHODS:
            row[method] = cell(match_sequences(asked @ base.T, method=method).rows)
        base, asked = center_descriptors(database, queries[::-1].copy(), None, center)
        row["filter, walked backward"] = cell(match_sequences(asked @ base.T).rows[::-1])
        alone = 0
        for seed in range(SHUFFLES):
            order = np.random.default_rng(seed).permutation(len(queries))
            base, asked = center_descriptors(database, queries[order], None, center)
            alone += not match_sequences(asked @ base.T).chained.any()
        row["shuffled: answered frame by frame"] = f"{alone} of {SHUFFLES}"
        table.append(row)
    print(f"R@1 / R@5 / R@10 of {len(queries)} queries among {len(database)} references\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main()
