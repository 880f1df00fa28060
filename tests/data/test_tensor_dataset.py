"""Tables of tensors: a loader gets whole batches, equal to what single rows would collate to."""

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate

from geohf.data.tensor_dataset import TensorDictDataset, identity_collate


@pytest.fixture
def table():
    return TensorDictDataset(
        x=torch.arange(30.0).reshape(10, 3), y=torch.arange(10), z=torch.arange(10) % 2 == 0
    )


def test_batches_are_those_of_single_rows(table):
    loader = DataLoader(table, batch_size=4, collate_fn=identity_collate)
    batches = list(loader)
    assert [len(batch["y"]) for batch in batches] == [4, 4, 2]
    for batch, rows in zip(batches, ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]), strict=True):
        single = default_collate([table[i] for i in rows])
        assert batch.keys() == single.keys()
        for name, column in batch.items():
            assert column.dtype == single[name].dtype
            assert torch.equal(column, single[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_loader_sees_every_row_once(table, workers):
    sampler = RandomSampler(table, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(
        table, batch_size=3, sampler=sampler, collate_fn=identity_collate, num_workers=workers
    )
    batches = list(loader)
    order = torch.cat([batch["y"] for batch in batches])
    assert sorted(order.tolist()) == list(range(10))
    assert order.tolist() != list(range(10))
    assert torch.equal(torch.cat([batch["x"] for batch in batches])[:, 0], order * 3.0)


def test_batches_are_copies(table):
    table.__getitems__([1, 2])["x"].zero_()
    assert table.columns["x"][1].tolist() == [3.0, 4.0, 5.0]


def test_columns_must_have_equal_length():
    with pytest.raises(ValueError, match="different length"):
        TensorDictDataset(x=torch.zeros(3), y=torch.zeros(4))
