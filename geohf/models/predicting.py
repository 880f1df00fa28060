"""Answers for many inputs in one file, written batch by batch: a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.data.tables import RowErrors
from geohf.errors import DataError, require_at_least
from geohf.io import json_text
from geohf.report.answers import check_format, write_answers
from geohf.vision.weights import weights_fingerprint

if TYPE_CHECKING:
    from geohf.models.modeling import GeoPreTrainedModel

logger = logging.getLogger(__name__)


def predict_to_file(
    model: GeoPreTrainedModel,
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    batch_size: int = 32,
    on_error: str = "raise",
    **options: Any,
) -> int:
    """Predict whatever `sources` name and write one file, see `write_answers`.

    Until it is whole, finished batches lie beside it in `OUTPUT.partial`; the same call takes them up again.

    Args:
        sources: what the model's `find_inputs` knows: files, folders, globs, tables, names of datasets.
        on_error: `raise` stops at an input that cannot be used, `skip` leaves it out and lists it in
            `OUTPUT.skipped.csv`.
        options: of the model's `predict`.

    Returns:
        The number of rows written.

    Raises:
        DataError: an input that cannot be used, an ending that is no known format, or answers without a
            position where the format wants one.
    """
    from tqdm.auto import tqdm

    from geohf.report.tables import write_csv

    output = Path(output)
    check_format(output)
    require_at_least(1, batch_size=batch_size)
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    inputs, errors = model.find_inputs(sources), RowErrors(on_error)
    partial = output.with_name(f".{output.name}.partial")
    run = _fingerprint(model, inputs.names, batch_size, on_error, options)
    done = _take_up(partial, run)
    if done:
        logger.info("going on after %d of %d inputs", min(done * batch_size, len(inputs)), len(inputs))
    with open(partial, "a", encoding="utf-8") as file, tqdm(total=len(inputs), desc="predict") as bar:
        for number, batch in enumerate(_batches(inputs, batch_size)):
            if number >= done:
                file.write(json_text(_answer(model, batch, on_error, options)) + "\n")
                file.flush()
            bar.update(len(batch))
    rows = []
    for line in partial.read_text(encoding="utf-8").splitlines()[1:]:
        answered = json.loads(line)
        rows += answered["rows"]
        errors.rows += answered["skipped"]
    errors.settle(kept=len(rows))
    write_answers(output, rows)
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


def _take_up(partial: Path, run: str) -> int:
    """How many batches an earlier call of this run has finished; the file is left with these alone."""
    head = json_text({"run": run})
    lines = partial.read_bytes().splitlines(keepends=True) if partial.is_file() else []
    lines = [
        line for line in lines if line.endswith(b"\n")
    ]  # not the one that was written as the process died
    if not lines or lines[0].strip() != head.encode():
        lines = [head.encode() + b"\n"]
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"".join(lines))
    return len(lines) - 1


def _fingerprint(model, names: list[str], batch_size: int, on_error: str, options: Mapping) -> str:
    digest = hashlib.blake2b(weights_fingerprint(model).encode(), digest_size=16)
    described = (
        model.config.to_json_string(),
        names,
        batch_size,
        on_error,
        sorted(map(str, options.items())),
    )
    digest.update(json.dumps(described).encode())
    return digest.hexdigest()
