"""The submission file: whatever the template's order, joined on sample_id, and every fault said in a sentence."""

import csv

import pytest
from datasets import Dataset
from helpers.street_models import build_model

from geohf.errors import DataError
from geohf.street import StatePrediction, StreetPrediction
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.outputs import submit
from geohf.street.submission import check_submission, write_submission
from geohf.street.trainer import GeoStreetTrainer

VIEWS = [f"image_{name}" for name in ("north", "east", "south", "west")]
STATES = [f"predicted_state_idx_{rank}" for rank in range(1, 6)]
COLUMNS = ["sample_id", *VIEWS, *STATES, "predicted_latitude", "predicted_longitude"]
IDS = [40, 2, 31, 7]
MAPPING = "state_idx,state\n0,Alabama\n1,Alaska\n3,Arkansas\n18,Maine\n42,Texas\n47,West Virginia\n"


def prediction(number, indices=(42, 0, 18, 1, 3)):
    states = [StatePrediction(f"state {i}", 1 / (rank + 2), i) for rank, i in enumerate(indices)]
    return StreetPrediction(30 + number / 8, -100.123456789012 - number, None, states)


def write(path, rows, columns=COLUMNS):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def template(tmp_path):
    rows = [{"sample_id": i} | {view: f"image_{i:06d}_{view[6:]}.jpg" for view in VIEWS} for i in IDS]
    return write(tmp_path / "sample_submission.csv", rows)


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "state_mapping.csv"
    path.write_text(MAPPING)
    return path


# Writing


@pytest.mark.parametrize("form", [int, str, float, lambda i: f" {i}.0"], ids=["int", "str", "float", "7.0"])
def test_rows_are_joined_on_sample_id_in_the_templates_order(tmp_path, template, mapping, form):
    order = [7, 40, 31, 2, 99]  # other than the template's, and with one that nobody asked for
    path = tmp_path / "out" / "submission.csv"
    write_submission(path, template, [form(i) for i in order], [prediction(i) for i in order])
    rows = read(path)
    assert list(rows[0]) == COLUMNS
    assert [int(row["sample_id"]) for row in rows] == IDS
    for row, original, number in zip(rows, read(template), IDS, strict=True):
        assert all(row[view] == original[view] for view in VIEWS)
        assert [int(row[state]) for state in STATES] == [42, 0, 18, 1, 3]
        assert float(row["predicted_latitude"]) == 30 + number / 8  # every digit
        assert float(row["predicted_longitude"]) == -100.123456789012 - number
    assert check_submission(path, template, mapping) == []


def test_fewer_than_five_states_are_filled_with_none(tmp_path, template, mapping):
    path = tmp_path / "submission.csv"
    write_submission(path, template, IDS, [prediction(i, (42, 18)) for i in IDS])
    assert [[row[state] for state in STATES] for row in read(path)] == [["42", "18", "-1", "-1", "-1"]] * 4
    assert check_submission(path, template, mapping) == []


def test_more_than_five_states_are_cut(tmp_path, template):
    path = tmp_path / "submission.csv"
    write_submission(path, template, IDS, [prediction(i, (42, 0, 18, 1, 3, 47)) for i in IDS])
    assert [read(path)[0][state] for state in STATES] == ["42", "0", "18", "1", "3"]


def test_other_columns_of_the_template_stay(tmp_path):
    path, template = tmp_path / "submission.csv", tmp_path / "template.csv"
    rows = [
        {"note": 'with "quotes", commas', "sample_id": "0031", "weight": "007.50", "empty": "", "kind": "NA"},
        {"note": "ü", "sample_id": "b-2", "weight": "1e3", "empty": "", "kind": "null"},
    ]
    write(template, rows, ["note", "sample_id", "weight", "empty", "kind"])
    write_submission(path, template, ["b-2", "0031"], [prediction(2), prediction(31)])
    found = read(path)
    assert list(found[0]) == [
        "note",
        "sample_id",
        "weight",
        "empty",
        "kind",
        *STATES,
        "predicted_latitude",
        "predicted_longitude",
    ]
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [float(row["predicted_latitude"]) for row in found] == [30 + 31 / 8, 30 + 2 / 8]


