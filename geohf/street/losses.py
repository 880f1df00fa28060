"""The losses of the street task, as pure functions of tensors.

Each returns a sum over the rows that count divided by `items`, so that the caller decides over what the mean
goes: by default the rows that count in this batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from geohf.data.classes import UNLABELED
from geohf.geo import cell_soft_targets, great_circle_m, point_soft_targets
from geohf.geo.soft_targets import MANY_CLASSES, CentroidRuns
from geohf.models.heading import heading_loss
from geohf.models.losses import loss_items, mean_of_known
from geohf.street.classes import SMALLEST_DEGREES
from geohf.street.configuration import GeoStreetConfig
from geohf.street.density import mixture_loss
from geohf.street.hierarchy import Levels, sums_of_levels

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput
    from geohf.street.matching import MatchHead


def soft_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy against soft targets.

    With targets from `geohf.geo.cell_soft_targets` or `point_soft_targets` this is the haversine-smoothed
    loss of PIGEON (Haas et al., CVPR 2024, arXiv 2307.05845).

    Args:
        logits: (batch, classes).
        targets: (batch, classes), non-negative, sparse or not; rows need not sum to one.
        counts: (batch,) bool, the rows with a known target.
        items: number to divide by; None: the rows that count.
    """
    return hierarchical_cross_entropy(logits, targets, counts, [], items)


