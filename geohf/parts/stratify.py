"""Sharing out photos that carry many labels each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_VERSION = re.compile(r"\.rf\.[0-9A-Za-z]{8,}\.\w+$")


def stratify(labels: np.ndarray, shares: Sequence[float], seed: int = 42) -> np.ndarray:
    """Assign rows to splits so that every label is shared out in proportion, rare labels first.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): the label with the fewest rows left comes
    next, each row goes to the split that lacks that label most, then to the one that lacks rows most; ties by lot.

    Args:
        labels: (n, ...) counts of labels in each row.
        shares: of each split, that sum to 1.

    Returns:
        (n,) int64, the split of each row.

    >>> stratify(np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), [0.5, 0.5]).reshape(2, 2).sum(1)
    array([1, 1])
    """
    wanted = np.asarray(shares, np.float64)
    if (wanted <= 0).any() or abs(wanted.sum() - 1) > 1e-6:
        raise ValueError(f"shares must be positive and sum to 1, got {wanted.tolist()}")
    labels = np.asarray(labels).reshape(len(labels), -1) > 0
    rng = np.random.default_rng(seed)
    lacking = wanted[:, None] * labels.sum(0)  # of each label in each split
    room = wanted * len(labels)
    assigned = np.full(len(labels), -1)
    left = labels.sum(0)
    while (assigned < 0).any():
        label = int(np.where(left > 0, left, len(labels) + 1).argmin())
        open_rows = np.flatnonzero(assigned < 0)
        rows = open_rows[labels[open_rows, label]] if left[label] else open_rows
        for row in rng.permutation(rows):
            lack = np.where(room > 0, lacking[:, label] if left[label] else room, -np.inf)
            best = np.flatnonzero(np.isclose(lack, lack.max()))
            best = best[np.isclose(room[best], room[best].max())]
            split = best[rng.integers(len(best))]
            assigned[row] = split
            lacking[split] -= labels[row]
            room[split] -= 1
        left = labels[assigned < 0].sum(0)
    return assigned


def photo_numbers(names: Iterable[object]) -> np.ndarray:
    """(n,) which photo each is, from 0 by first rows: `NAME_jpg.rf.HASH.jpg` is one of Roboflow's versions of `NAME_jpg`.

    >>> photo_numbers(["b_jpg.rf.0a1b2c3d.jpg", "a.jpg", "b_jpg.rf.4e5f6a7b.jpg", "a.jpg"]).tolist()
    [0, 1, 0, 2]
    """
    numbers: dict[str | int, int] = {}
    photos = []
    for row, name in enumerate(map(str, names)):
        photo = _VERSION.sub("", name)
        photos.append(numbers.setdefault(row if photo == name else photo, len(numbers)))
    return np.array(photos, np.int64)
