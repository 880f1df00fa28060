"""Where a place may be, by the classes of a street model: their probabilities, spread around their points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.geo.density import SphericalMixture
from geohf.geo.regions import credible_region
from geohf.metrics.calibration import conformal_quantile
from geohf.metrics.selective import risk_curve
from geohf.street.configuration import GeoStreetConfig
from geohf.street.mixture import NOWHERE, components_of

if TYPE_CHECKING:
    from geohf.street.head import GeoStreetOutput

REGION_MASSES = (0.5, 0.9)
MOST_PARTS = 256  # of the most probable classes
SCALES = np.geomspace(0.02, 5.0, 29)
PLACES = 2000  # that the scale is fitted on, and that are looked at at once


def mixture_of(
    config: GeoStreetConfig, probabilities: torch.Tensor, candidates: torch.Tensor, scale: float | None = None
) -> SphericalMixture:
    """The density of each place: its most probable classes, each spread by its extent times the fitted scale.

    Args:
        probabilities: (batch, classes).
        candidates: (batch, classes, 2) degrees; (batch, components, 3) of the `vmf` head, with their own kappa.
        scale: in place of the config's.
    """
    spread = config.density_scale if scale is None else scale
    assert spread is not None  # fitted, or given
    top = probabilities.double().topk(min(MOST_PARTS, probabilities.shape[-1]))
    if config.gps_head == "vmf":
        kappas = candidates[..., 2].double().gather(1, top.indices) / spread**2
    else:
        centroids = torch.tensor(config.class_centroids, dtype=torch.float64)
        sides = config.class_extents or [[1.0, 1.0]] * len(centroids)  # as the head takes them
        extents = torch.tensor(sides, dtype=torch.float64).deg2rad()
        east = extents[:, 1] * centroids[:, 0].deg2rad().cos()
        sigma = spread * ((extents[:, 0] ** 2 + east**2) / 2).sqrt()
        kappas = (1.0 / sigma.clamp(min=1e-4) ** 2).to(top.indices.device)[top.indices]
    points = candidates[..., :2].double().gather(1, top.indices[..., None].expand(-1, -1, 2))
    mixture = SphericalMixture.around(top.values / top.values.sum(-1, keepdim=True), points, kappas)
    north = mixture.means.new_tensor([0.0, 0.0, 1.0]).expand(len(probabilities), 1, 3)
    anywhere = mixture.weights.new_full((len(probabilities), 1), NOWHERE)
    return SphericalMixture(
        torch.cat([mixture.weights * (1.0 - NOWHERE), anywhere], 1),
        torch.cat([mixture.means, north], 1),
        torch.cat([mixture.kappas, torch.zeros_like(anywhere)], 1),
    )


def weighted_candidates(
    config: GeoStreetConfig, outputs: GeoStreetOutput
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `mixture_of` takes of a model's outputs: calibrated probabilities and candidates of classes or components."""
    if outputs.mixture is not None:
        return components_of(outputs.mixture)
    assert outputs.logits is not None
    assert outputs.candidates is not None
    return (outputs.logits.float() / config.temperature).softmax(-1), outputs.candidates


def calibrate_density(config, probabilities, candidates, truth: np.ndarray, blocks=None) -> None:
    """Fit the scale by the likelihood of validation places, then the masses whose regions hold 50 and 90 % of them.

    Args:
        truth: (n, 2) degrees, all known.
        blocks: (n,) see `geohf.metrics.calibration.conformal_quantile`.
    """
    points = torch.from_numpy(truth)
    some = slice(0, PLACES)
    losses = [
        -float(
            mixture_of(config, probabilities[some], candidates[some], scale)
            .log_prob(points[some, None])
            .mean()
        )
        for scale in SCALES
    ]
    config.density_scale = float(SCALES[int(np.argmin(losses))])
    held = credibilities(config, probabilities, candidates, truth)
    masses = [conformal_quantile(held, mass, blocks) for mass in REGION_MASSES]
    config.region_masses = None if None in masses else masses


def credibilities(config, probabilities, candidates, truth: np.ndarray) -> np.ndarray:
    """(n,) the mass of where each place's density is greater than at the truth, see `SphericalMixture.credibility`."""
    masses = [
        mixture_of(config, probabilities[i : i + 64], candidates[i : i + 64]).credibility(
            torch.from_numpy(truth[i : i + 64])
        )
        for i in range(0, len(truth), 64)
    ]
    return torch.cat(masses).numpy()


def regions_of(config: GeoStreetConfig, mixture: SphericalMixture) -> list[dict[str, dict]]:
    """For each place `50` and `90`, the percent that a region holds, and a GeoJSON MultiPolygon; none uncalibrated."""
    masses = dict(zip(REGION_MASSES, config.region_masses or (), strict=False))
    return [
        {f"{100 * share:g}": credible_region(mixture[i], mass) for share, mass in masses.items()}
        for i in range(len(mixture))
    ]


def density_metrics(
    config, probabilities, candidates, truth: np.ndarray, missed_km: np.ndarray
) -> dict[str, float]:
    """Surprise, localizability, the share of places in each region, and the risk where the least sure are left out.

    Args:
        truth: (n, 2) degrees, all known.
        missed_km: (n,) the distance of each answer.

    Returns:
        `nll` in nats per steradian; `localizability` in nats, on average; `region_50` and `region_90`, the shares
        within; `risk_coverage_km`, the mean distance of the most localizable places, averaged over how many are kept.
    """
    surprise, known = [], []
    for i in range(0, len(truth), 64):
        part = mixture_of(config, probabilities[i : i + 64], candidates[i : i + 64])
        surprise.append(-part.log_prob(torch.from_numpy(truth[i : i + 64, None]))[:, 0])
        known.append(part.localizability())
    sure = torch.cat(known).numpy()
    values = {"nll": float(torch.cat(surprise).mean()), "localizability": float(sure.mean())}
    if config.region_masses is not None:
        held = credibilities(config, probabilities, candidates, truth)
        for share, mass in zip(REGION_MASSES, config.region_masses, strict=True):
            values[f"region_{100 * share:g}"] = float((held <= mass).mean())
    return values | {"risk_coverage_km": float(risk_curve(sure, missed_km).mean())}
