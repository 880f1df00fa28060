"""A word that an option does not know is refused, and None is a word like any other unless it means something."""

import numpy as np
import pytest

from geohf.data.splits import split_rows
from geohf.errors import DataError, require_choice
from geohf.parts.detectors import random_fields
from geohf.place.metrics import recall_of_ranks
from geohf.place.trainer import GeoPlaceTrainer
from geohf.street import GeoStreetModel
from geohf.street.ensemble import combine
from geohf.training.options import PhotoArguments


@pytest.mark.parametrize("word", [None, "nothing"])
def test_words_are_refused_wherever_one_is_needed(word):
    matches = np.array([0, 1]), np.array([0])
    for name, call in {
        "split": lambda: split_rows(10, {"test": 0.5}, word, points=None, seed=0),
        "rule": lambda: recall_of_ranks([np.array([0])], matches, [1], word),
        "published model": lambda: GeoStreetModel.from_published(word),
        "method": lambda: combine([], method=word),
        "architecture": lambda: random_fields(word),
    }.items():
        with pytest.raises(DataError, match=f"^{name} must be one of .*, got {word!r}"):
            call()


def test_none_is_allowed_where_it_means_something():
    assert PhotoArguments(fit=None).fit is None
    require_choice(("flip", None), tta=None)
    with pytest.raises(DataError, match=r"^tta must be one of flip, got 'flap' \(did you mean 'flip'\?\)"):
        require_choice(("flip", None), tta="flap")


def test_a_place_trainer_has_a_method():
    with pytest.raises(DataError, match=r"^method must be one of ours, original, got None"):
        GeoPlaceTrainer(method=None)
