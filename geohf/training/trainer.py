"""A Trainer that does all the training of a task: its phases, the choice between them, and the calibration."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, ClassVar

from transformers import EarlyStoppingCallback, enable_full_determinism, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import HubStrategy, TrainOutput

from geohf.data.rows import require_rows
from geohf.data.splits import warn_of_shared_places
from geohf.data.streaming import is_stream
from geohf.data.task_data import facts_of
from geohf.errors import DataError, listed
from geohf.metrics.records import CardData, Evaluation
from geohf.training.checkpoints import last_complete_checkpoint
from geohf.training.phase_runs import RunsPhases
from geohf.training.pushing import push_adapter
from geohf.training.report import write_report
from geohf.training.settings import own_arguments

logger = logging.getLogger(__name__)

# of rows that say nothing of where they come from
UNKNOWN_DATA = {"name": "own data", "generated": False, "dataset": None, "split": "as given to the Trainer"}


def _no_outputs(trainer: GeoTrainer, *given: Any, **options: Any) -> Mapping[str, Any]:
    return {}


def _no_card(trainer: GeoTrainer, evaluation: Evaluation) -> CardData:
    raise TypeError(f"{type(trainer).__name__} does not say what its card tells")


class GeoTrainer(RunsPhases):
    """transformers' Trainer, whose `train()` is all the training of a task.

    ```python
    trainer = GeoStreetTrainer(model, args, train_dataset=train, eval_dataset=validation)
    trainer.train()          # every phase, the better one kept, calibrated on `eval_dataset`
    trainer.evaluate(test)   # numbers with intervals, and the baseline's
    trainer.push_to_hub()    # with geohf's card
    ```

    Each phase is a loop of its own, with `compute_metrics`, `callbacks` and `optimizers` as they were given here;
    its checkpoints lie in `output_dir/checkpoints/<phase>`.

    Args:
        standard: `model` to `optimizers`, as transformers', but `eval_dataset` is one dataset. Without it the last weights
            are the model, and nothing is calibrated.
        train_labels: of a `train_dataset` that is a stream the rows without pictures, if they are known: they tell the
            constant baseline, and how many there are.
    """

    # rows are photographs of places: one that training shows, too, says little of places that nobody has seen
    shows_places: ClassVar[bool] = False
    # (trainer, folder, evaluation, ...) -> what metrics.json tells beside the numbers; writes what a person looks at
    write_outputs: Callable[..., Mapping[str, Any]] = _no_outputs
    # (trainer, evaluation) -> what the card says of these numbers
    card_data: Callable[..., CardData] = _no_card

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        model_init=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        train_labels=None,
        **extras,
    ):
        if isinstance(eval_dataset, dict):
            raise DataError(
                f"eval_dataset holds several sets ({listed(eval_dataset)}), and weights are chosen and calibrated on one: "
                "give that one here, and the others to `evaluate`"
            )
        if eval_dataset is None and args is not None:  # what evaluates by default need not be switched off
            args = copy.copy(own_arguments(args, self.arguments_class, evaluates=False))
            args.eval_strategy, args.load_best_model_at_end = "no", False
        self._require_own_loop()
        if compute_metrics is not None:  # else the task's
            extras["compute_metrics"] = compute_metrics
        rows = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        rows = {what: self._read_rows(given, what) for what, given in rows.items()}
        extras |= {"processing_class": processing_class, "model_init": model_init, "callbacks": callbacks}
        super().__init__(model, args, data_collator, **rows, optimizers=optimizers, **extras)
        given = callbacks or []
        callbacks = self.callback_handler.callbacks
        self._own_callbacks = [one for one in callbacks if one not in given and type(one) not in given]
        for callback in self._own_callbacks:
            if isinstance(callback, EarlyStoppingCallback):  # the phases stop, each by its own
                self.remove_callback(callback)
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # no training begins here, which would say so, and the numbers of `evaluate` would lie in the current folder
                callback.logging_dir = str(self.run_folder / "runs")
        self._training, self._validation = train_dataset, eval_dataset  # as the user knows them
        self._train_labels = train_labels
        # what a user gave for the model does not fit a head alone
        self._of_whole_model = {"data_collator": data_collator, "optimizers": optimizers}
        self.histories = {}
        # before and after each phase: the numbers on eval_dataset
        self.stages: dict[str, dict[str, float]] = {}
        self.kept: str | None = None  # the phase whose weights the model has, where there was a choice
        self.evaluated: Evaluation | None = None  # the last numbers of the model as it is
        self.reported: Evaluation | None = None  # the numbers whose report lies in `output_dir`
        self.frozen, self.adapter_of, self._held = True, None, []

    # ---- what a task fills in

    @staticmethod
    def read_rows(rows: Any) -> Any:
        """A user's rows in the task's columns: a torch `Dataset` or a list of dicts becomes a `RowView`."""
        return rows

    def run_phases(self, resume: bool) -> None:
        """Run the phases, and leave the weights to keep in `self.model`."""
        self.run_phase("train", resume=resume)

    def _calibrate(self) -> None:
        """Fit on `eval_dataset` what the config promises: temperatures, radii, margins."""

    def _forget_calibration(self) -> None:
        """Take back what was fitted on the weights of an earlier training: nothing fits these."""

    def outputs(self, dataset) -> Any:
        """The model's outputs on a whole dataset, on the CPU and on every process."""
        raise TypeError(f"{type(self).__name__} does not say what its outputs are")

    def measure(self, dataset, outputs, prefix: str = "eval", intervals: bool = True) -> Evaluation:
        """The numbers of outputs on a dataset with labels, with intervals and the constant baseline's."""
        raise TypeError(f"{type(self).__name__} does not say how its outputs are measured")

    @property
    def train_rows(self) -> Any:
        """The training rows, for what their labels tell: of a stream those that it came with, or None."""
        return self._train_labels if is_stream(self.train_dataset) else self.train_dataset

    # ---- training

    def _read_rows(self, rows: Any, what: str) -> Any:
        if rows is not None and not is_stream(rows):
            require_rows(rows, what)
        return self.read_rows(rows)

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None) -> TrainOutput:
        """Run every phase, keep the better one, and calibrate.

        Args:
            resume_from_checkpoint: True goes on from each phase's last whole checkpoint, and takes what is finished as it
                is; None: as the arguments say.

        Raises:
            DataError: there is nothing to train on, or the rows cannot be used.
        """
        args = self.args
        if self.train_dataset is None:
            raise DataError("there is nothing to train on: give the Trainer a train_dataset")
        if isinstance(self.train_dataset, Sized) and not len(self.train_dataset):
            raise DataError("there is nothing to train on: the train_dataset holds no row")
        if isinstance(self.eval_dataset, Sized) and not len(self.eval_dataset):
            raise DataError("the eval_dataset holds no row to choose and calibrate on: leave it out")
        if self.model_init is not None:
            (enable_full_determinism if args.full_determinism else set_seed)(args.seed)
            self._take(self.call_model_init(trial))
            self._hp_search_setup(trial)
        if self.shows_places:
            warn_of_shared_places(self.eval_dataset, self.train_rows)
        resume = args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        self.histories, self.stages, self.kept, self.evaluated = {}, {}, None, None
        self.frozen, self.adapter_of = True, None  # by the model as it is now
        self._hold_frozen()
        self.run_phases(_own_run(resume, self.run_folder))
        self._release()
        self.model.eval()
        if self.eval_dataset is not None:
            self._calibrate()
        else:
            self._forget_calibration()
            logger.info("there is no eval_dataset: the last weights are the model, and nothing is calibrated")
        self.state.log_history = phase_history(**self.histories)
        self.state.global_step = max((int(row["step"]) for row in self.state.log_history), default=0)
        if self.args.push_to_hub and self.args.hub_strategy != HubStrategy.END:
            try:
                self.push_to_hub(commit_message="Trained")
            except OSError as error:  # the Hub may be away for a while, and what was trained stays
                logger.warning("%s: the trained model was not pushed: %s", self.args.hub_model_id, error)
        losses = (row["train_loss"] for row in reversed(self.state.log_history) if "train_loss" in row)
        return TrainOutput(self.state.global_step, next(losses, float("nan")), {})

    # ---- measuring

    def note_stage(self, name: str) -> None:
        """Keep the numbers of the model as it is now on `eval_dataset`, for the card."""
        if self.eval_dataset is not None:
            rows = self.eval_dataset
            self.stages[name] = self.measure(rows, self.outputs(rows), intervals=False).values_by_name

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """The task's numbers on a dataset with labels.

        Args:
            eval_dataset: rows like those of training; `self.eval_dataset` where None.

        Returns:
            An `Evaluation`: transformers' dict of numbers, with intervals, the baseline's numbers and the answers. With
            several datasets, a user's own `compute_metrics` or a stream: the dict that transformers gives.
        """
        if eval_dataset is None or eval_dataset is self._validation:
            dataset = self.eval_dataset
        elif eval_dataset is self._training or eval_dataset is self.train_dataset:
            dataset = self.train_dataset
        elif isinstance(eval_dataset, (dict, str)):
            dataset = eval_dataset
        else:
            dataset = self._read_rows(eval_dataset, "eval_dataset")
        if isinstance(dataset, dict) or "compute_metrics" in self._given or not hasattr(dataset, "__len__"):
            return super().evaluate(None if eval_dataset is None else dataset, ignore_keys, metric_key_prefix)
        if self.shows_places and dataset is not self.eval_dataset:
            warn_of_shared_places(dataset, self.train_rows)
        self.evaluated = self.measure(dataset, self.outputs(dataset), metric_key_prefix)
        self.log(dict(self.evaluated))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, dict(self.evaluated)
        )
        return self.evaluated

    # ---- the Hub

    def push_to_hub(self, *args, **kwargs):
        """As `PhaseTrainer.push_to_hub`, with the report of the last `evaluate`; a kept adapter goes into a repo of its own."""
        if self.evaluated is not None and self.reported is not self.evaluated:
            write_report(self, self.evaluated)
        return super().push_to_hub(*args, **kwargs)

    def _push_more(self, private: bool | None, token: str | bool | None) -> None:
        if self.adapter_of is not None:
            folders = self.base_folder(self.adapter_of), self.run_folder / "adapter"
            push_adapter(self.model, *folders, self.hub_model_id, private, token)

    # ---- what the card says

    def _card_facts(self) -> dict[str, Any]:
        evaluation = self.evaluated
        if evaluation is None:
            return {}
        facts = self.card_data(evaluation)
        return {"metrics": evaluation.numbers, "titles": facts.titles, "data": facts.data, **facts.context}

    def data_facts(self, evaluation: Evaluation, unit: str) -> dict[str, Any]:
        """The facts of the data that every card tells, see `model_cards/card.md`; `unit` is what its rows are."""
        on_validation = any(evaluation.dataset is rows for rows in (self.eval_dataset, self._validation))
        same = on_validation and self._validation is self._training
        trained = same or evaluation.dataset is self.train_dataset
        held_out = "train" if trained else "validation" if on_validation else "test"
        facts: dict[str, Any] = UNKNOWN_DATA | {"split_name": held_out}
        facts |= facts_of(evaluation.dataset)
        parts = {"train": self.train_rows, "validation": self.eval_dataset}
        parts[facts["split_name"]] = evaluation.dataset
        counts = {name: len(part) for name, part in parts.items() if hasattr(part, "__len__")}
        return facts | {
            "rows": f"{', '.join(f'{count} {name}' for name, count in counts.items())} {unit}",
            "counts": counts,
            "unit": unit,
            "measured": len(evaluation.dataset),
            "seed": self.args.seed,
            "validation": self.eval_dataset is not None,
            "chosen_on_held_out": facts["split_name"] == "validation" or "chosen_on_held_out" in facts,
            "trained_on_held_out": trained or "trained_on_held_out" in facts,
            "baseline": "constant baseline",
        }

    def stage_rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """A row before and after each phase with the numbers on validation rows, for the card's table."""
        return rows_of_numbers(self.stages, columns)


