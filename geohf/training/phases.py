"""One phase of a run: train it, go on with it, or see that it is done; and its best evaluation."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from geohf.errors import DataError
from geohf.io import atomic_path, atomic_write
from geohf.metrics.directions import LOSS, MetricInfo, bare_name, find_metric, not_measured, wrong_direction
from geohf.training.averaging import AveragedWeights
from geohf.training.checkpoints import last_complete_checkpoint
from geohf.training.record import differences, goal_words, is_longer, record_of

logger = logging.getLogger(__name__)

FINISHED, RECORD = "finished.safetensors", "run.json"


class Phases(AveragedWeights):
    """What `PhaseTrainer` has beyond transformers' `train`: resumed runs, and the metric that chooses the best weights."""

    def run(self, resume: bool = False) -> None:
        """Train to the end; with `resume`, go on from the last whole checkpoint, or take the finished weights.

        A finished run is trained on where only `num_train_epochs` or `max_steps` grew. Without `resume` what an earlier run
        left in this folder is removed first.

        Raises:
            DataError: `resume`, and the run had other settings, data or starting weights.
        """
        folder = self.run_folder
        record = record_of(self.args, self.model, self.train_dataset, self.run_settings())
        finished = folder / FINISHED
        checkpoint = last_complete_checkpoint(folder) if resume else None
        done = resume and finished.is_file()
        longer = resume and self._goes_on(folder, record, checkpoint)
        self.accelerator.wait_for_everyone()
        if done and not longer:
            self._move_model_to_device(self.model, self.args.device)
            self._load_finished(finished)
            self.state.log_history = json.loads((folder / "log_history.json").read_text())
            logger.info("%s: finished already, after %s", folder.name, goal_words(record))
            return
        if done and checkpoint is None:
            raise DataError(
                f"{folder}: is finished, and left no checkpoint from which it could be trained on"
            )
        if self.is_world_process_zero():
            self._begin(folder, record, anew=not resume)
        self.accelerator.wait_for_everyone()
        self.train(resume_from_checkpoint=checkpoint)
        weights = self.accelerator.get_state_dict(self.model_wrapped)  # by all processes: it may be sharded
        if self.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "log_history.json").write_text(json.dumps(self.state.log_history))
            with atomic_path(finished) as temporary:
                save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, temporary)
        self.accelerator.wait_for_everyone()

    def run_settings(self) -> Mapping:
        """What else than its arguments a run must have kept to be gone on with."""
        return {}

    @staticmethod
    def _begin(folder: Path, record: Mapping, anew: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FINISHED).unlink(missing_ok=True)  # before its record, which may have another goal
        if anew:
            for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
        with atomic_write(folder / RECORD) as file:
            json.dump(record, file)

    @staticmethod
    def _goes_on(folder: Path, record: Mapping, checkpoint: str | None) -> bool:
        """Whether the run in this folder, if there is one, is this one and has farther to go than it went."""
        done, path = (folder / FINISHED).is_file(), folder / RECORD
        if not done and checkpoint is None:
            return False
        anew = "begin anew without --resume_from_checkpoint"
        if not path.is_file():
            raise DataError(f"{folder}: does not say what it was trained with; {anew}")
        earlier = json.loads(path.read_text())
        changed, longer = differences(earlier, record), is_longer(earlier, record)
        if longer is None:
            changed.insert(0, f"it was to take {goal_words(earlier)}, now {goal_words(record)}")
        if changed:
            state = f"is finished, after {goal_words(earlier)}" if done else "was begun"
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise DataError(
                f"{folder}: this run {state} with other settings: {'; '.join(changed[:5])}{more}; take those again, "
                f"or {anew}"
            )
        return bool(longer)

    # ---- the metric that chooses

    def measured(self) -> Mapping[str, MetricInfo]:
        """The metrics that an evaluation of this Trainer logs."""
        return self.args.metrics

    @property
    def _measures_its_own(self) -> bool:
        return self.compute_metrics in (None, getattr(self, "_metrics", None))

    def _settle_metric(self) -> None:
        """See that the metric that chooses is measured, and that its direction is its own."""
        args, name, own = self.args, self.args.metric_for_best_model, self._measures_its_own
        if name is None:
            return
        table = self.measured() if self.compute_metrics is not None else LOSS
        if isinstance(self.eval_dataset, dict):
            table = {f"{part}_{metric}": table[metric] for part in self.eval_dataset for metric in table}
        metric = find_metric(name, table) if own or bare_name(name) == "loss" else None
        if own and metric is None and self.eval_dataset is not None and args.eval_strategy != "no":
            raise DataError(not_measured(name, table))
        if metric is not None and args.greater_is_better != metric.greater_is_better:
            if args.greater_is_better is not None:
                logger.warning("%s", wrong_direction(name, metric))
            args.greater_is_better = metric.greater_is_better

    def hyperparameter_search(  # type: ignore[override]  # the direction is the metric's own
        self, hp_space=None, compute_objective=None, n_trials: int = 20, direction=None, **kwargs
    ):
        """As transformers', by `metric_for_best_model` in its own direction, where no `compute_objective` is given.

        Raises:
            DataError: neither says what trials are compared by; a direction that the metric does not have.
        """
        name = self.args.asked_metric
        if compute_objective is None:
            if name is None:
                raise DataError(
                    "hyperparameter_search would compare trials by the sum of all metrics: say metric_for_best_model in the "
                    "arguments, or give compute_objective and direction"
                )
            own = "maximize" if self.args.greater_is_better else "minimize"
            if direction not in (None, own):
                raise DataError(f"{name} is to be {own}d: leave direction out, it is known")
            direction = own
            compute_objective = partial(_value_of, name)
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction or "minimize", **kwargs
        )

    def best_row(self) -> dict | None:
        """The log's row of the best evaluation by the metric that chooses checkpoints; None before any.

        Raises:
            DataError: there are evaluations, and none of them has the metric.
        """
        name = f"eval_{bare_name(self.args.metric_for_best_model or 'loss')}"
        # what `eval_on_start` sees are no checkpoint's weights
        rows = [row for row in self.state.log_history if row.get("step") != 0]
        evaluated = [row for row in rows if any(key.startswith("eval_") for key in row)]
        if evaluated and not any(name in row for row in evaluated):
            raise DataError(not_measured(bare_name(name), [*map(bare_name, evaluated[-1])]))
        known = [row for row in evaluated if math.isfinite(row.get(name, math.nan))]
        choose = max if self.args.greater_is_better else min
        return choose(known, key=lambda row: row[name]) if known else None

    def best_score(self) -> float:
        """The best value of the metric that chooses checkpoints, as large-is-better; -inf before any evaluation."""
        row = self.best_row()
        if row is None:
            return -math.inf
        value = _value_of(self.args.metric_for_best_model or "loss", row)
        return value if self.args.greater_is_better else -value

    def _determine_best_metric(self, metrics, trial):
        name = self.args.metric_for_best_model
        if name is not None and math.isnan(metrics.get(f"eval_{bare_name(name)}", 0.0)):
            logger.warning("%s is not a number at step %d, and chooses nothing", name, self.state.global_step)
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise DataError(error.args[0]) from None


def _value_of(name: str, metrics: Mapping[str, float]) -> float:
    if f"eval_{bare_name(name)}" not in metrics:
        raise DataError(not_measured(name, [*map(bare_name, metrics)]))
    return metrics[f"eval_{bare_name(name)}"]
