"""What structure from motion takes from place recognition: hloc's global features, and pairs of images to match.

Pairs are read by hloc and COLMAP (two names a line) and by kapture (https://github.com/naver/kapture, 1.1).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geohf.errors import DataError, listed, optional_package, require_at_least, require_choice
from geohf.io import atomic_path, atomic_write
from geohf.place.search import top_k

FORMATS = ("hloc", "colmap", "kapture")


class Pair(NamedTuple):
    """An image, another that may show the same, and their cosine."""

    query: str
    database: str
    similarity: float


def find_pairs(
    names: Sequence[str],
    descriptors: np.ndarray,
    top: int = 20,
    min_similarity: float | None = None,
    query_prefix: str | None = None,
    database_prefix: str | None = None,
) -> list[Pair]:
    """The most similar images of each image, best first, itself left out.

    Args:
        names: n names, none of them twice.
        descriptors: (n, d).
        top: images for each query.
        min_similarity: cosine from which a pair is named.
        query_prefix, database_prefix: how the names begin of those that ask, and of those that answer; None: all.

    Raises:
        DataError: no name begins so, a name that is there twice.
    """
    require_at_least(1, top=top)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"names that are there twice: {listed(twice)}")
    asking, answering = (
        [row for row, name in enumerate(names) if name.startswith(prefix or "")]
        for prefix in (query_prefix, database_prefix)
    )
    for rows, prefix in ((asking, query_prefix), (answering, database_prefix)):
        if not rows:
            raise DataError(f"no image's name begins with {prefix!r}; there are {listed(names)}")
    similarity, ranked = top_k(descriptors[answering], descriptors[asking], min(top + 1, len(answering)))
    least, pairs = -math.inf if min_similarity is None else min_similarity, []
    for row, values, best in zip(asking, similarity.tolist(), ranked.tolist(), strict=True):
        named = [(names[answering[at]], value) for at, value in zip(best, values, strict=True)]
        others = [pair for pair in named if pair[0] != names[row]][:top]
        pairs += [Pair(names[row], other, value) for other, value in others if value >= least]
    return pairs


def write_pairs(path: str | os.PathLike, pairs: Sequence[Pair], format: str = "hloc") -> None:
    """Write pairs as text.

    Args:
        format: `hloc`, `colmap` (each pair once, whichever of the two asked) or `kapture` (with the similarity).

    Raises:
        DataError: another format, or a name that holds what separates names in it.
    """
    require_choice(FORMATS, format=format)
    for name in {name for pair in pairs for name in pair[:2]}:
        if ("," in name) if format == "kapture" else any(map(str.isspace, name)):
            raise DataError(
                f"{path}: the name {name!r} holds what separates names in a file for {format}; rename it"
            )
    if format == "colmap":
        seen: dict[frozenset[str], Pair] = {}
        for pair in pairs:
            seen.setdefault(frozenset(pair[:2]), pair)
        pairs = list(seen.values())
    with atomic_write(path) as file:
        if format == "kapture":
            file.write("# kapture format: 1.1\n# query_image, map_image, score\n")
            file.writelines(f"{pair.query}, {pair.database}, {pair.similarity:.6f}\n" for pair in pairs)
        else:
            file.writelines(f"{pair.query} {pair.database}\n" for pair in pairs)


def write_features(path: str | os.PathLike, names: Sequence[str], descriptors: np.ndarray) -> None:
    """Write hloc's `global-feats.h5`: `NAME/global_descriptor`, float16.

    Raises:
        DataError: the package h5py is missing.
    """
    h5py = optional_package("h5py", "export", "global features need")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, descriptor in zip(names, descriptors, strict=True):
            place = f"{Path(name).as_posix()}/global_descriptor"
            file.create_dataset(place, data=descriptor.astype(np.float16))
