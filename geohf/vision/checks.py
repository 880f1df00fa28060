"""Broken pictures, found before training: a file is checked once, and again only where it has changed.

What was found whole is remembered in one file in the cache folder: eight bytes a picture, a digest of its path, size
and time of change (of its bytes, where it is no file). Records are appended under a lock, so a kill leaves all that
came before, and any number of processes share one memory: each takes portions that no other is at.

    checks/whole.u64      the digests
    checks/whole.lock     held while some are appended
    checks/turns/         the locks of portions that are being checked
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from filelock import FileLock, Timeout
from PIL import ExifTags, Image, UnidentifiedImageError

from geohf.io import cache_folder
from geohf.vision.images import BROKEN, ImageError, open_image

logger = logging.getLogger(__name__)

RULES = 1  # raise it when pictures that were found whole may be refused
PORTION, TASK = 2048, 64  # pictures that one process checks in one go, and one thread
TURNS = 64
ROWS = 128  # rows of a dataset that are read and checked together
_DIGEST = np.dtype("<u8")
_NEVER = 0  # the digest of what cannot be remembered

Row = TypeVar("Row")


def check_images(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with which of these files, see `broken_images`."""
    paths = list(paths)
    return {paths[i]: reason.removeprefix(f"{paths[i]}: ") for i, reason in broken_images(paths).items()}


def broken_images(images: Sequence[Any]) -> dict[int, str]:
    """Position -> why this image cannot be opened, found without decoding in full where that suffices.

    Every image is decoded, as pixels may be cut off behind a whole header; JPEG at an eighth of its size, at a
    fraction of the cost. Those that were found whole before and have not changed since are not opened.

    Args:
        images: anything that `open_image` takes.
    """
    from tqdm.auto import tqdm

    digests, memory = _digests(images), _Memory(cache_folder("checks"))
    reasons: dict[int, str] = {}
    unknown = ~memory.holds(digests)
    portions = np.array_split(np.arange(len(images)), range(PORTION, len(images), PORTION))
    portions = [portion for portion in portions if unknown[portion].any()]
    if not portions:
        return {}

    def found(rows: np.ndarray) -> dict[int, str]:
        return {row: why for row in rows.tolist() if (why := _why_broken(images[row])) is not None}

    look = {"desc": "checking images", "unit": "image", "delay": 1, "leave": False}
    bar = tqdm(total=int(unknown.sum()), disable=os.environ.get("RANK", "0") != "0", **look)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for wait in (False, True):
            busy = []
            for portion in portions:
                with memory.turn(int(digests[portion[0]]) % TURNS, wait) as ours:
                    if not ours:
                        busy.append(portion)
                        continue
                    rows = portion[~memory.holds(digests[portion])]
                    bar.update(int(unknown[portion].sum()) - len(rows))
                    tasks = np.array_split(rows, range(TASK, len(rows), TASK))
                    for task, broken in zip(tasks, pool.map(found, tasks), strict=True):
                        reasons |= broken
                        bar.update(len(task))
                    memory.add(digests[[row for row in rows.tolist() if row not in reasons]])
            portions = busy
    return dict(sorted(reasons.items()))


def _why_broken(image: Any) -> str | None:
    try:
        open_image(image, size=1)
    except ImageError as error:
        return str(error)
    return None


def checked_rows(
    rows: Iterable[Row], pictures_of: Callable[[Row], Sequence[Any]]
) -> Iterator[tuple[Row, list[str | None]]]:
    """Each row with what is wrong with each of its pictures, None where nothing is; see `broken_images`.

    Many rows are read and checked together, no more than memory holds.
    """
    rows = iter(rows)
    while chunk := list(islice(rows, ROWS)):
        pictures = [pictures_of(row) for row in chunk]
        broken, number = broken_images([picture for several in pictures for picture in several]), count()
        for row, several in zip(chunk, pictures, strict=True):
            yield row, [broken.get(next(number)) for _ in several]


