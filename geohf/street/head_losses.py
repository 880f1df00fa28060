"""What the head of the street model learns by: the parts of its loss, and over how many rows each goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from geohf.geo import cell_soft_targets, great_circle_m, point_soft_targets
from geohf.geo.soft_targets import MANY_CLASSES
from geohf.models.heading import heading_loss
from geohf.street.classes import SMALLEST_DEGREES
from geohf.street.configuration import GeoStreetConfig
from geohf.street.hierarchy import Levels
from geohf.street.losses import gps_loss, hierarchical_cross_entropy
from geohf.street.mixture import mixture_loss

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput
    from geohf.street.matching import MatchHead


class StreetLosses:
    """The losses of a `geohf.street.head.StreetHead`."""

    config: GeoStreetConfig
    match: MatchHead
    if TYPE_CHECKING:

        def constant(self, name: str, device: torch.device) -> torch.Tensor: ...
        def levels(self, device: torch.device) -> Levels: ...

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count for each part of the loss."""
        counts, none = {}, torch.tensor(0)
        labels, coordinates = batch.get("labels"), batch.get("coordinates")
        located = coordinates.isfinite().all(-1) if coordinates is not None else none
        if self.config.num_classes:
            labeled = labels >= 0 if labels is not None else none
            counts["class_loss"] = (located if self.config.smoothing == "point" else labeled).sum()
        if self.config.gps_head != "gallery":
            counts["gps_loss"] = located.sum()
        if self.config.location_encoder != "none":
            counts["match_loss"] = located.sum()
        if self.config.predict_heading:
            headings = batch.get("headings")
            counts["heading_loss"] = none if headings is None else headings.isfinite().sum()
        return counts

    def losses(
        self,
        outputs: GeoStreetOutput,
        labels: torch.Tensor | None,
        coordinates: torch.Tensor | None,
        headings: torch.Tensor | None = None,
        items: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total loss and its parts."""
        config, items = self.config, items or {}
        parts = {}
        logits, points, candidates = outputs.logits, outputs.coordinates, outputs.candidates
        rows = next(part for part in (logits, points, outputs.embeddings) if part is not None)
        device = rows.device
        if coordinates is None:
            coordinates = rows.new_full((len(rows), 2), math.nan)
        if labels is None:
            labels = torch.full((len(rows),), -100, device=device)
        if logits is not None:
            if config.smoothing == "point":
                counts = coordinates.isfinite().all(-1)
                truth = torch.where(counts[:, None], coordinates, 0.0)
                targets = point_soft_targets(truth, self.constant("centroids", device), config.smoothing_km)
            else:
                counts = labels >= 0
                targets = self._label_targets(labels.clamp(min=0), logits)
            parts["class_loss"] = hierarchical_cross_entropy(
                logits, targets.to(logits), counts, self.levels(device), items.get("class_loss")
            )
        if outputs.mixture is not None:
            parts["gps_loss"] = mixture_loss(outputs.mixture, coordinates, items.get("gps_loss"))
        elif points is not None:
            parts["gps_loss"] = self._gps_loss(points, candidates, labels, coordinates, items.get("gps_loss"))
        if outputs.embeddings is not None:
            parts["match_loss"] = self.match.loss(outputs.embeddings, coordinates, items.get("match_loss"))
        if outputs.directions is not None:
            if headings is None:
                headings = rows.new_full((len(rows), 1), math.nan)
            seen = outputs.directions[:, : headings.shape[1]]
            parts["heading_loss"] = heading_loss(seen.nan_to_num(), headings, items.get("heading_loss"))
        weighted = [
            getattr(config, f"{name.removesuffix('_loss')}_weight") * part for name, part in parts.items()
        ]
        return sum(weighted[1:], weighted[0]), parts

    def _gps_loss(self, points, candidates, labels, coordinates, items) -> torch.Tensor:
        config, device = self.config, points.device
        scale = self.constant("scale", device)
        if candidates is not None:
            own = self._own_class(labels, coordinates, device)
            points = candidates[torch.arange(len(own), device=device), own]
            if config.gps_scale is None:  # a step within a state is measured by the state, not by the country
                sides = (self.constant(name, device)[own] for name in ("extents", "extents_southwest"))
                scale = torch.maximum(*sides).clamp(min=SMALLEST_DEGREES)  # a cell's mean may lie on its edge
        return gps_loss(config.gps_loss, points, coordinates, scale, items, config.gps_scale_km)

    def _label_targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """(batch, classes) targets of labels that are all known."""
        if self.config.smoothing != "cell":
            return nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        if logits.shape[-1] <= MANY_CLASSES:
            return self.constant("soft_targets", logits.device)[labels]
        centroids = self.constant("centroids", logits.device)
        return cell_soft_targets(centroids, self.config.smoothing_km, labels)

    def _own_class(self, labels, coordinates, device) -> torch.Tensor:
        """The true class, or the nearest one where it is unknown."""
        if bool((labels >= 0).all()):
            return labels
        truth = torch.where(coordinates.isfinite(), coordinates, 0.0).float()
        nearest = great_circle_m(truth[:, None], self.constant("centroids", device)).argmin(-1)
        return torch.where(labels >= 0, labels, nearest)
