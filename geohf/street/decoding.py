"""From the outputs of a street model to its answers: states, the point, its radius, matches and regions."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geohf.errors import DataError, did_you_mean, require_whole, warn_once
from geohf.geo import Area, area_from_geojson, great_circle_m
from geohf.metrics.density import regions_of
from geohf.models.heading import degrees_of_directions
from geohf.street.answers import StatePrediction, StreetPrediction
from geohf.street.configuration import GeoStreetConfig
from geohf.street.density import components_of, mixture_of
from geohf.street.gallery import gallery_of
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.levels import Levels, levels_of
from geohf.street.matching import Matches, listed_matches

logger = logging.getLogger(__name__)

# A class whose point lies outside the wanted area loses a factor e of its weight with every so many meters.
AREA_DECAY_M = 25_000.0
STRAY_M = 1_000_000.0  # an area so far from all classes is hardly meant


class StreetDecoding:
    """What a `geohf.street.GeoStreetModel` answers."""

    config: Any  # a GeoStreetConfig; transformers declares its own
    head: StreetHead

    def decode(
        self,
        outputs: GeoStreetOutput,
        top_k: int = 5,
        states: Sequence[str | int] | None = None,
        area: Area | dict | str | Path | None = None,
        gallery: Any = None,
        keep: bool = False,
        regions: bool = False,
        levels: str | os.PathLike | Levels | None = None,
    ) -> list[StreetPrediction]:
        """Turn outputs into answers.

        Args:
            top_k: states and matches to name.
            states: answer within these states only (names, or the competition's indices); only `offset` heads have their
                point from them, too.
            area: answer within this `geohf.geo.Area`, GeoJSON dict or GeoJSON file only; the point, and the states of
                `offset` heads.
            gallery: answer with the best of these positions, for a model with a location encoder, see
                `geohf.street.gallery.gallery_of`. None: the model's own, where it has no other way.
            regions: draw where 50 and 90 % of places like this lie, for a model with a calibrated density.
            levels: name the country, region, sub-region and city of each point, see `geohf.street.levels.levels_of`.
            keep: a large gallery's embeddings on disk, for the next time.

        Raises:
            DataError: an unknown state, a GeoJSON file that cannot be read, a gallery that is none, or that has no
                position in the area; regions of the `vmf` head in an area.
        """
        require_whole(1, top_k=top_k)
        area = area if area is None or isinstance(area, Area) else area_from_geojson(area)
        config: GeoStreetConfig = self.config
        listed = max(top_k, listed_matches(config))
        matches = self._matches(outputs, gallery, states, area, listed, keep)
        probabilities = self._probabilities(outputs, states, area, looked_up=matches is not None)
        usual = gallery is None
        points, candidates, weights = points_and_candidates(
            self.head, outputs, probabilities, matches, area, usual
        )
        if regions and area is not None and outputs.mixture is not None:
            raise DataError(
                "an area moves the point of gps_head 'vmf', not its regions: ask for one without the other"
            )
        places = points.double().cpu().numpy().reshape(-1, 2)
        localizability, drawn = self._densities(weights, candidates, usual, regions)
        told = {
            # the radius was calibrated for the model's own way of answering
            "radius_m": self._radii_m(weights, candidates, points) if usual else None,
            "states": self._states(probabilities, top_k),
            "matches": None if matches is None else matches.first(top_k),
            "headings": _headings(outputs.directions),
            "localizability": localizability,
            "regions": drawn,
            "areas": None if levels is None else levels_of(levels).names_of(places),
        }
        answers = [StreetPrediction(north, east, None, []) for north, east in places.tolist()]
        for name, values in told.items():
            if values is not None:
                for answer, value in zip(answers, values, strict=True):
                    setattr(answer, name, value)
        return answers

    def _probabilities(self, outputs, states, area: Area | None, looked_up: bool) -> torch.Tensor | None:
        """(batch, classes), calibrated, within states and area; None of a model without classes."""
        config, candidates = self.config, outputs.candidates
        if outputs.logits is None:
            if states is not None:
                raise DataError("this model has no classes, so its answers cannot be restricted to states")
            return None
        if candidates is None and (states is not None or area is not None):
            warn_once(
                logger,
                "the point of gps_head %r does not come from the classes: states restrict the state that is answered alone, "
                "an area the point alone, so that the one may lie outside the other", config.gps_head,
            )  # fmt: skip
        logits = outputs.logits.float() / config.temperature
        if states is not None:
            outside = torch.ones(config.num_classes, dtype=torch.bool, device=logits.device)
            outside[self.class_numbers(states)] = False
            logits = logits.masked_fill(outside, -torch.inf)
        if area is not None and candidates is not None:
            outside = self._meters_outside(area, candidates)
            if outside.min() > 0 and not looked_up:
                corners = np.concatenate([ring for rings in area.polygons for ring in rings])
                bounds = zip(corners.min(0), corners.max(0), strict=True)
                swapped = "; are latitude and longitude swapped?" if outside.min() > STRAY_M else ""
                warn_once(
                    logger,
                    "none of the model's classes lies within the area of latitudes %s, longitudes %s%s",
                    *(f"{low:g} to {high:g}" for low, high in bounds), swapped,
                )  # fmt: skip
            logits = logits - outside / AREA_DECAY_M
        return logits.softmax(-1)

    def _matches(self, outputs, gallery, states, area, k: int, keep: bool) -> Matches | None:
        """The best positions for each place, where these are asked for or the model's way of answering."""
        if gallery is None and self.config.gps_head != "gallery":
            return None
        if outputs.embeddings is None:
            raise DataError(
                "this model does not match photographs with positions, so it looks in no gallery: train one with "
                "--location_encoder"
            )
        if states is not None:
            raise DataError("states restrict the classes, not the positions of a gallery: give an area")
        points = None if gallery is None else gallery_of(gallery, self.config)
        return self.head.match.matches(outputs.embeddings, points, area, k, keep)

    def _densities(
        self, probabilities, candidates, usual: bool, regions: bool
    ) -> tuple[list | None, list | None]:
        """What is known of each place in nats, and its regions."""
        config = self.config
        ready = config.density and config.density_scale is not None and usual
        if regions and (not ready or config.region_masses is None):
            raise DataError(
                "this model has no calibrated density, so it draws no regions: train one with --density, answer without "
                "a gallery"
            )
        if not ready:
            return None, None
        mixture = mixture_of(config, probabilities.cpu(), candidates.cpu())
        drawn = regions_of(mixture, config.region_masses) if regions else None
        return mixture.localizability().tolist(), drawn

    def class_numbers(self, states: Sequence[str | int]) -> list[int]:
        """Class numbers of state names or competition indices.

        Raises:
            DataError: a state that the model does not know.
        """
        indices = {
            index: i for i, index in enumerate(self.config.class_indices or range(self.config.num_classes))
        }
        numbers = []
        for state in [states] if isinstance(states, (str, Integral)) else states:
            whole = isinstance(state, Integral) and not isinstance(state, bool)  # numpy's, too
            number = indices.get(int(state)) if whole else self.config.class_numbers.get(state)
            if number is None:
                raise DataError(
                    f"the model knows no state {state!r}{did_you_mean(state, self.config.class_numbers)}"
                )
            numbers.append(int(number))
        if not numbers:
            raise DataError("no state is left to answer with")
        return numbers

    def _meters_outside(self, area: Area, candidates: torch.Tensor) -> torch.Tensor:
        flat = candidates.double().cpu().numpy().reshape(-1, 2)
        away = great_circle_m(flat, np.asarray(area.nearest(flat)))
        return candidates.new_tensor(away).reshape(candidates.shape[:2])

    def _radii_m(self, probabilities, candidates, points) -> list[float] | None:
        if self.config.radius_factor is None:
            return None
        spread = self.head.spread_m(probabilities, candidates, points)
        return (self.config.radius_factor * (spread + self.config.radius_floor_m)).tolist()

    def _states(self, probabilities, top_k: int) -> list[list[StatePrediction]] | None:
        if probabilities is None:
            return None
        best = probabilities.topk(min(top_k, self.config.num_classes))
        names, indices = self.config.id2label, self.config.class_indices or [None] * self.config.num_classes
        # a class that was ruled out has probability 0 and is no answer
        return [
            [StatePrediction(names[c], p, indices[c]) for c, p in zip(*row, strict=True) if p > 0]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _headings(directions: torch.Tensor | None) -> list[list[float]] | None:
    """Degrees of the views that are there, of (batch, max_views, 2) directions."""
    if directions is None:
        return None
    rows = degrees_of_directions(directions.float()).cpu().tolist()
    return [[degrees for degrees in row if degrees == degrees] for row in rows]


def probabilities_and_matches(
    head: StreetHead, outputs: GeoStreetOutput
) -> tuple[torch.Tensor | None, Matches | None]:
    """What the model's own way of answering begins with: of classes, calibrated, and of its gallery, where it has them."""
    probabilities, matches = None, None
    if outputs.logits is not None:
        probabilities = (outputs.logits / head.config.temperature).softmax(-1)
    if head.config.gps_head == "gallery":
        assert outputs.embeddings is not None
        matches = head.match.matches(outputs.embeddings, k=listed_matches(head.config))
    return probabilities, matches


def points_and_candidates(
    head: StreetHead,
    outputs: GeoStreetOutput,
    probabilities: torch.Tensor | None,
    matches: Matches | None,
    area: Area | None = None,
    usual: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Each place's point, (batch, 2) degrees; the candidates that it was chosen from, (batch, k, 2); their weights.

    Of the `vmf` head these are its components, (batch, k, 3) with kappa.

    Args:
        probabilities: (batch, classes), calibrated; None for a model without classes.
        matches: the gallery's best positions, which then are the candidates.
        area: the points lie within it.
        usual: the candidates are those that the model was trained with, so that its ranker knows them.
    """
    points = outputs.coordinates if matches is None else matches.points[:, 0]
    candidates, weights = outputs.candidates, probabilities
    assert points is not None  # only a model that looks in a gallery has none
    if matches is not None:
        candidates, weights = matches.spread()
    elif outputs.mixture is not None:
        weights, candidates = components_of(outputs.mixture)
    else:
        if candidates is not None and probabilities is not None:
            points = head.estimate(probabilities, candidates)
        if head.config.prototypes and outputs.place is not None and probabilities is not None:
            points = head.prototypes.refine(outputs.place, probabilities, points, area)
    if usual and head.config.ranked and outputs.place is not None:
        first = first_candidates(head, outputs, probabilities, matches, area)
        points = ranked(head, outputs, first, points)
    if area is not None and matches is None:  # which lie within it
        points = points.new_tensor(area.nearest(points.double().cpu().numpy()))
    return points, candidates, weights


def first_candidates(
    head: StreetHead,
    outputs: GeoStreetOutput,
    probabilities: torch.Tensor | None,
    matches: Matches | None,
    area: Area | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a ranker chooses from: the `rank` best candidates, (batch, k, 2) degrees, and the logarithms of their weights.

    These are the gallery's best positions, else prototypes, else the points of classes; see `points_and_candidates`.
    """
    most = head.config.rank
    if matches is not None:
        return matches.points[:, :most].float(), matches.probabilities[:, :most].log()
    assert probabilities is not None
    scores, points = probabilities.log(), outputs.candidates
    if head.config.prototypes:
        assert outputs.place is not None
        scores = head.prototypes.scores(outputs.place, probabilities, area)
        points = head.prototypes.points.expand(scores.shape[0], -1, -1)
    assert points is not None
    top = scores.topk(min(most, scores.shape[-1]))
    return points.gather(1, top.indices[..., None].expand(-1, -1, 2)), top.values


def ranked(
    head: StreetHead, outputs: GeoStreetOutput, first: tuple[torch.Tensor, torch.Tensor], points: torch.Tensor
) -> torch.Tensor:
    """(batch, 2) degrees: the one of the first candidates that the ranker puts first, or the place's point where none is left."""
    assert outputs.place is not None
    candidates, scores = (part.to(outputs.place.device) for part in first)
    best = head.ranker.best(outputs.place, candidates, scores).to(points)
    return torch.where(scores.isfinite().any(-1)[:, None].to(points.device), best, points)
