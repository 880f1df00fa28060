"""Frames, samples and files that would give a wrong answer without a word: an error, a warning, or the right answer."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.shutil import copy
from rasterio.transform import from_origin

from geohf.data.task_data import TaskData
from geohf.errors import DataError
from geohf.tiles import TileSequenceConfig, TileSequenceModel
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cache import file_facts
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import load
from geohf.tiles.images import mosaic_files
from geohf.tiles.modeling import make_model
from geohf.tiles.processing import batch_of_rows
from geohf.tiles.reading import Reading
from geohf.tiles.samples import numbers_of
from geohf.tiles.scene import predict_scene
from geohf.tiles.table import grid_tiles

HERE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}
PIXELS = np.random.default_rng(0).integers(1, 255, (16, 16, 3), np.uint8)


def make(**fields) -> TileSequenceModel:
    torch.manual_seed(0)
    scales = {"band_mean": [120.0] * 3, "band_std": [60.0] * 3, "image_size": [8, 8], "hidden_sizes": [4]}
    return TileSequenceModel(TileSequenceConfig(**scales | {"answers": "level"} | fields)).eval()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (PIXELS.astype(np.complex64), "real numbers, got an array of complex64"),
        (PIXELS.astype(str), "real numbers, got an array of <U3"),
        (PIXELS.astype(object), "real numbers, got an array of object"),
        (PIXELS * 1e300, "which float32 does not hold exactly"),
        (PIXELS.astype(np.int64) * 2**40, "which float32 does not hold exactly"),
        (Image.fromarray(PIXELS).convert("YCbCr"), r"a picture is in YCbCr.*convert\('RGB'\)"),
        (Image.fromarray(PIXELS).convert("LAB"), "a picture is in LAB"),
    ],
)
def test_arrays_that_are_no_measurements_are_refused(frame, message):
    with pytest.raises(DataError, match=message):
        make().predict([[frame]])


@pytest.mark.parametrize(
    "frame",
    [
        torch.tensor(PIXELS).bfloat16(),
        torch.tensor(PIXELS).double().requires_grad_(),
        PIXELS.astype(np.float64),
        PIXELS.astype(np.int64),
        PIXELS.tolist(),
    ],
    ids=["bfloat16", "with gradient", "float64", "int64", "list"],
)
def test_other_types_of_the_same_numbers_give_the_same_answer(frame):
    model = make(head="image", image_size=[16, 16])  # a resize of uint8 rounds
    (answer,) = model.predict([[frame]])
    coarse = getattr(frame, "dtype", None) == torch.bfloat16
    np.testing.assert_allclose(answer.image, PIXELS, atol=0.5 if coarse else 1e-3)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("0,5", "last_values: '0,5' are no numbers"),
        ({"target": "n/a"}, r"last_values: \['n/a'\] are no numbers"),
        (float("inf"), "last_values: infinite"),
        ({"target": None}, "has no last value"),
    ],
)
def test_last_values_that_are_no_numbers(last, message):
    with pytest.raises(DataError, match=message):
        make(answers="change").predict([{"frames": [PIXELS], "last_values": last}])


def test_values_in_a_series_are_those_of_their_names():
    """A row of a pandas table has its columns' order, which need not be that of the targets."""
    series = pd.Series({"b": 1.0, "a": 2.0})
    assert numbers_of(series, ["a", "b"]) == [2, 1]
    assert numbers_of(pd.Series([1.0, 2.0]), ["a", "b"]) == [1, 2]
    with pytest.raises(DataError, match="labels: no target 'b'; the targets are a, c"):
        numbers_of(series, ["a", "c"], "labels")


def test_a_key_that_is_nearly_one_is_not_passed_over():
    with pytest.raises(
        DataError, match="sample 0: has 'last_value', which is not looked at; is it 'last_values'"
    ):
        make(answers="both").predict([{"frames": [PIXELS], "last_value": 0.4}])
    assert make().predict([{"frames": [PIXELS], "id": 7, "name": "a", "data": 1}])[0].values


def test_bytes_that_do_not_fit_are_named_and_not_shown(tmp_path, tiff):
    tiff(tmp_path / "a.tif", PIXELS, **HERE)
    tiff(tmp_path / "b.tif", PIXELS[..., :2], **HERE)
    one, other = ((tmp_path / f"{name}.tif").read_bytes() for name in "ab")
    with pytest.raises(DataError, match=r"^image bytes: its number of bands is 2, but image bytes has 3"):
        make().predict([{"frames": [one, other]}])
    with pytest.raises(DataError, match=r"^b.tif: its number of bands is 2"):
        make().predict([{"frames": [one, {"bytes": other, "path": "b.tif"}]}])


