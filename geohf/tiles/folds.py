"""Cross-validation: a model a fold, each tested on places that it never saw, so that every tile is predicted once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import set_seed

from geohf.errors import DataError
from geohf.report.tables import write_csv
from geohf.tiles.answers import Answers, answers_of
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load_folds
from geohf.tiles.metrics import coverage_by
from geohf.tiles.modeling import make_model
from geohf.tiles.outputs import plot_errors, prediction_rows
from geohf.tiles.table import TileTable
from geohf.tiles.trainer import TileSequenceTrainer
from geohf.tiles.windows import TileWindows

logger = logging.getLogger(__name__)


@dataclass
class Fold:
    """One model's answers on the fold that it never saw.

    Attributes:
        windows: that were asked.
        answers: values, and the interval's ends, (n, targets) each; the ends are None without calibration.
        metrics: way -> its numbers: `model`, and the baselines.
    """

    windows: TileWindows
    answers: Answers
    metrics: Mapping[str, Mapping[str, float]]


@dataclass
class CrossValidation:
    """All folds of one table."""

    table: TileTable
    folds: list[Fold]

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Way -> metric -> its mean over folds, its standard deviation (n - 1), its least and its largest value."""
        spreads: dict[str, dict[str, dict[str, float]]] = {}
        for way, metrics in self.folds[0].metrics.items():
            for name in metrics:
                values = [fold.metrics[way][name] for fold in self.folds if name in fold.metrics.get(way, ())]
                if len(values) == len(self.folds):
                    spread = {"mean": np.mean(values), "std": np.std(values, ddof=1)}
                    spread |= {"min": np.min(values), "max": np.max(values)}
                    spreads.setdefault(way, {})[name] = {key: float(value) for key, value in spread.items()}
        return spreads

    def write(self, folder: Path) -> None:
        """Write folds_predictions.csv, folds_metrics.csv, folds_coverage.csv and folds_errors.png."""
        table, rows = self.table, []
        for number, fold in enumerate(self.folds, start=1):
            rows += prediction_rows(table, fold.windows, f"fold {number}", fold.answers)
        write_csv(folder / "folds_predictions.csv", rows)
        numbers: list[dict] = [
            {"fold": number, "way": way} | dict(metrics)
            for number, fold in enumerate(self.folds, start=1)
            for way, metrics in fold.metrics.items()
        ]
        for way, metrics in self.summary().items():
            numbers += [
                {"fold": key, "way": way} | {name: spread[key] for name, spread in metrics.items()}
                for key in ("mean", "std")
            ]
        write_csv(folder / "folds_metrics.csv", numbers)
        if any(fold.answers[1] is None for fold in self.folds):
            logger.warning("a fold's intervals were not calibrated: folds_coverage.csv is not written")
        else:
            write_csv(folder / "folds_coverage.csv", self.coverage())
        tiles = np.concatenate([fold.windows.rows for fold in self.folds])
        errors = [np.abs(fold.answers[0][:, 0] - fold.windows.truth[:, 0]) for fold in self.folds]
        plot_errors(folder / "folds_errors.png", table, tiles, np.concatenate(errors))

    def coverage(self) -> list[dict]:
        """A row per region, or per fold where there is one region: see `coverage_by`."""
        table, answers = self.table, [fold.answers for fold in self.folds]
        low = np.concatenate([low for _, low, _ in answers if low is not None])
        high = np.concatenate([high for *_, high in answers if high is not None])
        rows = np.concatenate([fold.windows.rows for fold in self.folds])
        truth = np.concatenate([fold.windows.truth for fold in self.folds])
        groups = table.names_of_regions(rows)
        if len(table.regions) == 1:
            names = [f"fold {number}" for number in range(1, len(self.folds) + 1)]
            groups = np.repeat(names, [len(fold.windows) for fold in self.folds])
        return coverage_by(groups, table.targets, low, high, truth)


def cross_validate(options: TileArguments, args: TileTrainingArguments) -> CrossValidation:
    """Train a model for each of `options.folds`, and measure each on the fold that it never saw.

    Their checkpoints lie in `output_dir/folds/<number>`, from which a killed run goes on.

    Raises:
        DataError: the target is an image; see `load_folds`.
    """
    if options.target_type == "last-image":
        raise DataError("--folds predicts numbers, --target_type last-image asks for images")
    folds: list[Fold] = []
    table: TileTable | None = None
    for number, data in enumerate(load_folds(options, args), start=1):
        settings = copy.copy(args)
        settings.output_dir = str(Path(args.output_dir) / "folds" / str(number))
        settings.push_to_hub = False
        set_seed(args.seed)
        rows = {"train_dataset": data.train, "eval_dataset": data.validation}
        trainer = TileSequenceTrainer(make_model(options, data), settings, **rows)
        trainer.train()
        result = trainer.evaluate(data.test)
        outputs = result.details["outputs"]
        answers = answers_of(trainer.model.config, outputs.raw, outputs.region)
        metrics = {"model": result.values_by_name, **result.details["baselines"]}
        folds.append(Fold(data.test.windows, answers, metrics))
        table = data.test.known_table
        logger.info("fold %d of %d: %s", number, options.folds, metrics["model"])
    assert table is not None  # there are three folds or more
    return CrossValidation(table, folds)
