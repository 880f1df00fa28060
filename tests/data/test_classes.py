"""Classes by their names and numbers, in every form that rows bring them."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value
from torch.utils.data import ConcatDataset, Subset

from geohf.data.classes import UNLABELED, NamedClasses, class_names, class_number, class_numbers, column_of
from geohf.errors import DataError

NAMES = {"Maine": 0, "New York": 1, "Texas": 2}
NUMBERED = {"1": 0, "3": 1, "5": 2}


@pytest.mark.case("use-S2", "use-U12")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Texas", 2),
        (np.str_("Texas"), 2),
        (" Texas ", 2),
        (2, 2),
        (np.int64(2), 2),
        (np.uint8(2), 2),
        (torch.tensor(2), 2),
        (np.array(2), 2),
        (2.0, 2),
        *(
            (nothing, UNLABELED)
            for nothing in (None, "", " ", float("nan"), np.nan, -1, -100, torch.tensor(-1))
        ),
    ],
)
def test_a_class_is_read_in_every_form(value, expected):
    assert class_number(value, NAMES) == expected


@pytest.mark.case("use-S2")
@pytest.mark.parametrize("value", ["3", 3, 3.0, np.int64(3), torch.tensor(3), "3.0", np.float32(3)])
def test_a_number_that_is_a_name_is_the_name(value):
    assert class_number(value, NUMBERED) == 1


@pytest.mark.case("use-S2")
@pytest.mark.parametrize(
    ("value", "names", "words"),
    [
        ("texas", NAMES, "no state 'texas' (did you mean 'Texas'?)"),
        ("Texs", NAMES, "did you mean 'Texas'"),
        ("Texas", {}, "no state 'Texas'"),
        (3, NAMES, "no state 3; it knows: Maine, New York, Texas"),
        (-2, NAMES, "no state -2"),
        (1.5, NAMES, "no state 1.5"),
        (True, NAMES, "no state True"),
        (0, NUMBERED, "no state 0"),
        (["Texas"], NAMES, r"no state ['Texas']"),
        (float("inf"), NAMES, "no state inf"),
    ],
)
def test_what_is_no_class_is_named_with_the_nearest(value, names, words):
    with pytest.raises(DataError) as error:
        class_number(value, names, "state")
    assert words in str(error.value)


def test_an_error_names_the_row():
    assert class_numbers(["Maine", None, "Texas"], NAMES).tolist() == [0, -100, 2]
    with pytest.raises(DataError, match=r"row 1: the model knows no class 'Ohio'"):
        class_numbers(["Maine", "Ohio"], NAMES)
    with pytest.raises(DataError, match=r"row p7: "):
        class_numbers(["Maine", "Ohio"], NAMES, rows=["p6", "p7"])


@pytest.mark.case("use-S2")
def test_the_names_of_a_column_are_found_through_what_torch_wraps_around_it():
    dataset = Dataset.from_dict({"state": [1, 0, -1, None]}).cast_column(
        "state", ClassLabel(names=["b", "a"])
    )
    for source in (
        dataset,
        Subset(dataset, [0]),
        ConcatDataset([dataset, dataset]),
        dataset.to_iterable_dataset(),
    ):
        assert class_names(source) == {"state": ["b", "a"]}
    assert class_names([{"state": 1}]) == {}
    assert class_names(dataset, ["region"]) == {}
    assert column_of(dataset, "state") == ["a", "b", None, None]
    assert column_of(dataset, "region") == [None] * 4
    assert column_of(dataset.cast_column("state", Value("int64")), "state") == [1, 0, -1, None]
    collate = NamedClasses(lambda rows: [row["state"] for row in rows], {"state": ["b", "a"]})
    assert collate([{"state": 1}, {"state": torch.tensor(0)}, {"state": -1}]) == ["a", "b", None]
    with pytest.raises(DataError, match="class 2 does not exist"):
        collate([{"state": 2}])


@pytest.mark.case("use-S2")
def test_joined_datasets_must_number_their_classes_alike():
    first, second = (
        Dataset.from_dict({"state": [0, 1]}).cast_column("state", ClassLabel(names=names))
        for names in (["a", "b"], ["b", "a"])
    )
    joined = torch.utils.data.ConcatDataset([first, first])
    assert class_names(torch.utils.data.Subset(joined, [0])) == {"state": ["a", "b"]}
    with pytest.raises(DataError, match="number their classes differently"):
        class_names(torch.utils.data.ConcatDataset([first, second]))