def test_what_stood_in_the_templates_answers_is_replaced(tmp_path, template):
    rows = [row | dict.fromkeys(COLUMNS[5:], "0") for row in read(template)]
    write(template, rows)
    path = tmp_path / "submission.csv"
    write_submission(path, template, IDS, [prediction(i, (42,)) for i in IDS])
    assert [row["predicted_state_idx_2"] for row in read(path)] == ["-1"] * 4
    assert float(read(path)[1]["predicted_latitude"]) == 30.25


def test_the_template_may_be_written_over(template):
    write_submission(template, template, IDS, [prediction(i) for i in IDS])
    assert check_submission(template, template) == []


def test_rows_that_were_not_predicted_are_named(tmp_path, template):
    path = tmp_path / "submission.csv"
    with pytest.raises(DataError) as caught:
        write_submission(path, template, [40, 31], [prediction(40), prediction(31)])
    assert str(caught.value) == (
        f"{template}: 2 rows were not predicted, among them sample_id 2 (line 3), 7 (line 5)"
    )
    assert not path.exists()


@pytest.mark.parametrize("states", [[], [StatePrediction("52.52N 13.40E", 0.9, None)]], ids=["none", "cells"])
def test_a_model_without_indices_cannot_submit(tmp_path, template, states):
    answers = [prediction(i) for i in IDS]
    answers[2].states = states
    with pytest.raises(DataError, match="sample_id 31: the prediction names no state index"):
        write_submission(tmp_path / "submission.csv", template, IDS, answers)


def test_a_point_that_is_no_number_is_not_sent(tmp_path, template):
    answers = [prediction(i) for i in IDS]
    answers[1].latitude = float("nan")
    with pytest.raises(DataError, match="line 3: predicted_latitude is empty or outside -90 to 90"):
        write_submission(tmp_path / "submission.csv", template, IDS, answers)


def test_a_template_that_names_a_row_twice(tmp_path, template):
    write(template, [*read(template), {"sample_id": "2.0"}])
    with pytest.raises(DataError, match="line 6: sample_id appears twice"):
        write_submission(tmp_path / "submission.csv", template, IDS, [prediction(i) for i in IDS])


# Checking


@pytest.fixture
def submission(tmp_path, template):
    """A valid submission's rows, and a function that writes them and says what is wrong."""
    path = tmp_path / "submission.csv"
    write_submission(path, template, IDS, [prediction(i) for i in IDS])
    rows = read(path)
    return rows, lambda columns=COLUMNS, mapping=None: check_submission(
        write(path, rows, columns), template, mapping
    )


def test_the_order_of_the_rows_is_free(submission, mapping):
    rows, check = submission
    rows.reverse()
    assert check(COLUMNS[::-1], mapping) == []


