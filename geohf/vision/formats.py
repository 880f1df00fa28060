"""Which files are taken for pictures: by their ending, or by their first bytes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePath

from PIL import Image

# what Pillow names, but gives no pixels of without another program; and what photographers call otherwise
_WITHOUT_PIXELS = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
# formats that begin with a mark of their own: a file without an ending is known by it
_MARKED = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """The endings of files that Pillow can open, in small letters, and those of HEIC (`pip install 'geohf[heif]'`)."""
    formats = Image.registered_extensions()
    known = {
        suffix
        for suffix, name in formats.items()
        if (name in Image.OPEN or name == "MPO") and name not in _WITHOUT_PIXELS
    }
    return frozenset({*known, *HEIF_SUFFIXES})


def is_image_name(name: str | PurePath) -> bool:
    """Whether a file of this name is taken for a picture.

    >>> [is_image_name(name) for name in ("a.JPG", "b.heic", "notes.txt")]
    [True, True, False]
    """
    return PurePath(name).suffix.lower() in image_suffixes()


def is_marked(path: Path) -> bool:
    """Whether a file begins as pictures do."""
    try:
        with Image.open(path, formats=_MARKED):
            return True
    except Image.DecompressionBombError:
        return True  # whoever opens it will say so
    except Exception:  # plugins fail in many ways on what is no picture
        return False
