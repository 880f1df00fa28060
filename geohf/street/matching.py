"""Matching photographs with positions: both become embeddings, and the nearest position of a gallery is the answer.

The training is that of GeoCLIP (Vivanco Cepeda et al., NeurIPS 2023, arXiv 2309.16020): of the batch's positions and a
queue of earlier ones, all a little moved, a photograph shall find its own.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M, Area, great_circle_m
from geohf.geo.angles import wrap_degrees
from geohf.models.losses import loss_items
from geohf.street.answers import MatchPrediction
from geohf.street.configuration import GeoStreetConfig
from geohf.street.gallery import kept_on_disk
from geohf.street.location import LocationEncoder
from geohf.vision.weights import weights_checksum

ENCODED_AT_ONCE, COMPARED_AT_ONCE = 4096, 1024
COSINES_AT_ONCE = 1 << 26  # of photographs with positions: a quarter of a gigabyte
SPREAD_MATCHES = 64  # from so many of a gallery's best the model's own doubt is taken
MOST_SCALE = 100.0  # as CLIP has it


@dataclass
class Matches:
    """The best positions of a gallery for each photograph, best first.

    Attributes:
        points: (batch, k, 2) degrees.
        probabilities: (batch, k), softmax over the whole gallery.
    """

    points: torch.Tensor
    probabilities: torch.Tensor

    def spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The `SPREAD_MATCHES` best positions, and the probabilities among these alone."""
        own = self.probabilities[:, :SPREAD_MATCHES]
        return self.points[:, :SPREAD_MATCHES], own / own.sum(-1, keepdim=True)

    def first(self, most: int) -> list[list[MatchPrediction]]:
        """No more than so many for each photograph, as they are answered."""
        rows = zip(self.points[:, :most].tolist(), self.probabilities[:, :most].tolist(), strict=True)
        return [
            [MatchPrediction(north, east, share) for (north, east), share in zip(points, shares, strict=True)]
            for points, shares in rows
        ]


def listed_matches(config: GeoStreetConfig) -> int:
    """How many matches an answer is made of, however many it names: those of its spread, and all that are ranked."""
    return max(SPREAD_MATCHES, config.rank)


class _Encoded:
    """The gallery that was encoded last; copies of a model on the same weights share it."""

    def __init__(self) -> None:
        self.held: tuple[Any, torch.Tensor] | None = None

    def __deepcopy__(self, memo: dict) -> _Encoded:
        return self


