"""Answers for many inputs in one file, written batch by batch: a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.inputs import Inputs
from geohf.data.tables import RowErrors
from geohf.errors import DataError, require_at_least
from geohf.io import atomic_write, json_text, refuse_overwriting
from geohf.report.answers import check_format, write_answers
from geohf.vision.contents import content_key
from geohf.vision.weights import weights_fingerprint

if TYPE_CHECKING:
    from geohf.models.modeling import GeoPreTrainedModel

logger = logging.getLogger(__name__)


def predict_to_file(
    model: GeoPreTrainedModel,
    sources: Any,
    output: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    finish: Callable[[list[dict]], list[dict]] | None = None,
    **options: Any,
) -> int:
    """Predict whatever `sources` name and write one file, see `write_answers`.

    Until it is whole, finished batches lie beside it in `.OUTPUT.partial`; the same call takes up those whose inputs
    are the same: by where a file lies, its size and time of change, or by the content of what is no file.

    Args:
        sources: what the model's `find_inputs` knows: files, folders, globs, tables, names of datasets, or samples
            of any kind that `predict` takes; or the `Inputs` themselves.
        on_error: `raise` stops at an input that cannot be used, `skip` leaves it out and lists it in
            `OUTPUT.skipped.csv`.
        finish: makes the rows to write of all rows together, where an answer needs more than its batch.
        options: of the model's `predict`.

    Returns:
        The number of rows written.

    Raises:
        DataError: `output` is an input, an input that cannot be used, an ending that is no known format, or answers without a
            position where the format wants one.
    """
    from tqdm.auto import tqdm

    from geohf.report.tables import write_csv

    output = Path(output)
    check_format(output)
    named = isinstance(sources, (str, os.PathLike))
    refuse_overwriting(output, [sources] if named else sources if isinstance(sources, (list, tuple)) else [])
    require_at_least(1, batch_size=batch_size)
    inputs = sources if isinstance(sources, Inputs) else model.find_inputs(sources)
    errors = RowErrors(on_error)
    partial = output.with_name(f".{output.name}.partial")
    head = {"run": _fingerprint(model, batch_size, on_error, options)}
    done = {line["key"]: line for line in _take_up(partial, head)}
    rows, count = [], 0
    with tqdm(total=inputs.count, desc="predict") as bar:
        for batch in _batches(inputs, batch_size):
            key = content_key(batch)
            if key not in done:
                line = json_text({"key": key} | _answer(model, batch, on_error, options))
                done[key] = json.loads(line)
                with open(partial, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
            rows += done[key]["rows"]
            errors.rows += done[key]["skipped"]
            count += len(batch)
            bar.update(len(batch))
    if not count:
        partial.unlink()
        raise DataError("there is nothing to predict")
    errors.settle(kept=len(rows))
    write_answers(output, rows if finish is None else finish(rows))
    if errors.rows:
        write_csv(output.with_name(f"{output.name}.skipped.csv"), errors.rows)
    partial.unlink()
    return len(rows)


def _batches(inputs, size: int) -> Iterator[list[tuple[str, Any]]]:
    entries = iter(inputs)
    while batch := list(islice(entries, size)):
        yield batch


def _answer(model, batch: list[tuple[str, Any]], on_error: str, options: Mapping) -> dict:
    names, samples = [name for name, _ in batch], [sample for _, sample in batch]
    try:
        answers = model.predict(samples, batch_size=len(samples), **options)
        return {"rows": _rows(model, names, answers), "skipped": []}
    except DataError as error:
        if on_error == "raise":
            raise
        if len(batch) == 1:
            return {"rows": [], "skipped": [{"source": "inputs", "row": names[0], "reason": str(error)}]}
    parts = [_answer(model, [entry], on_error, options) for entry in batch]  # which of them was it?
    return {key: [row for part in parts for row in part[key]] for key in ("rows", "skipped")}


def _rows(model, names: list[str], answers: list) -> list[dict]:
    return [
        {"input": name} | row
        for name, answer in zip(names, answers, strict=True)
        for row in model.rows_of(answer)
    ]


def _take_up(partial: Path, head: dict) -> list[dict]:
    """The batches that an earlier call of this run has finished; the file is left with these alone."""
    lines = partial.read_bytes().splitlines(keepends=True) if partial.is_file() else []
    found = []
    if _parsed(lines[:1]) == [head]:
        found = _parsed(lines[1:])
    with atomic_write(partial) as file:
        file.writelines(json_text(line) + "\n" for line in (head, *found))
    if found:
        logger.info("%d batches are finished already", len(found))
    return found


def _parsed(lines: list[bytes]) -> list[Any]:
    """The lines as JSON, up to one that was cut off or that is none."""
    found = []
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _fingerprint(model, batch_size: int, on_error: str, options: Mapping) -> str:
    weights, config = weights_fingerprint(model), model.config.to_json_string()
    return content_key([weights, config, batch_size, on_error, dict(sorted(options.items()))])
