"""An index at scale: what it stores, what that costs in answers, rows that come and go, prior positions, other engines."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, rows_of, unit, write_csv, write_pictures

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place import PlaceIndex
from geohf.place import encoding as encoding_module
from geohf.place.search import top_k
from geohf.place.storage import STORAGES, SignRows, principal_axes

BYTES = {"float32": 4 * 64, "float16": 2 * 64, "int8": 64 + 4, "signs": 64 / 8}


def clustered(n: int, d: int, clusters: int = 500, seed: int = 0) -> torch.Tensor:
    """Descriptors of places that were seen several times each."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, d))
    rows = centers[rng.integers(0, clusters, n)] + 0.5 * rng.normal(size=(n, d))
    return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1)


def make(n: int = 300, d: int = 64, **options) -> PlaceIndex:
    rows = clustered(n, d, clusters=30)
    return PlaceIndex(rows, along(10.0 * np.arange(n)), [f"{i}.jpg" for i in range(n)], "m", **options)


@pytest.mark.parametrize("storage", STORAGES)
def test_bytes_of_a_row(storage):
    index = make(storage=storage)
    assert index.rows.bytes_per_row == BYTES[storage]
    stored = [t for name, t in index.rows.tensors.items() if name not in ("mean", "exact")]
    assert sum(t.numel() * t.element_size() for t in stored) == 300 * BYTES[storage]


@pytest.mark.parametrize(("storage", "least"), [("float16", 1.0), ("int8", 0.99), ("signs", 0.97)])
def test_the_best_of_20000_is_among_the_ten_best(storage, least):
    rows = clustered(20_000, 512)
    database, queries = (
        rows,
        torch.nn.functional.normalize(rows[::100] + 0.02 * unit(200, 512, seed=1), dim=1),
    )
    queries = torch.nn.functional.normalize(
        queries + 0.03 * torch.randn(200, 512, generator=torch.Generator().manual_seed(2)), dim=1
    )
    _, best = top_k(database, queries, 1)
    _, found = PlaceIndex(database, np.zeros((20_000, 2)) + 1, [""] * 20_000, "", storage=storage).search(
        queries, 10
    )
    assert (found == best.numpy()).any(1).mean() >= least


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dims", [None, 16])
def test_every_storage_survives_the_disk(storage, dims, tmp_path):
    index, queries = (
        make(storage=storage, dims=dims, sequences=["a"] * 100 + ["b"] * 200),
        unit(5, 64, seed=3),
    )
    index.save(tmp_path / "index.safetensors")
    again = PlaceIndex.load(tmp_path / "index.safetensors")
    for ours, theirs in zip(index.search(queries, 7), again.search(queries, 7), strict=True):
        assert np.array_equal(ours, theirs)
    assert (again.sequences, again.images) == (index.sequences, index.images)
    assert again.rows.bytes_per_row == index.rows.bytes_per_row
    if storage == "float32" and dims is None:
        index.save(tmp_path / "index.parquet")
        assert PlaceIndex.load(tmp_path / "index.parquet").sequences == index.sequences
    else:
        with pytest.raises(DataError, match=r"a \.parquet index holds whole float32 descriptors"):
            index.save(tmp_path / "index.parquet")


def test_rows_behind_signs_stay_on_disk(tmp_path):
    make(storage="signs").save(tmp_path / "index.safetensors")
    exact = PlaceIndex.load(tmp_path / "index.safetensors").rows.tensors["exact"]
    before = exact[7].clone()
    content = bytearray((tmp_path / "index.safetensors").read_bytes())
    head = struct.unpack("<Q", content[:8])[0]
    begin = 8 + head + json.loads(content[8 : 8 + head])["exact"]["data_offsets"][0] + 7 * 64 * 2
    with open(tmp_path / "index.safetensors", "r+b") as file:
        file.seek(begin)
        file.write(bytes(128))
    assert before.any()
    assert not exact[7].any()  # it is the file that was read


