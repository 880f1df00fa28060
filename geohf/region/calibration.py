"""What a region model's config promises: its temperature and its radius, fitted on validation photographs."""

from __future__ import annotations

import numpy as np
import torch

from geohf.geo import frame_distance
from geohf.metrics.calibration import conformal_quantile, fit_temperature
from geohf.metrics.density import fit_masses, fit_scale
from geohf.region.configuration import GeoRegionConfig
from geohf.region.decoding import expected_error, locate, weighted_points
from geohf.region.density import mixtures_of
from geohf.region.experts import RegionOutput, given_logits

# meters or units: an expert of one single point is never wrong, and must not divide by 0
_SMALLEST_ERROR = 1e-6


def calibrate(
    config: GeoRegionConfig,
    outputs: RegionOutput,
    labels: np.ndarray,
    points: np.ndarray,
    router: bool = True,
    blocks: np.ndarray | None = None,
) -> None:
    """Fit the router's temperature and the radius on validation photographs and keep them in the config.

    Of a model that was calibrated before, what photographs of some regions cannot tell stays as it is.

    Args:
        outputs: of the whole model on them, no region given.
        labels, points: (n,) true region numbers and (n, 2) true points.
        router: fit the temperature too; not where the router stayed as it was.
        blocks: (n,) which block of the map each lies in, where whole blocks were held out: the radius is then
            promised for ground that the model never saw, or not at all, where there are too few blocks.
    """
    logits, scaled = outputs.routed()
    known, truth = torch.as_tensor(labels), torch.as_tensor(points)
    if router:
        config.temperature = round(fit_temperature(logits.numpy(), known.numpy()), 6)
    given = given_logits(known, config.num_regions)
    errors = frame_distance(locate(config, given, scaled), truth, config.frame)
    medians = config.expert_errors or [float(errors.median())] * config.num_regions
    for number in known.unique().tolist():
        medians[number] = float(errors[known == number].median())
    config.expert_errors = [max(median, _SMALLEST_ERROR) for median in medians]
    if config.given_factor is not None and len(known.unique()) < config.num_regions:
        return  # one factor serves all regions: those that were measured now do not speak for the others
    config.radius_new_area = blocks is not None
    for name, weights in (("given_factor", given), ("routed_factor", logits)):
        answers = locate(config, weights, scaled)
        missed = frame_distance(answers, truth, config.frame)
        scores = missed / expected_error(config, weights, scaled, answers)
        setattr(config, name, conformal_quantile(scores.numpy(), config.radius_coverage, blocks))
    if config.density:
        routed, own = (
            mixtures_of(config, *weighted_points(config, part, scaled)) for part in (logits, given)
        )
        config.density_scale = fit_scale(routed, points)
        config.routed_masses, config.given_masses = (
            fit_masses(part, points, blocks) for part in (routed, own)
        )
