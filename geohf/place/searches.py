"""What a place Trainer searches: the databases of its queries, cached features, and the answers of both backbones."""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from geohf.data.samples import without_decoding
from geohf.data.streaming import is_stream
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.place.confidence import certainty
from geohf.place.configuration import GeoPlaceConfig
from geohf.place.evaluation import drive_recalls, maps_of_files
from geohf.place.metrics import RECALLS, Retrieval, place_metrics, retrieve, selective_metrics
from geohf.place.phase import PlacePhaseTrainer
from geohf.place.rows import as_drives, images_of
from geohf.place.search import top_k
from geohf.place.sequences import Center, Method
from geohf.place.verification import LocalFeatures, fit_gate, gap_of, gated, verified
from geohf.training.trainer import GeoTrainer
from geohf.vision.features import cached_features
from geohf.vision.weights import load_tensors

logger = logging.getLogger(__name__)


class PlaceSearches(GeoTrainer, PlacePhaseTrainer):
    """Searches the database for queries, by the model as it is and by the backbone as it was before training.

    `GeoPlaceTrainer` trains with it.
    """

    radii_m: list[float]
    center: Center
    sequence_method: Method | None
    verify: int

    def search_in(self, database: Any, validation_database: Any) -> None:
        """Take the images that queries are searched in, see `GeoPlaceTrainer`."""
        self._database, self._validation_database = (
            None if rows is None else self.read_rows(rows) for rows in (database, validation_database)
        )
        self._described: dict[int, tuple[str, torch.Tensor]] = {}  # the model's fingerprint, a database by it

    @staticmethod
    def read_rows(rows):
        """See `as_drives`."""
        return without_decoding(as_drives(rows))

    @property
    def database(self):
        """The images that are searched in."""
        rows = self.train_dataset if self._database is None else self._database
        if is_stream(rows):
            raise DataError("a stream cannot be searched in: give the Trainer a database")
        return rows

    def database_of(self, queries):
        """The images that these queries are searched in."""
        validates = queries is self.eval_dataset or queries is self._validation
        own = self._validation_database if validates else None
        return self.database if own is None else own

    def frozen_features(self, dataset) -> torch.Tensor:
        """(n, ...) features of a dataset's images by the backbone as it was before training, from the cache."""
        args, model = self.args, self.model
        return cached_features(
            self._frozen_backbone().to(args.device),
            model.processor,
            images_of(self.read_rows(dataset)),
            **args.feature_settings,
            pool=model.config.backbone_pool,
        )

    def _frozen_backbone(self) -> torch.nn.Module:
        if self.frozen:
            return self.model.tower
        tower = copy.deepcopy(self.model.tower)
        named = load_tensors(self.base_folder("finetune") / "model.safetensors").items()
        own = {name.removeprefix("tower."): weight for name, weight in named if name.startswith("tower.")}
        tower.load_state_dict(own)
        return tower

    def frozen_descriptors(self, dataset) -> torch.Tensor:
        """(n, d) of length 1: the backbone's feature as it was before training, of a map its average."""
        features = self.frozen_features(dataset)
        if features.ndim == 3:  # tokens, perhaps with the attention to them
            features = features[:, : self.model.config.channels, 1:].mean(-1)
        return F.normalize(features.mean((-2, -1)) if features.ndim == 4 else features, dim=-1)

    def search(self, rows, database: torch.Tensor, queries: torch.Tensor) -> Retrieval:
        """Search for queries in their database, by the descriptors of both."""
        searched = self.database_of(rows)
        retrieval = retrieve(database, queries, points_of(searched), points_of(rows), self.radii_m)
        if self.center != "none" or self.sequence_method is not None:
            how = self.radii_m[0], self.center, self.sequence_method
            retrieval.values |= drive_recalls((database, queries), (searched, rows), *how)
        return retrieval

    def learn_gate(self, rows, database: torch.Tensor, queries: torch.Tensor) -> None:
        """Learn on validation queries when answers are verified, see `fit_gate`; without `verify` an old gate is forgotten."""
        config = self.model.config
        if not self.verify:
            if config.verify_below is not None:
                logger.warning("the gate of verification was learned before, and is forgotten: give --verify")
            config.verify_below = None
            return
        gap, before, after = self._verify(rows, database, queries)
        points, asked = points_of(self.database_of(rows)), points_of(rows)
        right = [great_circle_m(points[ranked[:, 0]], asked) <= self.radii_m[0] for ranked in (before, after)]
        fit_gate(config, gap, *right)

    def verified_recalls(self, rows, database: torch.Tensor, queries: torch.Tensor) -> dict[str, float]:
        """`verified_r1`, `verified_r5`, ... of answers that are verified where the gate is open; nothing without `verify`."""
        if not self.verify:
            return {}
        gap, before, after = self._verify(rows, database, queries)
        doubtful = gated(gap, self.model.config)
        before[doubtful] = after[doubtful]
        points = points_of(self.database_of(rows))
        values = place_metrics(before, points, points_of(rows), self.radii_m[:1], RECALLS)
        return {f"verified_r{n}": values[f"r{n}"] for n in RECALLS} | {"verified": len(doubtful)}

    def _verify(self, rows, database: torch.Tensor, queries: torch.Tensor) -> tuple[np.ndarray, ...]:
        """(q,) the gap of each query, and (q, k) its answers of the search, and all of them verified."""
        searched, batch = self.database_of(rows), self.args.feature_batch_size
        k = min(max(self.verify, *RECALLS), len(searched))
        similarity, ranked = (part.numpy() for part in top_k(database, queries, k))
        gap = gap_of(similarity, points_of(searched)[ranked], self.model.config.negative_m)
        local = LocalFeatures.of_images(self.model, images_of(self.read_rows(searched)), batch)
        maps = partial(maps_of_files, self.model, images_of(self.read_rows(rows)), batch)
        _, after = verified(similarity, ranked, local, maps, np.arange(len(ranked)), self.verify)
        return gap, ranked, after

    def _described_database(self, queries) -> torch.Tensor:
        fingerprint, rows = self.model.fingerprint(), self.database_of(queries)
        if self._described.get(id(rows), ("",))[0] != fingerprint:
            self._described[id(rows)] = fingerprint, self.outputs(rows)
        return self._described[id(rows)][1]

    def _search_frozen(self, rows) -> Retrieval:
        return self.search(rows, *map(self.frozen_descriptors, (self.database_of(rows), rows)))

    def _note_certainty(self, retrieval: Retrieval, config: GeoPlaceConfig | None = None) -> None:
        """Add `selective_metrics` of the config's confidence, of the top cosine without one."""
        sure = certainty(retrieval.similarity, retrieval.answer_points, config)
        threshold = None if config is None else config.abstain_below
        matched = int(retrieval.values["queries_with_match"])
        retrieval.values |= selective_metrics(sure, retrieval.right[:, 0], matched, threshold)
