"""Small photographs for a page: they hold pixels and nothing else."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from geohf.vision.thumbnails import MAX_BYTES, SIDE, thumbnail


def bytes_of(uri):
    return base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))


def test_no_tag_of_a_photograph_is_left(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "SECRET of EXIF"
    exif[0x0112] = 6  # turned by a quarter
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path / "a.jpg"
    picture = Image.new("RGB", (600, 300), "red")
    tags = {"comment": b"SECRET comment", "icc_profile": b"SECRET profile", "xmp": b"SECRET xmp"}
    picture.save(path, exif=exif, **tags)
    assert path.read_bytes().count(b"SECRET") >= 3
    small = bytes_of(thumbnail(path))
    assert b"SECRET" not in small
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (SIDE // 2, SIDE)  # turned as the tag says
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("size", [(3000, 2000), (2000, 1), (7, 5)])
def test_a_photograph_like_noise_is_bounded_in_bytes(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    small = bytes_of(thumbnail(noise))
    assert len(small) <= MAX_BYTES
    with Image.open(io.BytesIO(small)) as image:
        assert max(image.size) <= SIDE


def test_what_is_no_picture_has_no_thumbnail(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    assert thumbnail(tmp_path / "a.jpg") is None
    assert thumbnail(tmp_path / "none.jpg") is None
