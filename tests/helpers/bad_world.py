"""A small world for every task, good until a case spoils it, and what must hold of every bad command.

`World.train_region()` and its like write good data and return the command for it; a case changes the data or the
words. `World.refuses` runs the command as a user would and checks what every refusal must be.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from helpers import place_models
from helpers.bad_models import saved_model

PLACES = {
    "California": [(36.1, -119.4), (36.9, -120.2), (35.8, -118.9)],
    "Texas": [(31.2, -99.3), (30.6, -98.1), (32.4, -100.7)],
}
# no training starts where a case is caught; where one is not, it shall not take long to see it
TRAINING = ("--use_cpu", "--disable_tqdm", "true", "--max_steps", 1, "--report_to", "none")
ONE_PHASE = ("--head_epochs", 1, "--head_min_steps", 1, "--finetune", "none")
TINY = (*TRAINING, "--backbone", "test_resnet", "--pretrained", "false")
REGIONS = "789abc"
ENDING = re.compile(r"^(?:\w+\.py: )?error: ", re.MULTILINE)


@dataclass
class Command:
    """A recipe, its words, and the table that it reads, where there is one."""

    recipe: str
    words: Sequence[Any]
    table: Path | None = None

    def plus(self, *words: Any) -> Command:
        """The command with further words."""
        return Command(self.recipe, [*self.words, *words], self.table)


@dataclass
class Case:
    """One bad input: how to make it, and what the message must say of it; TABLE stands for the command's table."""

    name: str
    build: Callable[[World], Command]
    says: Sequence[str]

    def __str__(self) -> str:
        return self.name


