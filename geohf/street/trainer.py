"""All the training of the street task: the heads on cached features, then the backbone with them."""

from __future__ import annotations

import math
import os

from geohf.data.splits import calibration_blocks
from geohf.data.streaming import is_stream
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.metrics.records import Evaluation
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.card import card_data
from geohf.street.classes import labels_of, without_strange_states
from geohf.street.features import feature_table, fused_features, head_outputs
from geohf.street.head import GeoStreetOutput
from geohf.street.levels import Levels, levels_of
from geohf.street.metrics import measure
from geohf.street.outputs import write_outputs
from geohf.street.phase import StreetPhaseTrainer, best_metric, calibrate, enough_steps, forget_calibration
from geohf.street.places import as_places, headings_of
from geohf.street.refining import forget_refinement, rank, refine
from geohf.training.finetuning import require_finetunable
from geohf.training.settings import require_a_batch
from geohf.training.trainer import GeoTrainer, logger


class GeoStreetTrainer(GeoTrainer, StreetPhaseTrainer):
    """Trains a street model in two phases, keeps the better one, and calibrates it.

    Phase 1 trains the heads on the frozen backbone's features, which are computed once; phase 2 (`args.finetune`) trains
    as much of the backbone as is asked for with them. `args.num_train_epochs` are those of the last phase,
    `args.head_epochs` those of heads before a backbone that learns.

    Args:
        model: a `GeoStreetModel`.
        train_dataset, eval_dataset: rows with the columns of `geohf.street.data.load`. A stream trains the whole
            model in one phase.
        levels: a table of towns or a GeoJSON: `evaluate` tells the share of points in the right country, region,
            sub-region and city, too; see `geohf.street.levels.levels_of`.
        The others: as transformers', see `GeoTrainer`.
    """

    phase_class = StreetPhaseTrainer
    shows_places = True
    arguments_class = StreetTrainingArguments
    read_rows = staticmethod(as_places)
    write_outputs, card_data = write_outputs, card_data

    def __init__(self, *args, levels: str | os.PathLike | Levels | None = None, **kwargs):
        self.levels = None if levels is None else levels_of(levels)
        super().__init__(*args, **kwargs)

    def run_phases(self, resume: bool) -> None:
        config = self.model.config
        if config.keeps_places and is_stream(self.train_dataset):
            raise DataError("refine and rank need the training places at hand, not a stream of them")
        forget_refinement(self.model)
        self._run_phases(resume)
        self._refine()

    def _run_phases(self, resume: bool) -> None:
        train, validation, args = self.train_dataset, self.eval_dataset, self.args
        if validation is not None:
            validation = self.eval_dataset = without_strange_states(validation, self.config, "validation")
        if is_stream(train):
            self.finetune("phase2", resume)
            return
        require_a_batch(args, len(train), args.head_batch_size)
        if args.finetunes:
            require_finetunable(self.model, args, len(train))
        best = best_metric(self.model, validation, args, "compute_metrics" in self._given)
        self.note_stage("before training")
        first = self._train_heads(resume, best)
        if first is not None:
            self.note_stage("after phase 1")
        if not args.finetunes:
            return
        learned = -math.inf if validation is None else self.score_after(first, self.model, validation, best)
        second = self.finetune("phase2", resume, best)
        self.note_stage("after phase 2")
        self.kept = "phase 2"
        if validation is not None and self.score_after(second, self.model, validation, best) < learned:
            self.restore("phase2")
            self.kept = "phase 1"
            logger.info("phase 2 did not beat phase 1 on validation places: the model of phase 1 is kept")

    def _train_heads(self, resume: bool, best: str | None) -> StreetPhaseTrainer | None:
        """Train the heads on the frozen backbone's cached features; None where that has no epochs."""
        model, args, validation = self.model, self.args, self.eval_dataset
        model.tower.to(args.device)
        table = feature_table(model, self.train_dataset, args)
        if args.epochs_of_heads == 0:
            return None
        model.head.standardize.fit(table.columns["features"][table.columns["view_mask"]])
        return self.run_phase(
            "phase1",
            model.head,
            table,
            None if validation is None else feature_table(model, validation, args),
            resume,
            best,
            num_train_epochs=args.epochs_of_heads,
            per_device_train_batch_size=args.head_batch_size,
            per_device_eval_batch_size=max(256, args.head_batch_size),
            gradient_accumulation_steps=1,
            activation_checkpointing=None,  # the backbone does not run
            **enough_steps(len(table), args),
        )

    def _refine(self) -> None:
        """Prototypes and a ranker by the training places, in the features of the weights that were kept."""
        model, rows, validation = self.model, self.train_dataset, self.eval_dataset
        if not model.config.keeps_places:
            return
        table = feature_table(model, rows, self.args)
        checked = None if validation is None else (self.outputs(validation), points_of(validation))
        # by the probabilities that they will see
        self._forget_calibration() if validation is None else self._calibrate()
        if model.config.refine:
            places = fused_features(model.head, table)
            refine(model.cpu(), (places, labels_of(rows, model.config), points_of(rows)), checked)
        if model.config.rank:
            rank(model.cpu(), table, checked)
        model.to(self.args.device)

    def _forget_calibration(self) -> None:
        forget_calibration(self.model.config)

    def _calibrate(self) -> None:
        rows = self.eval_dataset
        points = points_of(rows)
        blocks = calibration_blocks(rows, points)
        calibrate(self.model, self.outputs(rows), labels_of(rows, self.model.config), points, blocks)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """As `GeoTrainer.evaluate`; places of states that the model does not know count for the distance alone."""
        # the card shall know the user's validation and training rows again
        mine = eval_dataset is None or eval_dataset is self._validation
        rows = self.train_dataset if eval_dataset is self._training else eval_dataset
        rows = self.eval_dataset if mine else rows
        if rows is None or isinstance(rows, (str, dict)):
            return super().evaluate(eval_dataset, *args, **kwargs)
        rows = rows if mine else as_places(rows)
        if hasattr(rows, "__len__"):
            rows = without_strange_states(rows, self.config, "evaluated")
        if mine:
            self.eval_dataset = rows
        return super().evaluate(eval_dataset if mine else rows, *args, **kwargs)

    def outputs(self, dataset) -> GeoStreetOutput:
        """The model's outputs on a whole dataset, on the CPU and on every process; of a frozen backbone by its cached features."""
        if self.frozen:
            return head_outputs(self.model.head, feature_table(self.model, dataset, self.args))
        return self.measuring(self.model).outputs(dataset)

    def measure(self, dataset, outputs: GeoStreetOutput, prefix="eval", intervals=True) -> Evaluation:
        """See `geohf.street.metrics.measure`."""
        labels, truth = labels_of(dataset, self.model.config), points_of(dataset)
        answers = self.model.decode(outputs)
        config, train, rows = self.model.config, None, self.train_rows
        if rows is not None:
            train = labels_of(rows, config), points_of(rows), headings_of(rows, config.max_views)
        headings = headings_of(dataset, config.max_views)
        metrics = measure(config, outputs, answers, labels, truth, train, intervals, headings, self.levels)
        return Evaluation(metrics, dataset, answers, prefix, outputs=outputs, labels=labels, truth=truth)
