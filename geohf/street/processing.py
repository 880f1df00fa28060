"""From photographs of a place to tensors: one to eight views, some of them missing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from geohf.data.cells import is_nothing
from geohf.data.rows import cell_of, heading_of, positions_of
from geohf.data.samples import samples_of
from geohf.data.tables import HEADING_COLUMNS
from geohf.errors import DataError, warn_once
from geohf.street.classes import state_numbers
from geohf.vision.augmentation import RandomAreaCrop
from geohf.vision.images import ImageError, picture_of
from geohf.vision.processing import GeoImageProcessor

if TYPE_CHECKING:
    from geohf.street.modeling import GeoStreetModel

logger = logging.getLogger(__name__)

COMPASS = {"north": 0.0, "east": 90.0, "south": 180.0, "west": 270.0}
MAX_VIEWS = 8


class GeoStreetImageProcessor(GeoImageProcessor):
    """Turns samples into `pixel_values` (batch, views, 3, height, width), `view_mask` and `headings`.

    A sample is one image; a list of images; a dict with `north`, `east`, `south`, `west` (any of them), or
    with `views` and perhaps `headings` in degrees, as the rows of geohf's datasets have, or with `image` and perhaps
    `heading` (`angle`, `compass`). An image is anything that `open_image` takes; a view that is None is missing.
    """

    model_input_names = ["pixel_values", "view_mask", "headings"]  # noqa: RUF012

    def tensors(self, images: Any, augment: Callable | None = None) -> dict[str, torch.Tensor]:
        """Prepare one sample or a list of samples.

        Raises:
            ImageError: an image cannot be opened.
            DataError: there is no sample, or one has no view, or more than eight.
        """
        samples = [split_views(sample) for sample in samples_of(images)]
        if not samples:
            raise DataError("there is no sample to prepare")
        pixels = self.pixel_values([view for views, _ in samples for view in views], augment)
        counts = [len(views) for views, _ in samples]
        width = max(counts)
        if min(counts) == width:  # as they lie: a copy would cost a tenth of the preparation
            batch = pixels.contiguous().view(len(samples), width, *pixels.shape[1:])
        else:
            batch = pad_sequence(pixels.split(counts), batch_first=True)
        mask = torch.arange(width) < torch.tensor(counts)[:, None]
        seen = [torch.tensor(headings) for _, headings in samples]
        headings = pad_sequence(seen, batch_first=True, padding_value=math.nan)
        return {"pixel_values": batch, "view_mask": mask, "headings": headings}


def split_views(sample: Any) -> tuple[list, list[float]]:
    """The views of a sample that are there, and the heading of each in degrees (NaN where unknown)."""
    if isinstance(sample, Mapping):
        _refuse_other_views(sample)
        names = [name for name in COMPASS if name in sample]
        heading, headings = cell_of(sample, HEADING_COLUMNS), cell_of(sample, ("headings",))
        heading = heading if is_nothing(headings) else headings
        if "views" in sample:
            views = _listed_views(sample["views"])
            headings = _listed_headings(heading, len(views))
        elif names:
            views, headings = [sample[name] for name in names], [COMPASS[name] for name in names]
            if not is_nothing(heading):
                warn_once(
                    logger,
                    "a heading beside %s is left out: these say which way a view looks; where it looks another way, give "
                    "'views' and 'headings'", ", ".join(COMPASS),
                )  # fmt: skip
        elif sample and sample.keys() <= {"bytes", "path"}:  # one undecoded image of datasets
            views, headings = [sample], [math.nan]
        else:
            views, headings = [_only_view(sample)], _listed_headings(heading, 1)
    else:
        many = isinstance(sample, Sequence) and not isinstance(sample, (str, bytes, bytearray))
        views = list(sample) if many else [sample]
        headings = [math.nan] * len(views)
    if len(headings) != len(views):
        raise DataError(f"a sample has {len(views)} views but {len(headings)} headings")
    there = [(v, heading_of(h)) for v, h in zip(views, headings, strict=True) if v is not None]
    if not there:
        raise DataError("a sample has no view")
    if len(there) > MAX_VIEWS:
        raise DataError(f"a sample has {len(there)} views, at most {MAX_VIEWS} are possible")
    return [view for view, _ in there], [heading for _, heading in there]


def _listed_views(views: Any) -> list:
    one = isinstance(views, (str, bytes, Mapping)) or getattr(views, "ndim", 1) in (2, 3)
    if one or not (is_nothing(views) or isinstance(views, Iterable)):
        got = f"one of shape {tuple(views.shape)}" if hasattr(views, "shape") else repr(views)
        raise DataError(f"'views' is a list of pictures, got {got}"[:200])
    return [] if is_nothing(views) else list(views)


def _listed_headings(heading: Any, views: int) -> list:
    """Headings of as many views; one alone belongs to one view."""
    if isinstance(heading, Iterable) and not isinstance(heading, str) and getattr(heading, "ndim", None) != 0:
        return list(heading)
    if views > 1 and not is_nothing(heading):
        raise DataError(f"a sample has {views} views and one heading: give 'headings', one for each view")
    return [heading] * views


def _refuse_other_views(sample: Mapping) -> None:
    """Raise DataError where a picture of a sample would be left out without a word."""
    for name in sample:
        bare = str(name).lower().replace("-", "").replace("_", "")
        if name not in COMPASS and bare in (*COMPASS, "northeast", "southeast", "southwest", "northwest"):
            raise DataError(
                f"a sample's views are {', '.join(COMPASS)}, and {name!r} is none of them: give 'views' and 'headings'"
            )
    several = [name for name in ("views", *COMPASS) if sample.get(name) is not None]
    if several[:1] == ["views"] and several[1:]:
        raise DataError(
            f"a sample has 'views' and {several[1]!r}: give all pictures as 'views' and 'headings'"
        )
    if several and sample.get("image") is not None:
        raise DataError(f"a sample has 'image' and {several[0]!r}: give one, or all pictures as 'views'")


def _only_view(sample: Mapping) -> Any:
    if "image" in sample:
        return sample["image"]
    try:
        return picture_of(sample)
    except ImageError as error:
        raise DataError(f"{error}; several views are 'views', or some of {', '.join(COMPASS)}") from None


class StreetCollator:
    """Rows of a dataset of places to a batch of pixels, labels and coordinates.

    Args:
        model: gives the processor and the classes.
        augment: vary the images, for training.
    """

    def __init__(self, model: GeoStreetModel, augment: bool = False):
        self.processor, self.config = model.processor, model.config
        self.augment = street_augmentation() if augment else None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        points = positions_of(rows)
        states, names = ([row.get(name) for row in rows] for name in ("state", "sample_id"))
        labels = state_numbers(states, points, self.config, names)
        batch = dict(self.processor(rows, augment=self.augment))
        return batch | {"labels": torch.from_numpy(labels), "coordinates": torch.from_numpy(points)}


def street_augmentation():
    """Crops and color changes. No flips: they mirror signs and the side that people drive on."""
    from torchvision.transforms import v2

    return v2.Compose([RandomAreaCrop(0.72), v2.ColorJitter(0.2, 0.2, 0.2, 0.02)])
