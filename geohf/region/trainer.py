"""All the training of the region task: every region's expert and the router, one by one or together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from geohf.data.splits import calibration_blocks
from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.metrics.records import Evaluation
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.calibration import calibrate
from geohf.region.card import card_data
from geohf.region.decoding import both_answers
from geohf.region.experts import RegionExpert, RegionOutput, RegionRouter, without_tower
from geohf.region.features import feature_table
from geohf.region.metrics import measure, region_centers, region_table
from geohf.region.outputs import write_outputs
from geohf.region.phase import RegionPhaseTrainer
from geohf.region.refining import refine
from geohf.region.rows import as_photos, headings_of, labels_of, located, truth_of
from geohf.training.finetuning import require_finetunable
from geohf.training.trainer import GeoTrainer, logger


@dataclass(eq=False)
class Learner:
    """An expert or the router, and the rows that it learns from and is chosen on; None where there are none."""

    title: str
    phase: str
    module: RegionExpert | RegionRouter
    rows: Any
    checked: Any


class GeoRegionTrainer(GeoTrainer, RegionPhaseTrainer):
    """Trains a region model and calibrates it.

    Experts with backbones of their own are trained one after the other, each on its own region's rows, and then the
    router; shared experts are trained together with the router. A stream trains the whole model in one phase.

    `args.finetune` says how much of the backbones learns. On a published backbone the heads learn first, on its
    cached features; what is worse on validation photographs after fine-tuning is as it was before it (`kept`).

    Args:
        model: a `GeoRegionModel`, whose scalers were fitted on the training rows, see `make_model`.
        train_dataset, eval_dataset: rows with `image`, `region`, `latitude`, `longitude`, see `as_photos`.
        regions: retrain the experts of these regions only; the others and the router stay as they are.
        The others: as transformers', see `GeoTrainer`.
    """

    phase_class = RegionPhaseTrainer
    shows_places = True
    arguments_class = RegionTrainingArguments
    read_rows = staticmethod(as_photos)
    write_outputs, card_data = write_outputs, card_data

    def __init__(self, *args, regions: Sequence[str] | None = None, **kwargs):
        named = [regions] if isinstance(regions, str) else list(regions or ())
        self.regions = list(map(str, named))
        super().__init__(*args, **kwargs)
        numbers = dict.fromkeys(self.model.region_number(name) for name in named)
        if -1 in numbers:
            raise DataError(f"regions: an empty name is no region, got {named}")
        self.regions = [self.config.id2label[number] for number in numbers]
        if self.config.predict_heading and self.args.augment == "full":
            raise DataError(
                "augment full mirrors and turns pictures, so that they look another way: take light or none with predict_heading"
            )

    def measured(self):
        """The metrics that every phase of this training logs."""
        if self._together():
            return super().measured()
        names = {"loss"}
        if not self._trains_router():
            names |= {f"{name}_{self.config.unit}" for name in ("mean", "median", "p90")}
        return {name: metric for name, metric in self.args.metrics.items() if name in names}

    def _together(self) -> bool:
        """Whether one phase trains the whole model."""
        shared = self.config.experts == "shared" and not self.regions and self.args.finetune != "none"
        return is_stream(self.train_dataset) or shared

    def _trains_router(self) -> bool:
        # the router's backbone also tells which way a photograph looks
        return not self.regions and (self.config.num_regions > 1 or self.config.predict_heading)

    # ---- training

    def run_phases(self, resume: bool) -> None:
        config = self.model.config
        if config.refine and is_stream(self.train_dataset):
            raise DataError("refine needs the training photographs at hand, not a stream of them")
        for name in (self.regions or config.regions) if config.prototypes else ():  # of an earlier training
            number = self.model.region_number(name)
            self.model.experts[number].prototypes.clear()
            config.prototypes[number] = 0
        self._run_phases(resume)
        if config.refine:
            self._refine()

    def _refine(self) -> None:
        """Prototypes of each region's training photographs, in the features of the weights that were kept."""
        model = self.model
        for learner in self._learners():
            if isinstance(learner.module, RegionExpert):
                refine(learner.module.to(self.args.device), *self._feature_tables(learner))
        if not any(model.config.prototypes or ()):
            model.config.prototypes = None

    def _run_phases(self, resume: bool) -> None:
        model, train, finetune = self.model, self.train_dataset, self.args.finetune
        if is_stream(train):
            if self.regions:
                raise DataError(
                    "regions: a stream trains the whole model; give rows of these regions to retrain some"
                )
            self._finetune_whole(resume)
            return
        located(train, model.config.frame)
        learners = self._learners()
        unfrozen = [one for one in learners if self._together() or one.module.tower is not None]
        unfrozen = unfrozen if finetune != "none" else []
        if unfrozen:
            require_finetunable(model, self.args, len(train))
        if self.regions and self.config.experts == "shared" and self.args.finetunes:
            logger.warning(
                "the backbone, which all regions share, does not learn with some of them: their heads alone learn for %g epochs "
                "(num_train_epochs, not head_epochs)",
                self.args.num_train_epochs,
            )
        # a backbone with random weights knows nothing that heads could learn from first
        compared = bool(unfrozen) and model.config.backbone_name is not None
        for learner in learners:
            if compared or learner not in unfrozen:
                self._train_heads(learner, resume, first=learner in unfrozen)
        if compared:
            self.note_stage("frozen")
        if unfrozen and self._together():
            self._finetune_whole(resume, compared)
        elif unfrozen:
            worse = [one.title for one in unfrozen if not self._finetune_part(one, resume, compared)]
            if compared:
                self.note_stage("fine-tuned")
                self._tell_kept(worse, len(unfrozen))

    def _learners(self) -> list[Learner]:
        """The experts and the router that this training is about, with the rows of each."""
        train, model = self.train_dataset, self.model
        labels = labels_of(train, model.config)
        held_out = None if self.eval_dataset is None else labels_of(self.eval_dataset, model.config)
        learners = []
        for name in self.regions or model.config.regions:
            number = model.region_number(name)
            if not (labels == number).any():
                if self.regions:
                    raise DataError(f"regions: no training row is of region {name}")
                continue
            mine = [] if held_out is None else np.flatnonzero(held_out == number).tolist()
            checked = self.eval_dataset.select(mine) if mine else None
            rows = train.select(np.flatnonzero(labels == number))
            phase = f"region-{quote(name, safe='')}"
            learners.append(Learner(f"region {name}", phase, model.experts[number], rows, checked))
        if self._trains_router():
            learners.append(Learner("router", "router", model.router_module(), train, self.eval_dataset))
        return learners

    def _feature_tables(self, learner: Learner) -> list:
        """Of what a learner learns from, and of what it is checked on; None where there is nothing."""
        parts = learner.rows, learner.checked
        return [rows and feature_table(learner.module, self.model, rows, self.args) for rows in parts]

    def _train_heads(self, learner: Learner, resume: bool, first: bool) -> None:
        """Train what stands on a backbone, whose features are cached, and nothing else; `first` where the backbone learns
        afterwards, and may be chosen by another metric.
        """
        changes = self._changes(learner) | {"activation_checkpointing": None}
        extras: dict[str, Any] = {"whole": self.model}
        if first:
            changes |= {"metric_for_best_model": "loss", "greater_is_better": False}
            changes |= {"num_train_epochs": self.args.head_epochs}
            extras |= {"compute_metrics": None} if self._together() else {}
        rows, checked = self._feature_tables(learner)
        phase, heads = learner.phase + "-heads" * first, without_tower(learner.module)
        self.run_phase(phase, heads, rows, checked or [], resume, "loss", extras, **changes)
        self._finish(learner, phase, ", heads" * first)

    def _finetune_part(self, learner: Learner, resume: bool, compared: bool) -> bool:
        """Train an expert or the router with its own backbone; False where it was better before, and is so again.

        Nothing else of the model changes, not even a batch norm's statistics.
        """
        part, before, score = learner.module, {}, -math.inf
        if compared and learner.checked is not None:
            before = {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
            score = self.score(part, learner.checked, "loss", whole=self.model)
        phase = self.finetune(
            learner.phase,
            resume,
            "loss",
            part,
            train=learner.rows,
            evaluation=learner.checked or [],
            extras={"whole": self.model},
            **self._changes(learner),
        )
        worse = False
        if before:
            worse = _is_worse(self.score_after(phase, part, learner.checked, "loss", whole=self.model), score)
        if worse:
            part.load_state_dict(before)
        if isinstance(part, RegionRouter):
            self.model.take_router(part)
        self._finish(learner, learner.phase)
        return not worse

    def _finetune_whole(self, resume: bool, compared: bool = False) -> None:
        checked = self.eval_dataset if compared else None
        score = -math.inf if checked is None else self.score(self.model, checked, "loss", whole=self.model)
        phase = self.finetune("all", resume, "loss", **self._unused(True))
        for expert in self.model.experts:
            _require_own_scaler(expert)
        if checked is None:
            return
        self.note_stage("fine-tuned")
        worse = _is_worse(self.score_after(phase, self.model, checked, "loss", whole=self.model), score)
        if worse:
            self.restore("all")
        self._tell_kept(["the model"] * worse, 1)

    def _tell_kept(self, worse: list[str], learned: int) -> None:
        """Say where training a backbone did not help on validation photographs, so that the frozen one is kept."""
        if self.eval_dataset is None:
            return
        self.kept = "frozen" if len(worse) == learned else "fine-tuned"
        if worse and len(worse) < learned:
            self.kept += f", frozen for {', '.join(worse)}"
        if worse:
            logger.warning(
                "fine-tuning made %s no better on validation photographs: the frozen backbone is kept there",
                ", ".join(worse),
            )

    def _finish(self, learner: Learner, phase: str, what: str = "") -> None:
        if isinstance(learner.module, RegionExpert):
            _require_own_scaler(learner.module)
        self.histories[learner.title + what] = self.histories.pop(phase)

    def _changes(self, learner: Learner) -> dict[str, Any]:
        if learner.checked is not None:
            return self._unused(False)
        # a region too small to hold anything out: its last weights count
        return self._unused(False) | {"eval_strategy": "no", "load_best_model_at_end": False}

    def _unused(self, whole: bool) -> dict[str, Any]:
        """Only of the whole model a batch may leave an expert out."""
        asked = self.args.ddp_find_unused_parameters
        return {"ddp_find_unused_parameters": whole if asked is None else asked}

    def _forget_calibration(self) -> None:
        config = self.model.config
        config.expert_errors = config.given_factor = config.routed_factor = None
        config.density_scale = config.routed_masses = config.given_masses = None
        if self._trains_router():
            config.temperature = 1.0

    def _calibrate(self) -> None:
        rows = self.eval_dataset
        truth = truth_of(rows, self.model.config)
        blocks = calibration_blocks(rows, truth[1], self.model.config.frame)
        calibrate(self.model.config, self.outputs(rows), *truth, router=not self.regions, blocks=blocks)

    # ---- measuring

    def outputs(self, dataset) -> RegionOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        return self.measuring(self.model).outputs(dataset)

    def measure(self, dataset, outputs: RegionOutput, prefix="eval", intervals=True) -> Evaluation:
        """See `geohf.region.metrics.measure`."""
        config, centers = self.model.config, None
        train: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None
        answers = both_answers(config, outputs, *truth_of(dataset, config), headings_of(dataset, config))
        rows = self.train_rows
        if rows is not None:
            train = labels_of(rows, config), located(rows, config.frame), headings_of(rows, config)
            centers = region_centers(config, *train[:2])
        metrics = measure(config, answers, train, intervals)
        details = {"answers": answers, "table": region_table(config, answers, centers), "centers": centers}
        return Evaluation(metrics, dataset, answers.routed, prefix, outputs=outputs, **details)


def _is_worse(score: float, before: float) -> bool:
    return score < before or (math.isnan(score) and not math.isnan(before))


def _require_own_scaler(expert: RegionExpert) -> None:
    if not expert.has_own_scaler():
        raise DataError(
            f"region {expert.config.id2label[expert.number]} was trained on other rows than these: resume with the "
            "data and filters that the run began with, or begin anew without --resume_from_checkpoint"
        )
