"""Where annotations lie in a folder, and where their photos: our layout, the reference implementation's, COCO's, Roboflow's."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from geohf.data.cells import file_in
from geohf.data.splits import SPLIT_NAMES
from geohf.errors import DataError, listed

logger = logging.getLogger(__name__)

# where annotations of a split lie in a folder; one layout for all splits
_FILES = (
    "{}_annotations.json",
    "{}_coco.json",
    "annotations/instances_{}*.json",
    "annotations/{}*.json",
    "instances_{}*.json",
    "{}/_annotations.coco.json",
    "{}/annotations.json",
    "{}.json",
    "{}_label_studio.json",
    "{}_cvat.xml",
    "{}.xml",
)
_YOLO = ("data.yaml", "dataset.yaml", "obj.data")
_ALONE = ("annotations.json", "_annotations.coco.json", "annotations.xml", *_YOLO)
_NAMES = [name for names in SPLIT_NAMES.values() for name in names]
_XML = ("[Aa]nnotations/**/*.xml", "*.xml", *(f"{name}/*.xml" for name in _NAMES))  # of Pascal VOC
_ASKED = 100  # so many photos are looked for in a folder before another is tried


def annotation_files(folder: Path, warn: bool = True) -> dict[str, Path]:
    """The annotations of each split in a folder, gzipped ones (`.json.gz`) too; the folder itself where a photo has one each.

    Args:
        warn: tell of others that lie beside those that are read.

    Raises:
        DataError: it holds none.
    """
    # one layout for all splits: the photos of one layout's validation may be training photos of another
    layouts = [_files_of_layout(folder, pattern) for pattern in _FILES]
    chosen = next((files for files in layouts if "train" in files), None) or next(filter(None, layouts), {})
    alone = [folder / name for name in _ALONE if (folder / name).is_file()]
    if not chosen and alone:
        chosen = {"train": alone}
    if not chosen and any(next(folder.glob(pattern), None) for pattern in _XML):
        chosen = {"train": [folder]}
    if not chosen:
        wanted = ", ".join([pattern.format("train") for pattern in _FILES] + [*_ALONE])
        others = sorted(path.name for path in folder.glob("*.json*"))
        hint = f"; of {listed(others)}, name the one that has them" if others else ""
        raise DataError(f"{folder}: holds no annotations{hint}; looked for {wanted}, Annotations/*.xml")
    read = {split: files[0] for split, files in chosen.items()}
    possible = [path for files in [*layouts, {"": alone}] for paths in files.values() for path in paths]
    beside = [path for path in dict.fromkeys(possible) if path not in read.values()]
    if beside and warn:
        names = (listed([path.relative_to(folder) for path in paths]) for paths in (read.values(), beside))
        logger.warning("%s: %s is read, and %s beside it is not; name a file to read that", folder, *names)
    return read


def _files_of_layout(folder: Path, pattern: str) -> dict[str, list[Path]]:
    files = {}
    for split, names in SPLIT_NAMES.items():
        patterns = [pattern.format(name) + ending for name in names for ending in ("", ".gz")]
        files[split] = list(dict.fromkeys(path for each in patterns for path in sorted(folder.glob(each))))
    return {split: paths for split, paths in files.items() if paths}


def image_folder(path: Path, split: str, names: Iterable[str]) -> Path:
    """The folder beside the annotations that holds most of the photos, asked for some of them.

    Of equals the one that is named after the split comes first, then `images`, the annotations' own, and others.
    """
    asked = list(islice(names, _ASKED))
    best, most = None, 0
    for folder in _folders(path, split):
        count = sum(holds(folder, name) for name in asked)
        if best is None or count > most:
            best, most = folder, count
        if most == len(asked):
            break
    return best or path.parent


def _folders(path: Path, split: str) -> Iterator[Path]:
    inside = path.parent.name.lower().startswith(("annotation", "label"))
    bases = [path.parent] + ([path.parent.parent] if inside else [])
    # a file that was named alone says by its name which split it is
    stem = path.stem.lower()
    stem = stem if re.search(r"(?<![a-z])dev(?![a-z])", stem) else stem.replace("dev", "")  # of a device
    told = next((key for key, names in SPLIT_NAMES.items() for name in names if name in stem), split)
    # a share held out of train has its photos there
    aliases = [SPLIT_NAMES[key] for key in (told, split, "train")]
    forms = ("{}", "{}_images", "images/{}", "{}[0-9]*")  # train2017
    own, others, train = ([form.format(alias) for alias in names for form in forms] for names in aliases)
    deeper = [form.format(alias) for names in aliases for alias in names for form in ("*/{}", "*/{}[0-9]*")]
    for pattern in (*own, *others, "images", ".", *train, *deeper, "*", "*/images", "images/*", "images/*/*"):
        for base in bases:
            folders = [base] if pattern == "." else sorted(base.glob(pattern))
            yield from (folder for folder in folders if folder.is_dir())


def holds(folder: Path, name: str) -> bool:
    """Whether there is such a file in a folder."""
    try:
        return Path(file_in(folder, name)).is_file()
    except DataError:
        return False