def rows_of_numbers(numbers: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A table's row for each name, with those of its numbers that are in these columns."""
    return [{"": name} | {key: own[key] for key in columns if key in own} for name, own in numbers.items()]


def _own_run(resume: bool | str | None, folder: Path) -> bool:
    """Whether to go on with the run in a folder; DataError for another run's checkpoint, or one that is not the last."""
    if not isinstance(resume, str) or resume.lower() in ("true", "false"):
        return str(resume).lower() == "true"
    path, own = Path(resume).resolve(), folder.resolve()
    if path != own and own not in path.parents:
        raise DataError(
            f"resume_from_checkpoint {resume}: a run goes on in its own output_dir; give --output_dir {resume} and "
            "--resume_from_checkpoint true"
        )
    if path != own and path.name.startswith("checkpoint-"):  # a folder of them stands for the last
        last = last_complete_checkpoint(path.parent)
        if last is None:
            raise DataError(
                f"resume_from_checkpoint {resume}: is no whole checkpoint; say true, or leave it out"
            )
        if last != str(path):
            raise DataError(
                f"resume_from_checkpoint {resume}: a run goes on from the last whole checkpoint of each phase, here "
                f"{last}; say true, or delete those after the one to go on from"
            )
    return True


def phase_history(**phases: Sequence[Mapping]) -> list[dict]:
    """The log rows of several phases as one list, each with its phase, steps counted through."""
    rows: list[dict] = []
    offset = 0
    for phase, history in phases.items():
        rows += [{"phase": phase, **row, "step": row.get("step", 0) + offset} for row in history]
        offset = rows[-1]["step"] if rows else 0
    return rows
