"""Places by the hundred thousand: what is read in bulk is what is read one by one."""

import pytest
from datasets import Dataset

import geohf.street.features as features
from geohf.street.places import dataset_of, place_row

pytestmark = pytest.mark.case("real-size")


def places(counts) -> Dataset:
    rows = [
        place_row(
            str(i), [f"{i}-{k}.jpg" for k in range(n)], [90.0 * k for k in range(n)], source="t", line=i
        )
        for i, n in enumerate(counts)
    ]
    return dataset_of(rows)


def test_views_in_order_are_those_that_are_asked_for_one_by_one(monkeypatch):
    monkeypatch.setattr(features, "READ_PLACES", 3)
    dataset = places([4, 1, 2, 8, 1, 3, 4, 2]).select([6, 0, 3, 1, 5, 2])
    names = [f"{i}-{k}.jpg" for i, n in ((6, 4), (0, 4), (3, 8), (1, 1), (5, 3), (2, 2)) for k in range(n)]
    views = features.FlatViews(dataset)
    assert [view["path"] for view in views] == names
    assert [views[i]["path"] for i in range(len(views))] == names
    for part in (slice(0, 5), slice(3, 17), slice(9, 10), slice(20, 99), slice(5, 5), slice(1, 20, 3)):
        assert [view["path"] for view in views[part]] == names[part]
    assert [view["path"] for view in views[4:18][2:9]] == names[6:13]


def test_views_in_order_are_not_read_place_by_place(monkeypatch):
    views = features.FlatViews(places([4] * 50))
    reads, plain = [], Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, key: reads.append(key) or plain(self, key))
    assert len(list(views)) == 200
    assert len(reads) == 1


def test_places_as_arrow_are_what_rows_would_give():
    dataset = places([2, 1])
    assert dataset.with_format(None).cast_column("views", dataset.features["views"]).num_rows == 2
    table = dataset.with_format("arrow")[:]
    assert table["views"].to_pylist() == [
        [{"bytes": None, "path": "0-0.jpg"}, {"bytes": None, "path": "0-1.jpg"}],
        [{"bytes": None, "path": "1-0.jpg"}],
    ]
    assert dataset_of([]).num_rows == 0
