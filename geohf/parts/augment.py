"""Random changes of training photos that move the boxes along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from geohf.errors import DataError, require_share, require_within
from geohf.parts.losses import IGNORED
from geohf.parts.metrics import dataset_targets
from geohf.parts.mirror import sided
from geohf.parts.processing import open_photo
from geohf.parts.state_balance import count_states

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig

MIN_VISIBLE = 0.5  # a box that a crop leaves less of is dropped
NEAREST = 0.25  # of a side: the point where four photos meet is no nearer to an edge


def make_augmentation(
    flip: float = 0.5,
    jitter: float = 0.2,
    crop: float = 0.2,
    part_names: Iterable[str] = (),
    value_names: Iterable[Iterable[str]] = (),
) -> PartAugmentation:
    """The augmentation of a training run.

    Args:
        flip: probability of mirroring left and right.
        jitter: strength of the change of brightness, contrast and saturation, 0 to 1; the hue changes by a tenth of it.
        crop: the largest share that is cut off each side length, 0 to below 1.
        part_names: where given, checked for names that a mirrored photo would make wrong.
        value_names: the states, and the values of each attribute, of which two that a mirror exchanges would be wrong.

    Raises:
        DataError: a number out of range; or photos shall be mirrored though names tell left from right. The front
            and back of a bicycle are not sides of the photo and stay what they are.
    """
    require_within("[0, 1]", flip=flip, jitter=jitter)
    require_within("[0, 0.99]", crop=crop)
    told = sided(part_names) + [name for names in value_names for name in sided(names, in_pairs=True)]
    if flip and told:
        raise DataError(f"{told[0]!r} tells left from right, which a mirrored photo exchanges: set flip to 0")
    return PartAugmentation(flip, jitter, crop)


class PartAugmentation:
    """`augment(image, boxes)` for one photo, drawn from torch's generator; see `make_augmentation`."""

    def __init__(self, flip: float, jitter: float, crop: float):
        self.crop = crop
        self.flip = v2.RandomHorizontalFlip(flip)
        self.jitter = v2.ColorJitter(jitter, jitter, jitter, jitter / 10) if jitter else v2.Identity()

    def __call__(
        self, image: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Change a photo.

        Args:
            image: (3, h, w) uint8.
            boxes: (n, 4) float xyxy in pixels.

        Returns:
            (image (3, h', w') uint8, boxes (m, 4) in it, (m,) int64 which of the n boxes these are).
        """
        size = tuple(image.shape[-2:])
        moved = tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=size)
        image, moved = self.flip(tv_tensors.Image(image), moved)
        image = self.jitter(image)
        keep = torch.arange(len(moved))
        if self.crop:
            image, moved, keep = self._cropped(image, moved, keep)
        return image.as_subclass(torch.Tensor), moved.as_subclass(torch.Tensor), keep

    def _cropped(self, image, boxes, keep):
        sides, share = image.shape[-2:], 1 - self.crop * torch.rand(2)
        new = [max(1, round(float(s) * side)) for s, side in zip(share, sides, strict=True)]
        start = (int(torch.randint(side - n + 1, ())) for side, n in zip(sides, new, strict=True))
        window = (*start, *new)
        cut = functional.crop(boxes, *window)  # limits the boxes to the window
        visible = box_area(cut) >= MIN_VISIBLE * box_area(boxes)
        if len(boxes) and not visible.any():
            return image, boxes, keep
        return functional.crop(image, *window), tv_tensors.wrap(cut[visible], like=cut), keep[visible]


class Mosaic:
    """`mosaic(photo, truth)` for one training photo, drawn from torch's generator.

    In a share of the photos three others join this one. Each covers one of the four fields that a random point makes of the
    photo's size: it is scaled until it just does, and cut at random. A box of which less than `MIN_VISIBLE` is left is dropped.
    Bochkovskiy et al. 2020 (arXiv 2004.10934).

    Args:
        photos: rows of all training photos.
        read: rows to their photos and truths, see `PartCollator.read`.
        share: of the photos, 0 to 1.
    """

    def __init__(self, photos: Any, read: Callable[[list], Sequence[tuple]], share: float):
        require_share(mosaic=share)
        self.photos, self.read, self.share = photos, read, share

    def __call__(
        self, photo: torch.Tensor, truth: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Change a photo; see `StatePaste` for what is given and returned."""
        height, width = photo.shape[-2:]
        if torch.rand(()) >= self.share or min(height, width) < 4:
            return photo, truth
        others = [self.photos[int(row)] for row in torch.randint(len(self.photos), (3,))]
        place = NEAREST + (1 - 2 * NEAREST) * torch.rand(2)
        y, x = round(height * float(place[0])), round(width * float(place[1]))
        fields = (0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x), (y, x, height - y, width - x)
        whole, truths = torch.empty_like(photo), []
        for (top, left, h, w), (one, told) in zip(fields, [(photo, truth), *self.read(others)], strict=True):
            whole[:, top : top + h, left : left + w], boxes, kept = _covering(one, told["boxes"], h, w)
            boxes = boxes + boxes.new_tensor([left, top, left, top])
            truths.append({name: values[kept] for name, values in told.items()} | {"boxes": boxes})
        return whole, {name: torch.cat([told[name] for told in truths]) for name in truth}


def _covering(
    photo: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random part, height x width, of a photo that is scaled to cover it; its boxes there, and which of all these are."""
    sides = photo.shape[-2:]
    scale = max(height / sides[0], width / sides[1])
    h, w = (max(n, round(scale * side)) for n, side in zip((height, width), sides, strict=True))
    top, left = int(torch.randint(h - height + 1, ())), int(torch.randint(w - width + 1, ()))
    photo = functional.resize(photo, [h, w], antialias=True)[:, top : top + height, left : left + width]
    scaled = boxes * boxes.new_tensor([w / sides[1], h / sides[0]] * 2) - boxes.new_tensor([left, top] * 2)
    cut = scaled.clamp(min=0).minimum(scaled.new_tensor([width, height] * 2))
    visible = box_area(cut) >= MIN_VISIBLE * box_area(scaled)
    return photo, cut[visible], torch.where(visible)[0]


def require_queries_for_mosaic(photos: Any, model: Any) -> None:
    """Raise DataError where four photos may show more parts than a detector has queries."""
    if not model.answers_with_queries:
        return
    config, queries = model.config, model.detector.config.num_queries
    absent = config.absent_index if config.absent == "background" else None
    counts = [int((target["states"] != absent).sum()) for target in dataset_targets(photos, config)]
    most = 4 * max(counts, default=0)  # one photo may be drawn four times
    if most > queries:
        raise DataError(
            f"--mosaic: four photos may show {most} parts, and {config.architecture} finds at most {queries}: set num_queries in "
            "detector_config, or leave --mosaic at 0"
        )


LARGEST_RATIO = 2.0  # of the sides of both boxes
HIDDEN = 0.1  # a box that covers more of another part would hide it, and bring one along


class StatePaste:
    """`paste(photo, truth)` for one training photo, drawn from torch's generator.

    In a share of the photos one part takes the pixels, the state and the attributes of the same part elsewhere, which is in a state that
    fewer boxes of this part are in. Both are there, no crowd, cover no other part, and their sides differ by less than
    `LARGEST_RATIO`; a photo without such a pair stays as it is.

    Args:
        photos: the training photos, see `geohf.parts.data.load_parts`.
        share: of the photos, 0 to 1.
    """

    def __init__(self, photos: Any, config: PartStateConfig, share: float):
        require_share(paste_rare=share)
        self.photos, self.share = photos, share
        self.absent = -1 if config.absent_index is None else config.absent_index
        targets = dataset_targets(photos, config)
        self.counts = np.array(count_states(targets, config))
        free = [self._free(target["boxes"], target["states"], target["iscrowd"]) for target in targets]
        self.rows = np.repeat(np.arange(len(targets)), [alone.sum() for alone in free])
        columns = ["boxes", "labels", "states", *(["attributes"] if config.attributes else [])]
        self.donors = {
            name: np.concatenate([target[name][alone] for target, alone in zip(targets, free, strict=True)])
            for name in columns
        }

    def __call__(
        self, photo: torch.Tensor, truth: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Change a photo.

        Args:
            photo: (3, h, w) uint8.
            truth: of each part `boxes` (n, 4) xyxy in pixels, `labels`, `states` and `iscrowd` (n,).

        Returns:
            The photo and its truths; what was given stays as it is.
        """
        if torch.rand(()) >= self.share:
            return photo, truth
        boxes, labels, states = (truth[name].numpy() for name in ("boxes", "labels", "states"))
        free = np.flatnonzero(self._free(boxes, states, truth["iscrowd"].numpy()))
        for number in free[torch.randperm(len(free)).numpy()]:
            donors = self._donors(boxes[number], labels[number], states[number])
            if len(donors):
                donor = donors[int(torch.randint(len(donors), ()))]
                told = {name: truth[name].clone() for name in ("states", "attributes") if name in truth}
                for name, values in told.items():
                    given = torch.as_tensor(self.donors[name][donor])
                    values[number] = torch.where(given < 0, IGNORED, given)
                return self._pasted(photo, boxes[number], donor), truth | told
        return photo, truth

    def _free(self, boxes: np.ndarray, states: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """(n,) which parts are there, alone in their boxes: they cover no other part, and lie in no crowd."""
        there = crowd | (states != self.absent)
        low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
        shared, areas = (high - low).clip(0).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        covers = shared > HIDDEN * np.where(crowd, np.minimum(areas, areas[:, None]), areas)
        np.fill_diagonal(covers, val=False)
        return there & ~crowd & ~(covers & there).any(1)

    def _donors(self, box: np.ndarray, label: int, state: int) -> np.ndarray:
        boxes, labels, states = (self.donors[name] for name in ("boxes", "labels", "states"))
        rarer = self.counts[label, states] < self.counts[label, state]
        ratios = (boxes[:, 2:] - boxes[:, :2]) / (box[2:] - box[:2])
        alike = (np.maximum(ratios, 1 / ratios) < LARGEST_RATIO).all(1)
        return np.flatnonzero((labels == label) & rarer & alike)

    def _pasted(self, photo: torch.Tensor, box: np.ndarray, donor: int) -> torch.Tensor:
        source = open_photo(self.photos[int(self.rows[donor])])
        left, top, right, bottom = _pixels(self.donors["boxes"][donor], source)
        crop = source[:, top:bottom, left:right]
        left, top, right, bottom = _pixels(box, photo)
        photo = photo.clone()
        photo[:, top:bottom, left:right] = functional.resize(
            crop, [bottom - top, right - left], antialias=True
        )
        return photo


def _pixels(box: np.ndarray, photo: torch.Tensor) -> tuple[int, int, int, int]:
    """The box's whole pixels in a photo, one at least."""
    height, width = photo.shape[-2:]
    left, top = (min(round(float(low)), side - 1) for low, side in zip(box[:2], (width, height), strict=True))
    return left, top, max(left + 1, round(float(box[2]))), max(top + 1, round(float(box[3])))
