"""What tells the descriptors of one model from those of another: its weights, their type, and what it sees of a picture."""

from __future__ import annotations

import json
import logging
from typing import Any

from geohf.errors import DataError

logger = logging.getLogger(__name__)

# settings of a processor that change a descriptor; how a JPEG is decoded hardly does
SEEN = (
    *("size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor"),
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
)


def sight_of(processor: Any, pooling: str) -> str:
    """How pictures are made ready and pooled, as JSON: weights alone do not tell it where a backbone takes any size."""
    settings = processor.to_dict()
    told = {name: settings[name] for name in SEEN if settings.get(name) is not None}
    return json.dumps(told | {"pooling": pooling}, sort_keys=True, separators=(",", ":"))


def require_same_model(built: str, asked: str) -> None:
    """Refuse to compare descriptors of two models; a warning, where an old fingerprint does not say what was seen.

    Args:
        built, asked: fingerprints, of an index and of a model or another index, see `PlaceRetrieval.fingerprint`.

    Raises:
        DataError: other weights, another type of them, pictures that were made ready in another way.
    """
    if built == asked:
        return
    (weights, kind, sight), (own, own_kind, own_sight) = _parts(built), _parts(asked)
    if weights != own and kind and own_kind and kind != own_kind:
        raise DataError(
            f"the index was built in {kind} and this model is in {own_kind}: load it with dtype=torch.{kind}, or build "
            "the index anew"
        )
    if weights != own:
        raise DataError(
            "the index was built with another model, or before this one was trained further; build it anew"
        )
    if sight and own_sight and sight != own_sight:
        there, here = json.loads(sight), json.loads(own_sight)
        told = {name: (there.get(name), here.get(name)) for name in sorted({*there, *here})}
        other = (f"{name} {a} in the index and {b} here" for name, (a, b) in told.items() if a != b)
        raise DataError(
            "the index was built with the same weights, but they saw pictures in another way: "
            f"{', '.join(other)}; build it anew, or load the model that built it"
        )
    if not (sight and own_sight):
        logger.warning(
            "the index is of an earlier version and does not say how its pictures were made ready; it answers right only "
            "where that was as now (size, fit and normalization): build it anew to be sure"
        )


def _parts(fingerprint: str) -> list[str]:
    parts = fingerprint.split(" ", 2)
    return parts + [""] * (3 - len(parts))
