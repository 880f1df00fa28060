"""Which model a training keeps: the frozen backbone, the whitened one, or the trained one, by validation queries."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from geohf.metrics.directions import bare_name, find_metric
from geohf.place.configuration import MAP_POOLINGS, GeoPlaceConfig
from geohf.place.head import PlaceHead

if TYPE_CHECKING:
    from geohf.place.modeling import GeoPlaceModel
    from geohf.place.trainer import GeoPlaceTrainer

LONGEST_WHITENED = 4096  # beyond it the axes take minutes
HEAD_FIELDS = ("pooling", "head", "projection_dim", "whitening_dim", "truncate_dim", "matryoshka_dims")


@dataclass
class Candidate:
    """A head, its numbers on validation queries, and whether it stands on the fine-tuned backbone."""

    name: str
    head: PlaceHead
    values: Mapping[str, float]
    finetuned: bool


class Choice:
    """The candidates of a training, each measured as it is and behind PCA whitening of the training images.

    `trainer.stages` gets the numbers of each. A later candidate wins only where it is better.

    Args:
        trainer: searches for its `eval_dataset`. A `whitening_dim` that it asks for admits whitened candidates alone, 0
            none of them, and its model's `truncate_dim` those that are cut, or whitened to a length that was asked for.
    """

    def __init__(self, trainer: GeoPlaceTrainer):
        self.trainer = trainer
        self.best: Candidate | None = None

    def offer(self, name: str) -> None:
        """Measure the trainer's model as it is now."""
        self._offer(name, copy.deepcopy(self.trainer.model.head), self.trainer.outputs)

    def offer_untrained(self) -> None:
        """Measure the backbone's own feature, without any head, and a model that was trained before as it was loaded."""
        model = self.trainer.model
        self._offer("frozen", frozen_head(model.config), self.trainer.frozen_descriptors)
        if model.name_or_path:
            self.offer("as loaded")

    def _offer(self, name: str, head: PlaceHead, outputs: Callable[[Any], torch.Tensor]) -> None:
        trainer = self.trainer
        queries, asked = trainer.eval_dataset, trainer.whitening_dim
        parts = [outputs(rows) for rows in (trainer.database_of(queries), queries)]
        cut = head.config.truncate_dim == trainer.model.config.truncate_dim
        whitened = head.config.whitening_dim is not None
        self._note(name, head, parts, (cut and not asked) or whitened)
        if asked == 0 or whitened:
            return
        train = outputs(trainer.train_dataset)
        size = train.shape[1]
        if size > LONGEST_WHITENED if asked is None else name == "frozen" and asked > size:
            return
        head = copy.deepcopy(head)
        head.fit_whitening(train, asked)
        self._note(f"{name}, whitened", head, [head.whiten(part) for part in parts], bool(cut or asked))

    def take_best(self) -> Candidate:
        """Give the trainer's model the best candidate's head."""
        best, trainer = self.best, self.trainer
        assert best is not None
        if not trainer.frozen and not best.finetuned:
            trainer.restore("finetune")
        take_head(trainer.model, best.head)
        return best

    def _note(self, name: str, head: PlaceHead, parts: list, eligible: bool) -> None:
        trainer = self.trainer
        trainer.stages[name] = values = trainer.search(trainer.eval_dataset, *parts).values
        if eligible and (self.best is None or self._rank(values) > self._rank(self.best.values)):
            self.best = Candidate(name, head, values, not trainer.frozen)

    def _rank(self, values: Mapping[str, float]) -> tuple[float, ...]:
        return score(values, self.trainer), *(values[name] for name in ("r1", "r5", "r10") if name in values)


def score(values: Mapping[str, float], trainer: GeoPlaceTrainer) -> float:
    """A search's number that chooses, as large-is-better: `metric_for_best_model` where a search has it, else R@1."""
    name = bare_name(trainer.args.metric_for_best_model or "r1")
    name = name if name in values else "r1"
    metric = find_metric(name, trainer.args.metrics)
    sign = 1 if metric is None or metric.greater_is_better else -1
    return sign * values[name] if math.isfinite(values[name]) else -math.inf


def frozen_head(config: GeoPlaceConfig) -> PlaceHead:
    """A head that gives the backbone's own feature: of a map its average."""
    config = copy.deepcopy(config)
    config.pooling = "avg" if config.pooling in MAP_POOLINGS else config.pooling
    config.head, config.projection_dim, config.whitening_dim = "mlp", None, None
    config.truncate_dim, config.matryoshka_dims = None, None
    return PlaceHead(config)


def take_head(model: GeoPlaceModel, head: PlaceHead) -> None:
    """Put a head onto a model, whose config then tells of it."""
    given, model.head.config = head.config, copy.deepcopy(model.config)
    for name in HEAD_FIELDS:
        setattr(model.config, name, getattr(given, name))
    head.config, model.head = model.config, head.to(model.device)


def lowered(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The stages of a training whose recall@1 on validation queries is below the frozen backbone's."""
    recalls = {name: values["r1"] for name, values in stages.items()}
    frozen = recalls.get("frozen", -math.inf)
    return [name for name in ("trained", "fine-tuned") if recalls.get(name, math.inf) < frozen]
