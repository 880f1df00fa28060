"""Small pictures for a page: JPEG as data URIs, without a tag, bounded in bytes."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from geohf.errors import DataError
from geohf.vision.images import open_image

SIDE = 240  # pixels of the longer side
MAX_BYTES = 16 * 1024  # of one JPEG; as text a third more
MOST = 200  # photographs in a page, where nobody says another number


def thumbnail(source: Any) -> str | None:
    """A small copy of a picture as a data URI: its pixels alone, at most `MAX_BYTES` of JPEG.

    Args:
        source: whatever `open_image` takes.

    Returns:
        None where the picture cannot be opened.
    """
    try:
        picture = without_tags(open_image(source, size=SIDE))
    except DataError:
        return None
    picture.thumbnail((SIDE, SIDE))
    while True:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=75)
        if file.tell() <= MAX_BYTES:
            return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        picture = picture.reduce(2)  # detail like noise


def without_tags(picture: Image.Image) -> Image.Image:
    """The pixels of an RGB picture: no EXIF, no comment, no profile."""
    return Image.frombytes("RGB", picture.size, picture.tobytes())
