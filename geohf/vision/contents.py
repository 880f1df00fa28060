"""What a picture, or whatever else a user hands over, is known by: its content, never its name alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from geohf.vision.images import HANDED_OVER, held_by, is_address

_FIXED = re.compile(r"^hf://[^:]*@[0-9a-f]{40}/")  # a revision of the Hub, which does not change
# keys under which a sample may name a picture's file
_PICTURES = ("path", "image", "images", "views", "frames")
_END = 4096  # bytes: the pixels at the end of a picture, where two cameras' files hardly ever agree


def content_key(value: Any) -> str:
    """A digest that is another one as soon as the content is.

    A file counts by where it lies, its size and time of change, at an address by what is said of it there; bytes,
    pixels and numbers count themselves; of lists, dicts and dataclasses each entry counts. Of a dict no address is
    asked but those of pictures, as a row may tell a photograph's page and license, too. An object of another kind is
    never known again.
    """
    return digest_of(_parts(value)).hex()


def digest_of(parts: Iterable[bytes]) -> bytes:
    """16 bytes that stand for these, one by one."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def contents_of(images: Sequence[Any]) -> list[tuple]:
    """What each picture's content is known by among these: equal where and only where the bytes are equal.

    Lengths are compared first, then ends; a file is read whole only where another one has the same length and end, and
    never for lying there under two names.

    Args:
        images: paths, addresses of fsspec, bytes, or `{"path": ..., "bytes": ...}` as datasets have them.

    Raises:
        OSError, ImageError: a file or an address that cannot be read.
    """
    named: list[Any] = []
    sources: dict[Any, Any] = {}
    keys: dict[Any, tuple] = {}
    for position, image in enumerate(images):
        source = _without_name(image)
        place, length = (position, len(source)) if _is_held(source) else _place_and_length(source)
        named.append(place)
        sources[place], keys[place] = source, (length,)
    for read in (_end, _whole):
        count = Counter(keys.values())
        for place, key in keys.items():
            if count[key] > 1:
                keys[place] = (*key, read(sources[place]))
    return [keys[place] for place in named]


def content_digest(image: Any) -> bytes:
    """16 bytes that stand for a picture's content.

    Args:
        image: as `contents_of` takes it.

    Raises:
        OSError, ImageError: a file or an address that cannot be read.
    """
    return bytes.fromhex(_whole(_without_name(image)))


def _without_name(image: Any) -> Any:
    """The bytes of a picture, or its path."""
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    if is_address(image):
        return held_by(image)[0]
    return image if _is_held(image) else os.fspath(image)


def _is_held(source: Any) -> bool:
    return isinstance(source, (bytes, bytearray, memoryview))


def _place_and_length(path: str) -> tuple[Any, int]:
    """What tells one file from others without reading it, and its length in bytes."""
    facts = os.stat(path)
    # file systems without numbers for files give 0
    return (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.realpath(path), facts.st_size


def _end(source: Any) -> str:
    if _is_held(source):
        return _digest(source[-_END:])
    with open(source, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        return _digest(file.read())


def _whole(source: Any) -> str:
    return _digest(source if _is_held(source) else Path(source).read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _parts(value: Any, asks: bool = True) -> Iterator[bytes]:
    """What tells a value from others.

    Args:
        asks: what lies at an address is asked there.
    """
    # a tensor or array without dimensions has no length, though its type has one
    sized = hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0
    yield f"{type(value).__name__} {len(value) if sized else ''}".encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        yield bytes(value)
    elif isinstance(value, (str, os.PathLike)):
        yield os.fspath(value).encode(errors="surrogateescape")
        yield from _file_facts(os.fspath(value), asks)
    elif isinstance(value, Image.Image):
        with HANDED_OVER:
            orientation, pixels, palette = value.getexif().get(0x0112), value.tobytes(), value.getpalette()
        yield f"{value.mode} {value.size} {orientation} {value.info.get('transparency')}".encode()
        yield pixels
        yield repr(palette).encode()
    elif isinstance(value, Mapping):
        held = value.get("bytes") is not None
        for key, entry in value.items():
            yield repr(key).encode()
            known = held and key == "path"
            yield from [str(entry).encode()] if known else _parts(entry, key in _PICTURES)
    elif callable(getattr(value, "seek", None)) and callable(getattr(value, "read", None)):
        with HANDED_OVER:
            value.seek(0)
            content = value.read()
            value.seek(0)
        yield repr(content).encode()
    elif hasattr(value, "detach"):
        value = value.detach().cpu()
        yield str(value.dtype).encode()
        yield from _parts(value.contiguous().flatten().view(torch.uint8).numpy())
        yield str(tuple(value.shape)).encode()
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
        yield np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
    elif isinstance(value, Iterable) and hasattr(value, "__len__"):
        for entry in value:
            yield from _parts(entry, asks)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif value is None or isinstance(value, (bool, int, float, complex, np.generic)):
        yield repr(value).encode()
    else:
        yield os.urandom(16)


def _file_facts(name: str, asks: bool) -> Iterator[bytes]:
    place = name.rpartition("::")[2]  # zip://member::archive
    try:
        facts = os.stat(place)
    except (OSError, ValueError):
        if asks and re.match(r"\w+://", place) and not _FIXED.search(place):
            yield _facts_at(place).encode(errors="surrogateescape")
        return
    yield f"{os.path.abspath(place)} {facts.st_size} {facts.st_mtime_ns}".encode(errors="surrogateescape")


def _facts_at(address: str) -> str:
    """What a file system says of a file at an address: its size, time of change or digest; nothing where there is none."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        return repr(sorted(system.info(path).items()))
    except Exception:  # each file system has errors of its own; whoever opens the file will say so
        return ""
