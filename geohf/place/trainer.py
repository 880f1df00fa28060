"""All the training of the place task: the head on cached features, then the backbone with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from geohf.data.streaming import is_stream
from geohf.data.tables import points_of
from geohf.errors import DataError, require_choice, require_whole, require_within
from geohf.metrics.records import Evaluation
from geohf.place.answers import predictions_of
from geohf.place.arguments import METHODS, PlaceTrainingArguments
from geohf.place.audit import near_duplicates, report_leaks
from geohf.place.card import card_data
from geohf.place.choice import Choice, lowered, score
from geohf.place.confidence import SHOWN_ANSWERS, calibrate, evidence, forget_confidence
from geohf.place.drives import headings_of
from geohf.place.losses import CellClassifier
from geohf.place.metrics import measure, recall_intervals
from geohf.place.original import RandomBatches
from geohf.place.outputs import write_outputs
from geohf.place.phase import PlacePhaseTrainer, head_descriptors, head_table, make_sampler
from geohf.place.rows import join_rows, short_names
from geohf.place.searches import PlaceSearches
from geohf.place.sequences import check_options
from geohf.training.finetuning import require_finetunable
from geohf.training.settings import require_a_batch
from geohf.training.trainer import logger


class GeoPlaceTrainer(PlaceSearches):
    """Trains a place model in two phases, keeps the best one, and calibrates it.

    The phase `head` trains the head on the frozen backbone's features, which are computed once; `finetune`
    (`args.finetune`) trains as much of the backbone as is asked for with it. `args.num_train_epochs` are those of the
    last phase, `args.head_epochs` those of a head before a backbone that learns. On the queries of an `eval_dataset` the
    frozen backbone, what was trained, and either behind PCA whitening are compared, and the best one is the model
    (`kept`): training never lowers its recall@1 there. `evaluate` searches the database for its queries, and its baseline
    is the same search by the backbone's feature as it was before training.

    Args:
        model: a `GeoPlaceModel`.
        train_dataset: images with the columns of `geohf.place.data.load`, or those that `as_drives` takes. A stream
            trains in one phase, on pictures.
        eval_dataset: queries, likewise.
        standard: the other arguments of transformers' Trainer, see `GeoTrainer`.
        database: images that are searched in, likewise; the training images where None.
        validation_database: images that queries of `eval_dataset` are searched in; as `database` where None.
        sampler: gives the order of the training rows; None makes batches of places, see `PlaceSampler`.
        method: `ours`, or `original` for the reference implementation's recipe, see `geohf.place.original`, which keeps
            what it trained.
        radii_m: meters within which an answer is right, the first one counts; None: the config's `confidence_m`,
            then 25, 10 and 50.
        whitening_dim: length of whitened descriptors; 0: no whitening; None: where it helps on `eval_dataset`.
        audit: `report` warns of near-duplicates in the database, `strict` stops at them, `off` does not look.
        center, sequence_method: measure drives that answer as a whole, too, see `geohf.place.evaluation.drive_recalls`.
        abstain: the precision for which `eval_dataset` chooses the confidence below which the model abstains; None: the
            config's `abstain_precision`, if it has one.
        verify: answers of a doubtful search that local features put in order, see `geohf.place.verification`: its gate is
            learned on `eval_dataset`, and recall is measured with it, too (`verified_r1`, ...); 0: none.
        name: what tables call the model; None: as it was loaded, or its backbone.
    """

    phase_class = PlacePhaseTrainer
    arguments_class = PlaceTrainingArguments
    write_outputs, card_data = write_outputs, card_data

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        *standard,
        database=None,
        validation_database=None,
        sampler=None,
        method: str = "ours",
        radii_m: Sequence[float] | None = None,
        whitening_dim: int | None = None,
        audit: str = "report",
        center: str = "none",
        sequence_method: str | None = None,
        abstain: float | None = None,
        verify: int = 0,
        name: str | None = None,
        **kwargs,
    ):
        require_choice(METHODS, method=method)
        if args is not None and method == "original":
            args.require_places("the method original draws its batches at random")
        if args is not None and is_stream(train_dataset):
            args.require_places("a stream comes in its own order")
            if model.config.loss == "cosface":
                raise DataError("the loss cosface has classes of all training images, not of a stream")
        searched = train_dataset if database is None else database
        kwargs["database_rows"] = len(searched) if hasattr(searched, "__len__") else 0
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, *standard, **kwargs)
        self.search_in(database, validation_database)
        self._own_sampler, self.method, self.audit = sampler, method, audit
        self.radii_m = list(radii_m or dict.fromkeys([self.config.confidence_m, 25.0, 10.0, 50.0]))
        self.center, self.sequence_method = check_options(center, sequence_method)
        self.whitening_dim = whitening_dim
        self.abstain, self.verify = abstain, verify
        require_within("(0, 1]", abstain=abstain)
        require_whole(0, verify=verify)
        if eval_dataset is None and (verify or abstain is not None):
            what = "verify: its gate is learned" if abstain is None else "abstain: its threshold is chosen"
            raise DataError(f"{what} on validation queries, and there are none; give --val_csv")
        config = self.model.config
        tower = getattr(config.vision_config, "architecture", config.vision_config.model_type)
        self.name = name or self.model.name_or_path or config.backbone_name or tower
        self.runs: list[GeoPlaceTrainer] = [self]  # those that are told beside this one, see `keep_best`
        self.log_rows: list[dict] = []  # of the log of batches, see `geohf.place.logs`
        self.validation_r1: float | None = None  # the best epoch's; None without validation
        self.validation_score = -math.inf  # what chose that epoch, as large-is-better

    # ---- training

    def train(self, *args, **kwargs):
        """As `GeoTrainer.train`; afterwards the backbone is frozen again, as it is in every place model."""
        output = super().train(*args, **kwargs)
        self.model.tower.requires_grad_(False)
        return output

    def run_phases(self, resume: bool) -> None:
        train, validation, args = self.train_dataset, self.eval_dataset, self.args
        self.log_rows, self.validation_r1, self.validation_score = [], None, -math.inf
        learns, finetunes = args.epochs_of_heads > 0, args.finetunes and self.method == "ours"
        if validation is None and (is_stream(train) or learns or finetunes or self.whitening_dim):
            forget_confidence(self.model.config, "the model is trained further without validation queries")
        if is_stream(train):
            self._finetune(resume)
            return
        model, choice = self.model, Choice(self) if validation is not None else None
        if choice is not None:
            self.stages["frozen"] = self._search_frozen(validation).values
        if learns or finetunes:
            if choice is not None and self.method == "ours":
                choice.offer_untrained()
            self.whitening_dim = model.head.remove_whitening() or self.whitening_dim
        if learns:
            require_a_batch(args, len(train))
            require_finetunable(model, args, len(train))
            self._train_head(resume)
            self._offer(choice, "trained")
        if finetunes:
            self._finetune(resume)
            self._offer(choice, "fine-tuned")
        if choice is not None and choice.best is not None:
            self._keep(choice)
        elif self.whitening_dim and model.config.whitening_dim is None:
            model.head.fit_whitening(self.outputs(train), self.whitening_dim)

    def _offer(self, choice: Choice | None, name: str) -> None:
        if choice is not None:
            (choice.offer if self.method == "ours" else self.note_stage)(name)

    def _keep(self, choice: Choice) -> None:
        best = choice.take_best()
        self.kept, self.validation_r1 = best.name, best.values["r1"]
        self.validation_score = score(best.values, self)
        logger.info("kept: %s, recall@1 %.3f on validation queries", best.name, best.values["r1"])
        for name in lowered(self.stages):
            logger.warning(
                "%s: recall@1 %.3f on validation queries, below the frozen backbone's %.3f",
                *(name, self.stages[name]["r1"], self.stages["frozen"]["r1"]),
            )

    def _train_head(self, resume: bool) -> None:
        model, train, args = self.model, self.train_dataset, self.args
        if next(model.head.parameters(), None) is None:
            raise DataError(
                f"the pooling {model.config.pooling!r} without a projection has nothing to learn; --num_train_epochs "
                "0 measures it as it is"
            )
        original = self.method == "original"
        # made also where it is not used: it refuses images without pairs
        sampler = self._own_sampler or make_sampler(train, model.config, args)
        if original and self._own_sampler is None:
            sampler = RandomBatches(len(train), sampler.batch_size, args.order_seed)
        clusters_m = model.config.positive_m if original else None
        table = head_table([train], self.frozen_features(train), clusters_m)
        model.head.fit_features(table.columns["features"])
        checked = None
        if self.eval_dataset is not None:
            parts = self.database_of(self.eval_dataset), self.eval_dataset
            checked = head_table(parts, torch.cat([self.frozen_features(part) for part in parts]))
        extras = {"sampler": sampler, "classifier": self._classifier(), "radius_m": self.radii_m[0]}
        extras["database_rows"] = len(self.database_of(self.eval_dataset))
        phase = self.run_phase(
            *("head", model.head, table, checked, resume, "r1", extras),
            num_train_epochs=args.epochs_of_heads,
            activation_checkpointing=None,  # the backbone does not run
        )
        self._note_best(phase)

    def _finetune(self, resume: bool) -> None:
        train, validation, sampler = self.train_dataset, self.eval_dataset, self._own_sampler
        changes: dict[str, Any] = {}
        if sampler is None and not is_stream(train):
            sampler = make_sampler(train, self.model.config, self.args)
        extras = {"sampler": sampler, "classifier": self._classifier(), "radius_m": self.radii_m[0]}
        if validation is not None:
            database = self.database_of(validation)
            changes["evaluation"] = join_rows(database, validation)
            extras["database_rows"] = len(database)
        self._note_best(self.finetune("finetune", resume, "r1", extras=extras, **changes))

    def _classifier(self) -> CellClassifier | None:
        """The classes of the loss `cosface`, as the model sees them where a phase begins; None with another loss."""
        config, train = self.model.config, self.train_dataset
        if config.loss != "cosface" or self.method == "original":
            return None
        cells = points_of(train), headings_of(train), config.cell_m, config.heading_deg
        return CellClassifier(self.outputs(train), *cells)

    def _note_best(self, phase: PlacePhaseTrainer) -> None:
        self.log_rows += phase.clock.rows
        best = phase.best_row() if self.eval_dataset is not None else None
        if best is not None:
            self.validation_r1, self.validation_score = best.get("eval_r1"), phase.best_score()

    def _calibrate(self) -> None:
        rows = self.eval_dataset
        retrieval = self.search(rows, self._described_database(rows), self.outputs(rows))
        config = self.model.config
        config.confidence_m = self.radii_m[0]
        seen = evidence(retrieval.similarity, retrieval.answer_points, config.negative_m)
        calibrate(config, seen, retrieval.right[:, 0], self.abstain)
        if self.validation_r1 is None:  # nothing was trained that could be chosen
            self.validation_r1, self.validation_score = retrieval.values["r1"], score(retrieval.values, self)
        self.learn_gate(rows, self._described_database(rows), self.outputs(rows))

    # ---- measuring

    def outputs(self, dataset) -> torch.Tensor:
        """(n, d) descriptors of a whole dataset, on the CPU and on every process."""
        rows = self.read_rows(dataset)
        if self.frozen:
            return head_descriptors(self.model.head, self.frozen_features(rows))
        own = {"data_collator": self._of_whole_model["data_collator"], "compute_metrics": None}
        return torch.from_numpy(self.measuring(self.model, **own).predict(rows).predictions)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """As `GeoTrainer.evaluate`; the rows are queries to the database.

        A user's own `compute_metrics` gets the database's descriptors first, and then those of the queries.
        """
        if "compute_metrics" in self._given:
            queries = self.eval_dataset if eval_dataset is None else self.read_rows(eval_dataset)
            eval_dataset = join_rows(self.database_of(queries), queries)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def measure(self, dataset, outputs: torch.Tensor, prefix="eval", intervals=True) -> Evaluation:
        """See `geohf.place.metrics.measure`; without `intervals` also without the baseline and the answers."""
        rows, database = self.read_rows(dataset), self.database_of(dataset)
        retrieval = self.search(dataset, self._described_database(dataset), outputs)
        if not intervals:
            return Evaluation(measure(retrieval), dataset, [], prefix, retrieval=retrieval)
        baseline = self._search_frozen(dataset)
        self._note_certainty(retrieval, self.model.config)
        retrieval.values |= self.verified_recalls(dataset, self._described_database(dataset), outputs)
        self._note_certainty(baseline)
        duplicates = [] if self.audit == "off" else near_duplicates(baseline.similarity[:, 0])
        report_leaks(duplicates, strict=self.audit == "strict")
        told = points_of(database), points_of(rows), np.array(rows["sequence"][:]), list(rows["time_ns"][:])
        others = [part for part in (self.train_dataset, self.eval_dataset) if hasattr(part, "__len__")]
        names, database_names, *_ = short_names(rows, database, *others)
        answers = slice(SHOWN_ANSWERS)
        return Evaluation(
            measure(retrieval, baseline, recall_intervals(retrieval, *told)),
            dataset,
            predictions_of(
                outputs.numpy(),
                retrieval.similarity[:, answers],
                retrieval.ranked[:, answers],
                points_of(database),
                database_names,
                self.model.config,
            ),
            prefix,
            retrieval=retrieval,
            frozen=baseline,
            names=names,
            database_names=database_names,
            database_descriptors=self._described_database(dataset),
            duplicates=duplicates,
        )
