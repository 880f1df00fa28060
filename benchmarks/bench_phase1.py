"""What training on a frozen tower's cached features costs beside one pass of the tower over the same images.

    OMP_NUM_THREADS=1 python benchmarks/bench_phase1.py

A ViT-B/16 at 224 px with random weights over generated places; street trains 5 epochs on its features, place 15.
Every way runs once, because it takes a minute: the plain pass, training with an empty cache, and with a full one.
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from measure import Row, make_parser, report, require, seconds

from geohf.data.samples import without_decoding
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.drives import files_of, load_drives
from geohf.place.modeling import GeoPlaceModel
from geohf.place.sample import write_sample as write_drives
from geohf.place.trainer import GeoPlaceTrainer
from geohf.street import GeoStreetModel
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.classes import describe_classes
from geohf.street.data import load_places, split_places
from geohf.street.features import feature_table
from geohf.street.sample import write_sample as write_places
from geohf.street.trainer import GeoStreetTrainer
from geohf.vision.pooling import pooled


@torch.inference_mode()
def one_pass(model, files: list, batch_size: int) -> torch.Tensor:
    parts = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    return torch.cat([pooled(model.tower, model.processor.pixel_values(part)) for part in parts])


def require_same(cached: torch.Tensor, plain: torch.Tensor) -> None:
    require(float((cached - plain).abs().max() / plain.abs().max()) < 1e-4, "cached features, a plain pass")


def street(folder: str, options) -> list[Row]:
    write_places(f"{folder}/places", size=options.places)
    places, _ = load_places(f"{folder}/places")
    splits, _ = split_places(places["train"], "random", validation=0.1, test=0.0)
    both = splits["train"], splits["validation"]
    model = GeoStreetModel.from_backbone(options.backbone, pretrained=False, **describe_classes(both[0]))
    args = StreetTrainingArguments(
        output_dir=f"{folder}/run",
        cache_dir=f"{folder}/cache",
        feature_batch_size=options.batch_size,
        disable_tqdm=True,
        use_cpu=True,
    )
    files = [image["path"] for split in both for row in without_decoding(split)["views"] for image in row]
    plain = []
    base = seconds(lambda: plain.append(one_pass(model, files, options.batch_size)))
    trainer = GeoStreetTrainer(model, args, train_dataset=both[0], eval_dataset=both[1])
    empty, full = (seconds(lambda: trainer._train_heads(False, "score")) for _ in range(2))
    tables = [feature_table(model, split, args).columns["features"].flatten(0, 1) for split in both]
    require_same(torch.cat(tables), plain[0])
    what = f"street, phase 1: features of {len(files)} images and 5 epochs"
    against = f"one pass of {options.backbone}"
    return [
        Row(what, against, empty / base, 1.3, cost=True),
        Row(f"{what}, warm cache", against, full / base, cost=True),
    ]


def place(folder: str, options) -> list[Row]:
    size = 60 * options.places
    write_drives(f"{folder}/drives", size=size)
    images, _ = load_drives([f"{folder}/drives/{name}/poses.csv" for name in ("noon", "dusk")])
    rows = np.arange(len(images))
    noon, train = rows[:size], rows[rows % 4 > 0]
    train, noon, validation = map(images.select, (train, noon, rows[size + 1 :: 4]))
    files = files_of(images)
    model = GeoPlaceModel.from_backbone(options.backbone, pretrained=False)
    args = PlaceTrainingArguments(
        output_dir=f"{folder}/place",
        num_train_epochs=15,
        learning_rate=1e-4,
        use_cpu=True,
        disable_tqdm=True,
        cache_dir=f"{folder}/cache",
        feature_batch_size=options.batch_size,
    )

    def ours():
        rows = {"train_dataset": train, "eval_dataset": validation, "database": noon}
        trainer = GeoPlaceTrainer(model, args, **rows)
        trainer.train()
        trainers.append(trainer)

    plain, trainers = [], []
    base = seconds(lambda: plain.append(one_pass(model, files, options.batch_size)))
    took = seconds(ours)
    require_same(trainers[0].frozen_features(images), plain[0])
    what = f"place: features of {len(files)} images and 15 epochs"
    return [Row(what, f"one pass of {options.backbone}", took / base, 1.3, cost=True)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument(
        "--places", type=int, default=2, help="in each of 33 states; 60 times as many a drive"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(street(folder, options) + place(folder, options), options.json)


if __name__ == "__main__":
    main()