def test_signs_rank_by_hamming_distance(monkeypatch):
    rows, queries = unit(200, 30), unit(4, 30, seed=1)  # no multiple of 8
    signs = SignRows.of(rows)
    mean = signs.tensors["mean"]
    distance = ((rows - mean > 0)[None] != (queries - mean > 0)[:, None]).sum(2)
    found_with = [signs._nearest(queries - mean, 20)]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "faiss" else find_spec(name)
    )
    found_with.append(signs._nearest(queries - mean, 20))
    for name, size in (("_SIGN_QUERIES", 3), ("_SIGN_ROWS", 48), ("_PRODUCT_ROWS", 20)):
        monkeypatch.setattr(f"geohf.place.storage.{name}", size)
    for near in [*found_with, signs._nearest(queries - mean, 20)]:
        assert torch.equal(distance.gather(1, near).sort(1).values, distance.sort(1).values[:, :20])
    monkeypatch.setattr("geohf.place.storage.RERANKED", 1)
    similarity, best = signs.top_k(queries, 20)
    torch.testing.assert_close(
        similarity, (queries @ rows.half().float().T).gather(1, best), atol=1e-6, rtol=0
    )
    assert (similarity.diff(dim=1) <= 0).all()


def test_axes_are_those_of_a_singular_value_decomposition():
    rows = clustered(200, 20, clusters=5)
    axes = principal_axes(rows, 4)
    _, _, theirs = np.linalg.svd(rows.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(np.abs((axes.double().numpy() * theirs[:4]).sum(1)), 1, atol=1e-6)
    index = PlaceIndex(rows, np.ones((200, 2)), [""] * 200, "", dims=20)  # all of them: nothing changes
    for ours, plain in zip(index.search(rows[:9], 3), top_k(rows, rows[:9], 3), strict=True):
        np.testing.assert_allclose(ours, plain.numpy(), atol=1e-5)


@pytest.mark.parametrize("storage", STORAGES)
def test_rows_come_and_go(storage):
    index, queries = make(storage=storage), unit(6, 64, seed=3)
    before = {name: tensor.clone() for name, tensor in index.rows.tensors.items()}
    other = PlaceIndex(unit(20, 64, seed=5), along(5.0 * np.arange(20)), [f"new{i}" for i in range(20)], "m")
    index.add(other)
    assert len(index) == len(index.points) == 320
    assert index.search(other.descriptors[3:4], 1)[1].tolist() == [[303]]
    with pytest.raises(DataError, match="in the index already: new0, new1"):
        index.add(other)
    index.remove(other.images)
    assert index.rows.tensors.keys() == before.keys()
    assert all(torch.equal(index.rows.tensors[name], tensor) for name, tensor in before.items())
    index.remove(["0.jpg"])
    assert index.images[0] == "1.jpg"
    assert index.search(queries, 300 - 1)[0].shape == (6, 299)
    with pytest.raises(DataError, match=r"not in the index: 0\.jpg"):
        index.remove(["0.jpg"])
    with pytest.raises(DataError, match="no image would be left"):
        index.remove(index.images)
    with pytest.raises(DataError, match="built with another model"):
        index.add(PlaceIndex(unit(1, 64), along([0.0]), ["x"], "other"))


@pytest.mark.parametrize("center", ["none", "database"])
@pytest.mark.parametrize("storage", STORAGES)
def test_near_is_brute_force(center, storage):
    index, queries = make(storage=storage), unit(8, 64, seed=3)
    prior = [*along([1500.0])[0], 205.0]
    inside = [i for i in range(300) if great_circle_m(index.points[i], prior[:2]) <= 205]
    assert len(inside) == 41
    _, everything = index.search(queries, 300, center)
    expected = [[row for row in ranked if row in inside][:5] for ranked in everything.tolist()]
    _, found = index.search(queries, 5, center, near=prior)
    assert found.tolist() == expected
    drive = [prior, [*along([2000.0])[0], 15.0]]
    assert set(index.search(queries, 60, near=drive)[1][0].tolist()) == {*inside, 199, 200, 201}


def test_near_that_holds_nothing_or_says_nothing():
    index = make()
    assert index.search(unit(1, 64), 5, near=[*along([0.0])[0], 11.0])[1].shape == (1, 2)
    with pytest.raises(DataError, match="no image of the index lies within 5 m of"):
        index.search(unit(1, 64), near=(1.0, 0.0, 5.0))
    with pytest.raises(DataError, match="near must be latitude, longitude and meters above 0"):
        index.search(unit(1, 64), near=(1.0, 0.0, -1.0))
    with pytest.raises(DataError, match="latitude 190 is outside"):
        index.search(unit(1, 64), near=(190.0, 0.0, 5.0))


def test_a_drive_that_leaves_the_prior_and_comes_back_is_two():
    """An index that goes out and comes back: near its start, its first and last images are no neighbors."""
    there = along(10.0 * np.r_[np.arange(20), np.arange(20)[::-1]])
    rows = clustered(40, 64, clusters=40)
    index = PlaceIndex(rows, there, [f"{i}" for i in range(40)], "m")
    near = [*along([0.0])[0], 75.0]
    _, found = index.match(rows[:8], 3, near=near, method="smooth")
    assert found.rows[:, 0].tolist() == list(range(8))
    assert set(found.rows.ravel().tolist()) <= {*range(8), *range(32, 40)}


@pytest.mark.parametrize("backend", ["ivf", "hnsw", "usearch"])
def test_other_engines_answer_as_the_exact_search(backend):
    package = "usearch" if backend == "usearch" else "faiss"
    pytest.importorskip(package, reason=f"needs {package}")
    index, queries = make(2000), unit(50, 64, seed=3)
    queries = torch.nn.functional.normalize(index.descriptors[::40] + 0.3 * queries, dim=1)
    _, rows = index.search(queries, 10)
    close, found = index.search(queries, 10, backend=backend)
    assert (found[:, 0] == rows[:, 0]).mean() >= 0.98
    np.testing.assert_allclose(
        close, np.take_along_axis((queries @ index.descriptors.T).numpy(), found, 1), atol=1e-5
    )
    assert np.array_equal(
        index.search(queries, 10, near=[*along([0.0])[0], 95.0], backend=backend)[1] < 10, np.ones((50, 10))
    )
    centered = index.search(queries, 3, "database", backend=backend)[1]
    assert (centered[:, 0] == index.search(queries, 3, "database")[1][:, 0]).mean() >= 0.98
    assert index.search(queries, 2000, backend=backend)[1].shape == (50, 2000)


def test_an_engine_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        DataError, match=r"the backend ivf needs the package faiss: pip install 'geohf\[search\]'"
    ):
        make().search(unit(1, 64), backend="ivf")
    with pytest.raises(DataError, match="backend must be one of exact, ivf, hnsw, usearch"):
        make().search(unit(1, 64), backend="annoy")


