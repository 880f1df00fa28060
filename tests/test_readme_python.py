"""Every block of Python of README.md and docs/ runs as it stands, on tiny data and for a step where it trains.

Only weights that would be downloaded are others: those of torchvision and timm are random, StreetCLIP is a tiny CLIP.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from helpers.pages import PAGES, ROOT, TASKS, blocks, name_of
from helpers.parts_models import TINY
from helpers.parts_models import build_model as part_model
from helpers.place_models import build_model as place_model
from helpers.region_models import build_model as region_model
from helpers.street_models import tiny_clip
from PIL import Image
from transformers import PreTrainedModel

import geohf
from geohf.hub.card import PIPELINE_TAGS

BLOCKS = [
    (name_of(path), number, code)
    for path in PAGES
    if path.name != "metrics.md"  # without a model: tests/metrics/test_evaluate_metric.py
    for number, code in enumerate(blocks(path.read_text(encoding="utf-8"), "python"))
]
STEP = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "dataloader_num_workers": 0}
QUICK = {"street": STEP | {"head_epochs": 1, "head_min_steps": 1}, "tiles": STEP | {"cache_workers": 1}}
SMALL = json.dumps({name: value for name, value in TINY.items() if name not in ("norm", "image_size")})
# what needs a network or hours -> what stands in for it
STAND_INS = {
    r'backbone="resnet18"': 'backbone="test_resnet", pretrained=False, image_size=32, min_rows=2',
    r'backbone="fasterrcnn_resnet50_fpn"': 'backbone="test_resnet", pretrained=False, image_size=[64, 96], config_overrides=SMALL',
    r'from_backbone\("fasterrcnn_resnet50_fpn"': 'from_backbone("test_resnet", pretrained=False, **TINY',
    r", max_steps=50_000|max_steps=50_000": "",
    r"(\w+TrainingArguments)\(": r"\1(**QUICK, ",
}


def write_photo(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((48, 40), 60).convert("RGB").save(path)


def photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))


def street() -> None:
    from geohf.data.streaming import write_shards
    from geohf.street.classes import describe_classes
    from geohf.street.data import load_places
    from geohf.street.sample import write_sample

    write_sample("FOLDER", size=2, image_size=32)
    known = load_places("FOLDER")[0]["train"]
    fields = {"pretrained": False, "image_size": 32, "hidden_size": 24} | describe_classes(known)
    geohf.GeoStreetModel.from_backbone("test_resnet", **fields).save_pretrained("outputs/street")
    for name in ("n", "e", "s", "w", "one", "photo", "photos/a", "folder/of/photos/a"):
        write_photo(f"{name}.jpg")
    positions = known.select(range(4)).select_columns(["latitude", "longitude"]).to_pandas()
    for number in range(4):
        write_photo(f"labeled/photos/{number}.jpg")
    positions.assign(file_name=[f"{number}.jpg" for number in range(4)]).to_csv(
        "labeled/photos/metadata.csv", index=False
    )
    ring = [[-125, 25], [-65, 25], [-65, 50], [-125, 50], [-125, 25]]
    Path("area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    truth = pd.read_csv("FOLDER/train_ground_truth.csv", dtype=str)
    truth["image"] = "FOLDER/train_images/" + truth["image_north"]
    truth[["image", "latitude", "longitude", "state"]].to_csv("sample_of_it.csv", index=False)
    write_shards(load_places("sample_of_it.csv")[0]["train"], "shards", 2)


def region() -> None:
    from geohf.region.sample import write_sample

    write_sample("sample", size=24)
    shutil.copy("sample/labels_train.csv", "labels.csv")
    for photo in photos_in(Path("sample/images_train")):
        shutil.copy(photo, photo.name)
    for name in ("a.jpg", "b.jpg", "folder/of/photos/a.jpg"):
        write_photo(name)
    region_model().save_pretrained("outputs/region")


def parts() -> None:
    from geohf.parts.sample import write_sample

    write_sample("FOLDER", size=24, width=64)
    shutil.copy(photos_in(Path("FOLDER/train"))[0], "photo.jpg")
    part_model().save_pretrained("outputs/parts")


def place() -> None:
    from geohf.place.sample import write_sample

    write_sample("sample", size=40)
    shutil.copytree("sample/noon", "drive")
    shutil.copytree("sample/images", "images")
    shutil.copy(photos_in(Path("images"))[0], "where_is_this.jpg")
    place_model().save_pretrained("outputs/place")


def tiles() -> None:
    from geohf.tiles.sample import write_sample

    write_sample("sample", size=6)
    for name in ("tiles.csv", "Images"):
        Path(name).symlink_to(Path("sample") / name)
    for year in (2019, 2020, 2021):
        Path(f"{year}.tif").symlink_to(f"Images/{year}/1203.tif")
    with rasterio.open("2019.tif") as raster:
        place = {"crs": raster.crs, "transform": raster.transform @ rasterio.Affine.scale(32)}
    profile = {"driver": "GTiff", "height": 7, "width": 7, "count": 1, "dtype": "float32", **place}
    with rasterio.open("known.tif", "w", **profile) as raster:
        raster.write(np.full((1, 7, 7), 0.1, np.float32))
    config = geohf.TileSequenceConfig(
        hidden_sizes=[8], image_size=[32, 32], patch_size=4, interval_margin=[0.1]
    )
    geohf.TileSequenceModel(config).save_pretrained("outputs/tiles")


PREPARE = {"street": street, "region": region, "parts": parts, "place": place, "tiles": tiles}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Task -> a folder with all that its blocks name."""
    return {task: tmp_path_factory.mktemp(task) for task in TASKS}


@pytest.fixture
def room(rooms, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    clip = tiny_clip(tmp_path / "clip")
    hub.add("geolocal/StreetCLIP", {path.name: path.read_bytes() for path in clip.iterdir()})

    def enter(task: str) -> None:
        monkeypatch.chdir(rooms[task])
        if not any(rooms[task].iterdir()):
            PREPARE[task]()

    return enter


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def task_of(code: str) -> str:
    return next(task for task in TASKS if re.search(rf"geohf\.{task}\b|outputs/{task}\b", code))


@pytest.mark.parametrize(("page", "number", "code"), BLOCKS, ids=[f"{page}-{n}" for page, n, _ in BLOCKS])
def test_the_block_runs(page, number, code, room, hub):
    task = task_of(code)
    room(task)
    for pattern, stand_in in STAND_INS.items():
        code = re.sub(pattern, stand_in, code)
    scope = {"QUICK": QUICK.get(task, STEP), "TINY": TINY, "SMALL": SMALL}
    exec(compile(code, f"{page}, block {number}", "exec"), scope)
    model = scope.get("model") or scope["result"].model
    assert isinstance(model, PreTrainedModel)
    assert model.config.model_type == f"geohf_{task}"
    for repo in re.findall(r'push_to_hub\("([^"]+)"\)', code):
        assert {"config.json", "model.safetensors", "README.md"} <= hub.files(repo).keys()
    for name in re.findall(r'pipeline\("([^"]+)"', code):
        assert name == PIPELINE_TAGS[task]


def test_there_are_blocks_of_every_task():
    found = {(page, task_of(code)) for page, _, code in BLOCKS}
    assert found >= {("README.md", "street")} | {(f"docs/{task}.md", task) for task in TASKS}
