"""What nobody means to give, and somebody does: an index of one picture, drives that stand, numbers that are none."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from helpers.place_models import along, build_model, parse, unit, write_csv, write_pictures
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, PlaceIndex
from geohf.place.data import load
from geohf.place.drives import drive_features, files_of, load_drives
from geohf.place.rows import LABELS, as_drives, join_rows
from geohf.place.sequences import in_order, match_sequences


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, [f"p{i}.png" for i in range(8)])
    return [folder / f"p{i}.png" for i in range(8)]


@pytest.fixture(scope="module")
def model():
    return build_model(pooling="avg", projection_dim=None, seed=1)


@pytest.fixture(scope="module")
def index(model, photos):
    return PlaceIndex.build(model, photos, along(40.0 * np.arange(8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": True}, "k must be a whole number of at least 1, got True"),
        ({"k": 2.5}, r"k must be a whole number of at least 1, got 2\.5"),
        ({"k": "3"}, "k must be a whole number of at least 1, got '3'"),
        ({"k": None}, "k must be a whole number of at least 1, got None"),
        ({"near": ("a", "b", 3)}, "near must be latitude, longitude and meters above 0"),
        (
            {"near": [(36.0, -115.0, 5.0), (36.0, -115.0)]},
            "near must be latitude, longitude and meters above 0",
        ),
        ({"near": (36.27, -115.0, np.nan)}, "near must be latitude, longitude and meters above 0"),
        ({"near": (-115.0, 36.27, 5.0)}, "latitude and longitude look swapped"),
    ],
)
def test_questions_that_are_none(index, options, message):
    with pytest.raises(DataError, match=message):
        index.search(index.descriptors[:1], **({"k": 1} | options))


@pytest.mark.parametrize("dims", [0, True, 2.5])
def test_lengths_that_are_none(dims):
    with pytest.raises(DataError, match="dims must be a whole number of at least 1"):
        PlaceIndex(unit(9, 8), along(np.arange(9)), list("abcdefghi"), "m", dims=dims)


def test_near_looks_across_the_antimeridian():
    seam = PlaceIndex(unit(3, 8), [[5, 179.9999], [5, -179.9999], [5, 10]], list("abc"), "m")
    _, rows = seam.search(unit(3, 8)[:1], 3, near=(5, 180, 100))
    assert sorted(rows[0].tolist()) == [0, 1]


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_names_are_text_whatever_they_were(ending, tmp_path):
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), [Path("a.jpg"), 7, "ü\nb"], "m")
    index.save(tmp_path / f"x.{ending}")
    assert PlaceIndex.load(tmp_path / f"x.{ending}").images == ["a.jpg", "7", "ü\nb"]


def test_drives_of_an_index_are_named_one_by_one(model, photos):
    with pytest.raises(DataError, match="sequences must name the drive of each image, got the text 'abc'"):
        PlaceIndex.build(model, photos[:3], along([0, 1, 2]), sequences="abc")
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), list("abc"), "m", sequences=np.array([1, 1, 2]))
    assert index.sequences == ["1", "1", "2"]


def test_one_name_of_two_pictures_is_forgotten_twice():
    index = PlaceIndex(unit(3, 8), along([0, 1, 2]), ["a", "a", "b"], "m")
    index.remove("a")
    assert index.images == ["b"]


@pytest.mark.parametrize("rows", [1, 2])
def test_pictures_that_are_indexed_twice_are_named(model, photos, rows, caplog):
    lines = [f"p{i}.png,{a:.7f},{b:.7f}" for i, (a, b) in enumerate(along(40.0 * np.arange(2)))]
    table = write_csv(photos[0].parent / f"twice{rows}.csv", "image,lat,lon", *lines[:rows], lines[0])
    with caplog.at_level(logging.WARNING):
        assert len(PlaceIndex.from_drives(model, table)) == rows + 1
    assert "more than once, and answer so" in caplog.text
    assert "p0.png" in caplog.text
    assert "p1.png" not in caplog.text


def test_files_that_tables_name_again_and_drives_that_they_call_alike_are_told_of(photos, tmp_path, caplog):
    """Frames 0 to 5 and 4 to 7 of one road, both called drive 0."""
    tables = [
        write_csv(
            photos[0].parent / f"{name}.csv",
            "image,lat,lon,sequence",
            *(
                f"p{i}.png,{a:.7f},{b:.7f},0"
                for i, (a, b) in enumerate(along(4.0 * np.arange(8)))
                if i in some
            ),
        )
        for name, some in (("early", range(6)), ("late", range(4, 8)))
    ]
    for table in tables:
        load_drives(table)
    assert not caplog.text
    words = ("--train_csv", *tables, "--test_csv", tables[0], "--audit", "off", "--output_dir", tmp_path)
    load(*parse(*words, "--validation_share", 0))
    assert f"train: 2 files are there more than once, and count so: {photos[4]}, {photos[5]}" in caplog.text
    assert "test: " not in caplog.text
    assert f"if they are not: 0, in {tables[0]} and others" in caplog.text


def test_a_file_with_fewer_names_than_rows_is_no_index(tmp_path):
    tensors = {"descriptors": unit(2, 8), "points": torch.from_numpy(along([0.0, 1.0]))}
    save_file(tensors, tmp_path / "a.safetensors", {"model": "m", "images": '["a"]', "storage": "float32"})
    with pytest.raises(
        DataError, match=r"a\.safetensors: is no place index.*2 descriptors, 2 points, 1 images"
    ):
        PlaceIndex.load(tmp_path / "a.safetensors")


def test_keys_without_a_sequence_are_one_drive_with_a_word(photos, tmp_path, caplog):
    write_pictures(tmp_path / "images", [f"{i}.jpg" for i in range(5)])
    rows = (f"{i},{b},{a}" for i, (a, b) in enumerate(along(40.0 * np.arange(5))))
    raw = write_csv(tmp_path / "raw.csv", "key,lon,lat", *rows)
    write_csv(tmp_path / "seq_info.csv", "key,sequence_key,frame_number", "0,s,2", "1,s,1", "2,s,0")
    images, _ = load_drives(raw)
    assert images["sequence"][:] == ["raw", "raw", "s", "s", "s"]
    assert [Path(file).stem for file in files_of(images)] == ["3", "4", "2", "1", "0"]
    assert "2 of 5 images have no sequence in seq_info.csv and count as one drive: 3, 4" in caplog.text


def test_one_photograph_at_two_places_is_named(photos, caplog):
    a, b = (f"{lat:.7f},{lon:.7f}" for lat, lon in along([0.0, 400.0]))
    rows = (f"p0.png,{a}", f"p1.png,{a}", f"p1.png,{a}", f"p0.png,{b}")
    load_drives(write_csv(photos[0].parent / "two.csv", "image,lat,lon", *rows))
    assert f"photographs with several positions, each of which counts: {photos[0]}" in caplog.text
    assert "p1.png" not in caplog.text


@pytest.mark.parametrize(
    ("times", "told"), [((1, None, 2), False), ((2, None, 1), True), ((None, None, None), False)]
)
def test_frames_that_a_lacking_time_leaves_unsorted_are_told_of(times, told, caplog):
    rows, *_ = in_order(["a"] * 3, times)
    assert rows.tolist() == [0, 1, 2]
    assert ("a: 1 of 3 frames have no time, so that all stay in the order given" in caplog.text) == told


def _change_header(path: Path, **changes: str | None) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {k: v for k, v in (header["__metadata__"] | changes).items() if v is not None}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "signs"])
def test_a_damaged_index_is_named_in_one_line(storage, tmp_path):
    whole, damaged = tmp_path / "whole.safetensors", tmp_path / "damaged.safetensors"
    PlaceIndex(unit(9, 16), along(np.arange(9.0)), list("abcdefghi"), "m", list("xxxyyyzzz"), storage).save(
        whole
    )
    content, tensors = whole.read_bytes(), load_file(whole)
    metadata = {"model": "m", "images": json.dumps(list("abcdefghi")), "storage": storage}
    changes = [
        lambda cut=cut: damaged.write_bytes(content[:cut]) for cut in (0, 4, 40, 400, len(content) - 1)
    ]
    for name in ("images", "sequences"):
        for text in ("[1", "3", '"abcdefghi"', "[1, 2, 3, 4, 5, 6, 7, 8, 9]", '["a"]'):
            changes.append(
                lambda name=name, text=text: (
                    damaged.write_bytes(content),
                    _change_header(damaged, **{name: text}),
                )
            )
    for name in ("images", "model"):
        changes.append(
            lambda name=name: (damaged.write_bytes(content), _change_header(damaged, **{name: None}))
        )
    for name, tensor in tensors.items():
        for other in (tensor[None], tensor.flatten()[0].clone(), None):
            rest = {key: value for key, value in tensors.items() if key != name}
            rest |= {} if other is None else {name: other}
            changes.append(lambda rest=rest: save_file(rest, damaged, metadata))
    nan = {
        k: torch.full_like(t, np.nan) if t.is_floating_point() and k != "exact" else t
        for k, t in tensors.items()
    }
    changes.append(lambda: save_file(nan, damaged, metadata))
    for change in changes:
        change()
        with pytest.raises(
            DataError, match=r"damaged\.safetensors: is no place index, or is damaged \(.+\)"
        ) as told:
            PlaceIndex.load(damaged)
        assert "\n" not in str(told.value)
    with pytest.raises(DataError, match="no such index"):
        PlaceIndex.load(tmp_path)


def test_a_table_that_is_no_whole_index_is_named(tmp_path):
    whole, damaged = tmp_path / "whole.parquet", tmp_path / "damaged.parquet"
    PlaceIndex(unit(4, 3), along(np.arange(4.0)), list("abcd"), "m").save(whole)
    table = pq.read_table(whole)
    pq.write_table(table.append_column("note", pa.array(["mine", None, None, ""])), whole)
    assert PlaceIndex.load(whole).images == list("abcd")
    holes = pa.array(["a", None, "c", "d"])
    ragged = pa.array([[1.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]])
    for changed in (
        table.drop(["descriptor"]),
        table.set_column(0, "image", holes),
        table.set_column(table.column_names.index("descriptor"), "descriptor", ragged),
        table.set_column(1, "latitude", pa.array(["north"] * 4)),
        table.replace_schema_metadata({}),
        table.slice(0, 0),
    ):
        pq.write_table(changed, damaged)
        with pytest.raises(DataError, match=r"damaged\.parquet: is no place index") as told:
            PlaceIndex.load(damaged)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("nameless", [None, float("nan"), np.datetime64("NaT"), pd.NA])
def test_frames_without_a_drive_are_none_of_one(model, photos, index, nameless):
    names, told = ["a", nameless, "a"], "those of number 1 are without"
    with pytest.raises(DataError, match=told):
        model.predict_sequences(photos[:3], index, sequences=names)
    with pytest.raises(DataError, match=told):
        PlaceIndex(unit(3, 8), along([0, 1, 2]), list("abc"), "m", sequences=names)
    with pytest.raises(DataError, match=told):
        index.search(index.descriptors[:3], 1, "sequence", names)
    with pytest.raises(DataError, match=told):
        match_sequences(np.eye(3), database_sequences=names, k=1)
    assert (
        as_drives([{"image": photos[0], "latitude": 1, "longitude": 2, "sequence": nameless}])[0]["sequence"]
        == ""
    )


@pytest.mark.parametrize(
    ("center", "method"), [("sequence", "filter"), ("online", "smooth"), ("database", None)]
)
def test_a_single_frame_and_a_drive_that_stands_are_answered(model, photos, index, center, method):
    alone = model.predict_sequences(photos[2:3], index, center=center, method=method)
    assert len(alone) == 1
    assert not alone[0].chained
    standing = model.predict_sequences(
        [np.full((50, 50, 3), 90, np.uint8)] * 6, index, center=center, method=method
    )
    assert all(np.isfinite([a.latitude, a.longitude, a.answers[0].similarity]).all() for a in standing)


def test_an_index_of_one_picture_answers_with_it(model, photos):
    one = PlaceIndex.build(model, photos[:1], along([0.0]))
    for answer in (
        model.predict(photos[3], index=one, top_k=1)[0],
        model.predict_sequences(photos[:3], one, top_k=1)[0],
        model.predict_sequences(photos[:3], one, center="database", method=None, top_k=1)[0],
    ):
        assert answer.answers[0].image == str(photos[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heading_deg": float("nan")}, "heading_deg must be at least 0 and at most 180"),
        ({"heading_deg": -5.0}, "heading_deg must be at least 0 and at most 180"),
        ({"margin": float("nan")}, "margin must be at least 0"),
    ],
)
def test_settings_that_are_no_numbers_of_their_kind(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        GeoPlaceConfig(feature_size=8, **fields)


@pytest.mark.parametrize("share", ["nan", "2", "-1"])
def test_shares_of_hard_places_that_are_none(share):
    with pytest.raises(DataError, match="hard_place_share must be at least 0 and at most 1"):
        parse("--hard_place_share", share)


def test_recall_of_no_answers_is_refused_by_its_own_name(model, tmp_path):
    with pytest.raises(DataError, match="recalls must be a whole number of at least 1, got 0"):
        model.evaluate(tmp_path, recalls=[1, 0])


def test_a_dataset_with_all_columns_is_read_where_they_are_of_other_types(photos):
    """Times as text, and drives as numbers, went on as they were."""
    rows = {
        "image": [str(photo) for photo in photos[:3]],
        "latitude": ["1.5", "2", "3"],
        "longitude": [1.0, 2.0, 3.0],
        "heading": ["-90", "", "10"],
        "sequence": [7, 7, 8],
        "camera": ["left"] * 3,
        "time_ns": ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z", None],
    }
    view = as_drives(Dataset.from_dict(rows))
    assert view["latitude"] == [1.5, 2.0, 3.0]
    np.testing.assert_array_equal(view["heading"], [270.0, np.nan, 10.0])
    assert view["sequence"] == ["7", "7", "8"]
    assert view["time_ns"] == [1577836800000000000, 1577923200000000000, None]
    paths = as_drives(Dataset.from_dict({"image": rows["image"]} | {name: view[name] for name in LABELS}))
    loaded = paths.cast_column("image", drive_features()["image"])
    assert [row["latitude"] for row in join_rows(paths, loaded)] == [1.5, 2.0, 3.0] * 2
    with pytest.raises(DataError, match="row 1"):
        as_drives(Dataset.from_dict(rows | {"latitude": ["1.5", "91", "3"]}))["latitude"]
