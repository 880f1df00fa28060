"""Photographs and rasters that cannot be used."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.bad_world import REGIONS, Case, World
from PIL import Image
from rasterio.transform import from_origin

# ---- photographs: each mistake takes the path of one of six and spoils it


def zero_bytes(path: Path):
    path.write_bytes(b"")


def truncated(path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:5000])


def truncated_jpeg(path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def text(path: Path):
    path.write_text("<html>404 Not Found</html>")


def bomb(path: Path):
    """A PNG of a few bytes whose header promises 400 million pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def folder(path: Path):
    path.unlink()
    path.mkdir()


def dangling(path: Path):
    path.unlink()
    path.symlink_to("nowhere.png")


MISTAKES = [
    ("zero bytes", zero_bytes, ["PHOTO", "empty (0 bytes)"]),
    ("a truncated PNG", truncated, ["PHOTO", "truncated"]),
    ("a truncated JPEG", truncated_jpeg, ["PHOTO", "truncated"]),
    ("a web page", text, ["PHOTO", "not an image"]),
    ("a decompression bomb", bomb, ["PHOTO", "pixels", "bomb"]),
    ("a folder", folder, ["PHOTO"]),
    ("a link to nowhere", dangling, ["PHOTO"]),
]
# (command, the photo below the world's folder, the name by which a message may call it)
ENTRIES = {
    "train_region": (World.train_region, "b.png", "labels.csv, row 3"),
    "train_streetclip, photographs": (World.train_street, "1.png", "photos.csv, row 3"),
    "train_streetclip, competition": (
        World.train_competition,
        "competition/train_images/1_image_east.png",
        "train_ground_truth.csv, row 3",
    ),
    "train_parts, DelftBikes": (World.train_parts, "bikes/train/1.png", "train_annotations.json, row 1.png"),
    "train_parts, COCO": (lambda w: w.train_parts("coco"), "bikes/train/1.png", "train_coco.json, row 1.png"),
    "convert_parts": (World.convert_parts, "bikes/train/1.png", "train_annotations.json, row 1.png"),
    "train_place": (World.train_place, "1.png", "drive.csv, row 3"),
    "index_places": (World.index, "1.png", "drive.csv, row 3"),
    "predict, folder": (World.predict, "photos/2.png", "2.png"),
    "predict, file": (lambda w: _one_file(w), "photos/2.png", "2.png"),
    "predict, table": (World.predict_table, "1.png", "1.png"),
    "predict, parts": (lambda w: w.predict("parts"), "photos/2.png", "2.png"),
    "evaluate, street": (World.evaluate, "1.png", "photos.csv, row 3"),
    "evaluate, parts": (lambda w: w.evaluate("parts"), "bikes/train/1.png", "train_annotations.json, row 1.png"),
}  # fmt: skip
# a folder's own listing leaves out what is no file
NOT_LISTED = {("predict, folder", "a folder"), ("predict, folder", "a link to nowhere"),
              ("predict, parts", "a folder"), ("predict, parts", "a link to nowhere")}  # fmt: skip


def _one_file(world):
    command = world.predict()
    command.words[1] = world.folder / "photos/2.png"
    return command


def spoilt(entry, photo, spoil):
    def build(world):
        command = entry(world)
        spoil(world.folder / photo)
        return command

    return build


CASES = [
    Case(f"{name}: {mistake}", spoilt(entry, photo, spoil), [part.replace("PHOTO", where) for part in says])
    for name, (entry, photo, where) in ENTRIES.items()
    for mistake, spoil, says in MISTAKES
    if (name, mistake) not in NOT_LISTED
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_photographs(case, world):
    world.refuses(case)


@pytest.mark.parametrize("entry", ["street", "parts"])
def test_a_good_photograph_in_its_place_makes_it_go(entry, world):
    """The batches that were finished before are taken up; nothing of the failure remains."""
    command = world.predict(entry)
    photo = world.folder / "photos/3.png"
    good = photo.read_bytes()
    photo.write_bytes(b"")
    assert world.recipe(command.recipe, *command.words).returncode == 2
    photo.write_bytes(good)
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in world.out.iterdir()] == ["answers.jsonl"]


# ---- rasters


def tiff(name, **changes):
    """Tiles of which one raster is another."""

    def build(world):
        command = world.train_tiles()
        world.write_raster(name, **changes)
        return command

    return build


def damaged(name, change):
    def build(world):
        command = world.train_tiles()
        path = world.folder / "tiles/Images" / name
        path.write_bytes(change(path.read_bytes()))
        return command

    return build


def all_nodata(world):
    command = world.train_tiles()
    for label in ("2019", "2020", "2021"):
        for region in REGIONS:
            world.write_raster(f"{label}/{region}.tif", nodata=0)
    return command


def different_nodata(world):
    command = world.train_tiles()
    world.write_raster("2020/7.tif", nodata=7)
    world.write_raster("2020/8.tif", nodata=9)
    return command


def mosaic(*words, **changes):
    """Whole scenes of three years, the second one changed; no table."""

    def build(world):
        for label in ("2019", "2020", "2021"):
            world.write_raster(f"{label}.tif", **(changes if label == "2020" else {}))
        return world.train_scenes(*words)

    return build


RASTERS = [
    Case("a raster of another size", tiff("2020/7.tif", size=(20, 25)), ["2020/7.tif", "width is 25"]),
    Case("a raster with another number of bands", tiff("2020/7.tif", bands=1), ["2020/7.tif", "bands is 1"]),
    Case("a raster of another type", tiff("2020/7.tif", dtype="uint16"), ["2020/7.tif", "type is uint16"]),
    Case("a raster of complex numbers", tiff("2019/7.tif", dtype="complex64"), ["2019/7.tif", "complex64"]),
    Case("a raster that lies elsewhere", tiff("2021/7.tif", transform=from_origin(600_000, 5_000_000, 10, 10)), ["2021/7.tif", "elsewhere"]),
    Case("rasters with different nodata", different_nodata, ["nodata values (7, 9)", "--nodata"]),
    Case("all nodata", all_nodata, ["tiles.csv"]),
    Case("an empty raster", damaged("2020/8.tif", lambda old: b""), ["2020/8.tif", "0 bytes"]),
    Case("a raster cut in its header", damaged("2020/8.tif", lambda old: old[:60]), ["2020/8.tif", "truncated"]),
    Case("a raster cut in its pixels", damaged("2020/8.tif", lambda old: old[:-700]), ["2020/8.tif", "truncated"]),
    Case("a photograph that is called .tif", damaged("2020/8.tif", lambda old: b"GIF89a"), ["2020/8.tif"]),
    Case("scenes without a target", mosaic(), ["tiles/Images", "--target_from"]),
    Case("a scene of another size", mosaic("--target_from", "color_share", size=(24, 24)), ["2020.tif", "height is 24"]),
    Case("a scene smaller than a tile", mosaic("--target_from", "color_share"), ["2019.tif", "no tile of 32 x 32"]),
    Case("a band that is not there", mosaic("--target_from", "ndvi_fall", "--tile_size", 4), ["band 4"]),
    Case("a color of two bands", mosaic("--target_from", "color_share", "--tile_size", 4, "--color", 1, 2), ["color"]),
    Case("a scene that is missing", mosaic("--target_from", "color_share", "--tile_size", 4, "--labels", 2018, 2019), ["no image of the label 2018", "there are 2019, 2020"]),
]  # fmt: skip


@pytest.mark.parametrize("case", RASTERS, ids=str)
def test_rasters(case, world):
    world.refuses(case)
