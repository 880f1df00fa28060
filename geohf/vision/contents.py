"""What a picture, or whatever else a user hands over, is known by: its content, never its name alone."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from PIL import Image


def content_key(value: Any) -> str:
    """A digest that is another one as soon as the content is.

    A file counts by where it lies, its size and time of change; bytes, pixels and numbers count themselves; of lists,
    dicts and dataclasses each entry counts. An object of another kind is never known again.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def contents_of(images: Sequence[Any]) -> list[str]:
    """What each picture's content is known by: equal for equal files under other names, and for equal bytes.

    Only where others have as many bytes is a file read.

    Args:
        images: paths, bytes, or `{"path": ..., "bytes": ...}` as datasets have them.
    """
    bare = [_without_name(image) for image in images]
    lengths = [len(image) if isinstance(image, bytes) else os.stat(image).st_size for image in bare]
    several = defaultdict(set)
    for image, length in zip(bare, lengths, strict=True):
        several[length].add(_digest(image) if isinstance(image, bytes) else os.path.realpath(image))
    read: dict[str, str] = {}
    keys = []
    for image, length in zip(bare, lengths, strict=True):
        key = _digest(image) if isinstance(image, bytes) else os.path.realpath(image)
        if len(several[length]) > 1 and not isinstance(image, bytes):
            if key not in read:
                with open(key, "rb") as file:
                    read[key] = _digest(file.read())
            key = read[key]
        keys.append(key)
    return keys


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _without_name(image: Any) -> bytes | str:
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else os.fspath(image)


def _parts(value: Any) -> Iterator[bytes]:
    yield f"{type(value).__name__} {len(value) if hasattr(value, '__len__') else ''}".encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        yield bytes(value)
    elif isinstance(value, (str, os.PathLike)):
        yield os.fspath(value).encode(errors="surrogateescape")
        yield from _file_facts(os.fspath(value))
    elif isinstance(value, Image.Image):
        yield f"{value.mode} {value.size} {value.getexif().get(0x0112)}".encode()
        yield value.tobytes()
        yield repr(value.getpalette()).encode()
    elif isinstance(value, Mapping):
        held = value.get("bytes") is not None
        for key, entry in value.items():
            yield repr(key).encode()
            yield from [str(entry).encode()] if held and key == "path" else _parts(entry)
    elif callable(getattr(value, "seek", None)) and callable(getattr(value, "read", None)):
        value.seek(0)
        yield repr(value.read()).encode()
        value.seek(0)
    elif hasattr(value, "detach"):
        yield from _parts(value.detach().cpu().float().numpy())
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
        yield np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
    elif isinstance(value, Iterable) and hasattr(value, "__len__"):
        for entry in value:
            yield from _parts(entry)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif value is None or isinstance(value, (bool, int, float, complex, np.generic)):
        yield repr(value).encode()
    else:
        yield os.urandom(16)


def _file_facts(name: str) -> Iterator[bytes]:
    for place in name.split("::"):  # zip://member::archive
        try:
            facts = os.stat(place)
        except (OSError, ValueError):
            continue
        yield f"{os.path.abspath(place)} {facts.st_size} {facts.st_mtime_ns}".encode(errors="surrogateescape")
