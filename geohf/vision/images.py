"""Opening images: one RGB picture from whatever a user has, and a clear error for what is not one."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from geohf.errors import DataError, warn_once
from geohf.vision.formats import is_image_name

logger = logging.getLogger(__name__)

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TOO_LARGE = (
    "has more than {:,} pixels, which may be a decompression bomb; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS "
    "if you trust it"
)
_MOST_BYTES = 6  # of a pixel, as 16 bits of three colors without compression have
_ROUNDING = 1e-3  # of pictures from 0 to 1
_OF_12_BITS = 2**12  # as cameras have them, and write them into 16

# of pictures and open files that a user hands over: two threads may be given the same, which reads its pixels only once
HANDED_OVER = Lock()
# a worker process that is forked while a thread holds it would wait for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=HANDED_OVER.acquire, after_in_parent=HANDED_OVER.release, after_in_child=HANDED_OVER.release
    )

# what a broken file surfaces as, depending on Pillow's plugin
BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError)


class ImageError(DataError):
    """A file, or bytes, or an array that cannot be used as an image; the message names it and says why."""


def open_image(source: Any, size: int | None = None) -> Image.Image:
    """Open an image as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        source: a path, an address of fsspec (`zip://`, `hf://`), bytes, an open file, a PIL image, an array or
            tensor ((H, W), (H, W, C) or (C, H, W), uint8, uint16 over its whole range, or floats in [0, 1]), a
            cell of a datasets `Image(decode=False)` column, or a row that holds one of these, see `picture_of`.
        size: the side in pixels below which the image must not be shrunk: a JPEG is decoded at the smallest
            scale (1, 1/2, 1/4, 1/8) that leaves it at least so large, which is faster. Twice the side of a
            later resize leaves a PSNR of 50 dB or more to the exact pixels.

    Returns:
        A PIL image of mode RGB. Transparency is laid over white, 16-bit gray is scaled to 8 bits.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large to be safe, or a wrong shape.
    """
    source, name = held_by(source)
    if isinstance(source, Mapping):
        return open_image(picture_of(source), size)
    if isinstance(source, Image.Image):
        return _picture(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name, memoryview(source).nbytes, size)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            length = path.stat().st_size
        except (OSError, ValueError) as error:  # ValueError: a NUL character
            raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image; name it alone, and not in a list")
        return _decode(path, str(path), length, size)
    numbers = (int, float, list, tuple)
    if isinstance(source, (list, tuple)) and not all(isinstance(one, numbers) for one in source):
        # numpy would make one picture of three gray ones
        raise ImageError(
            f"a sample holds one picture, got a list of {len(source)}: give each as a sample of its own"
        )
    return _from_array(source)


def held_by(source: Any) -> tuple[Any, str]:
    """What an undecoded cell of datasets, an open file or an address of fsspec holds, and what to call it.

    Returns:
        (bytes, or the path of a cell that holds none; whatever else comes stays as it is, the name).

    Raises:
        ImageError: a file or an address that cannot be read.
    """
    name = "image bytes"
    if isinstance(source, Mapping) and source and source.keys() <= {"bytes", "path"}:
        name = source.get("path") or name
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, Image.Image):
        return source, name
    if _is_file(source):
        return _bytes_of_file(source), str(getattr(source, "name", name))
    if is_address(source):
        return _bytes_at(source), source
    return source, name


def picture_of(row: Mapping) -> Any:
    """The picture of a row: its `image`, or the only entry that is a picture or names a picture's file.

    Raises:
        ImageError: there is none, or there are several; the message says what the row has.
    """
    if row.get("image") is not None:
        return row["image"]
    if "image" in row:
        raise ImageError("a sample's 'image' is empty")
    for test in (_is_picture, _names_picture):
        pictures = [key for key, value in row.items() if test(value)]
        if len(pictures) == 1:
            return row[pictures[0]]
        if pictures:
            raise ImageError(
                f"a sample holds several pictures ({', '.join(map(str, pictures))}); call one 'image'"
            )
    raise ImageError(f"a sample needs a picture, as 'image'; it has {', '.join(map(str, row)) or 'nothing'}")


def _is_picture(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes) or isinstance(value.get("path"), str)
    if isinstance(value, (bytes, bytearray, memoryview, Image.Image)) or _is_file(value):
        return True
    # floats may be what a transform has normalized: no picture any more
    return getattr(value, "ndim", 0) == 3 and str(getattr(value, "dtype", "")).endswith(("uint8", "uint16"))


def _names_picture(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and is_image_name(os.fspath(value))


def _is_file(source: Any) -> bool:
    return callable(getattr(source, "read", None))


def is_address(name: Any) -> bool:
    """Whether this names a file by an address that fsspec knows, as `hf://` and `zip://` are."""
    return isinstance(name, str) and "://" in name


def _bytes_of_file(file: Any) -> bytes:
    name = getattr(file, "name", type(file).__name__)
    if getattr(file, "encoding", None):
        raise ImageError(f"{name}: is open as text; open it with mode 'rb'")
    try:
        with HANDED_OVER:
            if getattr(file, "seekable", bool)():
                file.seek(0)  # as Pillow does: what was just written is read from its beginning
            content = file.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({error})") from None
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"{name}: gives {type(content).__name__}, not bytes; open it with mode 'rb'")
    return bytes(content)


def _bytes_at(address: str) -> bytes:
    import fsspec

    inside, _, archive = address.partition("::")
    try:
        if inside.startswith("zip://") and os.path.isfile(archive):
            opened = _archive(os.path.abspath(archive), os.stat(archive).st_mtime_ns, os.getpid())
            name = inside.removeprefix("zip://")
            member = opened.getinfo(name if name in opened.NameToInfo else name.lstrip("/"))
            _refuse_bomb(member.file_size / _MOST_BYTES)
            return opened.read(member)
        with fsspec.open(address, "rb") as file:
            return file.read()
    except Exception as error:  # each file system has errors of its own
        # of an address that is not reached fsspec says nothing but the address; what lies behind says why
        raise ImageError(f"{address}: cannot be read ({error.__cause__ or error})") from None


@lru_cache(maxsize=4)
def _archive(path: str, changed_ns: int, process: int) -> ZipFile:
    return ZipFile(path)  # its list of members is read once; processes do not share its place in the file


def _decode(file, name: str, length: int, size: int | None) -> Image.Image:
    if not length:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    try:
        with Image.open(file) as image:
            # Pillow only warns up to twice its limit, and a filter of warnings would be that of every thread
            _refuse_bomb(image.width * image.height)
            if size and image.format == "JPEG":
                image.draft(None, (size, size))
            ImageOps.exif_transpose(image, in_place=True)  # decodes; turned elsewhere, it would be copied
            return _plain_rgb(image, stored=True)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: {_TOO_LARGE.format(Image.MAX_IMAGE_PIXELS)}") from None
    except UnidentifiedImageError:
        return _to_rgb(heif_picture(file, name))
    except BROKEN as error:
        raise ImageError(f"{name}: is broken or truncated ({error})") from None


def heif_picture(file, name: str) -> Image.Image:
    """HEIC, which telephones write and Pillow does not read; the plugin for Pillow is not registered for all.

    Raises:
        ImageError: it is none, it is broken, or the package pillow-heif is missing.
    """
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        with open(file, "rb") as opened:
            head = opened.read(12)
    if head[4:8] != b"ftyp" or head[8:12] not in HEIF_BRANDS:
        raise ImageError(f"{name}: is not an image that Pillow can read")
    try:
        from pillow_heif import open_heif
    except ImportError:
        raise ImageError(
            f"{name}: is a HEIC image; pip install 'geohf[heif]' reads it, or make it a JPEG"
        ) from None
    try:
        picture = open_heif(file)
        _refuse_bomb(picture.size[0] * picture.size[1])
        return picture.to_pillow()
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from None
    except BROKEN as error:
        raise ImageError(f"{name}: is broken ({error})") from None


def _refuse_bomb(pixels: float) -> None:
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > most:
        raise Image.DecompressionBombError(_TOO_LARGE.format(most))


def _picture(image: Image.Image) -> Image.Image:
    try:
        with HANDED_OVER:
            return _to_rgb(image)  # Pillow reads a file's pixels only now
    except BROKEN as error:
        name = getattr(image, "filename", None) or f"{type(image).__name__} {image.mode} {image.size}"
        raise ImageError(f"{name}: is broken, truncated or of an unknown mode ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    return _plain_rgb(ImageOps.exif_transpose(image), stored=image.format is not None)


def _plain_rgb(image: Image.Image, stored: bool) -> Image.Image:
    # a picture that a user made RGB keeps its colors, whichever of them was transparent before
    if image.mode == "RGB" and not (stored and "transparency" in image.info):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(source) -> Image.Image:
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    try:
        array = np.asarray(source)
    except ValueError as error:  # nested lists of different lengths
        raise ImageError(f"cannot make an image of {type(source).__name__} ({error})") from None
    if np.ma.is_masked(source):
        raise ImageError("an array with masked pixels is not an image: fill them first, as with .filled(255)")
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageError(f"cannot make an image of {type(source).__name__} with shape {array.shape}")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        if array.shape[0] not in (1, 3, 4):
            raise ImageError(f"an array of shape {array.shape} has 1, 3 or 4 channels neither first nor last")
        array = np.moveaxis(array, 0, -1)
    if array.dtype != np.uint8:
        array = _to_uint8(array)
    return _to_rgb(
        Image.fromarray(np.ascontiguousarray(array.squeeze(-1) if array.shape[-1] == 1 else array))
    )


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    # the whole range, however dark the picture
    if array.dtype == np.uint16 or array.dtype == np.dtype(">u2"):
        return _of_16_bits(array)
    if not np.isfinite(array).all():
        raise ImageError("an array with NaN or infinite values is not an image")
    low, high = float(array.min()), float(array.max())
    floats = array.dtype.kind == "f"
    if floats and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return np.round(array.clip(0, 1) * 255).astype(np.uint8)
    if floats and high < 2:  # resized beyond 1: of 255 it would be black
        raise ImageError(f"array values from {low:g} to {high:g}: clip them to 0 to 1, or give 0 to 255")
    if low >= 0 and high <= 255:
        return np.round(array).astype(np.uint8)
    if low >= 0 and high <= 65535:  # 16-bit gray
        return _of_16_bits(array)
    raise ImageError(f"array values from {low:g} to {high:g} are neither 0 to 1, 0 to 255 nor 16-bit")


def _of_16_bits(array: np.ndarray) -> np.ndarray:
    if 0 < array.max() < _OF_12_BITS:
        warn_once(
            logger,
            "a picture of 16 bits holds nothing above %d, and is seen as nearly black: if its numbers are those of 8 or 12 bits, "
            "scale them to 65535",
            _OF_12_BITS - 1,
        )
    return np.round(array / 257).astype(np.uint8)