def test_training_rows_without_a_frame_tell_no_scales():
    rows = [{"frames": [None, None], "labels": 1.0}, {"frames": [PIXELS], "labels": 2.0}]
    with pytest.raises(DataError, match="row 0: shows no frame"):
        make_model(TileArguments(), TaskData(rows, rows))
    for none in ([], rows[:1]):
        with pytest.raises(DataError, match="no training row shows a frame"):
            make_model(TileArguments(), TaskData(none, none))


SEEN = np.zeros((2, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"frames": [PIXELS], "last_value": 1.0}],
            "has 'last_value', which is not looked at; is it 'last_val",
        ),
        (
            [{"pixel_values": SEEN, "labels": 1.0, "mask_step": [1, 0], "step_masks": [1, 0]}],
            "is it 'step_mask'",
        ),
        ([{"frames": [PIXELS]}, {"pixel_values": SEEN}], "row 1 of the batch: has no frames"),
        ([{"pixel_values": None}], "row 0 of the batch: has no pixel_values"),
        (  # of the length of the other's: padded in front, each would hide or show another frame
            [{"pixel_values": SEEN, "step_mask": [1]}, {"pixel_values": SEEN[:1], "step_mask": [1, 0]}],
            "row 0 of the batch: step_mask has 1 entries for 2 frames; it needs 2",
        ),
        (
            [
                {"pixel_values": SEEN, "dates": np.zeros((3, 2))},
                {"pixel_values": SEEN, "dates": np.zeros((2, 2))},
            ],
            "row 1 of the batch: dates has 2 entries for 2 frames; it needs 3",
        ),
    ],
)
def test_rows_of_a_batch_that_cannot_be_meant(rows, message):
    with pytest.raises(DataError, match=message):
        batch_of_rows(rows, make(dates="dates" in rows[0]).config)


@pytest.mark.parametrize("row", [{"frames": [PIXELS], "region_id": 3}, {"pixel_values": SEEN, "n_frames": 2}])
def test_columns_of_a_users_own_are_no_misspelt_keys(row):
    """`region_id` is a column of the tables that geohf reads, and a count of frames names no frames."""
    assert len(batch_of_rows([row | {"labels": 1.0}], make().config)["labels"]) == 1
    if "frames" in row:
        assert make().predict([row])[0].values


def test_outputs_of_a_forward_pass_with_gradients_are_decoded():
    model = make(interval_margin=[2.0])
    (answer,) = model.decode(model(**model.prepare([[PIXELS]])))
    assert answer.high["target"] - answer.values["target"] == 2.0


def test_pixels_of_a_larger_unit_than_the_trainings_get_a_word(caplog):
    make(band_mean=[0.5] * 3, band_std=[0.2] * 3).predict([[PIXELS]])
    assert (
        "lie more than 30 spreads from those of the training, which are around 0.5, 0.5, 0.5" in caplog.text
    )


def test_pixels_divided_by_255_get_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        make().predict([[PIXELS / 255]])
    assert "hold nothing above 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make().predict([[PIXELS.astype(np.float32)], [PIXELS]])
        make(band_mean=[0.5] * 3, band_std=[0.2] * 3).predict([[PIXELS / 255]])
    assert not caplog.text


def test_what_a_label_frame_did_not_measure_is_not_learned():
    holed = np.ma.MaskedArray(PIXELS, np.zeros(PIXELS.shape, bool))
    holed[:8] = np.ma.masked
    config = make(head="image").config
    labels = batch_of_rows([{"frames": [PIXELS], "labels": holed}], config)["labels"]
    assert labels[0, :, :4].isnan().all()
    assert labels[0, :, 5:].isfinite().all()
    holed[:] = np.ma.masked
    with pytest.raises(DataError, match="row 0 of the batch: its labels are missing or without data"):
        batch_of_rows([{"frames": [PIXELS], "labels": holed}], config)


def test_answers_that_are_images_are_not_written_as_empty_rows(tmp_path):
    with pytest.raises(DataError, match="this model answers with images, which no table holds"):
        make(head="image").predict_to_file([{"frames": [PIXELS]}], tmp_path / "answers.csv")


def test_a_file_of_several_pages_is_not_its_first(tmp_path):
    path = tmp_path / "pages.tif"
    Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
    for ask in (
        lambda: make().predict([[path]]),
        lambda: predict_scene(make(), [path], tmp_path / "out.tif", 8),
    ):
        with pytest.raises(DataError, match=r"pages.tif: holds 2 images \(pages\), and a frame is one"):
            ask()


