"""What the place model does with features: pool, project, normalize, whiten; and its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from geohf.errors import DataError
from geohf.place.aggregation import NetVLAD, SuperVLAD, make_aggregator
from geohf.place.configuration import PROJECTING_POOLINGS, GeoPlaceConfig
from geohf.place.losses import CellClassifier, hybrid, multi_similarity, pair_masks
from geohf.place.original import original_loss
from geohf.training.batches import broadcast_from_first, gather_rows
from geohf.vision.pooling import FeatureStandardizer

HYBRID_FIELDS = ("contrastive_weight", "triplet_weight", "temperature", "margin", "mining", "hard_share")


@dataclass
class GeoPlaceOutput(ModelOutput):
    """Output of the place model.

    Attributes:
        loss: scalar, where coordinates were given.
        descriptors: (batch, descriptor_size) of length 1, float32. In training on several processes: of the batches
            of all of them.
        loss_parts: the loss by its parts, before weighting.
    """

    loss: torch.Tensor | None = None
    descriptors: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None


class Whitening(nn.Module):
    """PCA whitening: the principal axes of descriptors, each divided by its standard deviation.

    Jégou and Chum, Negative Evidences and Co-occurrences in Image Retrieval: The Benefit of PCA and Whitening, 2012.
    """

    mean: torch.Tensor
    axes: torch.Tensor

    def __init__(self, size: int, out: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("axes", torch.eye(size, dtype=torch.float32)[:out].clone())

    def fit_shrunk(self, descriptors: torch.Tensor, share: float = 0.3) -> None:
        """Take all axes from (n, size) descriptors, however few, their covariance shrunk towards a sphere.

        Plain whitening divides by deviations that few descriptors tell badly, and drops what these do not vary in; with
        `share` of the mean variance added to each axis, nothing is blown up or lost.
        """
        rows = descriptors.double()
        mean = rows.mean(0)
        variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        added = share * variances.mean().clamp(min=1e-30)
        self.mean.copy_(mean)
        self.axes.copy_((axes / (variances.clamp(min=0) + added).sqrt()).T)

    def fit(self, descriptors: torch.Tensor) -> None:
        """Take the axes from (n, size) descriptors, n at least the number of axes."""
        mean = descriptors.double().mean(0)
        _, deviations, axes = torch.linalg.svd(descriptors.double() - mean, full_matrices=False)
        deviations = deviations[: len(self.axes)] / len(descriptors) ** 0.5
        # an axis along which nothing varies is left out, not blown up
        scale = torch.where(deviations > 1e-6 * deviations[0], 1 / deviations.clamp(min=1e-30), 0.0)
        self.mean.copy_(mean)
        self.axes.copy_(axes[: len(scale)] * scale[:, None])

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """(batch, size) to (batch, out) of length 1."""
        return F.normalize((descriptors - self.mean) @ self.axes.T, dim=-1)


class Residual(nn.Module):
    """A feature of length 1 and a learned change of it, which begins at zero: untrained, a head says what it is given.

    The change counts a tenth, so that a learning rate for new layers moves a good feature slowly.
    """

    def __init__(self, size: int):
        super().__init__()
        self.change = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.change.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, size) to (batch, size)."""
        unit = F.normalize(features, dim=-1)
        return unit + 0.1 * self.change(unit)


