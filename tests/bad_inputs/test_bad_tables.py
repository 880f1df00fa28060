"""Tables that cannot be used: the same mistakes at every entry point that reads a table, and each task's own."""

import csv
from pathlib import Path

import pytest
from helpers.bad_world import TINY, Case, Command, World

ALIASES = {
    "file": ("image", "filename", "image_north"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon"),
}
ENTRIES = {
    "train_region": World.train_region,
    "train_streetclip, photographs": World.train_street,
    "train_streetclip, competition": World.train_competition,
    "train_place": World.train_place,
    "train_tiles": World.train_tiles,
    "predict, street": World.predict_table,
    "predict, tiles": lambda world: world.predict("tiles"),
    "evaluate, region": lambda world: world.evaluate("region"),
    "evaluate, place": lambda world: world.evaluate("place"),
    "index_places": World.index,
}
PLACED = [name for name in ENTRIES if "tiles" not in name and name != "predict, street"]


def spoilt(entry, spoil):
    """What makes the entry's command after its table was spoilt."""

    def build(world):
        command = entry(world)
        spoil(command.table)
        return command

    return build


# ---- mistakes: each takes a table's path and spoils the file


def content(new):
    """The whole file is something else; a function makes it of the old bytes."""

    def spoil(path: Path):
        path.write_bytes(new(path.read_bytes()) if callable(new) else new)

    return spoil


def cell(column, text, row=0):
    """One cell is something else; a function makes it of the table's path."""

    def spoil(path: Path):
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        names = ALIASES.get(column, (column,))
        at = next(i for i, name in enumerate(rows[0]) if name in names)
        rows[row + 1][at] = str(text(path)) if callable(text) else text
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    return spoil


def swapped(path: Path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [next(name for name in rows[0] if name in ALIASES[axis]) for axis in ("latitude", "longitude")]
    for row in rows:
        row.update(zip(names, [row[name] for name in names[::-1]], strict=True))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _made(path: Path, name: str) -> str:
    for folder in (path.parent, path.parent / "train_images"):
        (folder / name).mkdir(parents=True)
    return name


def gone(path: Path):
    path.unlink()


WHOLE_FILES = [
    ("an empty file", content(b""), ["TABLE", "empty"]),
    ("blank lines only", content(b"\n\n\n"), ["TABLE"]),
    ("a header and no rows", content(lambda old: old.splitlines(True)[0]), ["TABLE", "no rows"]),
    ("an image instead of a table", content(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\xff"), ["TABLE"]),
    ("Latin-1", content(lambda old: old + "é.png,1,2,3\n".encode("latin-1")), ["TABLE", "UTF-8"]),
    ("a header that names a column twice", content(lambda old: _twice(old)), ["TABLE", "twice"]),
    ("more cells than the header has names", content(lambda old: _longer(old)), ["TABLE", "more cells"]),
    ("one row with more cells", content(lambda old: old + b"1,2,3,4,5,6,7,8,9,10,11,12\n"), ["TABLE", "line"]),
    ("a quote that never ends", content(lambda old: old + b'"x,1'), ["TABLE"]),
    ("JSON", content(b'{"image": ["a.png"],\n "latitude": [7]}\n'), ["TABLE", "column"]),
    ("no header", content(lambda old: b"".join(old.splitlines(True)[1:])), ["TABLE", "column"]),
    ("no file", gone, ["TABLE", ""]),
]  # fmt: skip
ROWS = [
    ("a latitude that is no number", cell("latitude", "north"), ["TABLE, row 2", "'north'", "not a number"]),
    ("a decimal comma", cell("longitude", "12,5", row=1), ["TABLE, row 3", "'12,5'", "not a number"]),
    ("an infinite latitude", cell("latitude", "inf"), ["TABLE, row 2", "inf"]),
    ("a NaN for a longitude", cell("longitude", "nan"), ["TABLE, row 2", "longitude"]),
    ("an empty latitude", cell("latitude", ""), ["TABLE, row 2", "latitude"]),
    ("a latitude beyond the pole", cell("latitude", "95", row=2), ["TABLE, row 4", "95"]),
    ("a longitude beyond every map", cell("longitude", "1e6"), ["TABLE, row 2", "1000000"]),
    ("latitude and longitude swapped", swapped, ["TABLE", "swapped"]),
]  # fmt: skip
FILES = [
    ("a path that climbs out", cell("file", "../../../etc/hosts"), ["TABLE, row 2", "out of the folder"]),
    ("an absolute path", cell("file", "/etc/hosts"), ["TABLE, row 2", "out of the folder"]),
    ("a file that is not there", cell("file", "gone.png"), ["gone.png", "No such file"]),
    ("a folder instead of a file", cell("file", lambda path: _made(path, "folder.png")), ["folder.png", "is a folder"]),
    ("a file name with a NUL", cell("file", "1\0.png", row=1), ["TABLE, row 3", "NUL"]),
]  # fmt: skip
EVERY = [name for name in ENTRIES if "evaluate" not in name]  # it loads as training does
WITH_FILES = [*PLACED, "predict, street"]
CASES = [
    Case(f"{entry}: {name}", spoilt(ENTRIES[entry], spoil), says)
    for entries, mistakes in ((EVERY, WHOLE_FILES), (PLACED, ROWS), (WITH_FILES, FILES))
    for name, spoil, says in mistakes
    for entry in entries
]


def _twice(old: bytes) -> bytes:
    head, *rows = old.decode().splitlines()
    return "\n".join([f"{head},{head.partition(',')[0]}", *(f"{row},1" for row in rows)]).encode()


def _longer(old: bytes) -> bytes:
    head, *rows = old.decode().splitlines()
    return "\n".join([head, *(f"{row},1,2" for row in rows)]).encode()


def of_region(spoil, *words):
    return lambda world: spoilt(World.train_region, spoil)(world).plus(*words)


def of_tiles(spoil, *words):
    return lambda world: spoilt(World.train_tiles, spoil)(world).plus(*words)


def of_place(columns, *rows, words=()):
    def build(world):
        command = world.train_place()
        command.table.write_text("\n".join([columns, *rows]) + "\n")
        return command.plus(*words)

    return build


def beside(entry, name, text):
    """Another file in the table's folder holds this."""

    def build(world):
        command = entry(world)
        (command.table.parent / name).write_text(text)
        return command

    return build


def other_table(world):
    """The training table measured as its own validation table."""
    command = world.train_region()
    return command.plus("--val_csv", command.table)


def _parquet(**columns):
    def spoil(path):
        import pandas as pd

        pd.DataFrame(columns).to_parquet(path)

    return spoil


def renamed(entry, spoil):
    """The command with `table.parquet` in place of its CSV table."""

    def build(world):
        command = entry(world)
        path = command.table.with_suffix(".parquet")
        command.table.rename(path)
        spoil(path)
        words = [path if word == command.table else word for word in command.words]
        return Command(command.recipe, words, path)

    return build


COMPETITION = World.train_competition
TEMPLATE = "sample_id,image_north,image_east,image_south,image_west\n"
OF_TASKS = [
    Case("an empty region", of_region(cell("Region_ID", "")), ["TABLE, row 2", "region is empty"]),
    Case("a file twice with different labels", of_region(cell("filename", "b.png")), ["TABLE, row 2", "rows 2, 3 with different labels"]),
    Case("a region to train that no row has", of_region(lambda path: None, "--regions", "99", "--dbscan_eps", 0, "--min_rows", 1), ["regions", "99"]),
    Case("photographs that were trained on", other_table, ["TABLE, row 2", "stands in the training table too"]),
    Case("degrees as planar data", of_region(lambda path: None, "--frame", "planar"), ["labels.csv", "degrees"]),
    Case("a list of exclusions that is not there", of_region(lambda path: None, "--exclude", "no.txt"), ["no.txt", "No such file"]),
    Case("a region that the model does not know", lambda world: spoilt(lambda w: w.evaluate("region"), cell("Region_ID", "77"))(world), ["TABLE, row 2", "'77'"]),
    Case("a state that the mapping does not know", spoilt(COMPETITION, cell("state", "Atlantis")), ["TABLE, row 2", "'Atlantis'", "state_mapping.csv"]),
    Case("a state at odds with its index", spoilt(COMPETITION, cell("state_idx", "1")), ["TABLE, row 2", "state_idx"]),
    Case("a sample_id twice", spoilt(COMPETITION, cell("sample_id", "1")), ["TABLE, row 3", "sample_id 1"]),
    Case("a mapping with an index twice", beside(COMPETITION, "state_mapping.csv", "state_idx,state\n0,Texas\n0,California\n"), ["state_mapping.csv, row 3", "twice"]),
    Case("a mapping without states", beside(COMPETITION, "state_mapping.csv", "state_idx\n0\n"), ["state_mapping.csv", "'state'"]),
    Case("a test row without its photograph", beside(COMPETITION, "sample_submission.csv", TEMPLATE + "7,no.png,,,\n"), ["sample_submission.csv, row 2", "no.png"]),
    Case("a state in no country of the table", spoilt(World.train_street, cell("latitude", "-36")), ["TABLE, row 2", "not in the United States"]),
    Case("some rows without a state", spoilt(World.train_street, cell("state", "")), ["'0.png'", "no state"]),
    Case("a state to predict that the model does not know", lambda world: world.predict().plus("--states", "Atlantis"), ["Atlantis"]),
    Case("a camera that is not there", lambda world: world.index().plus("--camera_id", "rear"), ["camera_id", "'rear'"]),
    Case("UTM without a zone", of_place("image,utm_east,utm_north", "0.png,448251,5411932"), ["TABLE", "zone"]),
    Case("UTM in a zone that is none", of_place("image,utm_east,utm_north,utm_zone", "0.png,448251,5411932,99U"), ["TABLE, row 2", "zone 99"]),
    Case("a --utm that is none", of_place("image,utm_east,utm_north", "0.png,448251,5411932", words=["--utm", "moon"]), ["'moon'"]),
    Case("an easting of another planet", of_place("image,utm_east,utm_north", "0.png,9e6,5411932", words=["--utm", "31 north"]), ["TABLE, row 2", "easting"]),
    Case("queries that find themselves", lambda world: world.train_place().plus("--test_csv", world.folder / "drive.csv"), ["self_retrieval"]),
    Case("one drive to evaluate", lambda world: world.evaluate("place"), ["TABLE", "single drive"]),
    Case("a box that is code", of_tiles(cell("region_coordinates", "__import__('os').system('touch hacked')", 2)), ["TABLE, row 4", "region_coordinates"]),
    Case("a box of three numbers", of_tiles(cell("region_coordinates", "(0, 0, 5)", 2)), ["TABLE, row 4", "region_coordinates"]),
    Case("a box of text", of_tiles(cell("region_coordinates", "('0', '0', '5', '5')", 2)), ["TABLE, row 4", "region_coordinates"]),
    Case("a box without area", of_tiles(cell("region_coordinates", "(5, 5, 5, 9)", 2)), ["TABLE, row 4", "no area"]),
    Case("a box outside its image", of_tiles(cell("region_coordinates", "(0, 0, 99, 9)", 2)), ["TABLE, row 4", "reaches out"]),
    Case("a box of infinite size", of_tiles(cell("region_coordinates", "(0, 0, 1e999, 9)", 2)), ["TABLE, row 4", "region_coordinates"]),
    Case("a box beyond 32 bits", of_tiles(cell("region_coordinates", "(0, 0, 5000000000, 9)", 2)), ["TABLE, row 4"]),
    Case("a tile_id twice", of_tiles(cell("tile_id", "712021", 2)), ["TABLE, row 7", "tile_id 712021"]),
    Case("a target that is no number", of_tiles(cell("target", "much", 2)), ["TABLE, row 4", "'much'"]),
    Case("an infinite target", of_tiles(cell("target", "inf", 2)), ["TABLE, row 4", "inf"]),
    Case("an empty target", of_tiles(cell("target", "", 2)), ["TABLE, row 4", "target"]),
    Case("a region that climbs out", of_tiles(cell("region_id", "../../../labels", 2)), ["TABLE, row 4", "leads out"]),
    Case("a region without images", of_tiles(cell("region_id", "zz", 2)), ["TABLE, row 4", "region 'zz'", "no image"]),
    Case("a label without a folder", of_tiles(lambda path: None, "--labels", "2021", "2022"), ["TABLE", "2022"]),
    Case("a target column that is not there", of_tiles(lambda path: None, "--targets", "rent"), ["TABLE", "'rent'"]),
    Case("tiles to evaluate without a target", lambda world: spoilt(lambda w: w.evaluate("tiles"), content(lambda old: old.replace(b"target", b"rent")))(world), ["TABLE", "'target'"]),
    Case("Parquet that is CSV", renamed(World.train_region, lambda path: None), ["TABLE", "cannot be read as a table"]),
    Case("Parquet cut off", renamed(World.predict_table, lambda path: (_parquet(image=["0.png"])(path), path.write_bytes(path.read_bytes()[:-9]))), ["TABLE", "cannot be read as a table"]),
    Case("Parquet with lists for numbers", renamed(World.train_street, _parquet(image=["0.png"], latitude=[[1.0]], longitude=[2.0])), ["TABLE, row 2", "latitude"]),
    Case("Parquet with numbers for files", renamed(World.index, _parquet(image=[7], lat=[1.0], lon=[2.0])), ["TABLE, row 2", "7"]),
    Case("Parquet without rows", renamed(World.train_place, _parquet(image=[], lat=[], lon=[])), ["TABLE", "no rows"]),
    Case("a dataset of the Hub that is not there", lambda world: Command("train_streetclip", ["--data", "org/none", *TINY]), ["org/none", "no such file or folder"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_table(case, world):
    world.refuses(case)


@pytest.mark.parametrize("case", OF_TASKS, ids=str)
def test_tables_of_a_task(case, world):
    world.refuses(case)
