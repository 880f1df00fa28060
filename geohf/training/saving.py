"""How a Trainer writes and reads the state of its run: without pickle, and only what is whole."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.batches import BatchesAhead
from geohf.training.checkpoints import (
    COMPLETE,
    load_tree,
    mark_complete,
    random_state,
    save_tree,
    set_random_state,
)
from geohf.vision.weights import load_tensors

logger = logging.getLogger(__name__)

OPTIMIZER, SCHEDULER, SCALER = "optimizer.safetensors", "scheduler.safetensors", "scaler.safetensors"


class SafeCheckpoints(Trainer):
    """The methods of transformers' Trainer that pickle, without it.

    A checkpoint is marked when all of it is on disk, and is never taken for another model's.
    """

    args: GeoTrainingArguments
    optimizer: Any
    lr_scheduler: Any
    model: Any  # what a phase trains: a model, a part of one, or one with adapters
    _ahead: BatchesAhead | None = None  # the collator of training, where it is no stream's

    @property
    def run_folder(self) -> Path:
        """The folder of the run, `args.output_dir`."""
        return Path(str(self.args.output_dir))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir) if output_dir else self.run_folder
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PreTrainedModel):
            # under the module's own names, by which the Trainer loads: transformers would write a ViT's older ones
            model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
        elif hasattr(model, "save_pretrained"):
            model.save_pretrained(folder, state_dict=state_dict)
        else:
            weights = {n: t.contiguous() for n, t in (state_dict or model.state_dict()).items()}
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "training_args.json").write_text(self.args.to_json_string())

    def _save_checkpoint(self, model, trial) -> None:
        self._require_finite(float(self._tr_loss))
        run = self._get_output_dir(trial=trial)
        folder = Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / COMPLETE).unlink(missing_ok=True)
        # older checkpoints are deleted only when this one is whole
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, self.state.global_step)
            if self.args.push_to_hub:
                self._push_from_checkpoint(str(folder))
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)

    @property
    def _shards_its_state(self) -> bool:
        # accelerate saves what is spread over devices
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._shards_its_state:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_tree(self.optimizer.state_dict(), Path(output_dir) / OPTIMIZER)
            save_tree(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._shards_its_state:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None and (Path(checkpoint) / OPTIMIZER).is_file():
            self.optimizer.load_state_dict(load_tree(Path(checkpoint) / OPTIMIZER))
            self.lr_scheduler.load_state_dict(load_tree(Path(checkpoint) / SCHEDULER))
        elif checkpoint is not None:
            logger.warning(
                "%s holds the weights alone (save_only_model): the optimizer and the learning rate's schedule begin anew, as in "
                "no run that was not stopped",
                checkpoint,
            )

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_tree(scaler.state_dict(), Path(output_dir) / SCALER)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / SCALER).is_file():
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint) / SCALER))

    def _random_file(self, folder: str) -> Path:
        return Path(folder) / f"random_state_{self.args.process_index}.safetensors"

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        ahead = {"batch": self._ahead.drawn_from} if self._ahead else {}
        save_tree(random_state() | ahead, self._random_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._ahead and self._ahead.resumed:
            return  # the first batch came with it, and the next one has drawn from it since
        if checkpoint is not None and self._random_file(checkpoint).is_file():
            set_random_state(load_tree(self._random_file(checkpoint)))

    def _resume_within_epoch(self, checkpoint: str) -> None:
        """Draw the batches of an epoch's rest as they would have been drawn."""
        if self.args.dataloader_num_workers:
            logger.warning(
                "%s lies within an epoch: with dataloader_num_workers what augments the rest of it draws other random "
                "numbers than a run that was not stopped",
                checkpoint,
            )
        elif self._ahead and self._random_file(checkpoint).is_file():
            state = load_tree(self._random_file(checkpoint))
            if state.get("batch"):  # not of earlier versions
                self._ahead.resumed = (state["batch"], state)

    def _load_finished(self, path: Path) -> None:
        try:
            self._require_all_weights(self.model.load_state_dict(load_tensors(path), strict=False), path)
        except SafetensorError as error:
            raise DataError(
                f"{path}: cannot be read: {error}; begin without --resume_from_checkpoint"
            ) from None
        except RuntimeError as error:  # of another shape
            raise _of_another_model(path, str(error)) from None

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise _of_another_model(resume_from_checkpoint, str(error)) from None

    def _issue_warnings_after_load(self, load_result) -> None:
        self._require_all_weights(load_result, self.args.output_dir)

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DataError(
                f"the loss is {loss} at step {self.state.global_step}: lower the learning rate, or look for bad rows; "
                f"the last whole checkpoint in {self.args.output_dir} is sound"
            )

    def _require_all_weights(self, loaded, path) -> None:
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", None) or {}
        wrong = [*(key for key in loaded.missing_keys if key not in tied), *loaded.unexpected_keys]
        if wrong:
            raise _of_another_model(path, ", ".join(wrong[:3]))


def _of_another_model(path: str | Path, what: str) -> DataError:
    return DataError(
        f"{path}: holds the weights of a model with other settings ({what}); take that run's settings again, "
        "or begin without --resume_from_checkpoint"
    )
