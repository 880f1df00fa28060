"""Pairs and global features for structure from motion, as their readers read them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.place_models import build_model, unit, write_pictures

from geohf.errors import DataError
from geohf.place.pairs import Pair, find_pairs, write_features, write_pairs

NAMES = [f"query/{i}.jpg" for i in range(3)] + [f"mapping/{i}.jpg" for i in range(9)]


def test_pairs_are_the_best_by_brute_force_without_oneself():
    rows = unit(12, 8).numpy()
    cosines = rows @ rows.T
    for query, database in ((None, None), ("query/", "mapping/"), ("query/", None)):
        expected = [
            (NAMES[i], NAMES[j])
            for i in range(12)
            if NAMES[i].startswith(query or "")
            for j in sorted(range(12), key=lambda j, i=i: -cosines[i, j])
            if j != i and NAMES[j].startswith(database or "")
        ]
        found = find_pairs(NAMES, rows, 20, None, query, database)
        assert [pair[:2] for pair in found] == expected
        few = find_pairs(NAMES, rows, 2, None, query, database)
        first = {query: [pair for pair in found if pair.query == query][:2] for query, *_ in found}
        assert few == [pair for some in first.values() for pair in some]
    near = find_pairs(NAMES, rows, 20, min_similarity=0.3)
    assert len(near) == ((cosines >= 0.3).sum() - 12)
    assert all(pair.similarity >= 0.3 for pair in near)


PAIRS = [Pair("a.jpg", "b.jpg", 0.9), Pair("a.jpg", "c.jpg", 0.5), Pair("b.jpg", "a.jpg", 0.9)]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hloc", "a.jpg b.jpg\na.jpg c.jpg\nb.jpg a.jpg\n"),
        ("colmap", "a.jpg b.jpg\na.jpg c.jpg\n"),
        (
            "kapture",
            "# kapture format: 1.1\n# query_image, map_image, score\n"
            "a.jpg, b.jpg, 0.900000\na.jpg, c.jpg, 0.500000\nb.jpg, a.jpg, 0.900000\n",
        ),
    ],
)
def test_files_of_pairs(format, text, tmp_path):
    write_pairs(tmp_path / "pairs.txt", PAIRS, format)
    assert (tmp_path / "pairs.txt").read_text() == text


def test_pairs_that_cannot_be(tmp_path):
    rows = unit(12, 8).numpy()
    with pytest.raises(DataError, match="no image's name begins with 'test/'"):
        find_pairs(NAMES, rows, query_prefix="test/")
    with pytest.raises(DataError, match="names that are there twice: a"):
        find_pairs(["a", "a"], rows[:2])
    with pytest.raises(DataError, match=r"'my photo.jpg' holds what separates names in a file for colmap"):
        write_pairs(tmp_path / "p", [Pair("my photo.jpg", "b.jpg", 1.0)], "colmap")
    write_pairs(tmp_path / "p", [Pair("my photo.jpg", "b.jpg", 1.0)], "kapture")
    with pytest.raises(DataError, match="format must be one of hloc, colmap, kapture"):
        write_pairs(tmp_path / "p", PAIRS, "openmvg")


def test_global_features_are_those_of_hloc(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    rows = unit(12, 8).numpy()
    write_features(tmp_path / "global-feats.h5", NAMES, rows)
    with h5py.File(tmp_path / "global-feats.h5") as file:
        seen = []
        file.visititems(lambda name, item: seen.append(name) if isinstance(item, h5py.Dataset) else None)
        assert sorted(name.rpartition("/")[0] for name in seen) == sorted(NAMES)
        for name, row in zip(NAMES, rows, strict=True):
            stored = file[name]["global_descriptor"][()]
            assert stored.dtype == np.float16
            assert np.array_equal(stored, row.astype(np.float16))


def test_the_command(tmp_path, monkeypatch, capsys):
    from geohf.recipes import pairs

    model = build_model()
    model.save_pretrained(tmp_path / "model")
    write_pictures(tmp_path / "images", ["query/1.png", *(f"mapping/{i}.png" for i in range(5))])
    out = tmp_path / "pairs.txt"
    prefixes = ["--query_prefix", "query/", "--database_prefix", "mapping/"]
    words = [str(tmp_path / "model"), str(tmp_path / "images"), "--output", str(out), "--top", "3", *prefixes]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--device", "cpu"])
    pairs.main()
    assert "3 pairs of 6 images" in capsys.readouterr().out
    lines = [line.split() for line in out.read_text().splitlines()]
    assert {line[0] for line in lines} == {"query/1.png"}
    descriptors = model.encode(
        [tmp_path / "images/query/1.png", *(tmp_path / f"images/mapping/{i}.png" for i in range(5))]
    )
    best = np.argsort(-(descriptors[1:] @ descriptors[0]))[:3]
    assert [line[1] for line in lines] == [f"mapping/{i}.png" for i in best]
