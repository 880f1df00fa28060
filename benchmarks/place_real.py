"""Place on real photographs: the frozen backbone, whitened, trained, and the reference recipe, on sets of pairs; and drives.

    python benchmarks/place_real.py --backbone towers/lite0 --train sped:0 --test gardens:2 essex:0 corridor:2

A set is a folder with `ref/` and `query/`, whose images correspond in the order of their names, and how many frames
beside the right one still are right; 0 says that its pairs are no drive. `centered` takes from the references and from
the queries the mean of each, the others hear the order of a drive. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from geohf.data.tables import points_of
from geohf.geo import great_circle_m
from geohf.io import natural_key
from geohf.metrics.intervals import mean_interval
from geohf.place import GeoPlaceModel, PlaceIndex
from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.data import load
from geohf.place.drives import load_drives, names_of
from geohf.place.evaluation import rank
from geohf.place.metrics import retrieve
from geohf.place.phase import head_descriptors
from geohf.place.trainer import GeoPlaceTrainer
from geohf.report.tables import markdown_table

RADIUS_M, DEGREE_M = 25.0, 111_195.0
# name -> center and method of `geohf.place.evaluation.rank`
CENTERED = {"centered": ("sequence", None)}
DRIVES = {"online, filter": ("online", "filter"), "centered, smooth": ("sequence", "smooth")}


def write_tables(named: str, folder: Path) -> list[Path]:
    """Two tables of a set `FOLDER:FRAMES`, its places so far apart that so many frames lie within the radius."""
    source, _, frames = named.rpartition(":")
    name = Path(source).name
    step_m = 1000.0 if int(frames) == 0 else (RADIUS_M - 1) / int(frames)
    tables = []
    for part in ("ref", "query"):
        # a table lies above its images
        shutil.copytree(Path(source) / part, folder / name / part, dirs_exist_ok=True)
        images = sorted((folder / name / part).iterdir(), key=natural_key)
        rows = [
            f"{name}/{part}/{image.name},{10 + i * step_m / DEGREE_M:.9f},10,{part}"
            for i, image in enumerate(image for image in images if image.suffix in (".jpg", ".png"))
        ]
        tables.append(folder / f"{name}_{part}.csv")
        tables[-1].write_text("\n".join(["image,lat,lon,sequence", *rows]) + "\n", encoding="utf-8")
    return tables


def trained(method: str, seed: int, options, tables: list[Path], folder: Path) -> GeoPlaceTrainer:
    """A run of one method and seed on the training set."""
    args = PlaceTrainingArguments(
        output_dir=str(folder / f"{method}{seed}"),
        seed=seed,
        num_train_epochs=options.epochs,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        cache_dir=options.cache_dir,
    )
    named = [str(table) for table in tables]
    data = load(PlaceArguments(train_csv=named, test_share=0.25, methods=[method]), args)
    set_seed(seed)
    fields = {} if method == "ours" else {"projection_dim": 256}
    model = GeoPlaceModel.from_backbone(options.backbone, fit=options.fit, **fields)
    trainer = GeoPlaceTrainer(
        model,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        database=data.database,
        method=method,
        whitening_dim=None if method == "ours" else 0,
    )
    trainer.train()
    trainer.held_out = data.test
    return trainer


def heads_of(trainer: GeoPlaceTrainer) -> dict:
    """Name -> head of everything that a run compared."""
    if trainer.method == "original":
        return {"reference recipe": trainer.model.head}
    heads = {candidate.name: candidate.head for candidate in trainer.choice.candidates}
    return heads | {"kept": trainer.model.head}


def as_one(described: list[torch.Tensor], parts: tuple, ways: dict) -> dict[str, np.ndarray]:
    """(q,) bool of each way to answer all queries together, whether the top answer is right."""
    database, queries = map(points_of, parts)
    index = PlaceIndex(described[0], database, [""] * len(database), "")
    right = {}
    for way, (center, method) in ways.items():
        _, rows = rank(index, described[1], [""] * len(queries), center, method, most=1)
        right[way] = great_circle_m(database[rows[:, 0]], queries) <= RADIUS_M
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--train", required=True, help="FOLDER:FRAMES")
    parser.add_argument("--test", nargs="+", default=[], help="FOLDER:FRAMES of further sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--fit", default="squeeze")
    parser.add_argument("--cache_dir", default=None)
    options = parser.parse_args()
    right: dict[str, dict[str, list]] = {}  # head -> set -> (q,) bool of each seed
    asked: dict[str, dict[int, np.ndarray]] = {}  # set -> seed -> names of its queries
    with tempfile.TemporaryDirectory() as scratch:
        # beside their features, which are kept by path
        folder = Path(options.cache_dir or scratch) / "photographs"
        own, *others = (write_tables(named, folder) for named in (options.train, *options.test))
        for seed in options.seeds:
            for method in ("ours", "original"):
                trainer = trained(method, seed, options, own, Path(scratch))
                pairs = [(trainer.database, trainer.held_out)]
                pairs += [tuple(load_drives([table])[0] for table in tables) for tables in others]
                names = [f"{Path(options.train.rpartition(':')[0]).name}, held out"]
                names += [Path(test.rpartition(":")[0]).name for test in options.test]
                drives = [not named.endswith(":0") for named in (options.train, *options.test)]
                for name, parts, drive in zip(names, pairs, drives, strict=True):
                    features = [trainer.frozen_features(part) for part in parts]
                    for head_name, head in heads_of(trainer).items():
                        described = [head_descriptors(head, part) for part in features]
                        found = retrieve(*described, *map(points_of, parts), [RADIUS_M])
                        hits = {head_name: found.right[:, 0]}
                        if head_name in ("frozen", "kept"):
                            ways = CENTERED | (DRIVES if drive else {})
                            together = as_one(described, parts, ways)
                            hits |= {f"{head_name}, {way}": r for way, r in together.items()}
                        for way, several in hits.items():
                            right.setdefault(way, {}).setdefault(name, []).append(several)
                    asked.setdefault(name, {})[seed] = np.array(names_of(parts[1]))
                print(f"seed {seed}, {method}: kept {trainer.kept}", flush=True)
    rows = [
        {"recall@1": head} | {n: shown(hits, list(asked[n].values())) for n, hits in sets.items()}
        for head, sets in right.items()
    ]
    print(markdown_table(rows))


def shown(hits: list[np.ndarray], queries: list[np.ndarray]) -> str:
    """The mean over seeds, their range, and the 95 % bootstrap interval: a query is drawn with its answers under all seeds."""
    shares = [float(part.mean()) for part in hits]
    interval = mean_interval(np.concatenate(hits).astype(float), np.concatenate(queries))
    # none of answers that are all right
    told = "none" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
    return f"{np.mean(shares):.3f} ({min(shares):.3f}-{max(shares):.3f}; 95 %: {told})"


if __name__ == "__main__":
    main()