@pytest.mark.parametrize("storage", ["int8", "signs"])
def test_an_index_is_encoded_in_blocks(storage, tmp_path, monkeypatch):
    model = build_model()
    write_pictures(tmp_path, [f"{i}.png" for i in range(20)])
    photos = [tmp_path / f"{i}.png" for i in range(20)]
    whole = PlaceIndex.build(model, photos, along(np.arange(20.0)), storage=storage)
    monkeypatch.setattr(encoding_module, "_BLOCK", 6)
    parts = PlaceIndex.build(model, photos, along(np.arange(20.0)), storage=storage)
    assert len(parts) == 20
    queries = model.encode(photos)
    assert np.array_equal(parts.search(queries, 1)[1], whole.search(queries, 1)[1])
    if storage == "signs":
        spread = model.encode([photos[i] for i in np.linspace(0, 19, 6).astype(int)])
        torch.testing.assert_close(
            parts.rows.tensors["mean"], torch.from_numpy(spread).mean(0), atol=1e-6, rtol=0
        )
    assert PlaceIndex.build(model, photos, along(np.arange(20.0)), storage=storage, dims=5).rows.size == 5
    with pytest.raises(DataError, match="dims must be between 1 and 6"):
        PlaceIndex.build(model, photos, along(np.arange(20.0)), dims=7)


