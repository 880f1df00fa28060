"""All the training of the region task: every region's expert and the router, one by one or together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from geohf.data.splits import calibration_blocks
from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.metrics.records import CardData, Evaluation
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.calibration import calibrate
from geohf.region.card import card_data
from geohf.region.decoding import both_answers
from geohf.region.experts import RegionExpert, RegionOutput
from geohf.region.features import feature_table
from geohf.region.metrics import measure, region_centers, region_table
from geohf.region.outputs import write_outputs
from geohf.region.phase import RegionPhaseTrainer
from geohf.region.rows import as_photos, headings_of, labels_of, located, truth_of
from geohf.training.phase import phase_arguments
from geohf.training.trainer import GeoTrainer


class GeoRegionTrainer(GeoTrainer, RegionPhaseTrainer):
    """Trains a region model and calibrates it.

    Experts with backbones of their own are trained one after the other, each on its own region's rows, and then the
    router; shared experts are trained together with the router. A stream trains the whole model in one phase.

    Args:
        model: a `GeoRegionModel`, whose scalers were fitted on the training rows, see `make_model`.
        train_dataset, eval_dataset: rows with `image`, `region`, `latitude`, `longitude`, see `as_photos`.
        regions: retrain the experts of these regions only; the others and the router stay as they are.
        The others: as transformers', see `GeoTrainer`.
    """

    phase_class = RegionPhaseTrainer
    shows_places = True
    arguments_class = RegionTrainingArguments

    def __init__(self, *args, regions: Sequence[str] | None = None, **kwargs):
        self.regions = list(regions or ())
        super().__init__(*args, **kwargs)
        if self.config.predict_heading and self.args.augment == "full":
            raise DataError(
                "augment full mirrors and turns pictures, so that they look another way: take light or none with predict_heading"
            )

    @staticmethod
    def read_rows(rows):
        """See `as_photos`."""
        return as_photos(rows)

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
        return is_stream(self.train_dataset) or (self.config.experts == "shared" and not self.regions)

    def _trains_router(self) -> bool:
        # the router's backbone also tells which way a photograph looks
        return not self.regions and (self.config.num_regions > 1 or self.config.predict_heading)

    # ---- training

    def run_phases(self, resume: bool) -> None:
        model, train = self.model, self.train_dataset
        if self.eval_dataset is None:  # what was promised of other weights does not hold for these
            model.config.routed_factor = model.config.given_factor = None
        if is_stream(train) and self.regions:
            raise DataError(
                "regions: a stream trains the whole model; give rows of these regions to retrain some"
            )
        if not is_stream(train):
            located(train, model.config.frame)
        if self._together():
            self.run_phase("all", resume=resume, default_metric="loss", **self._unused(True))
            for expert in model.experts:
                _require_own_scaler(expert)
            return
        labels = labels_of(train, model.config)
        for name in self.regions or [
            name for i, name in enumerate(model.config.regions) if (labels == i).any()
        ]:
            self._train_expert(name, labels, resume)
        if self._trains_router():
            router = model.router_module()
            whole = {"whole": model}
            self.run_phase(
                "router", router, resume=resume, default_metric="loss", extras=whole, **self._unused(False)
            )

    def _train_expert(self, name: str, labels: np.ndarray, resume: bool) -> None:
        """Train one region's expert on its own rows.

        Nothing else of the model changes, not even a batch norm's statistics. An expert without a backbone of its own
        learns from the shared one's cached features.
        """
        number = self.model.region_number(name)
        if not (labels == number).any():
            raise DataError(f"regions: no training row is of region {name}")
        expert, changes = self.model.experts[number], self._unused(False)
        rows: Any = self.train_dataset.select(np.flatnonzero(labels == number))
        checked: Any = []
        if self.eval_dataset is not None:
            mine = labels_of(self.eval_dataset, self.config) == number
            checked = self.eval_dataset.select(np.flatnonzero(mine))
        if not len(checked):  # a region too small to hold anything out: its last weights count
            changes |= {"eval_strategy": "no", "load_best_model_at_end": False}
        if expert.tower is None:
            changes["activation_checkpointing"] = None
            rows = feature_table(self.model, rows, self.args)
            checked = feature_table(self.model, checked, self.args) if len(checked) else []
        phase = f"region-{quote(name, safe='')}"
        extras = {"whole": self.model}
        self.run_phase(phase, expert, rows, checked, resume, "loss", extras, **changes)
        _require_own_scaler(expert)
        self.histories[f"region {name}"] = self.histories.pop(phase)

    def _unused(self, whole: bool) -> dict[str, Any]:
        """Only of the whole model a batch may leave an expert out."""
        asked = self.args.ddp_find_unused_parameters
        return {"ddp_find_unused_parameters": whole if asked is None else asked}

    def _calibrate(self) -> None:
        rows = self.eval_dataset
        truth = truth_of(rows, self.model.config)
        blocks = calibration_blocks(rows, truth[1], self.model.config.frame)
        calibrate(self.model.config, self.outputs(rows), *truth, router=not self.regions, blocks=blocks)

    # ---- measuring

    def outputs(self, dataset) -> RegionOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        plain = phase_arguments(self.args, "", eval_strategy="no", save_strategy="no")
        return RegionPhaseTrainer(self.model, plain).outputs(dataset)

    def measure(self, dataset, outputs: RegionOutput, prefix="eval", intervals=True) -> Evaluation:
        """See `geohf.region.metrics.measure`."""
        config, centers = self.model.config, None
        train: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None
        headings = headings_of(dataset, config)
        answers = both_answers(config, outputs, *truth_of(dataset, config), headings)
        if self.train_dataset is not None and not is_stream(self.train_dataset):
            rows = self.train_dataset
            train = labels_of(rows, config), located(rows, config.frame), headings_of(rows, config)
            centers = region_centers(config, *train[:2])
        found = measure(config, answers, train, intervals)
        table = region_table(config, answers, centers)
        return Evaluation(
            found, dataset, answers.routed, prefix, answers=answers, table=table, centers=centers
        )

    def write_outputs(self, folder: Path, evaluation: Evaluation, **options: Any) -> Mapping[str, Any]:
        """See `geohf.region.outputs.write_outputs`."""
        return write_outputs(folder, self, evaluation, **options)

    def card_data(self, evaluation: Evaluation) -> CardData:
        """See `geohf.region.card.card_data`."""
        return card_data(self, evaluation)


def _require_own_scaler(expert: RegionExpert) -> None:
    if not expert.has_own_scaler():
        raise DataError(
            f"region {expert.config.id2label[expert.number]} was trained on other rows than these: resume with the "
            "data and filters that the run began with, or begin anew without --resume_from_checkpoint"
        )
