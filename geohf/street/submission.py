"""The competition's submission file: written against any template, and checked before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from geohf.data.cells import WRITTEN_EMPTY
from geohf.data.tables import line_of, read_table
from geohf.errors import DataError
from geohf.io import atomic_write
from geohf.street.answers import StreetPrediction

STATE_COLUMNS = tuple(f"predicted_state_idx_{rank}" for rank in range(1, 6))
POINT_COLUMNS = ("predicted_latitude", "predicted_longitude")


def write_submission(
    path: str | Path,
    template: str | Path,
    sample_ids: Sequence,
    predictions: Sequence[StreetPrediction],
    mapping: str | Path | None = None,
) -> None:
    """Fill a template's rows, in the template's order, by `sample_id`, and check what was written.

    Raises:
        DataError: the template has rows that were not predicted, a prediction carries no state index, or
            `check_submission` finds something wrong.
    """
    table = read_table(template, required=["sample_id"])
    answers = dict(zip(map(_key, sample_ids), predictions, strict=True))
    keys = [_key(value) for value in table["sample_id"]]
    missing = [(line_of(table, i), key) for i, key in enumerate(keys) if key not in answers]
    if missing:
        rows = ", ".join(f"{key} (line {line})" for line, key in missing[:5])
        raise DataError(f"{template}: {len(missing)} rows were not predicted, among them sample_id {rows}")
    chosen = [answers[key] for key in keys]
    for key, answer in zip(keys, chosen, strict=True):
        if not answer.states or answer.states[0].index is None:
            raise DataError(
                f"sample_id {key}: the prediction names no state index; the model was trained without any"
            )
    for rank, column in enumerate(STATE_COLUMNS):
        table[column] = [answer.states[rank].index if rank < len(answer.states) else -1 for answer in chosen]
    table[POINT_COLUMNS[0]] = [answer.latitude for answer in chosen]
    table[POINT_COLUMNS[1]] = [answer.longitude for answer in chosen]
    with atomic_write(path) as file:
        table.to_csv(file, index=False)
    problems = check_submission(path, template, mapping)
    if problems:
        raise DataError(f"{path}: is not valid: " + "; ".join(problems))


def check_submission(path: str | Path, template: str | Path, mapping: str | Path | None = None) -> list[str]:
    """What is wrong with a submission, one sentence each; an empty list for a valid one.

    Checked: columns, the template's sample_ids each exactly once, state indices (of the mapping where given; idx_2 to
    idx_5 may be -1 or empty, but not repeat), latitudes and longitudes in range.
    """
    try:
        table = read_table(
            path, required=["sample_id", STATE_COLUMNS[0], *POINT_COLUMNS], numbers=POINT_COLUMNS
        )
        wanted = {_key(value) for value in read_table(template, required=["sample_id"])["sample_id"]}
    except DataError as error:
        return [str(error)]
    problems, lines = [], partial(_lines, table)
    keys = table["sample_id"].map(_key)
    for what, rows in (
        ("sample_id appears twice", keys.duplicated()),
        ("sample_id is not in the template", ~keys.isin(wanted)),
        ("predicted_latitude is empty or outside -90 to 90", ~table[POINT_COLUMNS[0]].between(-90, 90)),
        ("predicted_longitude is empty or outside -180 to 180", ~table[POINT_COLUMNS[1]].between(-180, 180)),
    ):
        problems += lines(what, rows)
    left_out = wanted - set(keys)
    if left_out:
        problems.append(f"{len(left_out)} sample_ids of the template are missing, e.g. {sorted(left_out)[0]}")
    known = []
    if mapping is not None:
        known = read_table(mapping, required=["state_idx"], numbers=["state_idx"])["state_idx"].tolist()
    states = {name: _states(table[name]) for name in STATE_COLUMNS if name in table}
    for name, values in states.items():
        problems += lines(f"{name} is not a whole number", np.isnan(values))
        problems += lines(f"{name} is empty", (values == -1) & (name == STATE_COLUMNS[0]))
        if mapping is not None:
            unknown = ~np.isin(values, [*known, -1]) & ~np.isnan(values)
            problems += lines(f"{name} is no state of {mapping}", unknown)
    stacked = np.sort(np.stack(list(states.values()), 1), 1)
    problems += lines(
        "a state is named twice", ((np.diff(stacked, axis=1) == 0) & (stacked[:, 1:] >= 0)).any(1)
    )
    return problems


def _key(value) -> str:
    """sample_id 7, "7" and "7.0" are one; any other text stands for itself."""
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text


def _states(column) -> np.ndarray:
    """State indices as floats: -1 for an empty cell, NaN for what is no whole number."""
    import pandas as pd

    text = column.astype(str).str.strip()
    text = text.where(~text.isin(["", *WRITTEN_EMPTY]), "-1")
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    whole = np.isfinite(numbers) & (numbers == np.round(numbers)) & (numbers >= -1)
    return np.where(whole, numbers, np.nan)


def _lines(table, what: str, rows) -> list[str]:
    positions = np.flatnonzero(np.asarray(rows))
    if not len(positions):
        return []
    more = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
    return [f"line {line_of(table, positions[0])}{more}: {what}"]