def test_a_vrt_is_as_new_as_the_files_that_it_shows(tmp_path, tiff):
    path = tiff(tmp_path / "a.tif", PIXELS, **HERE)
    copy(path, tmp_path / "a.vrt", driver="VRT")
    before, plain = file_facts(tmp_path / "a.vrt"), file_facts(path)
    tiff(tmp_path / "a.tif", 255 - PIXELS[:, :, :1].repeat(3, 2), compress="deflate", **HERE)
    assert file_facts(tmp_path / "a.vrt") != before
    assert file_facts(path) != plain


def test_a_corrected_world_file_makes_another_cache(tmp_path, tiff):
    """Aligned pixels depend on where a file says that it lies, and that may stand in a file beside it."""
    for year in ("2019", "2020"):
        tiff(tmp_path / f"{year}.tif", PIXELS, crs="EPSG:32632")
    ahead = [None, None]
    for i, west in enumerate((500_005, 500_045)):
        (tmp_path / "2019.tfw").write_text("10\n0\n0\n-10\n500005\n4999995\n")
        (tmp_path / "2020.tfw").write_text(f"10\n0\n0\n-10\n{west}\n4999995\n")
        table = grid_tiles(tmp_path, ["2019", "2020"], 8, reading=Reading(align="nearest"))
        ahead[i] = build_cache(table, tmp_path / "cache", 1).tile(0)[1]
    np.testing.assert_array_equal(ahead[0], PIXELS[:8, :8])
    np.testing.assert_array_equal(ahead[1][:, 4:], PIXELS[:8, :4])  # four pixels farther east


def test_a_world_file_counts_whatever_the_case_of_the_names(tmp_path, tiff):
    for name, world in (("a.TIF", "a.tfw"), ("b.Tiff", "b.tfw"), ("c.tif", "c.TFW")):
        path = tiff(tmp_path / name, PIXELS)
        before = file_facts(path)
        (tmp_path / world).write_text("10\n0\n0\n-10\n500005\n4999995\n")
        with rasterio.open(path) as raster:
            assert raster.transform.c == 500_000
        assert file_facts(path) != before


def test_a_scene_that_only_control_points_place_gets_a_word(tmp_path, caplog):
    path = tmp_path / "gcps.tif"
    points = [GroundControlPoint(0, 0, 9.0, 45.0), GroundControlPoint(0, 16, 9.1, 45.0)]
    points.append(GroundControlPoint(16, 0, 9.0, 44.9))
    with rasterio.open(path, "w", driver="GTiff", height=16, width=16, count=3, dtype="uint8") as file:
        file.write(PIXELS.transpose(2, 0, 1))
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    with caplog.at_level(logging.WARNING):
        predict_scene(make(), [path], tmp_path / "out.tif", 8)
    assert "ground control points alone" in caplog.text


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"target": 1e300}, {}, "the target target holds 1e"),
        ({}, {"targets": ["target", "target"]}, "--targets target target: name each column once"),
        ({}, {"frames": 0}, "frames must be at least 1, got 0"),
    ],
)
def test_tables_and_settings_that_cannot_be_meant(world, tmp_path, changes, settings, message):
    world.frame = world.frame.assign(**changes)
    world.save()
    with pytest.raises(DataError, match=message):
        load(TileArguments(data=str(world.csv), **settings), arguments(tmp_path))


def test_a_filler_in_a_target_gets_a_word(world, tmp_path, caplog):
    fields = {"data": str(world.csv), "split": "random", "allow_leaks": True}
    fields |= {"validation_share": 0.25, "test_share": 0.25}
    with caplog.at_level(logging.WARNING):
        load(TileArguments(**fields), arguments(tmp_path))
    assert "stands for no value" not in caplog.text
    world.frame.loc[:5, "target"] = -9999
    world.save()
    with caplog.at_level(logging.WARNING):
        load(TileArguments(**fields), arguments(tmp_path))
    assert "the target target is -9999 in 6 of 24 values" in caplog.text


def test_targets_called_after_steps_get_a_word(world, tmp_path, caplog):
    """A table with a column a year is one target over time to its author, and several at one time to us."""
    last = world.frame[world.frame["label_id"] == "2021"].drop(columns="label_id")
    fields = {"data": str(world.csv), "split": "random", "allow_leaks": True}
    fields |= {"validation_share": 0.25, "test_share": 0.25}
    for names, told in ((["built_2020", "built_2021"], True), (["built", "green"], False)):
        world.frame = last.assign(**{names[0]: last["target"], names[1]: last["target"] * 2})
        world.save()
        caplog.clear()
        load(TileArguments(**fields, targets=names), arguments(tmp_path))
        assert ("the targets built_2020, built_2021 are called after steps" in caplog.text) == told


def arguments(folder) -> TileTrainingArguments:
    return TileTrainingArguments(
        output_dir=str(folder / "out"), cache_dir=str(folder / "cache"), cache_workers=1, disable_tqdm=True
    )


