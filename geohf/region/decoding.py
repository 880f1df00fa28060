"""From a region model's outputs to points, radii and answers; the config alone decides how."""

from __future__ import annotations

import numpy as np
import torch

from geohf.errors import DataError, require_whole
from geohf.geo import frame_distance, frame_mean
from geohf.metrics.density import regions_of
from geohf.models.heading import degrees_of_directions
from geohf.region.answers import RegionAnswers, RegionPrediction, RegionProbability
from geohf.region.configuration import GeoRegionConfig
from geohf.region.density import has_density, mixture_of, mixtures_of
from geohf.region.experts import RegionOutput, given_logits


def locate(config: GeoRegionConfig, logits: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
    """See `GeoRegionModel.locate`."""
    points, weights = weighted_points(config, logits, scaled)
    return frame_mean(points, weights, config.frame)


def expected_error(
    config: GeoRegionConfig, logits: torch.Tensor, scaled: torch.Tensor, coordinates: torch.Tensor
) -> torch.Tensor:
    """(batch,) the error that the model itself expects, in the frame's unit, before calibration."""
    points, weights = weighted_points(config, logits, scaled)
    away = frame_distance(coordinates[:, None], points, config.frame)
    return (weights * (away + weights.new_tensor(config.expert_errors))).sum(-1)


def decode(
    config: GeoRegionConfig, outputs: RegionOutput, top_k: int = 5, credible_regions: bool = False
) -> list[RegionPrediction]:
    """See `GeoRegionModel.decode`."""
    require_whole(1, top_k=top_k)
    logits, scaled = outputs.routed()
    points = locate(config, logits, scaled)
    radius = _radius(config, logits, scaled, points)
    best = (logits.double() / config.temperature).softmax(-1).topk(min(top_k, config.num_regions))
    regions = [
        [RegionProbability(config.id2label[r], p) for r, p in zip(*named, strict=True) if p > 0]
        for named in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    headings: list[float | None] = [None] * len(points)
    if outputs.directions is not None:
        headings = degrees_of_directions(outputs.directions.float()).cpu().tolist()
    densities = _densities(config, logits, scaled, credible_regions)
    told = zip(points.cpu().tolist(), radius, regions, headings, densities, strict=True)
    return [
        RegionPrediction(latitude, longitude, meters, config.unit, named, heading, *density)
        for (latitude, longitude), meters, named, heading, density in told
    ]


def both_answers(
    config: GeoRegionConfig,
    outputs: RegionOutput,
    labels: np.ndarray,
    truth: np.ndarray,
    headings: np.ndarray | None = None,
) -> RegionAnswers:
    """What a model's outputs on photographs, no region given, come to without and with the region; see `RegionAnswers`."""
    logits = given_logits(torch.from_numpy(labels), config.num_regions)
    given = RegionOutput(logits=logits, scaled=outputs.scaled)
    parts = {"routed": outputs, "given": given} if has_density(config) else {}
    densities = {
        name: mixtures_of(config, *weighted_points(config, *part.routed())) for name, part in parts.items()
    }
    return RegionAnswers(labels, truth, decode(config, outputs), decode(config, given), headings, densities)


def weighted_points(config: GeoRegionConfig, logits, scaled) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts' points (batch, regions, 2) and their probabilities (batch, regions), both float64."""
    weights = (logits.double() / config.temperature).softmax(-1)
    # an expert that was not asked has no say: its NaN must not meet its weight of zero
    asked = torch.where(weights[..., None] > 0, scaled.double(), 0.0)
    return config.coordinate_scaler.inverse_transform(asked), weights


def _radius(config: GeoRegionConfig, logits, scaled, points) -> list[float | None]:
    if config.expert_errors is None:
        return [None] * len(points)
    expected = expected_error(config, logits, scaled, points).cpu().tolist()
    factors = [config.given_factor if known else config.routed_factor for known in _given(logits)]
    return [None if f is None else f * e for f, e in zip(factors, expected, strict=True)]


def _given(logits: torch.Tensor) -> list[bool]:
    """Of which photographs the region is given; that of the only region always is."""
    return torch.isneginf(logits).any(-1).tolist() if logits.shape[1] > 1 else [True] * len(logits)


def _densities(config: GeoRegionConfig, logits, scaled, drawn: bool) -> list[tuple[float | None, dict]]:
    """For each photograph, what is known of its place in nats, and its credible regions where they are asked for."""
    calibrated = has_density(config) and config.routed_masses is not None and config.given_masses is not None
    if drawn and not calibrated:
        raise DataError(
            "this model has no calibrated density, so it draws no credible regions: train one with --density"
        )
    if not has_density(config):
        return [(None, {})] * len(logits)
    mixture = mixture_of(config, *weighted_points(config, logits.cpu(), scaled.cpu()))
    regions: list[dict] = [{}] * len(mixture)
    if drawn:
        masses = [config.given_masses if known else config.routed_masses for known in _given(logits)]
        regions = [regions_of(mixture[i], mass)[0] for i, mass in enumerate(masses)]
    return list(zip(mixture.localizability().tolist(), regions, strict=True))