def header_of(image: Any) -> tuple[int, int, int]:
    """Stored width and height in pixels and the EXIF orientation (1 to 8), of a file or bytes without decoding.

    Raises:
        ImageError: the header cannot be read.
    """
    source = image
    if isinstance(image, Mapping):
        source = image["bytes"] if image.get("bytes") is not None else image.get("path")
    held = isinstance(source, (bytes, bytearray, memoryview))
    if not held and not (isinstance(source, (str, os.PathLike)) and os.path.isfile(source)):
        return *open_image(image).size, 1
    try:
        with Image.open(BytesIO(source) if held else source) as opened:
            if opened.format == "PNG":
                opened.load()  # its EXIF may stand behind the pixels
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = opened.size
            tags = getattr(opened, "tag_v2", None)
            if tags is not None:  # of a TIFF Pillow tells the size of the upright picture
                width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
            return width, height, orientation if orientation in range(1, 9) else 1
    except UnidentifiedImageError:  # what is read without a plugin of Pillow's
        return *open_image(image).size, 1
    except BROKEN as error:
        raise ImageError(f"{'image bytes' if held else source}: is broken ({error})") from None


class _Memory:
    """The digests of the pictures that were found whole; without a folder to write to, none is kept."""

    def __init__(self, folder: Path):
        self.folder: Path | None = folder
        self.file = folder / "whole.u64"
        self._known: np.ndarray = np.empty(0, _DIGEST)
        self._read = 0  # bytes of the file
        try:
            (folder / "turns").mkdir(parents=True, exist_ok=True)
            with self._lock("whole"):
                pass
        except (OSError, NotImplementedError) as error:
            logger.warning("%s: which images were checked cannot be remembered there (%s)", folder, error)
            self.folder = None

    def holds(self, digests: np.ndarray) -> np.ndarray:
        """(n,) bool: which of these were found whole, by whatever process."""
        if self.folder is not None and self.file.exists():
            with open(self.file, "rb") as file:
                file.seek(self._read)
                new = np.fromfile(file, _DIGEST)  # a record that is being written is left for the next time
            self._read += new.nbytes
            if len(new):
                self._known = np.union1d(self._known, new)
        if not len(self._known):
            return np.zeros(len(digests), bool)
        at = np.searchsorted(self._known, digests).clip(max=len(self._known) - 1)
        return (self._known[at] == digests) & (digests != _NEVER)

    def add(self, digests: np.ndarray) -> None:
        """Remember these."""
        digests = digests[digests != _NEVER]
        if self.folder is None or not len(digests):
            return
        try:
            with self._lock("whole"), open(self.file, "ab") as file:
                # what a killed process began
                file.truncate(file.tell() // _DIGEST.itemsize * _DIGEST.itemsize)
                file.write(digests.tobytes())
        except OSError as error:
            logger.warning("%s: cannot be written (%s)", self.file, error)

    @contextmanager
    def turn(self, number: int, wait: bool) -> Iterator[bool]:
        """Hold a portion's lock; False where another process does, unless we wait for it."""
        if self.folder is None:
            yield True
            return
        lock = self._lock(f"turns/{number}")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.file.parent / f"{name}.lock")


def _digests(images: Sequence[Any]) -> np.ndarray:
    """(n,) what each picture is remembered by; 0 for a file that is not there, and for what is neither file nor bytes."""
    # another Pillow may read other files, and so may another limit of pixels
    rules = f"{RULES} {PIL.__version__} {Image.MAX_IMAGE_PIXELS}\0".encode()
    folders: dict[str, str] = {}
    return np.fromiter((_digest(image, rules, folders) for image in images), _DIGEST, len(images))


def _digest(image: Any, rules: bytes, folders: dict[str, str]) -> int:
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        try:
            facts = os.stat(path.rpartition("::")[2] if "://" in path else path)  # zip://member::archive
        except (OSError, ValueError):
            return _NEVER
        folder, name = os.path.split(path)
        absolute = folders.get(folder) or folders.setdefault(folder, os.path.abspath(folder))
        content = f"{absolute}\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode(errors="surrogateescape")
    elif isinstance(image, (bytes, bytearray, memoryview)):
        content = b"\0" + blake2b(image, digest_size=16).digest()
    else:
        return _NEVER
    return int.from_bytes(blake2b(rules + content, digest_size=_DIGEST.itemsize).digest(), "little")
