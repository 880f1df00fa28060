"""What training does for states that are rare: losses by their shares, by effective numbers, and focal; photos that come again.

Logit adjustment: Menon et al. 2021 (arXiv 2007.07314), eq. 10; effective numbers: Cui et al. 2019 (arXiv 1901.05555), eq. 6;
focal: Lin et al. 2017 (arXiv 1708.02002), eq. 4; repeat-factor sampling: Gupta et al., LVIS, 2019 (arXiv 1908.03195), over pairs
of part and state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from geohf.errors import DataError
from geohf.parts.losses import IGNORED
from geohf.parts.state_metrics import join_photos

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig

BETA = 0.999  # of effective numbers
GAMMA = 2.0  # of the focal loss
COUNTED = ("logit_adjust", "effective")  # balances that need the training photos' counts


def state_misses(
    logits: torch.Tensor, states: torch.Tensor, parts: torch.Tensor, config: PartStateConfig
) -> torch.Tensor:
    """(n,) loss of each state, 0 where it is `IGNORED`, as `config.state_balance` says.

    Args:
        logits: (n, states) float32.
        states: (n,) the true ones, or `IGNORED`.
        parts: (n,) from 0; what is ignored may have any.
    """
    balance = config.state_balance
    if balance == "logit_adjust":
        logits = logits + log_shares(config, logits)[parts.clamp(min=0)]
    misses = nn.functional.cross_entropy(logits, states, ignore_index=IGNORED, reduction="none")
    if balance == "focal":
        return misses * (1 - torch.exp(-misses)) ** GAMMA
    if balance == "effective":
        return misses * _weights(config, logits)[states.clamp(min=0)]
    return misses


def log_shares(config: PartStateConfig, like: torch.Tensor) -> torch.Tensor:
    """(parts, states) logarithm of each state's share of a part in training, each counted once more than it was seen."""
    counts = _counts(config, like) + 1
    return (counts / counts.sum(1, keepdim=True)).log()


def _weights(config: PartStateConfig, like: torch.Tensor) -> torch.Tensor:
    """(states,) of a mean of 1 over the states that were seen."""
    counts = _counts(config, like).sum(0)
    weights = (1 - BETA) / (1 - BETA ** counts.clamp(min=1))
    return weights / weights[counts > 0].mean()


def _counts(config: PartStateConfig, like: torch.Tensor) -> torch.Tensor:
    if config.state_counts is None:
        raise DataError(
            f"state_balance {config.state_balance} needs the counts of states in training: train with PartStateTrainer, or "
            "set state_counts"
        )
    return like.new_tensor(config.state_counts)


def count_pairs(labels: Sequence, states: Sequence, parts: int, known: int) -> np.ndarray:
    """(photos, parts, known states) int64: how often each part stands in each state in each photo; a crowd has no state."""
    counts = np.zeros((len(labels), parts, known), np.int64)
    for row, own, own_states in zip(counts, labels, states, strict=True):
        own, own_states = np.asarray(own, int), np.asarray(own_states, int)
        np.add.at(row, (own[own_states >= 0], own_states[own_states >= 0]), 1)
    return counts


def _count_of_boxes(targets: Sequence[Mapping], config: PartStateConfig) -> np.ndarray:
    """As `count_pairs`, of the states that a box can have."""
    labels, states = ([target[key] for target in targets] for key in ("labels", "states"))
    counts = count_pairs(labels, states, config.num_labels, config.num_states)
    if config.absent_index is not None and config.absent != "detect":
        counts[:, :, config.absent_index] = 0
    return counts


def count_states(targets: Sequence[Mapping], config: PartStateConfig) -> list[list[int]]:
    """How often training shows each part (row) in each state (column), of those that a box can have.

    Args:
        targets: of each photo `labels` and `states`, see `geohf.parts.metrics.dataset_targets`.
    """
    # of all photos at once: a table for each would not fit where there are many photos, parts and states
    whole = [join_photos(targets, ("labels", "states"))] if len(targets) else []
    return _count_of_boxes(whole, config).sum(0).tolist()


def repeat_factors(targets: Sequence[Mapping], config: PartStateConfig, threshold: float) -> np.ndarray:
    """(photos,) how often each shall come, on average: by its rarest pair of a part and the state that it is in.

    A pair that a share f of the photos shows asks for max(1, sqrt(threshold / f)). What is absent where absent parts are no
    objects, and crowds, ask for nothing.

    Args:
        targets: as `count_states` takes them.
        threshold: the share of photos below which a pair is rare.
    """
    shown = _count_of_boxes(targets, config) > 0
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