class World:
    """Files below `folder`, and saved models that all tests share."""

    def __init__(self, folder: Path, models: Path, recipe: Callable):
        self.folder, self.models, self.recipe = folder, models, recipe
        self.out, self.cache = folder / "out", folder / "cache"

    # ---- good data and the commands for it

    def train_region(self) -> Command:
        cells = [(f"{name}.png", 36.1 + i / 1e4, 127.1, "3") for i, name in enumerate("abcdefghijkl")]
        table = self.write_table("labels.csv", ("filename", "latitude", "longitude", "Region_ID"), cells)
        keep = ("--dbscan_eps", 0, "--mad_threshold", 0, "--min_rows", 1)
        return Command("train_region", ["--train_csv", table, *keep, *self._outputs(), *TINY], table)

    def train_street(self) -> Command:
        """A table of photographs."""
        table = self.photos_table()
        return Command("train_streetclip", ["--data", table, *self._outputs(), *TINY, *ONE_PHASE], table)

    def train_competition(self) -> Command:
        """The competition's layout."""
        views = [f"image_{name}" for name in ("north", "east", "south", "west")]
        cells = []
        for number, (state, point) in enumerate(_places()):
            files = [f"{number}_{view}.png" for view in views]
            cells.append((number, *files, state, list(PLACES).index(state), *point))
        names = ("sample_id", *views, "state", "state_idx", "latitude", "longitude")
        table = self.write_table("competition/train_ground_truth.csv", names, cells)
        self.write_photos(table.parent / "train_images", [name for row in cells for name in row[1:5]])
        mapping = "state_idx,state\n" + "".join(f"{i},{state}\n" for i, state in enumerate(PLACES))
        (table.parent / "state_mapping.csv").write_text(mapping)
        words = ["--data", table.parent, *self._outputs(), *TINY, *ONE_PHASE]
        return Command("train_streetclip", words, table)

    def train_parts(self, layout: str = "delftbikes") -> Command:
        folder = self.folder / "bikes"
        names = [f"{i}.png" for i in range(12)]
        self.write_photos(folder / "train", names, (40, 30))
        if layout == "delftbikes":
            (folder / "train_annotations.json").write_text(
                json.dumps({name: _bicycle(name) for name in names})
            )
        else:
            (folder / "train_coco.json").write_text(json.dumps(_coco(names)))
        return Command("train_parts", ["--data", folder, *self._outputs(), *TINY, "--image_size", 64, 64])

    def convert_parts(self, layout: str = "delftbikes") -> Command:
        self.train_parts(layout)
        to = "coco" if layout == "delftbikes" else "delftbikes"
        return Command("convert_parts", [self.folder / "bikes", "--to", to, "--folder", self.out])

    def train_place(self) -> Command:
        points = place_models.along([0.0, 5, 10, 15, 200, 205, 210, 215, 400, 405, 410, 415]).tolist()
        table, queries = (
            self.write_table(
                name, ("image", "lat", "lon"), [(f"{first + i}.png", *p) for i, p in enumerate(points)]
            )
            for name, first in (("drive.csv", 0), ("queries.csv", 12))
        )
        words = [
            "--train_csv",
            table,
            "--test_csv",
            queries,
            "--models",
            "test_resnet",
            "--pretrained",
            "false",
        ]
        few = ("--image_size", 64, "--methods", "ours", "--block_m", 20, "--negative_m", 50)
        return Command("train_place", [*words, *few, *self._outputs(), *TRAINING], table)

    def train_tiles(self) -> Command:
        self.write_rasters()
        boxes = ["(0, 0, 12, 10)", "(12, 0, 24, 10)"]
        cells = [
            (f"{region}{i}{label}", region, label, 0.1 * i, box)
            for region in REGIONS
            for i, box in enumerate(boxes)
            for label in ("2019", "2020", "2021")
        ]
        names = ("tile_id", "region_id", "label_id", "target", "region_coordinates")
        table = self.write_table("tiles/tiles.csv", names, cells)
        words = ["--data", table, *self._outputs(), *TRAINING, "--test_share", 0.2, "--hidden_sizes", 8]
        return Command("train_tiles", words, table)

    def train_scenes(self, *words) -> Command:
        """Tiles cut from whole scenes, whose folder the caller fills."""
        source = self.folder / "tiles" / "Images"
        return Command("train_tiles", ["--data", source, *words, *self._outputs(), *TRAINING])

    def predict(self, task: str = "street") -> Command:
        """Answers of a task's model for what it takes: a folder of photographs, or a table of tiles."""
        if task == "tiles":
            source = self.train_tiles().table
        else:
            source = self.folder / "photos"
            self.write_photos(source, ["1.png", "2.png", "3.png"])
        words = [self.model(task), source, "--output", self.out / "answers.jsonl", "--batch_size", 2]
        return Command("predict", words, source if task == "tiles" else None)

    def predict_table(self) -> Command:
        table = self.photos_table()
        return Command("predict", [self.model("street"), table, "--output", self.out / "a.csv"], table)

    def evaluate(self, task: str = "street") -> Command:
        table = {
            "street": self.photos_table, "region": lambda: self.train_region().table,
            "place": lambda: self.train_place().table, "tiles": lambda: self.train_tiles().table,
            "parts": lambda: self.train_parts().words[1],
        }[task]()  # fmt: skip
        return Command("evaluate", [self.model(task), table, "--output", self.out / "metrics.json"], table)

    def index(self) -> Command:
        table = self.train_place().table
        return Command(
            "index_places", [self.model("place"), table, "--output", self.out / "a.parquet"], table
        )

    def _outputs(self) -> tuple:
        return "--output_dir", self.out, "--cache_dir", self.cache

    def photos_table(self) -> Path:
        cells = [(f"{i}.png", *point, state) for i, (state, point) in enumerate(_places())]
        return self.write_table("photos.csv", ("image", "latitude", "longitude", "state"), cells)

    # ---- files

    def write_table(self, name: str, columns: Sequence[str], cells: Sequence[Sequence]) -> Path:
        """A CSV table, and small photographs beside it for the first column where that names files."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([columns, *cells])
        self.write_photos(path.parent, [row[0] for row in cells if str(row[0]).endswith(".png")])
        return path

    def write_photos(self, folder: Path, names: Sequence[str], size: tuple[int, int] = (16, 12)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:  # each in a color of its own
            Image.new("RGB", size, tuple(hashlib.md5(name.encode()).digest()[:3])).save(folder / name)

    def write_raster(self, name: str, size=(20, 24), bands: int = 3, dtype="uint8", **profile) -> Path:
        path = self.folder / "tiles" / "Images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(1, 200, (bands, *size)).astype(dtype)
        west = 500_000 + 1_000 * (
            REGIONS.index(path.stem) if path.stem in REGIONS else 0
        )  # regions lie apart
        placed = {"crs": "EPSG:32632", "transform": from_origin(west, 5_000_000, 10, 10), **profile}
        placed = {key: value for key, value in placed.items() if value is not None}
        if placed.get("nodata") is not None:
            pixels[:] = placed["nodata"]
        with rasterio.open(
            path, "w", driver="GTiff", height=size[0], width=size[1], count=bands, dtype=dtype, **placed
        ) as raster:
            raster.write(pixels)
        return path

    def write_rasters(self) -> None:
        for label in ("2019", "2020", "2021"):
            for region in REGIONS:
                self.write_raster(f"{label}/{region}.tif")

    def edit_json(self, path: str, change: Callable[[Any], Any]) -> Path:
        """Change what a JSON file holds; what `change` returns replaces it, unless that is None."""
        file = self.folder / path
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))
        return file

    # ---- models

    def model(self, task: str) -> Path:
        """The task's saved model, which all tests share: not to be changed."""
        return saved_model(self.models, task)

    def own_model(self, task: str) -> Path:
        """A copy of it that may be spoilt."""
        folder = self.folder / f"{task}-model"
        shutil.copytree(self.model(task), folder)
        return folder

    # ---- what must hold

    def snapshot(self) -> dict[str, str]:
        """A digest of every file below the folder but for unfinished work, which nobody takes for answers or models."""
        return {
            str(path.relative_to(self.folder)): hashlib.md5(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and not _is_work(path.relative_to(self.folder))
        }

    def refuses(self, case: Case) -> None:
        """The command fails with one message that says what is wrong and where, and leaves everything as it was."""
        command = case.build(self)
        before = self.snapshot()
        done = self.recipe(command.recipe, *command.words)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        message = ENDING.split(done.stderr)[-1]
        assert len(ENDING.findall(done.stderr)) == 1, done.stderr
        for fragment in case.says:
            assert fragment.replace("TABLE", getattr(command.table, "name", "")) in message
        assert self.snapshot() == before


def _is_work(path: Path) -> bool:
    """Files of a cache, and the batches that predict.py has finished."""
    return path.parts[0] == "cache" or (path.name.startswith(".") and path.suffix == ".partial")


def _places():
    return [(state, point) for state, points in PLACES.items() for point in points]


def _bicycle(file: str) -> dict:
    """A photo of 40 x 30 pixels in the layout of DelftBikes."""

    def part(name, state, number, *box):
        sides = dict(zip(("left", "top", "width", "height"), box, strict=True))
        states = {"object_state": state, "object_state_class": number}
        return {"part_name": name, **states, "trust": 0.9, "absolute_bounding_box": sides}

    parts = {
        "saddle": part("saddle", "intact", 0, 4, 6, 10, 8),
        "bell": part("bell", "absent", 2, 20, 5, 6, 6),
    }
    return {"image": {"filename": file, "width": 40, "height": 30, "channels": 3}, "parts": parts}


def _coco(names: Sequence[str]) -> dict:
    boxes = {"bbox": [4, 6, 10, 8], "category_id": 1, "iscrowd": 0, "area": 80, "state": 0}
    return {
        "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, **boxes} for i in range(len(names))],
        "categories": [{"id": 1, "name": "saddle"}, {"id": 2, "name": "bell"}],
        "states": [{"id": 0, "name": "intact"}, {"id": 1, "name": "absent"}],
    }
