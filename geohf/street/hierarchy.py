"""Probabilities of cells at every level: what each part that they make up has, and the best cell by all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Levels = list[tuple[torch.Tensor, int]]


def level_tensors(levels: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Levels:
    """The parents of each level as tensors, and how many there are; see `geohf.geo.quadtree.CellTree.levels`."""
    return [(torch.tensor(parents, device=device), 1 + max(parents)) for parents in levels]


def sums_of_levels(values: torch.Tensor, levels: Levels) -> list[torch.Tensor]:
    """Values of cells summed over their parents, then over the parents of these, and so on.

    Args:
        values: (batch, cells), such as probabilities.

    Returns:
        (batch, parts) for each level, from fine to coarse.

    >>> levels = level_tensors([[0, 0, 1, 2], [0, 0, 1]])
    >>> [row.tolist() for row in sums_of_levels(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), levels)]
    [[[3.0, 3.0, 4.0]], [[6.0, 4.0]]]
    """
    sums = []
    for parents, size in levels:
        values = values.new_zeros(len(values), size).index_add_(1, parents, values)
        sums.append(values)
    return sums


def joint_logarithms(probabilities: torch.Tensor, levels: Levels) -> torch.Tensor:
    """(batch, cells) the logarithm of the product of the probabilities of a cell and of all parts that it lies in.

    The cell with the greatest one is OpenStreetView-5M's hierarchical answer: a probable cell of an improbable
    continent does not win.
    """
    total = probabilities.log()
    own = torch.arange(probabilities.shape[1], device=probabilities.device)
    for (parents, _), sums in zip(levels, sums_of_levels(probabilities, levels), strict=True):
        own = parents[own]
        total = total + sums.log()[:, own]
    return total
