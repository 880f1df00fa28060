"""What a stranger uploads: bytes within limits, made into pictures without their tags, or a message."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from geohf.errors import DataError
from geohf.vision.images import BROKEN, open_image
from geohf.vision.thumbnails import without_tags

MAX_FILES = 16
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 36_000_000


def cell_of(content: bytes, name: str) -> dict:
    """An upload as an undecoded cell of datasets, which messages call `name`.

    Raises:
        DataError: it is empty, larger than `MAX_BYTES`, or a picture of more than `MAX_PIXELS`.
    """
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{name}: has {len(content) / 2**20:.0f} MB; this page takes {MAX_BYTES // 2**20} MB a file"
        )
    try:
        with Image.open(io.BytesIO(content)) as image:  # the header only
            pixels = image.width * image.height
    except (*BROKEN, Image.DecompressionBombError):
        pixels = 0  # no picture of Pillow's: whoever reads it says what is wrong
    if pixels > MAX_PIXELS:
        raise DataError(
            f"{name}: has {pixels / 1e6:.0f} megapixels; this page takes {MAX_PIXELS // 10**6}, so make it smaller"
        )
    return {"bytes": content, "path": name}


def check_count(uploads: Sequence[bytes]) -> None:
    """Raise DataError where there is nothing, or more than `MAX_FILES`."""
    if not uploads:
        raise DataError("choose a photo first")
    if len(uploads) > MAX_FILES:
        raise DataError(f"these are {len(uploads)} files; this page takes {MAX_FILES} at a time")


def pictures_of(uploads: Sequence[bytes]) -> tuple[dict[int, Image.Image], list[str]]:
    """The uploads that are pictures, by number from 1 and without any tag, and what is wrong with the others.

    Raises:
        DataError: see `check_count`.
    """
    check_count(uploads)
    pictures, problems = {}, []
    for number, content in enumerate(uploads, start=1):
        try:
            pictures[number] = without_tags(open_image(cell_of(content, f"photo {number}")))
        except DataError as error:
            problems.append(str(error))
    return pictures, problems
