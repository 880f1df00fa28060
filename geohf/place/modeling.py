"""The place model: a photograph to a descriptor, and with an index to where it was taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers.utils import can_return_tuple

from geohf.geo import great_circle_m
from geohf.models.modeling import GeoPreTrainedModel
from geohf.place.answers import PlaceAnswer, PlacePrediction
from geohf.place.confidence import confidence, evidence
from geohf.place.configuration import ENCODERS, GeoPlaceConfig
from geohf.place.head import GeoPlaceOutput, PlaceHead
from geohf.place.index import PlaceIndex, load_once
from geohf.place.processing import GeoPlaceImageProcessor
from geohf.vision.backbones import build_tower, describe_backbone
from geohf.vision.pooling import map_size, pooled
from geohf.vision.weights import weights_checksum, weights_fingerprint

if TYPE_CHECKING:
    from geohf.data.inputs import Part


class GeoPlaceModel(GeoPreTrainedModel):
    """Descriptors of places, near for pictures of one place in any light and far for others.

    The tower is frozen, and stays in eval mode, unless its parameters are asked to learn.

    >>> from geohf.place import GeoPlaceConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoPlaceConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96)
    >>> GeoPlaceModel(config).eval()(torch.zeros(1, 3, 64, 64)).descriptors.shape
    torch.Size([1, 256])
    """

    config_class = GeoPlaceConfig
    processor_class = GeoPlaceImageProcessor
    card_template = "place.md"
    predict_options: ClassVar[dict[str, dict]] = {
        "index": {"help": "File of a PlaceIndex to search in; without one the answers are descriptors."},
        "top_k": {"type": int, "help": "Images of the index to name."},
    }
    _no_split_modules = ("PlaceHead",)
    _keep_in_fp32_modules_strict = ("standardize", "descriptor_norm", "whiten")

    def __init__(self, config: GeoPlaceConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config).requires_grad_(False)
        self.head = PlaceHead(config)
        self._hashed: tuple[list | None, str] = (None, "")
        self.finish_init()

    @classmethod
    def from_backbone(
        cls, name: str, *, pretrained: bool = True, image_size: int | None = None, **config_fields
    ) -> GeoPlaceModel:
        """A new model around one of the seed's encoders (`geohf.place.configuration.ENCODERS`) or any other tower.

        Args:
            name, pretrained, image_size, config_fields: see `GeoPreTrainedModel.from_backbone`.

        Raises:
            DataError: no such backbone, or an image size that it cannot take.
        """
        name = ENCODERS.get(name, name)
        if config_fields.get("pooling", "tower") != "tower":
            backbone = describe_backbone(name, image_size)
            crop = backbone.image_processor["crop_size"]
            config_fields["feature_map"] = map_size(backbone.config, (crop["height"], crop["width"]))
        model = super().from_backbone(name, pretrained=pretrained, image_size=image_size, **config_fields)
        model.tower.requires_grad_(False)
        return model

    def train(self, mode: bool = True):
        """Set training mode, but leave what is frozen of the tower in eval mode."""
        super().train(mode)
        _eval_frozen(self.tower)
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
    ) -> GeoPlaceOutput:
        """Describe photographs.

        Args:
            pixel_values: (batch, 3, height, width).
            coordinates, headings: see `PlaceHead.forward`.
        """
        return self.head(pooled(self.tower, pixel_values, self.config.tower_pool), coordinates, headings)

    # ---- answers

    def fingerprint(self) -> str:
        """A digest of all weights and their type: descriptors compare only where the digest is the same."""
        # hashing takes as long as a photograph, so it is done again only where a tensor was changed or replaced
        state = weights_checksum(self)
        known, fingerprint = self._hashed
        if known != state:
            fingerprint = f"{weights_fingerprint(self)} {str(self.dtype).removeprefix('torch.')}"
            self._hashed = (state, fingerprint)
        return fingerprint

    def encode(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """(n, d) float32 descriptors of length 1, of anything that `predict` takes."""
        return np.stack([answer.descriptor for answer in self.predict(images, batch_size)])

    def predict(
        self,
        inputs: Any,
        batch_size: int = 32,
        index: PlaceIndex | str | os.PathLike | None = None,
        **options,
    ) -> list[PlacePrediction]:
        """Describe photographs and, with an index, say where they were taken.

        Args:
            inputs: paths, folders, PIL images, arrays, bytes or datasets, see `GeoPreTrainedModel.predict`.
            index: a `PlaceIndex`, or the file that holds one.
            options: see `decode`.

        Raises:
            DataError: an index of another model.
        """
        return super().predict(inputs, batch_size, index=self.open_index(index), **options)

    def read_source(self, source: str) -> Part | None:
        """The images of a `poses.csv`, which lie below the folder above its own."""
        from geohf.place.data import files_of, load_drives, names_of

        if Path(source).name != "poses.csv":
            return None
        images, _ = load_drives(source)
        return names_of(images), files_of(images)

    def rows_of(self, answer: PlacePrediction) -> list[dict[str, Any]]:
        """The point, how sure it is, and the named images with their similarity; without an index the descriptor."""
        return [answer.as_row()]

    def evaluate(
        self, data: str | os.PathLike, batch_size: int = 32, on_error: str = "raise"
    ) -> dict[str, float]:
        """Recall of drives searched in the first one, see `geohf.place.evaluation.evaluate`."""
        from geohf.place.evaluation import evaluate

        return evaluate(self, data, batch_size, on_error)

    def open_index(self, index: PlaceIndex | str | os.PathLike | None) -> PlaceIndex | None:
        """The index, loaded where it is a path, after a check that it belongs to this model."""
        if index is None:
            return None
        if not isinstance(index, PlaceIndex):
            path = Path(index)
            index = load_once(path, path.stat().st_mtime_ns if path.exists() else 0)
        index.check_model(self)
        return index

    def decode(
        self, outputs: GeoPlaceOutput, index: PlaceIndex | None = None, top_k: int = 5
    ) -> list[PlacePrediction]:
        """Turn outputs into answers.

        Args:
            index: see `open_index`.
            top_k: answers to give, at most as many as the index holds.
        """
        descriptors = outputs.descriptors.float().cpu().numpy()
        if index is None:
            return [PlacePrediction(descriptor) for descriptor in descriptors]
        similarity, rows = index.search(descriptors, top_k)
        points = index.points[rows]
        away = great_circle_m(points[:, :1], points)
        spread = np.sort(away, axis=1)[:, away.shape[1] // 2]
        sure = [None] * len(rows)
        if self.config.confidence_weights is not None:
            sure = confidence(
                evidence(similarity, points, self.config.negative_m), self.config.confidence_weights
            ).tolist()
        return [
            PlacePrediction(
                descriptors[i],
                [
                    PlaceAnswer(index.images[row], *map(float, points[i, j]), float(similarity[i, j]))
                    for j, row in enumerate(rows[i])
                ],
                *map(float, points[i, 0]),
                float(spread[i]),
                sure[i],
            )
            for i in range(len(rows))
        ]


def _eval_frozen(module: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.eval()
        return
    for child in module.children():
        if next(child.parameters(), None) is not None:
            _eval_frozen(child)
