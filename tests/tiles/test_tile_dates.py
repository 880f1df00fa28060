"""Dates as input: what of them is seen, by every encoder, from every kind of source."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
import torch
from transformers import AutoModel

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.data.times import step_times, time_of
from geohf.tiles.augmentation import fewer_seen
from geohf.tiles.dataset import TileRows, TileSequences
from geohf.tiles.dates import DATE_FEATURES, date_features, dates_of_sample, days_of, frame_dates
from geohf.tiles.encoders import LightTemporalAttention, TemporalAttention
from geohf.tiles.windows import make_windows

ENCODERS = ["convlstm", "convgru", "attention", "ltae"]


def make(encoder, **fields):
    torch.manual_seed(0)
    settings = {
        "hidden_sizes": [16],
        "patch_size": 1,
        "frames": 4,
        "dates": True,
        "answers": "level",
    } | fields
    if encoder in ("attention", "ltae"):
        settings |= {"encoder": encoder, "image_size": 32}
        model = TileSequenceModel.from_backbone("test_resnet", pretrained=False, **settings)
    else:
        model = TileSequenceModel(TileSequenceConfig(encoder=encoder, image_size=[32, 32], **settings)).eval()
    torch.nn.init.normal_((model.head if settings.get("head") == "image" else model.head[-1]).weight)
    return model


def dated(*labels):
    """(1, n, 2) of labels, the last of which is the answer's."""
    return torch.from_numpy(dates_of_sample(labels[:-1], labels[-1], "here"))[None]


@pytest.mark.parametrize(
    ("label", "day_of_year"),
    [
        ("2019-01-01", 0),
        ("2020-01-01", 0),
        ("2019-03-01", 59),
        ("2020-03-01", 59),
        ("2020-02-29", 58),
        ("2019-07", 182.5),
        (2019, 0),
        ("2019Q3", 182.5),
        ("2020-12-31", 364),
        ("20201231T120000", 364.5),
    ],
)
def test_a_date_has_the_same_day_of_the_year_in_every_year(label, day_of_year):
    assert days_of(time_of(label))[1].item() == pytest.approx(day_of_year, abs=1e-4)


def test_days_are_the_calendars():
    found = dates_of_sample(["2020-01-15", None, "2020-03-01"], "2021-03-01", "here")
    apart = (datetime.date(2021, 3, 1) - datetime.date(2020, 1, 15)).days
    assert found[:, 0].tolist() == pytest.approx([apart, 0, 365, 0], abs=1e-3)
    assert found[:, 1].tolist() == pytest.approx([14, 59, 59, 59], abs=1e-3)
    assert days_of(step_times(["t1", "t2", "t3"])) is None


def test_features_by_hand():
    mask = torch.tensor([[True, False, True]])
    frames, answer = date_features(dated("2020-01-01", "2020-01-20", "2020-01-31", "2020-03-01"), mask)
    turn = 2 * np.pi * 30 / 365
    expected = [np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn), 30 / 3652.425, np.log1p(1)]
    np.testing.assert_allclose(
        frames[0, 2], expected, atol=1e-5
    )  # 30 days after the frame that is seen before
    assert frames[0, 0, 5] == 0  # none is before it
    assert not frames[0, 1].any()
    assert answer[0, 4] == 0
    assert answer[0, 5].item() == pytest.approx(np.log1p(1))  # the horizon


