"""Drives answered as a whole, on a real corridor that was walked twice (VPR-Bench): recall without any training.

    python benchmarks/place_sequences.py path/to/corridor

The folder holds `ref/`, `query/` and `ground_truth.json`; a descriptor is 32 x 24 gray pixels, standardized.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from geohf.place.metrics import recall_of_ranks
from geohf.place.search import top_k
from geohf.place.sequences import center_descriptors, match_sequences
from geohf.report import markdown_table

CENTERS, METHODS = ("none", "database", "sequence", "online"), ("diagonal", "filter", "smooth")


def describe(folder: Path) -> np.ndarray:
    """(n, 768) standardized gray pixels of a folder's photographs, in the order of their names."""
    rows = []
    for path in sorted(folder.glob("*.jpg")):
        gray = Image.open(path).convert("L").resize((32, 24), Image.Resampling.BILINEAR)
        pixels = np.asarray(gray, np.float64).ravel()
        rows.append((pixels - pixels.mean()) / pixels.std())
    return np.array(rows)


def main(folder: Path) -> None:
    truth = json.loads((folder / "ground_truth.json").read_text())
    right = [truth[str(query)] for query in range(len(truth))]
    matches = np.cumsum([0, *map(len, right)]), np.concatenate(right)
    database, queries = describe(folder / "ref"), describe(folder / "query")

    def cell(rows: np.ndarray) -> str:
        return " / ".join(f"{value:.3f}" for value in recall_of_ranks(rows, matches).values())

    table = []
    for center in CENTERS:
        base, asked = center_descriptors(database, queries, None, center)
        row = {"center": center, "single frames": cell(top_k(base, asked, 10)[1].numpy())}
        for method in METHODS:
            row[method] = cell(match_sequences(asked @ base.T, method=method).rows)
        table.append(row)
    print(f"R@1 / R@5 / R@10 of {len(queries)} queries among {len(database)} references\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