def test_the_command_makes_small_ones_and_adds(tmp_path, monkeypatch, capsys):
    from geohf.recipes import index, predict

    model = build_model()
    model.save_pretrained(tmp_path / "model")
    tables = []
    for part in range(2):
        names = [f"{part}_{i}.png" for i in range(6)]
        write_pictures(tmp_path, names, seed=part)
        points = along(50.0 * np.arange(6) + 300 * part)
        rows = [f"{name},{lat},{lon}" for name, (lat, lon) in zip(names, points, strict=True)]
        tables.append(write_csv(tmp_path / f"{part}.csv", "image,lat,lon", *rows))
    out = tmp_path / "area.safetensors"
    for words in (["--storage", "int8"], ["--add_to", str(out)]):
        table = tables.pop(0)
        monkeypatch.setattr(
            sys, "argv", ["x", str(tmp_path / "model"), str(table), "--output", str(out), *words]
        )
        index.main()
    assert "12 images lie in" in capsys.readouterr().out
    known = PlaceIndex.load(out)
    assert known.sequences == ["0"] * 6 + ["1"] * 6
    near = [str(value) for value in (*along([300.0])[0], 60)]
    command = ["x", str(tmp_path / "model"), str(tmp_path / "0_0.png"), "--index", str(out), "--near", *near]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "a.csv")])
    predict.main()
    (row,) = rows_of(tmp_path / "a.csv")
    assert len(json.loads(row["answers"])) == 3  # of five that were asked for
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "model"), str(table), "--output", "a.parquet", "--storage", "signs"]
    )
    with pytest.raises(DataError, match=r"name it \.safetensors"):
        index.main()
    whole = PlaceIndex.build(model, [tmp_path / "0_0.png"], along([0.0]), local=True)
    whole.save(tmp_path / "local.safetensors")
    command = ["x", "no/model", str(table), "--output", str(out), "--add_to"]
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "local.safetensors")])
    with pytest.raises(DataError, match="local features are of one build"):  # before a picture is encoded
        index.main()


def test_an_index_of_0_1_loads(tmp_path):
    """Tensors and metadata as geohf 0.1 wrote them."""
    from safetensors.torch import save_file

    rows, points = unit(3, 4), torch.from_numpy(along([0.0, 1.0, 2.0]))
    metadata = {"model": "m", "images": json.dumps(["a", "b", "c"])}
    save_file({"descriptors": rows, "points": points}, tmp_path / "old.safetensors", metadata)
    index = PlaceIndex.load(tmp_path / "old.safetensors")
    assert torch.equal(index.descriptors, rows)
    assert (index.images, index.sequences) == (["a", "b", "c"], None)
    save_file(
        {"descriptors": rows, "points": points}, tmp_path / "new.safetensors", metadata | {"storage": "int4"}
    )
    with pytest.raises(DataError, match="storage must be one of float32, float16, int8, signs"):
        PlaceIndex.load(tmp_path / "new.safetensors")
    save_file(
        {"descriptors": rows, "points": points}, tmp_path / "bad.safetensors", metadata | {"storage": "signs"}
    )
    with pytest.raises(DataError, match="is no place index"):
        PlaceIndex.load(tmp_path / "bad.safetensors")


def test_a_storage_that_the_index_does_not_have_is_not_taken_for_what_is_added(tmp_path, monkeypatch):
    from geohf.recipes import index

    make(storage="int8", dims=8).save(tmp_path / "area.safetensors")
    command = ["x", "no/model", "new.csv", "--output", str(tmp_path / "out.safetensors")]
    command += ["--add_to", str(tmp_path / "area.safetensors")]
    for words, told in (
        (["--storage", "float16"], "keeps storage int8, .* leave --storage out"),
        (["--storage", "int8", "--dims", "4"], "keeps dims 8, .* leave --dims out"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, *words])
        with pytest.raises(DataError, match=told):  # before a picture is encoded
            index.main()
    make().save(tmp_path / "area.safetensors")
    monkeypatch.setattr(sys, "argv", [*command, "--dims", "4"])
    with pytest.raises(DataError, match=r"keeps all dims, .* leave --dims out"):
        index.main()


def test_what_is_removed_from_an_index_that_a_model_opened_is_still_in_its_file(tmp_path):
    model = build_model()
    rows = PlaceIndex(unit(4, 16), along(np.arange(4.0)), list("abcd"), model.fingerprint())
    rows.save(tmp_path / "area.parquet")
    model.open_index(tmp_path / "area.parquet").remove("a")
    assert len(model.open_index(tmp_path / "area.parquet")) == 4
