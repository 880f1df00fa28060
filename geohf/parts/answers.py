"""What a detector gives: tensors for a batch, and answers in names and pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from geohf.errors import optional_package

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class PartStateOutput(ModelOutput):
    """Boxes of a batch, padded to its longest list, and losses.

    Attributes:
        loss: the weighted sum, mean over images.
        loss_parts: the mean of each part over images, by name.
        losses: (batch, parts of the loss) of every image, in the order of the config's `loss_parts`.
        photo_weights: (batch,) how often each image counts in means over images: once, or as often as it has boxes.
        pred_boxes: (batch, n, 4) center x and y, width and height as shares of the photo, as DETR's.
        pred_labels: (batch, n) parts, -1 where the list has ended.
        scores: (batch, n), 0 there.
        state_probs: (batch, n, states).
        attribute_probs: (batch, n, values of all attributes of the config, one after the other); None where it has none.
        original_sizes: (batch, 2) height and width of the photos, as they were given.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    losses: torch.Tensor | None = None
    photo_weights: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    pred_labels: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    state_probs: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None
    attribute_probs: torch.Tensor | None = None


@dataclass
class PartPrediction:
    """One part in a photo.

    Attributes:
        part, state: names.
        score: that the part is there.
        state_score: probability of the state, given that it is.
        box: left, top, right, bottom in pixels of the upright photo.
    """

    part: str
    score: float
    state: str
    state_score: float
    box: tuple[float, float, float, float]

    @property
    def further(self) -> dict[str, Any]:
        """Cells of a table for the attributes beside the state: the value of each, and its score."""
        return {}


@dataclass
class AttributedPart(PartPrediction):
    """One part in a photo, of a model that tells attributes of it beside its state.

    Attributes:
        attributes: the value of each by its name, given that the part is there.
        attribute_scores: the probability of each.
    """

    attributes: dict[str, str]
    attribute_scores: dict[str, float]

    @property
    def further(self) -> dict[str, Any]:
        """As `PartPrediction.further`."""
        cells: dict[str, Any] = {}
        for name, value in self.attributes.items():
            cells |= {name: value, f"{name}_score": self.attribute_scores[name]}
        return cells


@dataclass
class PhotoPrediction:
    """The answer for one photo: its size in pixels, its parts by falling score, and the parts not seen."""

    width: int
    height: int
    parts: list[PartPrediction] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def to_supervision(self) -> Any:
        """The parts as `supervision.Detections`: boxes, scores, and for each a number, its name, state, state's score, and attributes.

        Numbers are those of the names in their alphabetical order, of all parts that the model knows.

        Raises:
            DataError: the package supervision is missing.
        """
        supervision = optional_package("supervision", "supervision", "this needs")
        names = sorted({part.part for part in self.parts} | set(self.missing))
        further = self.parts[0].further if self.parts else {}
        return supervision.Detections(
            xyxy=np.array([part.box for part in self.parts], np.float32).reshape(-1, 4),
            confidence=np.array([part.score for part in self.parts], np.float32),
            class_id=np.array([names.index(part.part) for part in self.parts], int),
            data={
                "class_name": np.array([part.part for part in self.parts], str),
                "state": np.array([part.state for part in self.parts], str),
                "state_score": np.array([part.state_score for part in self.parts], np.float32),
                **{name: np.array([part.further[name] for part in self.parts]) for name in further},
            },
        )

    def as_rows(self, absent: str | None) -> list[dict[str, Any]]:
        """Flat rows for a table: the parts that were found, then the missing ones in the state called `absent`."""
        rows = [
            {"part": part.part, "present": part.state != absent, "state": part.state, "score": part.score}
            | {"state_score": part.state_score}
            | part.further
            | dict(zip(SIDES, part.box, strict=True))
            for part in self.parts
        ]
        return rows + [{"part": name, "present": False, "state": absent} for name in self.missing]
