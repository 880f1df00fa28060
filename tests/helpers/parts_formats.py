"""Annotations as the tools of others write them, and their comparison, for the tests of formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from geohf.parts.data import load_parts
from geohf.parts.vocabulary import names_of


def photos(folder: Path, *names: str, size=(40, 30)) -> Path:
    """Photos of one gray each, no two the same."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (100 + number,) * 3).save(folder / name)
    return folder


def named(dataset) -> dict:
    """photo -> its parts as (part, state, trust, crowd, box), sorted."""
    parts, states = names_of(dataset)
    return {
        row["image_id"]: sorted(
            (
                (parts[part], states.get(state), trust, crowd, *box)
                for part, state, trust, crowd, box in zip(
                    row["parts"], row["states"], row["trust"], row["iscrowd"], row["boxes"], strict=True
                )
            ),
            key=lambda part: (part[0], str(part[1]), *part[2:]),
        )
        for row in dataset
    }


def assert_equal(found, expected, trust=True):
    """Photos, names, boxes to 1e-3 pixel."""
    found, expected = named(found), named(expected)
    assert found.keys() == expected.keys()
    for name, parts in expected.items():
        assert [part[:2] + part[3:4] for part in found[name]] == [part[:2] + part[3:4] for part in parts]
        assert np.allclose(
            [part[4:] for part in found[name]], [part[4:] for part in parts], atol=1e-3, rtol=0
        )
        if trust:
            assert np.allclose([part[2] for part in found[name]], [part[2] for part in parts], atol=1e-3)


def coco_of(names, size):
    boxes = [[0, 0, 640.5, 356.25], [3.125, 7.333, 20.007, 100.001], [200.5, 33.1, 7.7, 8.8], [1, 2, 3, 4]]
    return {
        "images": [
            {"id": i, "file_name": n, "width": size[0], "height": size[1]} for i, n in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "left door"}, {"id": 2, "name": "wheel"}],
        "states": [{"id": 0, "name": "new"}, {"id": 1, "name": "worn out"}],
        "annotations": [
            {"id": i, "image_id": i % 2, "category_id": 1 + i // 2, "bbox": box, "state": i % 2}
            for i, box in enumerate(boxes)
        ],
    }


def cvat(
    *shapes, labels=("wheel", "bell"), values="intact\nbroken", image='name="1.png" width="40" height="30"'
):
    attribute = f"<attribute><name>state</name><values>{values}</values></attribute>" if values else ""
    listed = "".join(
        f"<label><name>{name}</name><attributes>{attribute}</attributes></label>" for name in labels
    )
    images = f'<image id="0" {image}>{"".join(shapes)}</image>'
    return f"<annotations><meta><task><labels>{listed}</labels></task></meta>{images}</annotations>"


def shape(label="wheel", tag="box", place='xtl="1" ytl="2" xbr="11.5" ybr="10"', inside="state:intact"):
    name, _, value = inside.partition(":")
    attribute = f'<attribute name="{name}">{value}</attribute>' if inside else ""
    return f'<{tag} label="{label}" occluded="0" z_order="0" {place}>{attribute}</{tag}>'


def load(folder: Path, name: str, text: str, **options):
    photos(folder, "1.png")
    (folder / name).write_text(text)
    return load_parts(folder / name, **options)[0]["train"]


def region(key="r1", label="wheel", state="intact", place=(10, 20, 50, 40), **changes) -> list[dict]:
    value = dict(zip(("x", "y", "width", "height"), place, strict=True)) | {"rotation": 0}
    shared = {"id": key, "to_name": "image", "original_width": 40, "original_height": 30, "image_rotation": 0}
    box = shared | {
        "from_name": "label",
        "type": "rectanglelabels",
        "value": value | {"rectanglelabels": [label]},
    }
    told = shared | {"from_name": "state", "type": "choices", "value": value | {"choices": [state]}}
    box["value"] |= {k: v for k, v in changes.items() if k in box["value"]}
    box |= {k: v for k, v in changes.items() if k not in box["value"]}
    return [box, told]


def task(*regions, image="/data/upload/1/0a1b2c3d-1.png", **changes) -> dict:
    annotations = [
        {"id": 1, "result": [result for found in regions for result in found], "was_cancelled": False}
    ]
    return {"id": 7, "data": {"image": image}, "annotations": annotations} | changes


VOC = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>{}</object>"


def voc(*objects, size="<size><width>40</width><height>30</height><depth>3</depth></size>"):
    return f"<annotation><filename>1.png</filename>{size}{''.join(objects)}</annotation>"


def yolo(folder: Path, labels: str, yaml="train: images/train\nnames: {0: wheel, 1: bell}\n") -> Path:
    photos(folder / "images" / "train", "1.png")
    (folder / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "train" / "1.txt").write_text(labels)
    (folder / "data.yaml").write_text(yaml)
    return folder
