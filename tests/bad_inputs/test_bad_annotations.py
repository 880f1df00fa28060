"""JSON annotations that cannot be used, in both layouts, where they are trained on, converted and evaluated."""

import json

import pytest
from helpers.bad_world import Case, World

BIKE, COCO = "bikes/train_annotations.json", "bikes/train_coco.json"


def raw(new):
    """The whole file is something else; a function makes it of the old text."""

    def spoil(path):
        path.write_bytes(new(path.read_bytes()) if callable(new) else new)

    return spoil


def part(name="saddle", **fields):
    """Fields of a part in photo 1.png are something else."""

    def change(content):
        content["1.png"]["parts"][name].update(fields)

    return edited(change)


def box(**sides):
    def change(content):
        content["1.png"]["parts"]["saddle"]["absolute_bounding_box"].update(sides)

    return edited(change)


def edited(change):
    def spoil(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def annotation(**fields):
    return edited(lambda content: content["annotations"][1].update(fields))


def image(**fields):
    return edited(lambda content: content["images"][1].update(fields))


ANY = [
    ("an empty file", raw(b""), ["FILE", "not JSON"]),
    ("broken JSON", raw(lambda old: old[:-30]), ["FILE", "not JSON"]),
    ("a list at the top", raw(b"[1, 2]"), ["FILE", "must be a JSON object"]),
    ("an empty object", raw(b"{}"), ["FILE"]),
    ("binary", raw(b"\x89PNG\r\n\x1a\n\x00\xff"), ["FILE", "cannot be read"]),
    ("nested without end", raw(b'{"a":' * 100_000), ["FILE", "not JSON"]),
]  # fmt: skip
DELFT = [
    *ANY,
    ("a photo that is a list", edited(lambda c: c.update({"1.png": [1]})), ["FILE, row 1.png"]),
    ("a photo without parts", edited(lambda c: c["1.png"].pop("parts")), ["FILE, row 1.png", "parts"]),
    ("parts that are a list", edited(lambda c: c["1.png"].update(parts=["saddle"])), ["FILE, row 1.png"]),
    ("a part that is text", edited(lambda c: c["1.png"]["parts"].update(saddle="intact")), ["FILE, row 1.png, saddle"]),
    ("an unknown part", part(part_name="sadle"), ["FILE, row 1.png, sadle", "did you mean 'saddle'"]),
    ("an unknown state", part(object_state="stolen", object_state_class=None), ["FILE, row 1.png, saddle", "'stolen'"]),
    ("a state that is a list", part(object_state=["intact"], object_state_class=None), ["FILE, row 1.png, saddle", "state"]),
    ("a state at odds with its number", part(object_state="damaged"), ["FILE, row 1.png, saddle", "'damaged'"]),
    ("a state's number that is none", part(object_state_class=1.0), ["FILE, row 1.png, saddle", "1.0"]),
    ("a file name that is a number", edited(lambda c: c["1.png"]["image"].update(filename=7)), ["FILE, row 1.png", "filename"]),
    ("a box outside its photo", box(left=39), ["FILE, row 1.png, saddle", "outside the photo"]),
    ("a box of negative size", box(width=-4), ["FILE, row 1.png, saddle", "no area"]),
    ("a box with NaN", box(top=float("nan")), ["FILE, row 1.png, saddle", "finite"]),
    ("a box with infinity", box(height=float("inf")), ["FILE, row 1.png, saddle", "finite"]),
    ("a box of text", box(left="wide"), ["FILE, row 1.png, saddle", "wide"]),
    ("no box", part(absolute_bounding_box=None), ["FILE, row 1.png, saddle", "box"]),
    ("trust beyond 1", part(trust=1.5), ["FILE, row 1.png, saddle", "trust"]),
    ("trust that is NaN", part(trust=float("nan")), ["FILE, row 1.png, saddle", "trust"]),
    ("a photo of another size", edited(lambda c: c["1.png"]["image"].update(width=41)), ["FILE, row 1.png", "41 x 30"]),
    ("a size that is text", edited(lambda c: c["1.png"]["image"].update(width="wide")), ["FILE, row 1.png", "'wide'"]),
    ("a size that is infinite", edited(lambda c: c["1.png"]["image"].update(width=float("inf"))), ["FILE, row 1.png", "inf"]),
    ("a photo twice", raw(lambda old: old[:-1] + b', "1.png": {"parts": {}}}'), ["FILE, row 1.png", "more than once"]),
    ("a part twice", raw(lambda old: old.replace(b'{"saddle"', b'{"bell": {"object_state": "intact"}, "saddle"', 1)), ["FILE, row 0.png, bell"]),
    ("a photo that is not on disk", edited(lambda c: c["1.png"]["image"].update(filename="99.png")), ["FILE, row 99.png", "not on disk"]),
    ("a photo that nobody lists", edited(lambda c: c.pop("1.png")), ["FILE, row 1.png", "no annotation"]),
    ("a photo that climbs out", edited(lambda c: c["1.png"]["image"].update(filename="../../x.png")), ["FILE, row ../../x.png", "out of the folder"]),
]  # fmt: skip
COCOS = [
    *ANY,
    ("no images", edited(lambda c: c.pop("images")), ["FILE"]),
    ("images that are an object", edited(lambda c: c.update(images={})), ["FILE", "images"]),
    ("no annotations", edited(lambda c: c.pop("annotations")), ["FILE"]),
    ("no categories", edited(lambda c: c.pop("categories")), ["FILE", "categories"]),
    ("a category that is a number", edited(lambda c: c.update(categories=[1, 2])), ["FILE", "categories"]),
    ("a category without a name", edited(lambda c: c["categories"][0].pop("name")), ["FILE", "name"]),
    ("a category id twice", edited(lambda c: c["categories"][1].update(id=1)), ["FILE", "1"]),
    ("a state id twice", edited(lambda c: c["states"][1].update(id=0)), ["FILE", "0"]),
    ("an image id twice", image(id=0), ["FILE", "id 0"]),
    ("an image that is text", edited(lambda c: c["images"].insert(0, "1.png")), ["FILE"]),
    ("an image without a name", edited(lambda c: c["images"][1].pop("file_name")), ["FILE"]),
    ("an image whose name is a number", image(file_name=7), ["FILE"]),
    ("an id that is a list", image(id=[1]), ["FILE"]),
    ("an annotation of an unknown image", annotation(image_id=77), ["FILE", "77"]),
    ("an annotation that is null", edited(lambda c: c["annotations"].insert(0, None)), ["FILE"]),
    ("an unknown category", annotation(category_id=9), ["FILE, row 1.png", "9"]),
    ("an unknown state", annotation(state=9), ["FILE, row 1.png", "9"]),
    ("a category that is an object", annotation(category_id={}), ["FILE, row 1.png"]),
    ("a box of three numbers", annotation(bbox=[1, 2, 3]), ["FILE, row 1.png", "four"]),
    ("a box that is null", annotation(bbox=None), ["FILE, row 1.png", "box"]),
    ("a box outside its photo", annotation(bbox=[30, 2, 30, 3]), ["FILE, row 1.png", "outside the photo"]),
    ("a box of negative size", annotation(bbox=[1, 2, -3, 3]), ["FILE, row 1.png", "no area"]),
    ("a box with NaN", annotation(bbox=[1, 2, float("nan"), 3]), ["FILE, row 1.png", "finite"]),
    ("a photo that climbs out", image(file_name="/etc/hosts"), ["FILE, row /etc/hosts", "out of the folder"]),
]  # fmt: skip
ENTRIES = {
    "train_parts": (lambda w: w.train_parts(), BIKE, DELFT),
    "train_parts, COCO": (lambda w: w.train_parts("coco"), COCO, COCOS),
    "convert_parts": (World.convert_parts, BIKE, DELFT),
    "convert_parts, COCO": (lambda w: w.convert_parts("coco"), COCO, COCOS),
    "evaluate": (lambda w: w.evaluate("parts"), BIKE, ANY),
}


def spoilt(entry, file, spoil):
    def build(world):
        command = entry(world)
        spoil(world.folder / file)
        return command

    return build


CASES = [
    Case(
        f"{name}: {mistake}",
        spoilt(entry, file, spoil),
        [text.replace("FILE", file.partition("/")[2]) for text in says],
    )
    for name, (entry, file, mistakes) in ENTRIES.items()
    for mistake, spoil, says in mistakes
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_annotations(case, world):
    world.refuses(case)