FAULTS = {
    "latitude": ({"predicted_latitude": "90.5"}, "line 3: predicted_latitude is empty or outside -90 to 90"),
    "longitude": (
        {"predicted_longitude": "-180.5"},
        "line 3: predicted_longitude is empty or outside -180 to 180",
    ),
    "no latitude": ({"predicted_latitude": ""}, "line 3: predicted_latitude is empty or outside -90 to 90"),
    "no longitude": ({"predicted_longitude": "nan"}, "line 3: predicted_longitude is empty or outside"),
    "swapped": ({"predicted_latitude": "-100.5", "predicted_longitude": "30"}, "line 3: predicted_latitude"),
    "no first state": ({"predicted_state_idx_1": ""}, "line 3: predicted_state_idx_1 is empty"),
    "first state -1": ({"predicted_state_idx_1": "-1"}, "line 3: predicted_state_idx_1 is empty"),
    "half a state": ({"predicted_state_idx_3": "1.5"}, "line 3: predicted_state_idx_3 is not a whole number"),
    "a name": ({"predicted_state_idx_1": "Texas"}, "line 3: predicted_state_idx_1 is not a whole number"),
    "below -1": ({"predicted_state_idx_2": "-2"}, "line 3: predicted_state_idx_2 is not a whole number"),
    "infinite": ({"predicted_state_idx_2": "inf"}, "line 3: predicted_state_idx_2 is not a whole number"),
    "twice": ({"predicted_state_idx_5": "42"}, "line 3: a state is named twice"),
    "unknown id": ({"sample_id": "5"}, "line 3: sample_id is not in the template"),
    "outside": ({"predicted_state_idx_4": "2"}, "line 3: predicted_state_idx_4 is no state of "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_said_with_its_line(submission, mapping, fault):
    rows, check = submission
    change, reason = FAULTS[fault]
    rows[1].update(change)
    problems = check(mapping=mapping)
    assert any(problem.startswith(reason) for problem in problems), problems
    if fault == "unknown id":
        assert problems[1:] == ["1 sample_ids of the template are missing, e.g. 2"]
    else:
        assert len(problems) == 1


def test_an_index_outside_the_mapping_needs_the_mapping_to_be_seen(submission):
    rows, check = submission
    rows[1]["predicted_state_idx_4"] = "2"  # a gap of the real mapping
    assert check() == []


def test_duplicate_and_missing_rows(submission):
    rows, check = submission
    rows[3]["sample_id"] = "40.0"
    assert check() == [
        "line 5: sample_id appears twice",
        "1 sample_ids of the template are missing, e.g. 7",
    ]
    del rows[3]
    assert check() == ["1 sample_ids of the template are missing, e.g. 7"]


def test_a_fault_in_many_rows_is_said_once(submission):
    rows, check = submission
    for row in rows[1:]:
        row["predicted_latitude"] = "-91"
    assert check() == ["line 3 and 2 more: predicted_latitude is empty or outside -90 to 90"]


def test_all_kinds_of_faults_are_said_at_once(submission):
    rows, check = submission
    rows[0]["predicted_latitude"] = "100"
    rows[1]["predicted_longitude"] = "190"
    rows[2]["predicted_state_idx_1"] = ""
    rows[3]["predicted_state_idx_2"] = "42"
    assert len(check()) == 4


@pytest.mark.parametrize("column", ["sample_id", STATES[0], "predicted_latitude", "predicted_longitude"])
def test_a_missing_column_is_named(submission, column):
    _, check = submission
    (problem,) = check([name for name in COLUMNS if name != column])
    assert f"column {column!r} is missing" in problem


def test_text_for_a_coordinate_is_named(submission):
    rows, check = submission
    rows[2]["predicted_longitude"] = "90W"
    (problem,) = check()
    assert "row 4: predicted_longitude is '90W', which is not a number" in problem


def test_files_that_are_missing_or_empty(tmp_path, template):
    (problem,) = check_submission(tmp_path / "absent.csv", template)
    assert f"{tmp_path / 'absent.csv'}: no such file" in problem
    (tmp_path / "empty.csv").write_text(",".join(COLUMNS) + "\n")
    (problem,) = check_submission(tmp_path / "empty.csv", template)
    assert "no rows" in problem


@pytest.mark.parametrize("empty", ["", "-1", " "])
def test_the_later_states_may_be_empty(submission, mapping, empty):
    rows, check = submission
    for row in rows:
        row.update(dict.fromkeys(STATES[1:], empty))
    assert check(mapping=mapping) == []
    assert check(["sample_id", STATES[0], "predicted_latitude", "predicted_longitude"], mapping) == []


def test_indices_may_be_written_as_floats(submission, mapping):
    rows, check = submission
    for row in rows:
        row.update({state: f"{row[state]}.0" for state in STATES}, sample_id=f"{row['sample_id']}.0")
    assert check(mapping=mapping) == []


def test_a_model_without_indices_writes_none_and_says_so(template, tmp_path, caplog):
    args = StreetTrainingArguments(output_dir=tmp_path / "run", use_cpu=True, report_to="none")
    trainer = GeoStreetTrainer(build_model(class_indices=None), args)
    submit(trainer, tmp_path, Dataset.from_dict({"sample_id": IDS}))
    assert "no submission.csv is written: the model's classes have no state_idx" in caplog.text
    assert not (tmp_path / "run/submission.csv").exists()
