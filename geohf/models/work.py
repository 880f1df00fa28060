"""What a model does with a batch of named inputs, wherever the answers go."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geohf.errors import DataError
from geohf.report.answers import THUMBNAIL
from geohf.vision.contents import content_key
from geohf.vision.thumbnails import thumbnail
from geohf.vision.weights import weights_fingerprint

if TYPE_CHECKING:
    from geohf.models.answering import AnsweringModel


def key_of(batch: Sequence[tuple[str, Any]]) -> str:
    """What changes with any sample of a batch, or with what it is called.

    A name counts as its letters alone: it may be the address of a file, which the sample itself is asked for.
    """
    return content_key([(os.fsencode(str(name)), sample) for name, sample in batch])


@dataclass
class Work:
    """What a model does with a batch of named samples; `options` are those of its `predict`."""

    model: AnsweringModel
    batch_size: int
    on_error: str
    options: Mapping[str, Any]

    def __post_init__(self):
        self._prepare, self._answer = self.model.steps(**self.options)

    def prepare(self, batch: list[tuple[str, Any]]) -> Any:
        """The tensors of a batch; any thread may ask for them."""
        return self._prepare([sample for _, sample in batch])

    def answers(
        self, batch: list[tuple[str, Any]], tensors: Callable[[], Any], pictured: int = 0
    ) -> dict[str, list]:
        """Rows of answers, and the samples that were left out where `on_error` is `skip`.

        Args:
            tensors: gives what `prepare` made of the batch, or raises what it raised.
            pictured: of how many of its first samples the rows get a thumbnail, where they have a place.
        """
        try:
            decoded = self._answer(tensors())
            return {"rows": self._rows(batch, decoded, pictured), "skipped": []}
        except DataError as error:
            if self.on_error == "raise":
                raise
            if len(batch) == 1:
                skipped = {"source": "inputs", "row": batch[0][0], "reason": str(error)}
                return {"rows": [], "skipped": [skipped]}
        # which of them was it?
        parts = [
            self.answers([entry], functools.partial(self.prepare, [entry]), max(0, pictured - i))
            for i, entry in enumerate(batch)
        ]
        return {key: [row for part in parts for row in part[key]] for key in ("rows", "skipped")}

    def fingerprint(self) -> str:
        """What the answers depend on beside the inputs."""
        weights, config = weights_fingerprint(self.model), self.model.config.to_json_string()
        options = dict(sorted(self.options.items()))
        return content_key([weights, config, self.batch_size, self.on_error, options])

    def _rows(self, batch: list[tuple[str, Any]], answers: list, pictured: int) -> list[dict]:
        rows = []
        for i, ((name, sample), answer) in enumerate(zip(batch, answers, strict=True)):
            own = [{"input": name} | row for row in self.model.rows_of(answer)]
            if i < pictured and any(row.get("latitude") is not None for row in own):
                small = thumbnail(self.model.photo_of(sample))
                own = [row | {THUMBNAIL: small} for row in own]
            rows += own
        return rows