def hierarchical_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    counts: torch.Tensor,
    levels: Levels,
    items: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over all levels of the cross-entropy of probabilities summed over the cells of a part.

    Source: Astruc et al., OpenStreetView-5M, arXiv 2404.18873; here the targets of parts are sums, too.

    Args:
        logits, targets, counts, items: see `soft_cross_entropy`, of the cells; targets may be sparse.
        levels: see `level_tensors`; none: `soft_cross_entropy`.
    """
    if not levels and not targets.is_sparse:
        # rows that do not count may hold NaN targets: 0 * NaN is NaN, so they are replaced, not multiplied
        targets = torch.where(counts[:, None], targets, 0.0)
        return -(targets * logits.float().log_softmax(-1)).sum() / loss_items(counts, items)
    targets = targets.to_sparse().coalesce()
    rows, cells = targets.indices()
    weights = torch.where(counts.index_select(0, rows), targets.values(), 0.0).float()
    total = LevelsCrossEntropy.apply(logits.float(), rows, cells, weights, levels)
    return total / (1 + len(levels)) / loss_items(counts, items)


class LevelsCrossEntropy(torch.autograd.Function):
    """The sum over rows and levels of the cross-entropy, with one gradient for all levels.

    Of a row's cell with probability p it is `p * sum(w - t / q) - t'`: w is what the row's targets add up to, t and q
    are target and probability of the part that the cell lies in, summed over the levels, and t' is its own target.
    A part's target is not zero for few parts, so only these are touched.
    """

    @staticmethod
    def forward(ctx, logits, rows, cells, weights, levels):
        probabilities = logits.softmax(-1)
        # logarithms are needed where targets are, and not of all cells; large logits are subtracted first, for their digits
        own = rows * logits.shape[1] + cells
        below = logits.amax(-1).index_select(0, rows) - logits.reshape(-1).index_select(0, own)
        total = (weights * (below - probabilities.amax(-1).log().index_select(0, rows))).sum()
        sums = weights.new_zeros(len(logits), dtype=torch.float64).index_add_(0, rows, weights.double())
        sums *= 1 + len(levels)
        parts, known, shares, of_rows = [], [weights], [], []
        for (parents, size), of_level in zip(levels, sums_of_levels(probabilities, levels), strict=True):
            # the cells of a part that stand side by side become one entry
            places, inverse = torch.unique_consecutive(
                rows * size + parents.index_select(0, cells), return_inverse=True
            )
            known.append(weights.new_zeros(len(places)).index_add_(0, inverse, known[-1]))
            rows, cells = places // size, places % size
            parts.append(places)
            shares.append(of_level.view(-1).index_select(0, places))
            of_rows.append(rows)
        ratios = weights.new_zeros(0)
        if levels:
            shares, known = torch.cat(shares), torch.cat(known[1:])
            # a part whose probability underflows is still told of by its cells' own logits
            tiny = torch.finfo(shares.dtype).tiny
            total -= (known * shares.clamp(min=tiny).log()).sum()
            ratios = torch.where(shares < tiny, 0.0, known / shares)
            sums.index_add_(0, torch.cat(of_rows), torch.where(shares < tiny, known, 0.0).double(), alpha=-1)
        ctx.levels = levels
        ctx.save_for_backward(probabilities, sums.to(logits.dtype)[:, None], own, weights, ratios, *parts)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        probabilities, factors, own, targets, ratios, *parts = ctx.saved_tensors
        width = ctx.levels[-1][1] if ctx.levels else probabilities.shape[1]
        factors = (factors * gradient).repeat(1, width)
        ratios = (ratios * -gradient).split([len(places) for places in parts])
        for (parents, _), places, values in zip(ctx.levels[::-1], parts[::-1], ratios[::-1], strict=True):
            factors.view(-1).index_add_(0, places, values)
            factors = factors.index_select(1, parents)
        factors.mul_(probabilities).view(-1).index_add_(0, own, targets * -gradient)
        return factors, None, None, None, None


def gps_loss(
    kind: str,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    scale: torch.Tensor,
    items: torch.Tensor | None = None,
    scale_km: float = 5000.0,
) -> torch.Tensor:
    """How far predicted points lie from the truth.

    Args:
        kind: `mse`, `mae` or `smooth_l1` on latitude and longitude differences over `scale` (the longitude
            difference taken the short way round), averaged over both, or `haversine`: great-circle km over
            `scale_km`.
        predicted: (batch, 2) degrees.
        truth: (batch, 2) degrees; rows with NaN do not count.
        scale: (2,) or (batch, 2) degrees.
        items: number to divide by; None: the rows that count.
    """
    counts = truth.isfinite().all(-1)
    truth = torch.where(counts[:, None], truth, predicted.detach().to(truth.dtype))
    if kind == "haversine":
        rows = great_circle_m(predicted, truth.to(predicted.dtype)) / 1000 / scale_km
    else:
        difference = predicted - truth.to(predicted.dtype)
        longitude = difference[:, 1] - 360 * torch.round(difference[:, 1].detach() / 360)
        difference = torch.stack([difference[:, 0], longitude], -1) / scale
        shape = {"mse": F.mse_loss, "mae": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind]
        rows = shape(difference, torch.zeros_like(difference), reduction="none").mean(-1)
    return mean_of_known(rows, counts, items)


class StreetLosses:
    """The losses of a `geohf.street.head.StreetHead`."""

    config: GeoStreetConfig
    match: MatchHead
    if TYPE_CHECKING:

        def constant(self, name: str, device: torch.device) -> torch.Tensor: ...
        def smoothing_centroids(self, device: torch.device) -> torch.Tensor | CentroidRuns: ...
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
            labels = torch.full((len(rows),), UNLABELED, device=device)
        if logits is not None:
            if config.smoothing == "point":
                counts = coordinates.isfinite().all(-1)
                truth = torch.where(counts[:, None], coordinates, 0.0)
                targets = point_soft_targets(truth, self.smoothing_centroids(device), config.smoothing_km)
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
        weights = {name: getattr(config, name.replace("_loss", "_weight")) for name in parts}
        first, *others = (weights[name] * part for name, part in parts.items())
        return sum(others, first), parts

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
        return cell_soft_targets(self.smoothing_centroids(logits.device), self.config.smoothing_km, labels)

    def _own_class(self, labels, coordinates, device) -> torch.Tensor:
        """The true class, or the nearest one where it is unknown."""
        if bool((labels >= 0).all()):
            return labels
        truth = torch.where(coordinates.isfinite(), coordinates, 0.0).float()
        nearest = great_circle_m(truth[:, None], self.constant("centroids", device)).argmin(-1)
        return torch.where(labels >= 0, labels, nearest)
