"""Whatever a user hands over becomes samples: what is one, what is many, and what each is called."""

from __future__ import annotations

import io
import logging
import os
import shutil
import threading
import warnings
import zipfile
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.place_models import build_model, write_pictures
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from geohf import DataError
from geohf.data.inputs import find_images
from geohf.data.samples import samples_of, without_decoding
from geohf.data.splits import copy_numbers
from geohf.vision.files import image_files
from geohf.vision.images import ImageError, open_image, picture_of

NAMES = [f"{i}.png" for i in range(1, 4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return [str(folder / name) for name in NAMES]


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def expected(model, files):
    return [model.predict(file)[0].descriptor for file in files]


def dataset_of(files, name="image", **columns):
    return datasets.Dataset.from_dict({name: files, **columns}).cast_column(name, datasets.Image())


class Own(torch.utils.data.Dataset):
    """What people write for torch; it says what was read, and has no end of its own."""

    def __init__(self, files):
        self.files, self.read = files, []

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        self.read.append(i)
        return {"image": Image.open(self.files[i % len(self.files)]), "label": 1}


def augmented(batch):
    return batch | {"image": [image.convert("RGB") for image in batch["image"]]}


def read(file):
    with open(file, "rb") as opened:
        return opened.read()


def parquet(path, files, relative=False):
    cells = [{"bytes": None if relative else read(f), "path": f.rpartition("/")[2]} for f in files]
    pd.DataFrame({"photo": cells, "lat": [1.0] * len(files)}).to_parquet(path)
    return path


def objects(files):
    array = np.empty(len(files), object)
    array[:] = [Image.open(file) for file in files]
    return array


MANY = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "array of names": np.array,
    "series": lambda files: pd.Series(files, index=range(5, 5 + len(files))),
    "frame": lambda files: pd.DataFrame({"photo": files, "state": ["Ohio", None, "Iowa"]}),
    "arrow": lambda files: pa.table({"image_path": files, "n": [1, 2, 3]}),
    "arrow column": lambda files: pa.chunked_array([files]),
    "object array": objects,
    "batch of arrays": lambda files: np.stack([np.asarray(Image.open(file)) for file in files]),
    "batch tensor": lambda files: torch.stack(
        [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    ),
    "files": lambda files: [open(file, "rb") for file in files],  # noqa: SIM115
    "bytes": lambda files: [io.BytesIO(read(file)) for file in files],
    "dicts": lambda files: [{"img": Image.open(file), "n": 3} for file in files],
    "dataset": dataset_of,
    "other name": lambda files: dataset_of(files, "jpg", label=[1, 2, 3]),
    "text": lambda files: datasets.Dataset.from_dict({"file_name": files}),
    "column": lambda files: dataset_of(files)["image"],
    "key": lambda files: KeyDataset(dataset_of(files), "image"),
    "splits": lambda files: datasets.DatasetDict(a=dataset_of(files[:1]), b=dataset_of(files[1:])),
    "unlike splits": lambda files: datasets.DatasetDict(
        a=dataset_of(files[:1]), b=dataset_of(files[1:], "img")
    ),
    "transform": lambda files: dataset_of(files).with_transform(augmented),
    "torch format": lambda files: dataset_of(files, n=[1, 2, 3]).with_format("torch"),
    "numpy format": lambda files: dataset_of(files, n=[1, 2, 3]).with_format("numpy", columns=["image"]),
    "stream": lambda files: dataset_of(files).to_iterable_dataset(),
    "mapped stream": lambda files: dataset_of(files).to_iterable_dataset().map(lambda row: row),
    "splits of streams": lambda files: datasets.IterableDatasetDict(
        a=dataset_of(files[:2]).to_iterable_dataset(), b=dataset_of(files[2:]).to_iterable_dataset()
    ),
    "torch dataset": Own,
    "structs": lambda files: datasets.Dataset.from_dict(
        {"photo": [{"bytes": read(file), "path": "x"} for file in files]}
    ),
}


@pytest.mark.case(
    "use-S6", "use-B2", "use-B3", "use-B4", "use-B5", "use-B12", "use-U7", "use-U11", "use-U12", "use-M7"
)
@pytest.mark.parametrize("kind", MANY)
def test_many_samples_of_any_kind(kind, model, files, expected):
    answers = model.predict(MANY[kind](files), batch_size=2)
    assert np.allclose([answer.descriptor for answer in answers], expected, atol=1e-6)


@pytest.mark.case("use-S6", "use-B3", "use-B4", "use-B12", "use-O10", "use-M7")
@pytest.mark.parametrize("kind", MANY)
def test_a_pipeline_takes_the_same(kind, model, files, expected):
    pipe = pipeline("place-recognition", model=model, image_processor=model.processor)
    answers = list(pipe(MANY[kind](files)))
    assert np.allclose([answer["descriptor"] for answer in answers], expected, atol=1e-6)


@pytest.mark.case("use-M8")
def test_a_pipeline_answers_one_with_one(model, files, folder, expected):
    pipe = pipeline("place-recognition", model=model, image_processor=model.processor)
    one = (
        files[0],
        Image.open(files[0]),
        {"img": Image.open(files[0])},
        io.BytesIO(read(files[0])),
    )
    for sample in one:
        assert np.allclose(pipe(images=sample)["descriptor"], expected[0], atol=1e-6)
    assert len(pipe(str(folder))) == len(pipe(str(folder / "*.png"))) == 3
    assert pipe([]) == []
    assert model.predict([]) == []
    with pytest.raises(DataError, match="nothing to predict"):
        pipe()


@pytest.mark.case("use-U7", "use-U9")
def test_names_of_tables_globs_and_zips(model, files, folder, expected, tmp_path):
    for file in files:
        shutil.copy(file, tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, "in/" + file.rpartition("/")[2])
    (tmp_path / "a.csv").write_text("file_name,lat\n1.png,0\n2.png,0\n3.png,0\n")
    parquet(tmp_path / "held.parquet", files)
    parquet(tmp_path / "named.parquet", files, relative=True)
    dataset_of(files, "photo").save_to_disk(tmp_path / "saved")
    for name in ("*.png", "a.csv", "held.parquet", "named.parquet", "all.zip", "saved"):
        answers = model.predict(tmp_path / name)
        assert np.allclose([answer.descriptor for answer in answers], expected, atol=1e-6), name
        assert model.predict_to_file(tmp_path / name, tmp_path / "out" / "answers.jsonl") == 3


def test_one_sample_of_any_kind(model, files, expected):
    picture = Image.open(files[0])
    for one in (
        picture,
        np.asarray(picture),
        torch.from_numpy(np.array(picture)).permute(2, 0, 1),
        {"image": picture, "thumbnail": picture},
        {"bytes": read(files[0]), "path": None},
        open(files[0], "rb"),  # noqa: SIM115
    ):
        answers = model.predict(one)
        assert len(answers) == 1
        assert np.allclose(answers[0].descriptor, expected[0], atol=1e-6)


@pytest.mark.case("use-B12")
def test_an_own_dataset_is_read_batch_by_batch(files):
    own = Own(files)
    rows = iter(samples_of(own))
    next(rows)
    assert own.read == [0]
    assert len(list(samples_of(own))) == 3  # without an end of its own, it is asked for its length


@pytest.mark.case("use-U11")
def test_rows_with_several_pictures_or_none_are_refused():
    picture = Image.new("RGB", (4, 4))
    with pytest.raises(ImageError, match=r"several pictures \(a, b\)"):
        picture_of({"a": picture, "b": picture})
    with pytest.raises(ImageError, match="needs a picture, as 'image'; it has state, n"):
        picture_of({"state": "Ohio", "n": 3})
    with pytest.raises(ImageError, match="needs a picture, as 'image'; it has pixel_values"):
        picture_of({"pixel_values": torch.zeros(3, 8, 8)})  # what transforms prepared for another model
    with pytest.raises(ImageError, match="a sample's 'image' is empty"):
        open_image({"image": None})
    with pytest.raises(ImageError, match="it has nothing"):
        open_image({})
    for kind in (
        "RGB",
        "L",
    ):  # of rows of a dataset as it gives several; three gray ones are no colors of one
        with pytest.raises(
            ImageError, match="one picture, got a list of 3: give each as a sample of its own"
        ):
            open_image({"image": [picture.convert(kind)] * 3})
    with pytest.raises(DataError, match="a set of samples has no order"):
        samples_of({"a.jpg", "b.jpg"})
    with pytest.raises(ImageError, match="open it with mode 'rb'"):
        open_image(io.StringIO("text"))


@pytest.mark.case("use-B3", "use-U12")
def test_a_transform_stays_and_a_format_goes(files):
    kept = dataset_of(files).with_transform(augmented)
    assert without_decoding(kept) is kept
    rows = without_decoding(
        dataset_of(files, n=[1, 2, 3], m=[4, 5, 6]).with_format("torch", columns=["image", "n"])
    )
    assert type(rows[0]["n"]) is int
    assert set(rows[0]) == {"image", "n"}
    assert rows[0]["image"].keys() == {"bytes", "path"}


@pytest.mark.case("use-S7", "files-A20")
def test_a_folder_is_read_by_what_pillow_opens_and_in_natural_order(folder, files, tmp_path, caplog):
    picture = Image.open(files[0])
    for name in ("10.JPG", "2.jfif", "1.jpe", "a.mpo", "b.jp2", "c.avif", "d.webp"):
        kind = {"mpo": "JPEG", "jfif": "JPEG", "jpe": "JPEG"}.get(name.rpartition(".")[2])
        picture.save(tmp_path / name, kind)
    picture.save(tmp_path / "e.HEIC", "JPEG")  # as telephones' exports have it
    picture.save(tmp_path / "none", "PNG")
    for name in ("film.mp4", "README", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"no picture at all")
    with caplog.at_level(logging.WARNING):
        found = [path.name for path in image_files(tmp_path)]
    assert found == ["1.jpe", "2.jfif", "10.JPG", "a.mpo", "b.jp2", "c.avif", "d.webp", "e.HEIC", "none"]
    assert "not read, as no images: 2 files (README, film.mp4)" in caplog.text
    for path in image_files(tmp_path):
        assert open_image(path).size == (48, 40)


@pytest.mark.case("use-S7", "use-U1")
def test_links_in_a_folder_are_followed_and_none_is_left_out_in_silence(files, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "disk" / "day").mkdir(parents=True)
    shutil.copy(files[0], tmp_path / "disk" / "day" / "1.png")
    shutil.copy(files[1], tmp_path / "photos" / "2.png")
    links = {
        "day": tmp_path / "disk" / "day",
        "annexed.png": tmp_path / "photos" / "nowhere",  # as git-annex leaves what it did not get
        "3.png": files[2],
        "same": tmp_path / "photos",
        "above": tmp_path,
    }
    for name, target in links.items():
        (tmp_path / "photos" / name).symlink_to(target)
    (tmp_path / "disk" / "day" / "circle").symlink_to(tmp_path / "disk" / "day")
    found = [str(path.relative_to(tmp_path / "photos")) for path in image_files(tmp_path / "photos")]
    assert found == ["2.png", "3.png", "annexed.png", "day/1.png"]
    with pytest.raises(ImageError, match=r"annexed\.png: cannot be read \(No such file"):
        open_image(tmp_path / "photos" / "annexed.png")


@pytest.mark.case("use-S7")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all folders")
def test_a_folder_that_may_not_be_read_is_told_of(files, tmp_path, caplog):
    shutil.copy(files[0], tmp_path / "1.png")
    (tmp_path / "lost+found").mkdir(mode=0)
    assert [path.name for path in image_files(tmp_path)] == ["1.png"]
    assert "lost+found: a folder that cannot be read and is left out" in caplog.text


@pytest.mark.case("use-B1", "use-S7")
def test_a_zip_of_any_names_is_read_whole_or_refused(files, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("_DSC0001.png", "/root.png", "__MACOSX/._b.png", ".hidden/c.png"):
            archive.writestr(name, Path(files[0]).read_bytes())
    samples = dict(find_images(tmp_path / "a.zip"))
    assert list(samples) == ["/root.png", "_DSC0001.png"]  # cameras name pictures in Adobe RGB so
    assert all(open_image(sample).size == (48, 40) for sample in samples.values())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 40)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(6 * 48 * 40 + 1))
    with pytest.raises(ImageError, match=r"a\.png::.* may be a decompression bomb"):
        open_image(dict(find_images(tmp_path / "bomb.zip"))["a.png"])
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(files[1], "_DSC0001.png")
    with pytest.raises(DataError, match=r"several files of one name, .*: _DSC0001\.png"):
        find_images(tmp_path / "a.zip")


@pytest.mark.case("use-S7")
def test_a_folder_without_an_image_says_what_it_holds(tmp_path):
    with pytest.raises(ImageError, match="holds no image; it is empty"):
        image_files(tmp_path)
    (tmp_path / "film.mp4").write_bytes(b"1234")
    with pytest.raises(ImageError, match=r"holds no image; it holds 1 file \(film.mp4\)"):
        image_files(tmp_path)


def test_a_folder_with_a_slip_is_not_asked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    for name in ("photos", "my photos", "day_1"):
        with pytest.raises(ImageError, match=f"{name}: no such file or folder"):
            find_images(name)


@pytest.mark.case("use-S7")
def test_a_true_heic_says_what_reads_it(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(ImageError, match=r"a\.heic: is a HEIC image; pip install 'geohf\[heif\]'|is broken"):
        open_image(tmp_path / "a.heic")


@pytest.mark.case("use-S15")
def test_no_filter_of_warnings_is_touched(monkeypatch, files):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 40 - 1)
    before = list(warnings.filters)
    seen = []

    def watch():
        while not stop.is_set():
            seen.append(len(warnings.filters))

    stop = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        with pytest.raises(ImageError, match="more than 1,919 pixels"):
            open_image(files[0])
    stop.set()
    watcher.join()
    assert warnings.filters == before
    assert set(seen) == {len(before)}


@pytest.mark.case("use-B1")
def test_addresses_of_fsspec(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(files[0], "in/1.png")
    address = f"zip://in/1.png::{tmp_path / 'photos.zip'}"
    for source in (address, {"path": address, "bytes": None}, f"file://{files[0]}"):
        assert np.array_equal(open_image(source), open_image(files[0]))
    with pytest.raises(ImageError, match=r"zip://no\.png::.*cannot be read"):
        open_image(address.replace("in/1.png", "no.png"))


def test_names(files):
    assert [name for name, _ in find_images([Image.open(files[0]), Image.new("RGB", (4, 4))])] == [
        files[0],
        "1",
    ]
    assert [name for name, _ in find_images(files[0])] == [files[0]]
    with pytest.raises(DataError, match="nothing to predict"):
        find_images([])


def test_what_is_no_sample_is_refused_by_name(model, files):
    with pytest.raises(DataError, match="an empty name is no image"):
        model.predict("")
    with pytest.raises(DataError, match="an empty name is no image"):
        find_images([files[0], ""])
    with pytest.raises(DataError, match="give its `dataset`"):
        model.predict(torch.utils.data.DataLoader(files, batch_size=2))


@pytest.mark.parametrize("source", ["{}/a.parquet", "{}/*.parquet", "{}", "memory://beside/*.parquet"])
def test_pictures_that_parquet_names_lie_beside_it_and_not_in_the_working_folder(
    tmp_path, monkeypatch, source
):
    here, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder, color in ((here, "red"), (elsewhere, "blue")):
        (folder / "photos").mkdir(parents=True)
        Image.new("RGB", (4, 4), color).save(folder / "photos" / "0.png")
    picture = {"bytes": None, "path": "photos/0.png"}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image": pa.array([picture], kind), "views": pa.array([[picture] * 2], pa.list_(kind))}
    pq.write_table(pa.table(columns), here / "a.parquet")
    if source.startswith("memory"):
        fsspec.filesystem("memory").put(f"{here}/", "/beside", recursive=True)
    monkeypatch.chdir(elsewhere)
    [(_, row)] = find_images(source.format(here))
    assert [open_image(one).getpixel((0, 0)) for one in (row, *row["views"])] == [(255, 0, 0)] * 3


@pytest.mark.parametrize("source", ["memory://sorted/", "memory://sorted/**"])
def test_a_folder_at_an_address_is_read_as_one_on_the_disk(files, source):
    system = fsspec.filesystem("memory")
    for name in ("2.png", "10.png", "._2.png", ".ipynb_checkpoints/2-checkpoint.png"):
        system.pipe(f"/sorted/{name}", Path(files[0]).read_bytes())
    assert [name.rpartition("/")[2] for name, _ in find_images(source)] == ["2.png", "10.png"]


def test_hidden_parquet_in_a_folder_is_left_out(tmp_path, files):
    shard = datasets.Dataset.from_dict({"image": [{"bytes": Path(files[0]).read_bytes(), "path": None}]})
    for name in ("0.parquet", ".0-checkpoint.parquet"):
        shard.to_parquet(tmp_path / name)
    assert find_images(tmp_path).count == 1


@pytest.mark.parametrize("several", [False, True])
def test_copies_of_a_picture_are_one_place_in_files_and_in_rows(tmp_path, several):
    pictures = [np.random.default_rng(i // 2).integers(0, 256, (6, 6, 3), dtype=np.uint8) for i in range(12)]
    cells = []
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        held = {"bytes": (tmp_path / f"{i}.png").read_bytes(), "path": f"{i}.png"}
        cells.append([str(tmp_path / f"{i}.png"), held][i % 3 == 0])
    kind, name = datasets.Image(decode=False), "views" if several else "image"
    features = datasets.Features({name: datasets.List(kind) if several else kind})
    columns = {name: [[cell] * 2 for cell in cells] if several else cells}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    for rows, expected in ((range(12), [i // 2 for i in range(12)]), ([5, 0, 4, 1], [0, 1, 0, 1])):
        found = copy_numbers(dataset.select(rows)).tolist()
        assert [found.index(number) for number in found] == [expected.index(number) for number in expected]
    assert copy_numbers(dataset.select([0, 2, 5])) is None
