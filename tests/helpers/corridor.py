"""The corridor of VPR-Bench by pixels alone: 111 references and 111 queries, 32 x 24 gray, standardized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def describe(folder: Path) -> np.ndarray:
    """(n, 768) of a folder's photographs, in the order of their names."""
    rows = []
    for path in sorted(folder.glob("*.jpg")):
        gray = Image.open(path).convert("L").resize((32, 24), Image.Resampling.BILINEAR)
        pixels = np.asarray(gray, np.float64).ravel()
        rows.append((pixels - pixels.mean()) / pixels.std())
    return np.array(rows)


def read_corridor(folder: Path) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """References, queries, and what is right, as `recall_of_ranks` takes it."""
    truth = json.loads((folder / "ground_truth.json").read_text())
    right = [truth[str(query)] for query in range(len(truth))]
    matches = np.cumsum([0, *map(len, right)]), np.concatenate(right)
    return describe(folder / "ref"), describe(folder / "query"), matches