def test_whole_years_earlier_change_the_elapsed_time_alone():
    mask = torch.ones(1, 3, dtype=torch.bool)
    labels = ["2019-02-03", "2019-05-17", "2019-11-30"]
    now, _ = date_features(dated(*labels, "2020-01-15"), mask)
    before, _ = date_features(dated(*(f"2017{label[4:]}" for label in labels), "2020-01-15"), mask)
    same = [0, 1, 2, 3, 5]
    torch.testing.assert_close(now[..., same], before[..., same], atol=1e-3, rtol=0)
    torch.testing.assert_close(before[..., 4] - now[..., 4], torch.full((1, 3), 0.2), atol=1e-3, rtol=0)
    both = [f"2017{label[4:]}" for label in labels]
    torch.testing.assert_close(date_features(dated(*both, "2018-01-15"), mask)[0], now, atol=1e-3, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dates_are_seen_and_what_is_masked_is_not(encoder):
    model = make(encoder)
    pixels, mask = torch.randn(1, 4, 3, 32, 32), torch.tensor([[True, True, False, True]])
    one = dated("2019-01-01", "2019-06-01", "2019-07-01", "2019-12-01", "2020-06-01")
    other = dated("2019-03-01", "2019-06-01", "2019-07-01", "2019-12-01", "2020-06-01")
    later = dated("2019-01-01", "2019-06-01", "2019-07-01", "2019-12-01", "2020-09-01")
    first = model(pixels, mask, dates=one).predictions
    assert not torch.allclose(model(pixels, mask, dates=other).predictions, first)
    assert not torch.allclose(model(pixels, mask, dates=later).predictions, first)
    pixels[0, 2], one[0, 2] = torch.nan, torch.nan
    assert torch.equal(model(pixels, mask, dates=one).predictions, first)
    with pytest.raises(DataError, match="this model sees dates"):
        model(pixels, mask)


@pytest.mark.parametrize("encoder", ["attention", "ltae"])
def test_frames_may_stand_in_any_order(encoder):
    model = make(encoder)
    pixels, mask = torch.randn(1, 4, 3, 32, 32), torch.tensor([[True, True, False, True]])
    dates = dated("2019-01-01", "2019-06-01", "2019-07-01", "2019-12-01", "2020-06-01")
    first = model(pixels, mask, dates=dates).predictions
    order = [2, 3, 0, 1]
    shuffled = model(pixels[:, order], mask[:, order], dates=dates[:, [*order, 4]]).predictions
    torch.testing.assert_close(shuffled, first)


@pytest.mark.parametrize("encoder", ["convlstm", "attention"])
def test_models_without_dates_have_the_weights_that_they_had(encoder):
    """A config of before knows no dates, and finds all of its weights."""
    model = make(encoder, dates=False)
    names = {
        name for name, _ in model.named_parameters() if not name.startswith(("tower.", "temporal.layers"))
    }
    head = {f"head.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")}
    if encoder == "attention":
        head |= {"temporal.positions", "projection.weight", "projection.bias"}
    assert names == head
    old = model.config.to_dict()
    del old["dates"]
    assert TileSequenceModel(TileSequenceConfig.from_dict(old)).load_state_dict(model.state_dict())


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    model = make("ltae", frames=3)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), np.uint8))
    sample = {"frames": dict(zip(["201901", "201907", "202001"], frames, strict=True)), "date": "2020-07"}
    asked = [sample, sample | {"date": datetime.date(2021, 7, 1)}]
    one, two = (m.predict(asked) for m in (model, loaded))
    assert [a.values for a in one] == [a.values for a in two]
    assert one[0].values != one[1].values
    same = {"frames": frames, "dates": ["2019-01", "2019-07", "2020-01"], "date": "2020-07"}
    assert model.predict([same])[0].values["target"] == pytest.approx(one[0].values["target"], abs=1e-5)
    longer = {"frames": frames * 2, "dates": [f"2019-0{i}" for i in range(1, 7)], "date": "2020"}
    model.predict([longer])  # more frames than in training: nothing counts them


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"date": None}, "sample 0: this model sees dates, say for when it shall answer"),
        ({"dates": ["2019", "2020"]}, "sample 0: 2 dates for 1 frames"),
        ({"dates": None}, "sample 0: this model sees dates, and no file's name tells them"),
        ({"dates": ["spring"]}, "sample 0: 'spring' is no date; write 2019-07-31"),
        ({"dates": ["2019-13-01"]}, "sample 0: '2019-13-01' is no date"),
        ({"dates": [17]}, "sample 0: 17 is no date"),
        ({"dates": ["2022-01"]}, "sample 0: the frame 0 is of 2022-01, after the answer's 2021"),
    ],
)
def test_dates_that_cannot_be(change, message):
    sample = {"frames": [np.ones((8, 8, 3), np.uint8)], "dates": ["2019"], "date": "2021"} | change
    with pytest.raises(DataError, match=message):
        make("convgru").predict([sample])


