"""Learning rates that transformers has no name for."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_warm_restarts(
    optimizer: Optimizer, period: int, multiplier: int = 1, floor: float = 0.0, warmup: int = 0
) -> LambdaLR:
    """Cosine annealing that starts again (Loshchilov and Hutter, SGDR, 2017), for any number of rates.

    The same curve as PyTorch's CosineAnnealingWarmRestarts, whose lower end is one number for all parameter
    groups; here it is a share of each group's own rate.

    Args:
        period: steps of the first period.
        multiplier: each period is so many times as long as the one before.
        floor: share of the rate at the end of a period.
        warmup: steps of a straight rise before the first period.
    """

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done, total = step - warmup, max(1, period)
        if multiplier == 1:
            done %= total
        while done >= total:
            done, total = done - total, total * multiplier
        return floor + (1 - floor) * (1 + math.cos(math.pi * done / total)) / 2

    return LambdaLR(optimizer, share)
