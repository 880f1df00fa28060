"""The picture files of a folder, told from what else lies there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from geohf.errors import listed
from geohf.io import natural_key
from geohf.vision.formats import is_image_name, is_marked
from geohf.vision.images import ImageError

logger = logging.getLogger(__name__)


def image_files(folder: str | Path) -> list[Path]:
    """All image files below a folder, in natural order (2 before 10); hidden ones are left out.

    A file counts by its ending, or by its first bytes where it has none. What else lies there is named in a warning.

    Raises:
        ImageError: there is no such folder, or it holds no image; the message says what it holds.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    images, others = told_apart(files_below(folder))
    names = [str(path.relative_to(folder)) for path in others]
    if not images:
        raise ImageError(
            f"{folder}: holds no image; {f'it holds {_counted(names)}' if names else 'it is empty'}"
        )
    warn_unread(folder, names)
    return images


def files_below(folder: Path, roots: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder, hidden ones aside; links are followed, and those that lead nowhere are files, too."""
    roots = roots or (folder.resolve(),)
    try:
        lying = list(folder.iterdir())
    except PermissionError as error:  # as lost+found of a disk
        logger.warning("%s: a folder that cannot be read and is left out (%s)", folder, error.strerror)
        return
    for path in lying:
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield from [path] if path.is_file() or path.is_symlink() else []
        elif not path.is_symlink():
            yield from files_below(path, roots)
        else:
            target = path.resolve()
            # what lies in one of the roots is read by its own name, and a folder above them leads in a circle
            if not any(target.is_relative_to(root) or root.is_relative_to(target) for root in roots):
                yield from files_below(path, (*roots, target))


def told_apart(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(pictures, other files), each in natural order."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(files, key=natural_key):
        known = is_image_name(path) if path.suffix else is_marked(path)
        (images if known else others).append(path)
    return images, others


def warn_unread(folder: str | Path, names: Sequence[str]) -> None:
    """Say how many files lie in a folder that were not read, and what they are called."""
    if names:
        logger.warning("%s: not read, as no images: %s", folder, _counted(names))


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} file{'s' * (len(names) > 1)} ({listed(names, 10)})"