def test_tables_give_the_dates_of_their_labels(tiles):
    table, cache = tiles
    windows = make_windows(table, cache, target_years=2)
    batch = TileSequences(cache, windows, TileSequenceConfig(dates=True, image_size=[8, 8])).__getitems__(
        [0, 8]
    )
    np.testing.assert_allclose(batch["dates"][1], [[730.5, 0], [365.2, 0], [0, 0]], atol=0.1)
    assert "dates" not in TileSequences(cache, windows, TileSequenceConfig(image_size=[8, 8])).__getitems__(
        [0]
    )


def test_own_rows_with_dates_make_batches_and_rows_that_show_nothing_are_refused():
    rows = [
        {"pixel_values": np.ones((n, 3, 8, 8)), "dates": np.full((n + 1, 2), 9.0), "labels": 1.0}
        for n in (1, 2)
    ]
    config = TileSequenceConfig(dates=True, image_size=[8, 8])
    batch = TileRows(rows, config).__getitems__([0, 1])
    assert batch["dates"].shape == (2, 3, 2)
    assert batch["dates"][0, 0].tolist() == [0, 0]
    rows[1]["step_mask"] = np.zeros(2, bool)
    with pytest.raises(DataError, match="row 1: shows no frame, all are missing or masked; leave it out"):
        _ = TileRows(rows, config).windows
    with pytest.raises(DataError, match="row 1 of the batch: no frame is left to see"):
        TileRows(rows, config).__getitems__([0, 1])


def test_frame_dropout_leaves_one_frame_and_adds_none():
    torch.manual_seed(0)
    mask = torch.rand(2000, 5) < 0.6
    mask[:, 0] |= ~mask.any(1)
    fewer = fewer_seen(mask, 0.3)
    assert fewer.any(1).all()
    assert not (fewer & ~mask).any()
    many = mask.sum(1) == 5
    assert fewer[many].float().mean().item() == pytest.approx(0.7, abs=0.05)
    assert (fewer_seen(mask, 0.999).sum(1) == 1).float().mean() > 0.98


class Peaks(torch.nn.Module):
    """Attention over the values of irregular series, by dates or by the count of steps."""

    def __init__(self, kind, dates):
        super().__init__()
        self.project, self.dated = torch.nn.Linear(1, 32), dates
        settings = {"size": 32, "steps": 10, "date_size": DATE_FEATURES if dates else 0}
        self.attention = (
            TemporalAttention(**settings) if kind == "attention" else LightTemporalAttention(**settings)
        )
        self.head = torch.nn.Linear(32, 1)

    def forward(self, values, mask, dates):
        seen = date_features(dates, mask)[0] if self.dated else None
        return self.head(self.attention(self.project(values[..., None]), mask, seen))[:, 0]


def peaks(n, seed):
    """Ten random days of a part of a year, a season, a third of the values missing; the target is its peak's day."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 120, (n, 1))
    days = np.sort(start + rng.uniform(0, 245, (n, 10)), 1)
    peak = start[:, 0] + rng.uniform(30, 215, n)
    values = np.exp(-(((days - peak[:, None]) / 60) ** 2)) + rng.normal(0, 0.05, days.shape)
    mask = rng.random(days.shape) < 0.7
    mask[:, 0] |= ~mask.any(1)
    calendar = np.c_[days, np.full(n, 365.0)]
    tensors = values, mask, frame_dates(calendar, calendar), (peak - 182) / 64
    return [
        torch.from_numpy(np.asarray(part)) if part.dtype == bool else torch.tensor(part).float()
        for part in tensors
    ]


def fitted_r2(kind, dates):
    torch.manual_seed(0)
    model, (train, test) = Peaks(kind, dates), (peaks(2000, 0), peaks(500, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    steps = 400
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        rows = torch.randint(2000, (128,))
        *inputs, truth = (part[rows] for part in train)
        loss = (model(*inputs) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    *inputs, truth = test
    with torch.no_grad():
        return 1 - (model.eval()(*inputs) - truth).square().mean().item() / truth.var().item()


@pytest.mark.slow
def test_dates_tell_when_a_season_peaks_and_the_count_of_steps_does_not():
    found = {
        (kind, dates): fitted_r2(kind, dates)
        for kind, dates in (("attention", True), ("ltae", True), ("attention", False))
    }
    print(found)
    assert found["attention", True] >= 0.9
    assert found["ltae", True] >= 0.9
    assert found["attention", False] <= 0.75
