"""Opening images: one RGB picture from whatever a user has, and a clear error for what is not one."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from geohf.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


# what a broken file surfaces as, depending on Pillow's plugin
BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError)


class ImageError(DataError):
    """A file, or bytes, or an array that cannot be used as an image; the message names it and says why."""


def open_image(source: Any, size: int | None = None) -> Image.Image:
    """Open an image as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        source: a path, bytes, a PIL image, an array or tensor ((H, W), (H, W, C) or (C, H, W), uint8, uint16
            over its whole range, or floats in [0, 1]), or a row of a datasets `Image(decode=False)` column.
        size: the side in pixels below which the image must not be shrunk: a JPEG is decoded at the smallest
            scale (1, 1/2, 1/4, 1/8) that leaves it at least so large, which is faster. Twice the side of a
            later resize leaves a PSNR of 50 dB or more to the exact pixels.

    Returns:
        A PIL image of mode RGB. Transparency is laid over white, 16-bit grey is scaled to 8 bits.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large to be safe, or a wrong shape.
    """
    name = "image bytes"
    if isinstance(source, dict):
        name = source.get("path") or name
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
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
            raise ImageError(f"{path}: is a folder, not an image")
        return _decode(path, str(path), length, size)
    return _from_array(source)


def image_files(folder: str | Path) -> list[Path]:
    """All image files below a folder, sorted by path, hidden ones left out.

    Raises:
        ImageError: there is no such folder, or it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise ImageError(f"{folder}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


def _decode(file, name: str, length: int, size: int | None) -> Image.Image:
    if not length:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its limit; a picture that large is refused here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if size and image.format == "JPEG":
                    image.draft(None, (size, size))
                image.load()
                return _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{name}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be a decompression bomb; "
            "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: is not an image that Pillow can read") from None
    except BROKEN as error:
        raise ImageError(f"{name}: is broken or truncated ({error})") from None


def _picture(image: Image.Image) -> Image.Image:
    try:
        return _to_rgb(image)  # Pillow reads a file's pixels only now
    except BROKEN as error:
        name = getattr(image, "filename", None) or f"{type(image).__name__} {image.mode} {image.size}"
        raise ImageError(f"{name}: is broken, truncated or of an unknown mode ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
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
    if array.dtype == np.uint16 or array.dtype == np.dtype(
        ">u2"
    ):  # the whole range, however dark the picture
        return np.round(array / 257).astype(np.uint8)
    if not np.isfinite(array).all():
        raise ImageError("an array with NaN or infinite values is not an image")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return np.round(array).astype(np.uint8)
    if low >= 0 and high <= 65535:  # 16-bit grey
        return np.round(array / 257).astype(np.uint8)
    raise ImageError(f"array values from {low:g} to {high:g} are neither 0 to 1, 0 to 255 nor 16-bit")


def undecoded(dataset):
    """A view of a `datasets.Dataset` or stream whose image columns give paths and bytes, for `open_image` to decode.

    It decodes with better errors, at a smaller scale where that suffices, and only when needed. A stream that does
    not know its columns, as `map` leaves it, stays as it is.
    """
    from datasets import Image as ImageFeature
    from datasets import List

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, ImageFeature) and feature.decode:
            dataset = dataset.cast_column(name, ImageFeature(decode=False))
        elif (
            isinstance(feature, List) and isinstance(feature.feature, ImageFeature) and feature.feature.decode
        ):
            dataset = dataset.cast_column(name, List(ImageFeature(decode=False)))
    return dataset
