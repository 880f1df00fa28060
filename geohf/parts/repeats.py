"""Photos with rare states come several times an epoch.

Repeat-factor sampling: Gupta, Dollár and Girshick, LVIS, 2019 (arXiv 1908.03195), over pairs of part and state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig


def repeat_factors(targets: Sequence[Mapping], config: PartStateConfig, threshold: float) -> np.ndarray:
    """(photos,) how often each shall come, on average: by its rarest pair of a part and the state that it is in.

    A pair that a share f of the photos shows asks for max(1, sqrt(threshold / f)). What is absent where absent parts are no
    objects, and crowds, ask for nothing.

    Args:
        targets: of each photo `labels` and `states`, see `geohf.parts.metrics.dataset_targets`.
        threshold: the share of photos below which a pair is rare.
    """
    shown = np.zeros((len(targets), config.num_labels, config.num_states), bool)
    for row, target in zip(shown, targets, strict=True):
        states = np.asarray(target["states"])
        known = states >= 0
        row[np.asarray(target["labels"])[known], states[known]] = True
    if config.absent_index is not None and config.absent != "detect":
        shown[:, :, config.absent_index] = False
    shares = shown.mean(0).clip(1 / max(1, len(targets)))
    return np.where(shown, np.sqrt(threshold / shares), 1.0).max((1, 2), initial=1.0)


def repeated_rows(factors: np.ndarray, seed: int) -> np.ndarray:
    """Numbers of the photos of an epoch, each as often as its factor says; what is left of a factor is drawn once, by lot.

    >>> repeated_rows(np.array([1.0, 3.0]), seed=0).tolist()
    [0, 1, 1, 1]
    """
    whole = np.floor(factors)
    more = np.random.default_rng(seed).random(len(factors)) < factors - whole
    return np.repeat(np.arange(len(factors)), (whole + more).astype(int))