class MatchHead(nn.Module):
    """Embeds fused features and positions, compares them, and learns to."""

    gallery: torch.Tensor
    queue: torch.Tensor

    def __init__(self, config: GeoStreetConfig):
        super().__init__()
        self.config = config
        size = config.feature_size
        self.image = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, config.location_size))
        self.location = LocationEncoder(
            config.location_encoder,
            config.location_size,
            config.location_hidden_size,
            config.location_sigmas,
            config.location_degrees,
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("gallery", torch.zeros(config.gallery_size, 2))
        # earlier positions, the latest first; saved, so that a run that was killed goes on as it would have
        self.register_buffer("queue", torch.full((config.queue_size, 2), math.nan))
        self._encoded = _Encoded()

    def set_gallery(self, points: np.ndarray) -> None:
        """Answer from these (n, 2) positions, which are saved with the model."""
        self.gallery = torch.from_numpy(np.asarray(points, np.float32)).to(self.gallery.device)
        self.config.gallery_size = len(points)

    # ---- embeddings

    def embed(self, place: torch.Tensor) -> torch.Tensor:
        """(batch, features) to (batch, location_size) of length 1."""
        return F.normalize(self.image(place).float(), dim=-1)

    def encode(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 2) degrees to (n, location_size) of length 1."""
        return F.normalize(self.location(points), dim=-1)

    def scale(self) -> torch.Tensor:
        """What cosines are multiplied with."""
        return self.logit_scale.float().exp().clamp(max=MOST_SCALE)

    # ---- answers

    @torch.inference_mode()
    def encoded(self, points: np.ndarray, keep: bool = False) -> torch.Tensor:
        """The embeddings of a gallery of (n, 2) degrees, computed once for these weights; kept on disk, too, of many."""
        device = self.logit_scale.device
        key = hashlib.blake2b(points.tobytes()).digest(), str(device), weights_checksum(self.location)
        held = self._encoded.held
        if held is None or held[0] != key:
            embeddings = kept_on_disk(self.location, points, self._encode) if keep else self._encode(points)
            held = self._encoded.held = key, embeddings.to(device)
        return held[1]

    def _encode(self, points: np.ndarray) -> torch.Tensor:
        from tqdm.auto import tqdm

        parts = torch.from_numpy(points).split(ENCODED_AT_ONCE)
        bar = tqdm(parts, desc="gallery", disable=len(parts) < 4)
        return torch.cat([self.encode(part.to(self.logit_scale.device)) for part in bar])

    @torch.inference_mode()
    def matches(
        self,
        embeddings: torch.Tensor,
        points: np.ndarray | None = None,
        area: Area | None = None,
        k: int = 1,
        keep: bool = False,
    ) -> Matches:
        """The best positions for (batch, location_size) embeddings.

        Args:
            points: (n, 2) the gallery; the model's own where None.
            area: only positions within it.
            k: how many, at most.
            keep: see `encoded`.

        Raises:
            DataError: no position of the gallery lies in the area, or there is no gallery.
        """
        if points is None:
            if not len(self.gallery):
                raise DataError(
                    "the model has no gallery of its own: name one, a table of positions, as gallery"
                )
            points = self.gallery.double().cpu().numpy()
        bank = self.encoded(points, keep)
        if area is not None:
            inside = area.contains(points)
            if not inside.any():
                raise DataError(
                    "no position of the gallery lies within the area: name a denser one, or a grid"
                )
            points, bank = points[inside], bank[torch.from_numpy(inside).to(bank.device)]
        embeddings = embeddings.to(bank.device)
        with _exact(bank):
            best = [
                (self.scale() * rows @ bank.T).softmax(-1).topk(min(k, len(points)))
                for rows in embeddings.split(max(1, COSINES_AT_ONCE // len(points)))
            ]
        values, indices = (torch.cat(parts).cpu() for parts in zip(*best, strict=True))
        return Matches(torch.from_numpy(points)[indices], values)

    # ---- learning

    def loss(
        self, embeddings: torch.Tensor, coordinates: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy of each photograph's own position against the batch's and the queue's.

        Positions nearer than `noise_m` to a photograph's own are no negatives of it. In training positions are moved and
        the queue takes in the batch.

        Args:
            embeddings: (batch, location_size) of length 1.
            coordinates: (batch, 2) degrees; rows with NaN do not count, and are nobody's negatives.
            items: number to divide by; None: the rows that count.
        """
        parts = zip(embeddings.split(COMPARED_AT_ONCE), coordinates.split(COMPARED_AT_ONCE), strict=True)
        total = torch.stack([self._rows_loss(*part).sum() for part in parts]).sum()
        return total / loss_items(coordinates.isfinite().all(-1), items)

    def _rows_loss(self, embeddings: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        counts = coordinates.isfinite().all(-1)
        truth = torch.where(counts[:, None], coordinates, 0.0).float()
        bank, moved, usable = truth, truth, counts
        if self.training:
            earlier = self.queue[self.queue.isfinite().all(-1)]
            bank = torch.cat([truth, earlier])
            noise = [self.config.noise_m] * len(truth) + [self.config.queue_noise_m] * len(earlier)
            moved = move(bank, torch.tensor(noise, device=bank.device))
            usable = torch.cat([counts, counts.new_ones(len(earlier))])
            with torch.no_grad():
                self.queue.copy_(torch.cat([truth[counts], self.queue])[: len(self.queue)])
        with _exact(moved):
            logits = self.scale() * embeddings @ self.encode(moved).T
        own = torch.eye(len(truth), len(bank), dtype=torch.bool, device=truth.device)
        near = great_circle_m(truth[:, None], bank) < self.config.noise_m
        logits = logits.masked_fill((near | ~usable) & ~own, -math.inf)
        rows = F.cross_entropy(logits, torch.arange(len(truth), device=truth.device), reduction="none")
        return torch.where(counts, rows, 0.0)


def _exact(tensor: torch.Tensor) -> torch.autocast:
    """Where autocast is off: half precision would take positions near to each other for one."""
    return torch.autocast(tensor.device.type, enabled=False)


def move(points: torch.Tensor, sigma_m: torch.Tensor) -> torch.Tensor:
    """(n, 2) degrees moved by normal noise of (n,) meters north and east; no farther than to a pole."""
    north, east = (torch.randn_like(points) * sigma_m[:, None] * (180 / math.pi / EARTH_RADIUS_M)).unbind(-1)
    latitude, longitude = points.unbind(-1)
    east = east / torch.deg2rad(latitude).cos().clamp(min=1e-3)
    return torch.stack([(latitude + north).clamp(-90, 90), wrap_degrees(longitude + east)], -1)
