"""How far a number that was measured on held-out rows may lie from the one of all such rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

COVERAGE, DRAWS = 0.95, 1000
# Fewer groups than this say nothing about how groups differ.
LEAST_GROUPS = 5


def bootstrap_intervals(
    statistics: Callable[[np.ndarray], Mapping[str, float]], groups, draws: int = DRAWS
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of any statistics (Efron 1979): name -> the interval's ends.

    Names of which most draws have no finite number, or all the same one, are left out; with fewer than `LEAST_GROUPS`
    groups all are.

    Args:
        statistics: from (m,) row numbers, some of them more than once, to name -> number.
        groups: (n,) what each row belongs to: a group is drawn as one. `numpy.arange(n)` for rows on their own.

    >>> values = np.arange(100.0)
    >>> low, high = bootstrap_intervals(lambda rows: {"median": np.median(values[rows])}, values)["median"]
    >>> low < 49.5 < high
    True
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(group)
    if len(sizes) < LEAST_GROUPS:
        return {}
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(sizes), size=len(sizes)) for _ in range(draws))
    measured = [statistics(np.concatenate([members[i] for i in chosen])) for chosen in drawn]
    names = dict.fromkeys(name for one in measured for name in one)
    ends = {name: _ends([one.get(name, np.nan) for one in measured]) for name in names}
    return {name: pair for name, pair in ends.items() if pair is not None}


def mean_interval(values, groups=None, draws: int = DRAWS, seed: int = 0) -> tuple[float, float] | None:
    """The ends of a 95 % bootstrap interval of a mean; None where `bootstrap_intervals` has none.

    Args:
        values: (n,) numbers or bool; those that are not finite do not count.
        groups: (n,) what each row belongs to; None: every row stands for itself.

    >>> low, high = mean_interval([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], list("aabbccddee"))
    >>> 0 <= low < 2 < high <= 4
    True
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if not known.any():
        return None
    _, group = np.unique(groups[known], return_inverse=True)
    total, size = np.bincount(group, values[known]), np.bincount(group)
    if len(size) < LEAST_GROUPS:
        return None
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(size), size=len(size)) for _ in range(draws))
    return _ends([total[rows].sum() / size[rows].sum() for rows in drawn])


def share_interval(hits) -> tuple[float, float] | None:
    """Wilson's 95 % interval (1927) of a share of independent rows, which is wide also at 0 and 1.

    Args:
        hits: (n,) bool.

    >>> [round(end, 3) for end in share_interval([True] * 10)]
    [0.722, 1.0]
    """
    from scipy.stats import binomtest

    hits = np.asarray(hits, bool)
    if not len(hits):
        return None
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(COVERAGE, method="wilson")
    return float(low), float(high)


def _ends(drawn: list[float]) -> tuple[float, float] | None:
    values = np.array(drawn, np.float64)
    known = np.isfinite(values)
    if known.mean() < 0.5 or np.ptp(values[known]) == 0:
        return None
    low, high = np.quantile(values[known], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
