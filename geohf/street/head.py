"""What the street model does with features: join the views, name the state, place the point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from geohf.geo import EARTH_RADIUS_M, cell_soft_targets, distance_matrix_m, great_circle_m, spherical_mean
from geohf.geo.angles import wrap_degrees
from geohf.geo.soft_targets import MANY_CLASSES, CentroidRuns
from geohf.models.heading import HeadingHead
from geohf.models.prototypes import Prototypes
from geohf.street.configuration import GeoStreetConfig
from geohf.street.density import MixtureHead, components_of, point_layers
from geohf.street.hierarchy import Levels, joint_logarithms, level_tensors
from geohf.street.losses import StreetLosses
from geohf.street.matching import MatchHead
from geohf.street.ranker import Ranker
from geohf.vision.pooling import FeatureStandardizer

# Of more classes than this, the medoid is looked for among the most probable ones: a matrix of all distances is large.
MEDOID_CLASSES, MEDOID_AMONG = 1024, 64


@dataclass
class GeoStreetOutput(ModelOutput):
    """Output of the street model.

    Attributes:
        loss: scalar, where labels or coordinates were given.
        logits: (batch, classes), uncalibrated; None for a model without classes.
        coordinates: (batch, 2) latitude and longitude in degrees, float32; None with the `gallery` head, whose point
            `decode` looks for.
        candidates: (batch, classes, 2) the point that belongs to each class, with the `offset` head.
        embeddings: (batch, location_size) of length 1, to be matched with positions; None without a location encoder.
        mixture: (batch, components, 5), of the `vmf` head, see `geohf.street.density.MixtureHead`.
        directions: (batch, max_views, 2) where each view looks, sine and cosine of the degrees clockwise from north, NaN
            for views that are not there; None where the model does not tell.
        place: (batch, features) what the heads see, for a model that refines its points by prototypes or a ranker.
        loss_parts: the loss by its parts, before weighting.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    coordinates: torch.Tensor | None = None
    candidates: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    mixture: torch.Tensor | None = None
    directions: torch.Tensor | None = None
    place: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None


