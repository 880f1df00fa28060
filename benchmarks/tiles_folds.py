"""Dates against the count of steps on real mosaics, by cross-validation: every tile predicted once, beside the training mean.

    python benchmarks/tiles_folds.py --landsat FOLDER --seeds 42 1 2     # <year>.tif, bands 2 NIR, 3 red

Prints the tables of docs/tiles.md: numbers over all tiles, each predicted by a model that never saw its block, as the mean over
seeds and their range; and by fold how many truths the intervals hold.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from geohf.report.tables import markdown_table
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load_folds
from geohf.tiles.dataset import TileSequences
from geohf.tiles.folds import CrossValidation, cross_validate
from geohf.tiles.metrics import tile_metrics

FRAMEWISE = {"encoder": "attention", "backbone": "test_resnet", "pretrained": False}
WAYS: dict[str, tuple[dict, dict]] = {
    "ConvLSTM, order of steps": ({}, {}),
    "ConvLSTM, dates": ({"dates": True}, {}),
    "attention, order of steps": (FRAMEWISE | {"dates": False}, {}),
    "attention, dates": (FRAMEWISE, {}),
    "attention, dates, frame dropout": (FRAMEWISE, {"frame_dropout": 0.2}),
}
SHOWN = {"mae": "MAE", "r2": "R2 level", "r2_rate": "R2 rate", "skill_persistence": "skill over persistence"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landsat", required=True, help="a folder of mosaics, one a year")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    fields = {"data": options.landsat, "target_from": "ndvi_fall", "nir": 2, "red": 3, "split": "blocks"}
    numbers: dict[str, list[dict]] = {}
    covered: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            args = _arguments(folder, seed)
            plain = TileArguments(**fields, folds=options.folds)
            for name, values in baselines(plain, args).items():
                numbers.setdefault(name, []).append(values)
            for way, (changes, training) in WAYS.items():
                found = cross_validate(
                    TileArguments(**fields | changes, folds=options.folds),
                    _arguments(folder, seed, **training),
                )
                numbers.setdefault(way, []).append(of_all_tiles(found))
                if way == "attention, dates":
                    covered += [{"seed": seed} | row for row in found.coverage()]
                print(f"seed {seed}, {way}: R2 {numbers[way][-1]['r2']:.3f}", flush=True)
    rows = []
    for name, runs in numbers.items():
        row = {"": name}
        for key, heading in SHOWN.items():
            values = [run[key] for run in runs]
            row[heading] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        rows.append(row)
    print(
        f"\nShare of pixels whose NDVI falls, mean of seeds {options.seeds} (range):\n\n{markdown_table(rows)}\n"
    )
    print(f"Coverage of the 90 % intervals, attention with dates:\n\n{markdown_table(by_fold(covered))}\n")


def _arguments(folder: str, seed: int, **training) -> TileTrainingArguments:
    return TileTrainingArguments(
        output_dir=str(Path(folder) / "run"),
        cache_dir=str(Path(folder) / "cache"),
        seed=seed,
        disable_tqdm=True,
        logging_strategy="no",
        **training,
    )


def of_all_tiles(found: CrossValidation) -> dict[str, float]:
    """The numbers of the predictions of all folds together."""
    parts = [
        (fold.answers[0], *(getattr(fold.windows, n) for n in ("truth", "last", "trend")))
        for fold in found.folds
    ]
    return tile_metrics(*(np.concatenate(part)[:, 0] for part in zip(*parts, strict=True)))


def baselines(options: TileArguments, args: TileTrainingArguments) -> dict[str, dict[str, float]]:
    """What looks at no order: the mean of the training rows, and a forest on the frames' mean NDVI and bands."""
    guesses: dict[str, list] = {"training mean": [], "persistence": [], "random forest on frame means": []}
    parts = []
    for data in load_folds(options, args):
        train, test = data.train.windows, data.test.windows
        forest = RandomForestRegressor(200, min_samples_leaf=5, random_state=0)
        forest.fit(frame_means(data.train, options), train.truth[:, 0])
        guesses["training mean"].append(np.full(len(test), train.truth.mean()))
        guesses["persistence"].append(test.last[:, 0])
        guesses["random forest on frame means"].append(forest.predict(frame_means(data.test, options)))
        parts.append((test.truth, test.last, test.trend))
    truth, last, trend = (np.concatenate(part)[:, 0] for part in zip(*parts, strict=True))
    return {name: tile_metrics(np.concatenate(guess), truth, last, trend) for name, guess in guesses.items()}


def frame_means(rows: TileSequences, options: TileArguments) -> np.ndarray:
    """(n, features): the last three frames' mean NDVI, the newest one's bands and spread, and the answered step."""
    features = []
    for row, frames, step in zip(rows.windows.rows, rows.windows.frames, rows.windows.steps, strict=True):
        pixels = rows.cache.tile(row, frames[-3:]).astype(np.float64)
        nir, red = pixels[..., options.nir - 1], pixels[..., options.red - 1]
        ndvi = (nir - red) / np.maximum(nir + red, 1e-6)
        features.append([*ndvi.mean((1, 2)), ndvi[-1].std(), *pixels[-1].mean((0, 1)), step])
    return np.array(features)


def by_fold(covered: Sequence[dict]) -> list[dict]:
    """A row a fold: coverage and mean width over seeds, with the range."""
    rows = []
    for group in sorted({row["group"] for row in covered}):
        mine = [row for row in covered if row["group"] == group]
        line = {"": group, "tiles and years": str(mine[0]["samples"])}
        for key, heading in (("coverage", "coverage"), ("mean_width", "mean width")):
            values = [row[key] for row in mine]
            line[heading] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        rows.append(line)
    return rows


if __name__ == "__main__":
    main()
