"""Parts in rare states are pasted over the same part of other training photos.

Copy-paste augmentation: Ghiasi et al. 2021 (arXiv 2012.07177), here from box to box, so that a part keeps its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from geohf.errors import require_share
from geohf.parts.losses import IGNORED
from geohf.parts.metrics import dataset_targets
from geohf.parts.processing import open_photo
from geohf.parts.state_balance import count_states

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig

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
        free = [
            self._free(target["boxes"], target["states"], np.asarray(target["iscrowd"], bool))
            for target in targets
        ]
        self.rows = np.repeat(np.arange(len(targets)), [alone.sum() for alone in free])
        self.boxes, self.labels, self.states = (
            np.concatenate(
                [np.asarray(target[name])[alone] for target, alone in zip(targets, free, strict=True)]
            )
            for name in ("boxes", "labels", "states")
        )
        if config.attributes:
            values = [target["attributes"][alone] for target, alone in zip(targets, free, strict=True)]
            self.attributes = torch.from_numpy(np.concatenate(values))

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
                given = truth["states"].clone()
                given[number] = int(self.states[donor])
                told = {"states": given}
                if "attributes" in truth:
                    values = self.attributes[donor]
                    told["attributes"] = truth["attributes"].clone()
                    told["attributes"][number] = torch.where(values < 0, IGNORED, values)
                return self._pasted(photo, boxes[number], donor), truth | told
        return photo, truth

    def _free(self, boxes: np.ndarray, states: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """(n,) which parts are there, alone in their boxes: they cover no other part, and lie in no crowd."""
        there = crowd | (states != self.absent)
        low, high = (
            np.maximum(boxes[:, None, :2], boxes[None, :, :2]),
            np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]),
        )
        shared, areas = (high - low).clip(0).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        covers = shared > HIDDEN * np.where(crowd, np.minimum(areas, areas[:, None]), areas)
        np.fill_diagonal(covers, val=False)
        return there & ~crowd & ~(covers & there).any(1)

    def _donors(self, box: np.ndarray, label: int, state: int) -> np.ndarray:
        rarer = self.counts[label, self.states] < self.counts[label, state]
        ratios = (self.boxes[:, 2:] - self.boxes[:, :2]) / (box[2:] - box[:2])
        alike = (np.maximum(ratios, 1 / ratios) < LARGEST_RATIO).all(1)
        return np.flatnonzero((self.labels == label) & rarer & alike)

    def _pasted(self, photo: torch.Tensor, box: np.ndarray, donor: int) -> torch.Tensor:
        source = open_photo(self.photos[int(self.rows[donor])])
        left, top, right, bottom = _pixels(self.boxes[donor], source)
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
