"""True and false are no numbers, wherever positions are read."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from geohf.data.columns import numbers_of
from geohf.data.rows import positions_of
from geohf.data.tables import points_of
from geohf.errors import DataError


@pytest.mark.parametrize("cell", [True, np.True_, torch.tensor(True), np.array(False)])
def test_a_position_of_true_is_refused(cell):
    with pytest.raises(DataError, match="must be numbers"):
        positions_of([{"latitude": 48.0, "longitude": 2.0}, {"latitude": cell, "longitude": 2.0}])


def test_a_column_of_true_is_refused():
    rows = Dataset.from_dict({"latitude": [True, None], "longitude": [2.0, 3.0]})
    with pytest.raises(DataError, match="column latitude must hold numbers: true and false"):
        points_of(rows)


def test_numbers_of_any_kind_are_float64():
    cells = [1, 2.5, None, "3", np.float32(0.5), torch.tensor(4)]
    assert numbers_of(cells).tolist()[:2] + numbers_of(cells).tolist()[3:] == [1.0, 2.5, 3.0, 0.5, 4.0]
    assert np.isnan(numbers_of(cells)[2])
    assert numbers_of(np.arange(3)).dtype == np.float64