class PlaceHead(nn.Module):
    """Everything of the place model behind the backbone; it is trained alone on cached features."""

    accepts_loss_kwargs = False

    def __init__(self, config: GeoPlaceConfig):
        super().__init__()
        self.config = config
        # GeM takes what lies above zero, NetVLAD and SuperVLAD lengths of 1, and a residual begins at the feature as it is
        as_it_is = config.pooling in ("gem", "gem_linear", "netvlad", "supervlad") or not config.standardize
        as_it_is |= config.head == "residual" and config.pooling not in PROJECTING_POOLINGS
        self.standardize: nn.Module = nn.Identity() if as_it_is else FeatureStandardizer(config.channels)
        self.aggregate = make_aggregator(config)
        size = config.aggregated_size
        self.project: nn.Module = nn.Identity()
        self.descriptor_norm: nn.Module = nn.Identity()
        if config.head == "residual":
            self.project = Residual(size)
        elif config.projection_dim is not None:  # the head of the reference implementation
            self.project = nn.Sequential(
                nn.Linear(size, size // 2),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(size // 2, config.projection_dim),
            )
            self.descriptor_norm = nn.BatchNorm1d(config.projection_dim)
        if config.whitening_dim is not None:
            self.whiten = Whitening(config.projected_size, config.whitening_dim)

    def fit_features(self, features: torch.Tensor) -> None:
        """Take scales, and clusters, from (n, features) or (n, channels, rows, columns); a trained head keeps its own."""
        if isinstance(self.standardize, FeatureStandardizer) and not self.standardize.mean.any():
            self.standardize.fit(features.movedim(1, -1).flatten(0, -2))
        if isinstance(self.aggregate, (NetVLAD, SuperVLAD)):
            self.aggregate.fit(features)

    def fit_whitening(self, descriptors: torch.Tensor, size: int | None = None) -> None:
        """Add PCA whitening to `size` dimensions, fitted on (n, d) descriptors without it.

        Args:
            size: None keeps all dimensions, see `Whitening.fit_shrunk`.

        Raises:
            DataError: fewer descriptors than dimensions, or more dimensions than a descriptor has.
        """
        if size is not None and not 1 <= size <= min(descriptors.shape):
            raise DataError(
                f"cannot whiten to {size} dimensions: there are {len(descriptors)} descriptors of length "
                f"{descriptors.shape[1]}, and neither may be smaller"
            )
        out = descriptors.shape[1] if size is None else size
        self.whiten = Whitening(descriptors.shape[1], out).to(descriptors.device)
        (self.whiten.fit_shrunk if size is None else self.whiten.fit)(descriptors)
        self.config.whitening_dim = out

    def remove_whitening(self) -> int | None:
        """Take the whitening off, which training would outdate, and return its size; None where there is none."""
        size, self.config.whitening_dim = self.config.whitening_dim, None
        if size is not None:
            del self.whiten
        return size

    def forward(
        self,
        features: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        clusters: torch.Tensor | None = None,
        classifier: CellClassifier | None = None,
    ) -> GeoPlaceOutput:
        """Describe places from features, and compare them where coordinates are given.

        In training on several processes the batches of all are normalized and compared together, so that the loss
        and its gradient are those of one process with one large batch.

        Args:
            features: (batch, features), (batch, channels, rows, columns), or for `salad` (batch, channels, 1 + places).
            coordinates: (batch, 2) latitude and longitude in degrees, float64.
            headings: (batch,) degrees clockwise from north, NaN where unknown.
            clusters: (batch,) numbers that say which place a picture shows, in place of meters; only the
                reference implementation's recipe has them, see `geohf.place.original`.
            classifier: of the loss `cosface` in training.
        """
        last = features.ndim - 1  # `movedim` becomes a wrong transposition in ONNX
        features = self.standardize(features.permute(0, *range(2, last + 1), 1))
        features = features.permute(0, last, *range(1, last))
        rows = self.project(self.aggregate(features)).float()
        # half precision would blur distances between rows
        with torch.autocast(rows.device.type, enabled=False):
            if self.training:
                rows = gather_rows(rows)
                labels = (None if t is None else gather_rows(t) for t in (coordinates, headings, clusters))
                coordinates, headings, clusters = labels
            descriptors = F.normalize(self.descriptor_norm(rows)[:, : self.config.truncate_dim], dim=-1)
            loss, parts = None, None
            if coordinates is not None:
                loss, parts = self.losses(descriptors, coordinates, headings, clusters, classifier)
            if self.config.whitening_dim is not None:
                descriptors = self.whiten(descriptors)
            return GeoPlaceOutput(loss, descriptors, parts)

    def losses(
        self,
        descriptors: torch.Tensor,
        coordinates: torch.Tensor,
        headings: torch.Tensor | None = None,
        clusters: torch.Tensor | None = None,
        classifier: CellClassifier | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total loss of (n, d) descriptors, and its parts.

        With `matryoshka_dims` the mean over the whole and the first numbers of it (Kusupati et al., Matryoshka Representation
        Learning, NeurIPS 2022); the parts are those of the whole. Without a `classifier`, as validation queries are, `cosface` is
        `hybrid`: they are of no class.
        """
        total, parts = self._losses(descriptors, coordinates, headings, clusters, classifier)
        shorter = [dim for dim in self.config.matryoshka_dims or () if dim < descriptors.shape[1]]
        for dim in shorter:
            cut = F.normalize(descriptors[:, :dim], dim=-1)
            total = total + self._losses(cut, coordinates, headings, clusters, classifier)[0]
        return total / (1 + len(shorter)), parts

    def _losses(self, descriptors, coordinates, headings, clusters, classifier):
        config = self.config
        if classifier is not None:
            return classifier(descriptors, coordinates, headings), {}
        if config.loss == "cosface" and self.training and clusters is None:
            raise DataError(
                "the loss cosface has classes of all training images, which GeoPlaceTrainer makes: train with it, or take "
                "another loss"
            )
        positive, negative = pair_masks(
            coordinates, config.positive_m, config.negative_m, headings, config.heading_deg
        )
        settings = {name: getattr(config, name) for name in HYBRID_FIELDS}
        settings["noise"] = broadcast_from_first(torch.rand(negative.shape, device=negative.device))
        if clusters is not None:
            return original_loss(descriptors, clusters, negative, **settings)
        if config.loss == "multi_similarity":
            return multi_similarity(descriptors, positive, negative), {}
        return hybrid(descriptors, positive, negative, **settings)
