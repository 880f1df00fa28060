"""Pictures are checked once: what was found whole is remembered by path, size and time, over kills and processes."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

import geohf.vision.checks as checks
from geohf.io import cache_folder
from geohf.vision.checks import broken_images, check_images

pytestmark = pytest.mark.case("real-size")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checks"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that are opened from now on."""
    names, plain = [], checks.open_image

    def noted(image, size=None):
        names.append(os.path.basename(image) if isinstance(image, (str, os.PathLike)) else image)
        return plain(image, size)

    monkeypatch.setattr(checks, "open_image", noted)
    return names


@pytest.fixture
def files(tmp_path):
    return [picture(tmp_path / "photos" / f"{i}.jpg", i) for i in range(6)]


def picture(path, seed):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_whole_pictures_are_opened_once_however_they_are_named(files, opened, monkeypatch):
    assert broken_images(files) == {}
    assert sorted(opened) == [f"{i}.jpg" for i in range(6)]
    opened.clear()
    monkeypatch.chdir(files[0].parent)
    rows = [{"path": str(path), "bytes": None} for path in files]
    for again in (files, [str(path) for path in files], rows, [path.name for path in files]):
        assert broken_images(again) == {}
    assert check_images(files) == {}
    assert opened == []


def test_a_picture_that_changed_is_checked_again(files, opened):
    broken_images(files)
    opened.clear()
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: len(whole) // 2])  # another size
    facts = files[4].stat()
    os.utime(files[4], ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))  # another time
    assert list(broken_images(files)) == [2]
    assert sorted(opened) == ["2.jpg", "4.jpg"]


def test_broken_pictures_are_named_each_time_with_the_same_words(files, opened):
    files[1].write_bytes(b"")
    files[3].unlink()
    first = broken_images(files)
    assert first == broken_images(files)
    assert list(first) == [1, 3]
    assert first[1] == f"{files[1]}: the file is empty (0 bytes)"
    assert check_images([files[1]]) == {files[1]: "the file is empty (0 bytes)"}
    assert opened.count("0.jpg") == 1
    assert opened.count("1.jpg") == 3


def test_pictures_in_a_table_are_known_by_their_bytes(files, opened):
    rows = [{"path": "a.jpg", "bytes": path.read_bytes()} for path in files]
    assert broken_images(rows) == {}
    opened.clear()
    rows[5] = {"path": "a.jpg", "bytes": rows[5]["bytes"][:300]}
    assert list(broken_images(rows)) == [5]
    assert len(opened) == 1
    assert broken_images([Image.new("RGB", (4, 4))] * 2) == broken_images([]) == {}


def test_rows_of_a_dataset_are_checked_together_and_remembered(files, opened, monkeypatch):
    monkeypatch.setattr(checks, "ROWS", 2)
    files[3].write_bytes(b"no picture")
    rows = [("a", files[:2]), ("b", []), ("c", [files[2], files[3], files[3]]), ("d", files[4:])]
    found = list(checks.checked_rows(iter(rows), lambda row: row[1]))
    assert [row for row, _ in found] == rows
    why = f"{files[3]}: is not an image that Pillow can read"
    assert [reasons for _, reasons in found] == [[None] * 2, [], [None, why, why], [None] * 2]
    assert len(opened) == 7
    list(checks.checked_rows(iter(rows), lambda row: row[1]))
    assert opened[7:] == ["3.jpg", "3.jpg"]


def test_a_header_tells_the_stored_size_and_how_the_photo_is_turned(tmp_path):
    photo = Image.new("RGB", (32, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tif"):
        photo.save(tmp_path / name, exif=exif)
        for image in (tmp_path / name, {"path": "gone.jpg", "bytes": (tmp_path / name).read_bytes()}):
            assert checks.header_of(image) == (32, 24, 6)
    assert checks.header_of(photo) == (32, 24, 1)
    with pytest.raises(checks.ImageError, match=r"gone\.jpg"):
        checks.header_of(str(tmp_path / "gone.jpg"))


def test_another_limit_of_pixels_is_another_check(files, opened, monkeypatch):
    broken_images(files)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(broken_images(files)) == 6


def test_a_record_that_a_kill_cut_off_harms_no_other(files, opened, cache):
    broken_images(files[:3])
    with open(cache / "whole.u64", "ab") as file:
        file.write(b"cut")
    assert broken_images(files) == {}
    assert (cache / "whole.u64").stat().st_size == 6 * 8
    opened.clear()
    assert broken_images(files) == {}
    assert opened == []


def test_a_folder_that_cannot_be_written_checks_all_the_same(files, opened, tmp_path, monkeypatch, caplog):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "taken"))
    files[0].write_bytes(b"no picture")
    assert list(broken_images(files)) == list(broken_images(files)) == [0]
    assert "cannot be remembered" in caplog.text
    assert len(opened) == 12


def test_long_checks_show_a_bar_and_portions_are_all_checked(files, opened, monkeypatch):
    import tqdm.auto

    made = []

    class Bar(tqdm.auto.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings)
            made.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(checks, "PORTION", 2)
    monkeypatch.setattr(checks, "TASK", 1)
    files[5].write_bytes(b"no picture")
    assert list(broken_images(files)) == [5]
    assert [(bar.total, bar.n) for bar in made] == [(6, 6)]
    assert sorted(opened) == [f"{i}.jpg" for i in range(6)]


SLOWLY = """
    import sys, time
    import geohf.vision.checks as checks

    checks.PORTION = checks.TASK = 2
    plain = checks.open_image
    opened = []

    def slowly(image, size=None):
        opened.append(image)
        time.sleep({pause})
        return plain(image, size)

    checks.open_image = slowly
    print("ready", flush=True)
    sys.stdin.readline()
    found = checks.broken_images(sys.argv[1:])
    print(len(found), len(opened), flush=True)
"""


def start(files, pause):
    code = textwrap.dedent(SLOWLY.format(pause=pause))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree(files):
    files[3].write_bytes(b"no picture")
    both = [start(files, 0.2) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    found, opened = zip(*(map(int, process.communicate()[0].split()) for process in both), strict=True)
    assert found == (1, 1)
    assert sum(opened) == 7  # five whole ones once, the broken one in each process


def test_a_killed_check_keeps_what_it_had_found(files, opened, cache):
    process = start(files, 0.3)
    process.stdin.write("\n")
    process.stdin.flush()
    while not (cache / "whole.u64").exists() or not (cache / "whole.u64").stat().st_size:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = (cache / "whole.u64").stat().st_size // 8
    assert 0 < done < 6
    assert broken_images(files) == {}
    assert len(opened) == 6 - done
    assert cache == cache_folder("checks")