@pytest.mark.parametrize(
    ("frames", "output", "message"),
    [
        ("a.tif", "out.tif", "a scene's frames are a list of rasters, oldest first, got a.tif"),
        (["a.tif"], "out.png", r"out.png: a scene is written as a GeoTIFF"),
        (["a.tif"], "folder.tif", r"folder.tif: a scene is written as a GeoTIFF"),
    ],
)
def test_scenes_that_cannot_be_meant(tmp_path, frames, output, message):
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(DataError, match=message):
        predict_scene(make(), frames, tmp_path / output, 8)


@pytest.mark.parametrize(
    ("dtype", "filler", "told"),
    [
        (np.int16, -9999, True),
        (np.float32, np.finfo(np.float32).min, True),
        (np.uint16, 65535, True),
        (np.uint16, 0, False),
        (np.float32, -99, False),
        (np.uint8, 255, False),
    ],
)
def test_a_filler_in_pixels_that_no_header_names_gets_a_word(
    world, tmp_path, tiff, caplog, dtype, filler, told
):
    for (label, region), pixels in world.pixels.items():
        frame = pixels.astype(dtype)
        frame[:4, :4, 1] = filler
        tiff(world.path(label, region), frame, **world.geo)
    fields = {"data": str(world.csv), "split": "random", "allow_leaks": True}
    fields |= {"validation_share": 0.25, "test_share": 0.25}
    with caplog.at_level(logging.WARNING):
        load(TileArguments(**fields), arguments(tmp_path))
    assert ("tiles.csv: band 2 is" in caplog.text) == told
    assert caplog.text.count("band ") == told
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(TileArguments(**fields, nodata=float(filler)), arguments(tmp_path))
    assert "tiles.csv: band" not in caplog.text


def mosaics(folder, tiff, names, extension=".tif", **where):
    for name in names:
        pixels = np.random.default_rng(0).integers(1, 4000, (16, 16, 2)).astype(np.uint16)
        tiff(folder / f"{name}{extension}", pixels, **HERE | where)
    return folder


def test_files_whose_endings_differ_in_case_are_not_left_out(tmp_path, tiff):
    folder = mosaics(tmp_path / "place", tiff, ["2019", "2020"])
    (folder / "2019.tif").rename(folder / "2019.TIF")
    with pytest.raises(DataError, match=r"place: holds 2019.TIF beside files that end in .tif"):
        mosaic_files(folder, ".tif")
    (folder / "2020.tif").rename(folder / "2020.TIF")
    assert list(mosaic_files(folder, ".TIF")) == ["2019", "2020"]
    assert mosaic_files(folder, ".tif") == {}


@pytest.mark.parametrize(("top", "refused"), [(92.0, True), (90.25, False), (-74.0, True)])
def test_latitudes_beyond_the_poles_are_refused(tmp_path, tiff, top, refused):
    folder = mosaics(
        tmp_path / "place", tiff, ["2019", "2020"], crs="EPSG:4326", transform=from_origin(10, top, 1.5, 1.5)
    )
    if not refused:
        assert len(grid_tiles(folder, ["2019", "2020"], 8)) == 4
        return
    with pytest.raises(DataError, match=r"2019.tif: reaches to latitude (92|-98) by its header"):
        grid_tiles(folder, ["2019", "2020"], 8)


def test_sentinel_2_before_and_after_its_change_of_numbers_gets_a_word(tmp_path, tiff, caplog):
    names = [f"S2A_MSIL2A_{year}0601T102021_N{n}_R065_T32TNS" for year, n in ((2020, "0214"), (2022, "0400"))]
    folder = mosaics(tmp_path / "place", tiff, names)
    with caplog.at_level(logging.WARNING):
        grid_tiles(folder, names, 8)
    assert "baselines 0214, 0400: from 0400 on its numbers are larger by 1000" in caplog.text
    caplog.clear()
    for name in names:
        with rasterio.open(
            folder / f"{name}.tif", "r+"
        ) as raster:  # the header says what a number stands for
            raster.offsets = (-0.1, -0.1)
    grid_tiles(folder, names, 8)
    assert not caplog.text


def test_zeros_in_all_bands_get_a_word(world, tmp_path, tiff, caplog):
    for (label, region), pixels in world.pixels.items():
        frame = pixels.astype(np.uint16)
        frame[:4, :4] = 0
        tiff(world.path(label, region), frame, **world.geo)
    fields = {"data": str(world.csv), "split": "random", "allow_leaks": True}
    fields |= {"validation_share": 0.25, "test_share": 0.25}
    for nodata, told in ((None, True), (0.0, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(TileArguments(**fields, nodata=nodata), arguments(tmp_path))
        assert ("0 in all bands, and no other is 0 in any" in caplog.text) == told
