"""What a whole region model learns, and how its outputs are measured while it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geohf.geo import frame_distance
from geohf.models.heading import heading_loss
from geohf.region.decoding import locate
from geohf.region.experts import RegionOutput, measured_headings
from geohf.region.losses import point_loss, region_loss
from geohf.region.metrics import error_summary, region_accuracy


class RegionObjective:
    """The losses of `GeoRegionModel`, and its numbers on a whole dataset."""

    config: Any  # GeoRegionConfig, as transformers declares it otherwise

    def losses(self, logits, scaled, labels, coordinates, items=None, directions=None, headings=None):
        """The total loss and its parts: the true region's expert is measured, and the router."""
        items, own = items or {}, labels.clamp(min=0)
        mine = scaled[torch.arange(len(own), device=own.device), own]
        truth = torch.where((labels >= 0)[:, None], coordinates, torch.nan)
        own_scaler = self.config.coordinate_scaler[np.array(own.tolist(), np.int64)]
        parts = {
            "point_loss": point_loss(
                self.config.point_loss, mine, truth, own_scaler, items.get("point_loss")
            ),
            "region_loss": region_loss(logits, labels, items.get("region_loss")),
        }
        if directions is not None and headings is not None:
            parts["heading_loss"] = heading_loss(directions, headings, items.get("heading_loss"))
        return sum(parts.values()), parts

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count for each part of the loss."""
        labeled = batch["labels"] >= 0
        located = batch["coordinates"].isfinite().all(-1) & labeled
        counts = {"point_loss": located.sum(), "region_loss": labeled.sum()}
        return counts | (
            {"heading_loss": batch["headings"].isfinite().sum()} if self.config.predict_heading else {}
        )

    def measure(
        self,
        outputs: RegionOutput,
        labels: torch.Tensor,
        coordinates: torch.Tensor,
        headings: torch.Tensor | None = None,
    ) -> dict[str, float]:
        """Loss, its parts, the router's accuracy, the routed errors and those of headings over a whole dataset."""
        # over all rows at once: the mean of the batches' means would depend on their sizes
        logits, scaled = outputs.routed()
        loss, parts = self.losses(logits, scaled, labels, coordinates, None, outputs.directions, headings)
        points = locate(self.config, logits, scaled)
        errors = frame_distance(points, coordinates, self.config.frame)[coordinates.isfinite().all(-1)]
        metrics = {"loss": float(loss)} | {name: float(part) for name, part in parts.items()}
        metrics["accuracy"] = region_accuracy(logits, labels)
        metrics |= error_summary(errors.numpy(), self.config.unit, "routed_")
        return metrics | measured_headings(outputs.directions, headings)
