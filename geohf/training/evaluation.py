"""Measuring a finished model outside a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from geohf.training.arguments import GeoTrainingArguments


@contextmanager
def evaluation_arguments(batch_size: int) -> Iterator[GeoTrainingArguments]:
    """Arguments for a Trainer that only predicts; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield GeoTrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
        )
