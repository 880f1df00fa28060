"""How a density is fitted on validation places, and how good it is on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from geohf.geo.density import AT_ONCE, SphericalMixture, credible_region
from geohf.metrics.calibration import conformal_quantile
from geohf.metrics.selective import risk_curve

REGION_MASSES = (0.5, 0.9)
DRAWN_REGIONS = 64  # on a map: each takes a tenth of a second, and some 10 kB
SCALES = np.geomspace(0.02, 5.0, 29)
PLACES = 2000  # that the scale is fitted on

# the densities of some rows of a dataset, spread by a factor where one is given
Mixtures = Callable[..., SphericalMixture]


def fit_scale(mixtures: Mixtures, truth: np.ndarray) -> float:
    """The one of `SCALES` with the greatest likelihood of true places.

    Args:
        truth: (n, 2) degrees, all known; of more than `PLACES`, so many from all of them count.
    """
    some = slice(None, None, max(1, -(-len(truth) // PLACES)))  # tables are often sorted
    points = torch.from_numpy(truth)[some, None]
    likelihoods = [float(mixtures(some, scale).log_prob(points).mean()) for scale in SCALES]
    return float(SCALES[int(np.argmax(likelihoods))])


def fit_masses(mixtures: Mixtures, truth: np.ndarray, blocks: np.ndarray | None = None) -> list | None:
    """The masses of the regions that hold 50 and 90 % of places; None where there are too few places to promise that.

    Args:
        truth: (n, 2) degrees, all known.
        blocks: (n,) see `geohf.metrics.calibration.conformal_quantile`.
    """
    held = credibilities(mixtures, truth)
    masses = [conformal_quantile(held, share, blocks) for share in REGION_MASSES]
    return None if None in masses else masses


def credibilities(mixtures: Mixtures, truth: np.ndarray) -> np.ndarray:
    """(n,) the mass of where each place's density is greater than at the truth, see `SphericalMixture.credibility`."""
    parts = [slice(i, i + AT_ONCE) for i in range(0, len(truth), AT_ONCE)]
    return torch.cat([mixtures(rows).credibility(torch.from_numpy(truth[rows])) for rows in parts]).numpy()


def regions_of(mixture: SphericalMixture, masses: Sequence[float] | None) -> list[dict[str, dict]]:
    """For each place `50` and `90`, the percent that a region holds, and a GeoJSON MultiPolygon; none uncalibrated."""
    named = dict(zip(REGION_MASSES, masses or (), strict=False))
    return [
        {f"{100 * share:g}": credible_region(mixture[i], mass) for share, mass in named.items()}
        for i in range(len(mixture))
    ]


def density_metrics(
    mixtures: Mixtures,
    truth: np.ndarray,
    missed: np.ndarray,
    masses: Sequence[float] | None,
    unit: str,
    prefix: str = "",
) -> dict[str, float]:
    """Surprise, localizability, the share of places in each region, and the risk where the least sure are left out.

    Args:
        truth: (n, 2) degrees, all known.
        missed: (n,) the distance of each answer, in `unit`.
        masses: of the regions, see `fit_masses`.

    Returns:
        `nll` in nats per steradian; `localizability` in nats, on average; `region_50` and `region_90`, the shares
        within; `risk_coverage_UNIT`, the mean distance of the most localizable places, averaged over how many are kept;
        each with `prefix`.
    """
    surprise, known = [], []
    for i in range(0, len(truth), AT_ONCE):
        part = mixtures(slice(i, i + AT_ONCE))
        surprise.append(-part.log_prob(torch.from_numpy(truth[i : i + AT_ONCE, None]))[:, 0])
        known.append(part.localizability())
    sure = torch.cat(known).numpy()
    values = {"nll": float(torch.cat(surprise).mean()), "localizability": float(sure.mean())}
    if masses is not None:
        held = credibilities(mixtures, truth)
        for share, mass in zip(REGION_MASSES, masses, strict=True):
            values[f"region_{100 * share:g}"] = float((held <= mass).mean())
    values[f"risk_coverage_{unit}"] = float(risk_curve(sure, missed).mean())
    return {f"{prefix}{name}": value for name, value in values.items()}
