"""Options of `predict` that count something are whole numbers, in every task."""

import numpy as np
import pytest
from helpers.five_tasks import TASKS
from helpers.place_models import build_model as place_model

from geohf.errors import DataError
from geohf.place.answers import answers_searched
from geohf.street.ensemble import combine

WRONG = [True, 1.5, 0, -1, None, "2"]


@pytest.mark.parametrize("name", TASKS)
def test_what_counts_is_a_whole_number(name):
    task = TASKS[name]
    model = task.make()
    options = {"region": ["top_k"], "street": ["top_k"], "parts": ["slice_size"]}.get(name, [])
    for option in ["batch_size", *options]:
        for value in WRONG if option != "slice_size" else WRONG[:4]:
            with pytest.raises(DataError, match=f"{option} must be a whole number of at least 1, got "):
                model.predict([task.sample], **{option: value})
        assert len(model.predict([task.sample], **{option: np.int64(64)})) == 1


@pytest.mark.parametrize("value", WRONG)
def test_answers_of_an_index_and_of_an_ensemble_are_counted_in_whole_numbers(value):
    with pytest.raises(DataError, match="top_k must be a whole number"):
        answers_searched(value, 9)
    with pytest.raises(DataError, match="top_k must be a whole number"):
        combine([[]], top_k=value)
    with pytest.raises(DataError, match="top_k must be a whole number"):
        place_model().predict([TASKS["place"].sample], top_k=value)
