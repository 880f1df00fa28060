"""Times in labels of steps and of photographs: what is read, in which order, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geohf.data.times import check_frames, order_labels, step_key, step_times, time_ns
from geohf.errors import DataError

NOON = 1641321200080306003  # 2022-01-04 18:33:20.080306003


def days(labels):
    found = step_times(labels)
    assert found.unit == "dates"
    return (np.diff(found.times) * 365.2425).round(6).tolist()


@pytest.mark.case("files-A11")
@pytest.mark.parametrize(
    ("labels", "apart"),
    [
        (["20191231", "20200101", "20200102"], [1, 1]),
        (["2015-07-11", "2015-07-31", "2015-08-20"], [20, 20]),
        (["2019-07-01 00:00:00", "2019-07-01T06:00:00Z", "20190702"], [0.25, 0.75]),
        (["2019-07-01T01:00:00+02:00", "2019-07-01T00:00:00"], [1 / 24]),
        (["A2019182", "A2019190"], [8]),
        (["2019-W01", "2019-W03"], [14]),
        (["5Jan2019", "2019-01-06"], [1]),
        (["S2A_20190105T100031_N02", "S2B_20190110T100031_N02"], [5]),
        (["ref20180101_20190105", "ref20180101_20190117"], [12]),
        (["m_38077_20190701_60cm", "m_38077_20200701_60cm"], [366]),
    ],
)
def test_dates_are_days_apart(labels, apart):
    np.testing.assert_allclose(days(labels), apart, atol=1e-6)


@pytest.mark.case("six-2", "files-A11")
@pytest.mark.parametrize(
    "labels", [["201507", "201603"], ["2015-07", "2016-03"], ["July 2015", "2016mar"], ["07-2015", "03.2016"]]
)
def test_months_are_months_apart(labels):
    found = step_times(labels)
    assert found.unit == "months"
    np.testing.assert_allclose(np.diff(found.times) * 12, [8])


@pytest.mark.case("files-A11")
@pytest.mark.parametrize(
    ("labels", "times", "unit"),
    [
        (["india.urban.1989", "india.urban.1999", "india.urban.2005"], [1989, 1999, 2005], "years"),
        (["2019.0", "2021.0"], [2019, 2021], "years"),
        (["2018-2019", "2020-2021"], [2018, 2020], "years"),
        (["2019Q3", "2020-Q1"], [2019.5, 2020], "quarters"),
        (["t1.tif", "t2.tif", "t12.tif"], [1, 2, 12], "numbers"),
        (["-2", "-1", "0"], [-2, -1, 0], "numbers"),
        (["0.5", "01", "10"], [0.5, 1, 10], "numbers"),
        (["2019-9", "2019-10"], [9, 10], "numbers"),
        (["marsh_2019", "marsh_2021"], [2019, 2021], "years"),
    ],
)
def test_numbers_quarters_and_years(labels, times, unit):
    found = step_times(labels)
    assert found.times.tolist() == times
    assert found.unit == unit


@pytest.mark.case("files-A2")
@pytest.mark.parametrize(
    "labels",
    [
        [str(n) for n in range(1, 13)],
        [f"t{n}" for n in range(1, 13)],
        [f"{n:02d}" for n in range(1, 13)],
        ["2019-11", "2019-12", "2020-01"],
        ["dry", "wet 2", "wet 10"],
        ["-10", "-9", "0"],
    ],
)
def test_labels_that_are_found_are_put_in_order_of_time(labels):
    shuffled = [labels[i] for i in np.random.default_rng(0).permutation(len(labels))]
    assert order_labels(shuffled) == labels


@pytest.mark.case("files-A2")
@pytest.mark.parametrize("labels", [["2021", "2020"], ["1", "10", "2"], ["t2", "t1"], ["2019-02", "2019-01"]])
def test_times_that_do_not_ascend_are_refused(labels):
    with pytest.raises(DataError, match=r"do not ascend.*give the oldest first"):
        step_times(labels)


@pytest.mark.case("files-A11")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["2019", "2019-07"], r"mix years \(2019\) and months \(2019-07\)"),
        (["201907", "20190801"], "mix months .* and dates"),
        (["1", "01"], "'1' and '01' are the same step"),
        (["201907", "2019-07"], "are the same step"),
        (["201812", "201813"], "'201813' is none of the months"),
        (["20190230", "20190301"], "'20190230' is none of the dates"),
        (["A2019366", "A2020366"], "'A2019366' is none of the dates"),
        (["31-12-2019", "01-01-2020"], "begin with the day"),
        (["31122019", "01012020"], "begin with the day"),
        (["1/2/2020", "1/3/2020"], "begin with the day or the month"),
        (["scene 1.2.2020", "scene 2.2.2020"], "begin with the day or the month"),
    ],
)
def test_times_that_can_be_read_in_two_ways_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        step_times(labels)


@pytest.mark.case("files-A11")
@pytest.mark.parametrize("labels", [["dry", "wet"], ["2019_dry", "2019_wet"], ["2018", "2020", "masks"]])
def test_equal_steps_are_assumed_aloud(labels, caplog):
    found = step_times(labels)
    assert found.unit == "equal steps"
    assert np.diff(found.times).tolist() == [1.0] * (len(labels) - 1)
    assert f"the labels {', '.join(labels)} tell no time" in caplog.text


@pytest.mark.case("files-A11")
def test_long_numbers_are_taken_for_numbers_aloud(caplog):
    assert step_times(["190115", "190220"]).unit == "numbers"  # perhaps 15 January 2019
    assert "count as plain numbers" in caplog.text


@pytest.mark.parametrize("labels", [["85", "90", "00", "05"], ["img_98", "img_99", "img_00", "img_01"]])
def test_years_of_two_digits_are_taken_for_numbers_aloud(labels, caplog):
    assert step_times(order_labels(labels)).unit == "numbers"
    assert "write years with four digits" in caplog.text
    caplog.clear()
    step_times([f"{number:02d}" for number in range(100)])
    assert not caplog.text


@pytest.mark.case("files-A2")
@pytest.mark.parametrize(
    "frames",
    [
        ["2021.tif", "2020.tif"],
        ["Images/2021/7.tif", None, "Images/2020/7.tif"],
        ["b_201902.tif", "b_201901.tif"],
        ["2020-01-01", "2019-12-31"],
    ],
)
def test_frames_whose_names_go_back_in_time_are_refused(frames):
    check_frames(frames[::-1])
    with pytest.raises(DataError, match="do not ascend"):
        check_frames(frames)


@pytest.mark.case("files-A2")
def test_frames_whose_numbers_do_not_ascend_are_said(caplog):
    check_frames(sorted(f"t{n}.tif" for n in range(1, 13)))  # as glob gives them
    assert "t2 is before t12" in caplog.text
    caplog.clear()
    check_frames(["dry.tif", "a.tif", np.zeros((2, 2))])
    check_frames(["31-12-2019.tif", "01-01-2020.tif"])
    check_frames(["2019.tif", "2019.tif"])
    assert caplog.text == ""


def test_spellings_of_one_step_have_one_key():
    assert step_key("1") == step_key("01") == step_key("1.0")
    assert step_key("201907") == step_key("2019-07") != step_key("2019-08")
    assert step_key("20190701") == step_key("2019-07-01 00:00:00")
    assert step_key("dry") == "dry" != step_key("wet")


@pytest.mark.case("files-A15", "files-C11")
@pytest.mark.parametrize(
    ("cell", "ns"),
    [
        (NOON, NOON),
        (str(NOON), NOON),
        ("1641321200", 1641321200 * 10**9),
        (1641321200.25, 1641321200_250 * 10**6),
        ("1641321200080", 1641321200_080 * 10**6),
        (1641321200080306, 1641321200080306_000),
        (1.641321200080306e18, 1641321200080306_000),
        ("1.641321200080306E+18", 1641321200080306_000),
        ("2022-01-04 18:33:20.080306003", NOON),
        ("2022:01:04 18:33:20", 1641321200 * 10**9),
        ("2022-01-04T20:33:20+02:00", 1641321200 * 10**9),
        (pd.Timestamp(NOON), NOON),
        (None, None),
        (float("nan"), None),
        ("", None),
        (pd.NaT, None),
    ],
)
def test_times_of_photographs_tell_their_unit(cell, ns):
    assert time_ns(cell) == ns


@pytest.mark.case("files-A15", "files-C11")
@pytest.mark.parametrize("cell", ["noon", "0", -1, "inf", "2022-01-04", "2022-13-04 10:00", 10**13, True])
def test_what_is_no_time_since_2000_is_refused(cell):
    with pytest.raises(DataError, match="is no "):
        time_ns(cell)