class StreetHead(StreetLosses, nn.Module):
    """Everything of the street model behind the backbone; phase 1 trains it alone on cached features."""

    accepts_loss_kwargs = False

    def __init__(self, config: GeoStreetConfig):
        super().__init__()
        self.config = config
        size, hidden = config.feature_size, config.hidden_size
        self.standardize = FeatureStandardizer(size)
        if config.heading_aware:
            self.heading = nn.Linear(2, 2 * size)
        if config.fusion == "concat":
            self.fuse = nn.Sequential(
                nn.Linear(size * config.max_views, size), nn.GELU(), nn.Linear(size, size)
            )
        elif config.fusion == "attention":
            self.score = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        elif config.fusion == "weighted":
            self.view_weights = nn.Parameter(torch.zeros(config.max_views))
        classes = config.num_classes
        if config.gps_head == "offset" and not classes:
            raise ValueError("gps_head 'offset' needs class_centroids; a model without classes is 'bounded'")
        if config.head_norm_groups:
            self.classify, self.locate = (_grouped_layers(config, out) for out in (classes, 2 * classes))
        elif classes:
            self.classify = nn.Sequential(
                nn.LayerNorm(size),
                nn.Linear(size, hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(hidden, classes),
            )
        if config.gps_head == "vmf":
            self.mix = MixtureHead(config)
        elif config.gps_head != "gallery" and not config.head_norm_groups:
            outputs = 2 * classes if config.gps_head == "offset" else 2
            self.locate = point_layers(config, outputs)
        if config.location_encoder != "none":
            self.match = MatchHead(config)
        if config.predict_heading:
            self.direct = HeadingHead(size, hidden, config.dropout)
        if config.refine:
            self.prototypes = Prototypes(config.prototypes, size)
        if config.ranked:
            self.ranker = Ranker(size)
        self._made: dict = {}

    def constant(self, name: str, device: torch.device) -> torch.Tensor:
        """A float32 tensor made from the config, once a device: no cast of the model to half precision can touch it."""
        return self._once(name, device, lambda: self._make_constant(name).float().to(device))

    def smoothing_centroids(self, device: torch.device) -> torch.Tensor | CentroidRuns:
        """What soft targets are made of, once a device."""
        centroids = self.constant("centroids", device)
        many = len(centroids) > MANY_CLASSES
        return self._once("runs", device, lambda: CentroidRuns(centroids)) if many else centroids

    def levels(self, device: torch.device) -> Levels:
        """What the classes are parts of, once a device; see `level_tensors`."""
        tree = self.config.cell_tree or {"levels": []}
        return self._once("levels", device, lambda: level_tensors(tree["levels"], device))

    def _once(self, name: str, device: torch.device, make: Callable[[], Any]) -> Any:
        key = name, device
        if key not in self._made:
            # a constant first asked for while predicting must also serve training later
            with torch.inference_mode(False):
                self._made[key] = make()
        return self._made[key]

    def _make_constant(self, name: str) -> torch.Tensor:
        config = self.config
        centroids = torch.tensor(config.class_centroids or [], dtype=torch.float64).reshape(-1, 2)
        if name == "centroids":
            return centroids
        if name in ("extents", "extents_southwest"):
            own = config.class_extents_southwest if name == "extents_southwest" else None
            return torch.tensor(own or config.class_extents or [[1.0, 1.0]] * len(centroids))
        if name == "distances_m":
            return distance_matrix_m(centroids, centroids)
        if name == "soft_targets":
            return cell_soft_targets(centroids, config.smoothing_km)
        south, west, north, east = config.gps_box or (-90.0, -180.0, 90.0, 180.0)
        half = torch.tensor([north - south, east - west + (360 if east < west else 0)]) / 2
        scale = torch.tensor(config.gps_scale) if config.gps_scale else half.clamp(min=1e-6)
        return {"middle": torch.tensor([south, west]) + half, "half": half, "scale": scale}[name]

    # ---- forward

    def forward(
        self,
        features: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
    ) -> GeoStreetOutput:
        """Locate places from the features of their views.

        Args:
            features: (batch, views, features).
            view_mask: (batch, views) bool, True where a view is there; None: all are.
            headings: (batch, views) degrees clockwise from north, NaN where unknown.
            labels: (batch,) class numbers, -100 where unknown.
            coordinates: (batch, 2) true latitude and longitude in degrees, NaN where unknown.
            loss_items: part -> rows over which its mean goes; None: the rows of this batch that count.
        """
        config = self.config
        place = self.fuse_views(features, view_mask, headings)
        logits = self.classify(place).float() if config.num_classes else None
        mixture = self.mix(place) if config.gps_head == "vmf" else None
        outputs = GeoStreetOutput(
            None,
            logits,
            *self._points(place, logits, mixture),
            embeddings=self.match.embed(place) if config.location_encoder != "none" else None,
            mixture=mixture,
            directions=self._directions(features, view_mask) if config.predict_heading else None,
            place=place.float() if config.keeps_places else None,
        )
        if labels is None and coordinates is None:
            return outputs
        loss, parts = self.losses(outputs, labels, coordinates, headings, loss_items)
        return replace(outputs, loss=loss, loss_parts=parts)

    def _points(self, place, logits, mixture) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Points (batch, 2), and the candidates (batch, classes, 2) where each class has one."""
        if self.config.gps_head == "gallery":
            return None, None
        if mixture is not None:
            weights, components = components_of(mixture.detach())
            return rows_at(components[..., :2], most_central(weights, components[..., :2])), None
        located = self.locate(place).float().tanh()
        if self.config.gps_head == "offset":
            candidates = self.candidates(located.unflatten(-1, (-1, 2)))
            with torch.no_grad():
                return self.estimate((logits / self.config.temperature).softmax(-1), candidates), candidates
        middle, half = (self.constant(name, located.device) for name in ("middle", "half"))
        return wrap_points(middle + located * half), None

    def _directions(self, features, view_mask) -> torch.Tensor:
        """(batch, max_views, 2): of each view by itself, whatever is known of its heading."""
        there = _mask_of(features, view_mask)[..., None]
        seen = torch.where(there, self.standardize(features), 0.0)
        directions = torch.where(there, self.direct(seen), math.nan)
        missing = self.config.max_views - directions.shape[1]
        return nn.functional.pad(directions, (0, 0, 0, missing), value=math.nan)

    def fuse_views(self, features, view_mask=None, headings=None) -> torch.Tensor:
        """(batch, views, features) to (batch, features); views that are missing change nothing."""
        config, views = self.config, features.shape[1]
        if views > config.max_views:
            raise ValueError(f"{views} views, but the model was made for {config.max_views} at most")
        view_mask, features = _mask_of(features, view_mask), self.standardize(features)
        if config.heading_aware and headings is not None:
            angle = torch.deg2rad(headings).to(features.dtype)
            known = angle.isfinite().unsqueeze(-1)
            circle = torch.stack([angle.sin(), angle.cos()], -1).nan_to_num()
            # scaled too, not only shifted: the mean of shifts is the same whichever view looks north
            scale, shift = torch.where(known, self.heading(circle), 0.0).chunk(2, -1)
            features = features * (1 + scale) + shift
        features = torch.where(view_mask.unsqueeze(-1), features, 0.0)
        if config.fusion == "concat":
            padded = nn.functional.pad(features, (0, 0, 0, config.max_views - views))
            return self.fuse(padded.flatten(1))
        if config.fusion == "attention":
            scores = self.score(features).squeeze(-1)
        elif config.fusion == "weighted":
            scores = self.view_weights[:views].expand(view_mask.shape)
        else:
            scores = torch.zeros(view_mask.shape, dtype=features.dtype, device=features.device)
        weights = scores.masked_fill(~view_mask, -math.inf).softmax(-1).to(features.dtype)
        return torch.einsum("bv,bvf->bf", weights, features)

    # ---- points

    def candidates(self, offsets: torch.Tensor) -> torch.Tensor:
        """Each class's point: its centroid moved by (batch, classes, 2) shares of its extent."""
        reach = self.constant("extents", offsets.device)
        if self.config.class_extents_southwest is not None:
            reach = torch.where(offsets > 0, reach, self.constant("extents_southwest", offsets.device))
        return wrap_points(self.constant("centroids", offsets.device) + offsets * reach)

    def estimate(self, probabilities: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """(batch, classes) and (batch, classes, 2) to the (batch, 2) point that is answered."""
        kind = self.config.point_estimate
        if kind == "mean":
            return spherical_mean(candidates, probabilities)
        if kind == "medoid":
            best = self._medoid(probabilities)
        elif kind == "hierarchical":
            best = joint_logarithms(probabilities, self.levels(probabilities.device)).argmax(-1)
        else:
            best = probabilities.argmax(-1)
        return rows_at(candidates, best)

    def _medoid(self, probabilities: torch.Tensor) -> torch.Tensor:
        """(batch,) the class with the least expected distance to all others, or to the most probable of many."""
        if probabilities.shape[-1] <= MEDOID_CLASSES:
            expected = probabilities @ self.constant("distances_m", probabilities.device)
            # a class that is ruled out must not be answered, however central it lies
            return expected.masked_fill(probabilities <= 0, math.inf).argmin(-1)
        top = probabilities.topk(MEDOID_AMONG)
        points = self.constant("centroids", probabilities.device)[top.indices]
        return top.indices.gather(-1, most_central(top.values, points)[:, None])[:, 0]

    def spread_m(self, probabilities, candidates, points) -> torch.Tensor:
        """The distance in meters that the model itself expects between its point and the truth, (batch,)."""
        if candidates is None:
            return torch.zeros(len(points), device=points.device)
        away = great_circle_m(points[:, None], candidates[..., :2])
        if candidates.shape[-1] == 3:  # a component of a mixture lies around its mean, too
            away = torch.hypot(away, EARTH_RADIUS_M * (2.0 / candidates[..., 2]).sqrt())
        return (probabilities * away).sum(-1)


def _mask_of(features: torch.Tensor, view_mask: torch.Tensor | None) -> torch.Tensor:
    """(batch, views) which views are there; None: all."""
    return features.new_ones(features.shape[:2], dtype=torch.bool) if view_mask is None else view_mask


def _grouped_layers(config: GeoStreetConfig, outputs: int) -> nn.Sequential:
    """Two hidden layers, each with a group norm: the heads of OSV-5M's baseline, Astruc et al., 2404.18873."""
    sizes = config.feature_size, config.hidden_size, config.gps_hidden_size
    layers: list[nn.Module] = [nn.LayerNorm(config.feature_size)]
    for size, width in pairwise(sizes):
        layers += [nn.Linear(size, width), nn.GroupNorm(config.head_norm_groups, width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def most_central(weights: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(batch,) which of (batch, k, 2) degrees has the least mean distance to all, by their (batch, k) weights."""
    expected = (great_circle_m(points[:, :, None], points[:, None]) @ weights[..., None])[..., 0]
    # a class that is ruled out must not be answered, however central it lies
    return expected.masked_fill(weights <= 0, math.inf).argmin(-1)


def rows_at(points: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """(batch, 2): of (batch, k, 2) the points of these (batch,) numbers."""
    return points.gather(1, numbers[:, None, None].expand(-1, 1, 2))[:, 0]


def wrap_points(points: torch.Tensor) -> torch.Tensor:
    """Latitudes clipped to the poles, longitudes wrapped to [-180, 180)."""
    latitude, longitude = points.unbind(-1)
    return torch.stack([latitude.clamp(-90, 90), wrap_degrees(longitude)], -1)
