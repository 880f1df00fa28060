"""Data sets of the Hub that are a zip, or a plain folder of images: loaded and streamed."""

from __future__ import annotations

import zipfile

import pytest
from helpers.place_models import write_pictures
from helpers.street_models import build_model
from huggingface_hub import HfApi

from geohf.place.drives import load_drives
from geohf.street.data import load_places
from geohf.street.streaming import stream_places
from geohf.vision.images import open_image

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "plain"
    write_pictures(folder, NAMES)
    lines = [f"{name},{30 + i},{-100 - i}" for i, name in enumerate(NAMES)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,latitude,longitude", *lines]) + "\n")
    return folder


def pushed(name, folder):
    HfApi().create_repo(name, repo_type="dataset", exist_ok=True)
    HfApi().upload_folder(repo_id=name, folder_path=folder, repo_type="dataset")
    return name


@pytest.mark.case("use-B1")
def test_a_zip(hub, plain, tmp_path):
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "photos.zip", "w") as archive:
        for file in plain.iterdir():
            archive.write(file, file.name)
    name = pushed("me/zipped", tmp_path / "zipped")
    train = load_places(name)[0]["train"]
    assert [row["latitude"] for row in train] == [30, 31, 32]
    assert [row["views"][0].size for row in train] == [(48, 40)] * 3
    assert build_model().predict_to_file(name, tmp_path / "answers.csv") == 3


@pytest.mark.case("use-B2")
def test_a_plain_folder_as_a_stream(hub, plain):
    rows = list(stream_places(pushed("me/plain", plain)))
    assert [row["latitude"] for row in rows] == [30, 31, 32]
    assert [open_image(row["views"][0]).tobytes() for row in rows] == [
        open_image(plain / name).tobytes() for name in NAMES
    ]


def test_a_table_of_files(plain):
    assert len(load_drives(plain / "metadata.csv")[0]) == 3
