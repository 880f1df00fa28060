"""Leaks in numbers: random splits beside honest ones, estimate beside forecast; and real mosaics by blocks.

    python benchmarks/tiles_recipes.py --seeds 42 1 2
    python benchmarks/tiles_recipes.py --seeds 42 1 2 --landsat path/to/mosaics     # <year>.tif, bands 2 NIR, 3 red

Prints the tables that docs/tiles.md shows: held-out numbers, mean over seeds and their range.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

from geohf.recipes import train_tiles
from geohf.report.tables import markdown_table
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.metrics import tile_metrics

BLOCKS, RANDOM = {"split": "blocks"}, {"split": "random", "allow_leaks": True}
SAMPLE = {
    "forecast, regions held out": {},
    "forecast, blocks held out": BLOCKS,
    "forecast, random split (leaks)": RANDOM,
    "estimate, regions held out (sees the answer's year)": {"task": "estimate"},
}
MOSAICS = {"forecast, blocks held out": BLOCKS, "forecast, random split (leaks)": RANDOM}
NEIGHBORS = {"neighbors alone, blocks held out": BLOCKS, "neighbors alone, random split (leaks)": RANDOM}
SHOWN = {"mae": "MAE", "r2": "R2 level", "r2_rate": "R2 rate", "skill_persistence": "skill over persistence"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--landsat", help="a folder of mosaics, one a year")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.landsat:
            title = "Share of pixels whose NDVI falls, real mosaics"
            fields = {"data": options.landsat, "target_from": "ndvi_fall", "nir": 2, "red": 3}
            compare(title, Path(folder), options.seeds, MOSAICS, fields)
        else:
            compare("Share of built-up land, generated sample", Path(folder), options.seeds, SAMPLE, {})


def neighbors_alone(options: TileArguments, args: TileTrainingArguments) -> dict[str, float]:
    """No image is looked at: a tile changes as its five nearest training tiles of that place and year do."""
    data = load(options, args)
    table, train, test = data.train.table, data.train.windows, data.held_out.windows

    def places(windows):
        corners, regions = table.boxes[windows.rows, :2], table.region[windows.rows]
        return np.c_[corners, 1e6 * regions, 1e9 * windows.steps]

    change = train.truth - train.last
    guess = KNeighborsRegressor(5).fit(places(train), change).predict(places(test)) + test.last
    return tile_metrics(*(part[:, 0] for part in (guess, test.truth, test.last, test.trend)))


def compare(title: str, folder: Path, seeds: list[int], ways: dict, fields: dict) -> None:
    """Train every way with every seed; print a row for each, and for the baselines of the first way."""
    numbers: dict[str, list[dict]] = {}
    for seed in seeds:
        args = TileTrainingArguments(
            output_dir=str(folder / "run"),
            cache_dir=str(folder / "cache"),
            seed=seed,
            disable_tqdm=True,
            logging_strategy="no",
        )
        for way, changes in NEIGHBORS.items():
            numbers.setdefault(way, []).append(neighbors_alone(TileArguments(**fields, **changes), args))
        for number, (way, changes) in enumerate(ways.items()):
            found = train_tiles.run(TileArguments(**fields, **changes), args).evaluated
            stages = {**found.details["baselines"], "model": found.values_by_name}
            for name in ("mean", "persistence", "trend") if number == 0 else ():
                numbers.setdefault(name, []).append(stages[name])
            numbers.setdefault(way, []).append(stages["model"])
            print(f"seed {seed}, {way}: skill {stages['model']['skill_persistence']:.3f}", flush=True)
    rows = []
    for name, runs in numbers.items():
        row = {"": name}
        for key, heading in SHOWN.items():
            values = [run[key] for run in runs]
            row[heading] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        rows.append(row)
    print(f"\n{title}, mean of seeds {seeds} (range):\n\n{markdown_table(rows)}\n")


if __name__ == "__main__":
    main()
