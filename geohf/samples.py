"""The folders that built-in samples are written into."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geohf.errors import DataError
from geohf.io import atomic_write

MARKER = ".geohf_sample.json"


def write_once(
    folder: str | Path, settings: Mapping[str, Any], owned: Sequence[str], write: Callable[[Path], None]
) -> Path:
    """Fill a folder with a sample, unless it holds the very same one already; the folder.

    A marker that is written last says that everything is there, and of which settings.

    Args:
        folder: made where it does not exist.
        settings: what the sample depends on, with the version of its rules.
        owned: names in the folder that `write` writes.

    Raises:
        DataError: the folder has no marker but such files: somebody's data. Nothing in it is touched.
    """
    folder, marker = Path(folder), Path(folder) / MARKER
    text = json.dumps(dict(settings), sort_keys=True)
    if marker.is_file():
        if marker.read_text() == text:
            return folder
    elif any((folder / name).exists() for name in owned):
        raise DataError(f"{folder}: holds data that is not a sample; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("{}")  # until the new one is whole
    write(folder)
    with atomic_write(marker) as file:
        file.write(text)
    return folder
