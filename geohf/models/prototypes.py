"""Refinement inside the best cells: the answer is a place of the training whose pictures look most alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from geohf.geo import Area, spherical_mean
from geohf.geo.cells import geo_cells
from geohf.geo.scalers import CoordinateScaler

BEST_CELLS = 5
SPREAD_M = 1000.0  # a prototype of nearer places is not divided


class Prototypes(nn.Module):
    """Means of the training features of neighbors, several a class, with their positions (PIGEON's refinement).

    A photograph's score for a prototype is the logarithm of its class's probability less the distance of their features,
    in units of the mean distance of training features from their own prototype. Only the `BEST_CELLS` best classes count.

    Args:
        count: of prototypes; 0 before `fit`.
        size: length of a feature.
    """

    features: torch.Tensor
    points: torch.Tensor
    classes: torch.Tensor
    unit: torch.Tensor

    def __init__(self, count: int, size: int):
        super().__init__()
        self.register_buffer("features", torch.zeros(count, size))
        self.register_buffer("points", torch.zeros(count, 2))
        self.register_buffer("classes", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("unit", torch.ones(()))

    def fit(
        self,
        features: torch.Tensor,
        points: np.ndarray,
        labels: np.ndarray,
        most: int,
        spread_m: float = SPREAD_M,
        scaler: CoordinateScaler | None = None,
    ) -> None:
        """Take the prototypes of training places.

        Args:
            features: (n, size) of places.
            points: (n, 2) degrees, NaN where unknown: such places are left out, as those without a class are.
            labels: (n,) class numbers, negative where unknown.
            most: prototypes a class.
            spread_m: places that are nearer to their middle than this are not divided.
            scaler: the positions are kept in its scaled coordinates, which float32 holds to more than a meter.
        """
        known = np.isfinite(points).all(1) & (labels >= 0)
        features, points, labels = (
            features[torch.from_numpy(known)].float().cpu(),
            points[known],
            labels[known],
        )
        means, places, classes, away = [], [], [], []
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            groups, _ = geo_cells(points[rows], most, min_points=1, min_radius_m=spread_m)
            for group in range(groups.max() + 1):
                mine = rows[groups == group]
                mean = features[mine].mean(0)
                means.append(mean)
                places.append(spherical_mean(points[mine]))
                classes.append(label)
                away.append((features[mine] - mean).norm(dim=1))
        device = self.features.device
        self.features = torch.stack(means).to(device)
        kept = np.stack(places)
        self.points = torch.from_numpy(kept if scaler is None else scaler.transform(kept)).float().to(device)
        self.classes = torch.from_numpy(np.array(classes, np.int64)).to(device)
        self.unit = torch.cat(away).mean().clamp(min=1e-6).to(device)

    def clear(self) -> None:
        """As before `fit`."""
        for name in ("features", "points", "classes"):
            setattr(self, name, getattr(self, name)[:0])

    def refine(
        self, place: torch.Tensor, probabilities: torch.Tensor, points: torch.Tensor, area: Area | None = None
    ) -> torch.Tensor:
        """(batch, 2) degrees: each place's best prototype, or its point where no prototype is left.

        Args:
            place: (batch, size) features.
            probabilities: (batch, classes); those of 0 are ruled out.
            points: (batch, 2) what is answered without refinement.
            area: only prototypes within it.
        """
        best, nearest = self.scores(place, probabilities, area).max(-1)
        return torch.where(best.isfinite()[:, None], self.points[nearest].to(points), points)

    def scores(
        self, place: torch.Tensor, probabilities: torch.Tensor, area: Area | None = None
    ) -> torch.Tensor:
        """(batch, prototypes) how well each fits, see the class; -inf where it is ruled out. As `refine`."""
        top = probabilities.topk(min(BEST_CELLS, probabilities.shape[-1]))
        kept = torch.zeros_like(probabilities).scatter(-1, top.indices, top.values)
        allowed = kept[:, self.classes.long()]  # a model that is loaded in half precision has them as numbers
        if area is not None:
            inside = torch.from_numpy(area.contains(self.points.double().cpu().numpy()))
            allowed = torch.where(inside.to(allowed.device), allowed, 0.0)
        # as a product of matrices, torch's choice for large batches, near features would lose their distance to rounding
        exact = "donot_use_mm_for_euclid_dist"
        return (
            allowed.log() - torch.cdist(place.float(), self.features.float(), compute_mode=exact) / self.unit
        )
