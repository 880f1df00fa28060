"""What is wrong with a row reaches the user as one line, whichever process saw it."""

import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from geohf.errors import DataError
from geohf.vision.images import ImageError, open_image


class Rows(Dataset):
    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return self.read(number)


def _refuse(number):
    try:
        int("x")
    except ValueError as error:
        raise DataError(f"a.csv, row {number}: is DataError: no number") from error


def _open(number):
    return open_image("lacking.jpg")


@pytest.mark.parametrize(("read", "kind"), [(_refuse, DataError), (_open, ImageError)])
def test_an_error_of_a_loaders_worker_is_the_line_that_it_was(read, kind):
    with pytest.raises(kind) as here:
        read(0)
    with pytest.raises(kind) as there:
        list(DataLoader(Rows(read), num_workers=1))
    assert str(there.value) == str(here.value)
    assert "\n" not in str(there.value)


def test_errors_are_pickled_as_they_are():
    error = DataError("a.csv, row 3: is empty")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(DataError()) == ""
