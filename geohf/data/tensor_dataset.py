"""A dataset of tensors that hands out whole batches as slices."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset


class TensorDictDataset(Dataset):
    """Columns of equal length, as tensors in memory: a batch is one indexing a column.

    Rows that travel one by one through lists and a collator cost twenty times as much as the slice.

    Args:
        columns: tensors of shape (n, ...).

    >>> table = TensorDictDataset(x=torch.arange(4), y=torch.zeros(4, 2))
    >>> identity_collate(table.__getitems__([2, 0]))["x"]
    tensor([2, 0])
    """

    def __init__(self, **columns: torch.Tensor):
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different length: {lengths}")
        self.columns = columns

    def key_arrays(self) -> dict[str, np.ndarray]:
        """What tells it from other tables: all but `features`, which are computed and never twice the same."""
        return {name: column.cpu().numpy() for name, column in self.columns.items() if name != "features"}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The rows as one dict of batched tensors (PyTorch's loaders ask for batches by this name)."""
        rows = torch.as_tensor(indices)
        return {name: column[rows] for name, column in self.columns.items()}


def identity_collate(batch):
    """The collator for datasets that hand out whole batches."""
    return batch
