"""How a Trainer pushes: a model repo and whole checkpoints, without pickle and without a token in any file."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from geohf.errors import DataError
from geohf.hub.card import write_card
from geohf.hub.files import MODEL_FILES, RUN_FILES, copy_files, measured_weights, push_folder, repo_files
from geohf.models.modeling import GeoPreTrainedModel
from geohf.training.checkpoints import is_complete
from geohf.training.saving import SafeCheckpoints
from geohf.vision.weights import weights_fingerprint

logger = logging.getLogger(__name__)

# all that a checkpoint needs; what FSDP and DeepSpeed pickle is not pushed
CHECKPOINT_FILES = ("*.json", "*.safetensors")


class SafePushes(SafeCheckpoints):
    """The methods of transformers' Trainer that push, as `PhaseTrainer` has them."""

    push_in_progress: Any
    hub_model_id: Any

    def create_model_card(  # type: ignore[override]  # a card of geohf's has its facts from the run
        self, folder: str | Path | None = None, tags: list[str] | None = None
    ) -> None:
        """Write the task's card into a folder, by default the run's; a `GeoTrainer`'s has the numbers of the last `evaluate`.

        Raises:
            DataError: the Trainer trains a part of a model, which has no card.
        """
        if self.is_world_process_zero():
            model = self._whole_model()
            write_card(
                Path(folder) if folder else self.run_folder,
                model.card_template,
                model.config,
                repo_id=self.hub_model_id or self.args.hub_model_id,
                tags=tags or (),
                **self._card_facts(),
            )

    def _card_facts(self) -> dict[str, Any]:
        """What a card tells beside the model, as `write_card` takes it."""
        return {}

    def push_to_hub(  # type: ignore[override]  # PreTrainedModel's keywords, not those of transformers' card
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | bool | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        commit_description: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: list[str] | None = None,
    ) -> str | Future | None:
        """Save the model into the run's folder and upload it with the task's card.

        Metrics, predictions and plots of the folder go along where they were measured with these weights.

        Args:
            blocking: False uploads in the background.
            max_shard_size: of the uploaded weights.

        Returns:
            The commit's address, a Future of it, or None on all processes but the first.

        Raises:
            DataError: the Trainer trains a part of a model.
        """
        self._whole_model()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            login: Any = token  # a bool as well, as the Hub's own functions take it
            self.init_hf_repo(token=login, private=private)
        self.save_model(_internal_call=True)  # by all processes: it may be sharded
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        stage = self._staged(max_shard_size)
        private = private if private is not None else self.args.hub_private_repo
        token = token if token is not None else self.args.hub_token
        options: dict[str, Any] = {
            "private": private,
            "token": token,
            "revision": revision or self.args.hub_revision,
            "commit_message": commit_message,
            "commit_description": commit_description,
            "create_pr": create_pr,
            "tags": [*(getattr(self.model, "model_tags", None) or ()), *(tags or ())],
        }
        if blocking:
            pushed: str | Future = _push_and_remove(stage, self.hub_model_id, **options)
        else:
            pushed = HfApi().run_as_future(_push_and_remove, stage, self.hub_model_id, **options)
        self._push_more(private, token)
        return pushed

    def _push_more(self, private: bool | None, token: str | bool | None) -> None:
        """Push what goes along with the model into repos of its own."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        checkpoint, strategy = Path(checkpoint_folder), self.args.hub_strategy
        # transformers calls this before all of it is on disk, `_save_checkpoint` once more when it is
        if not self.is_world_process_zero() or strategy == HubStrategy.END or not is_complete(checkpoint):
            return
        running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if running and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        stage = Path(tempfile.mkdtemp())  # a copy: the checkpoint may be gone before it is uploaded
        copy_files(checkpoint, stage, MODEL_FILES)
        self.create_model_card(stage)
        more: dict[str, Path] = {}
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            (stage / name).mkdir()
            copy_files(checkpoint, stage / name, CHECKPOINT_FILES)
            more = {f"{name}/{path.name}": path for path in repo_files(stage / name, CHECKPOINT_FILES)}
        job = HfApi().run_as_future(
            _push_and_warn,
            stage,
            self.hub_model_id,
            private=self.args.hub_private_repo,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            commit_message=f"Training in progress, step {self.state.global_step}",
            more=more,
        )
        jobs: Any = [*(self.push_in_progress.jobs if running else ()), job]  # annotated as one, used as many
        self.push_in_progress = PushInProgress(jobs)

    def _whole_model(self) -> GeoPreTrainedModel:
        model: Any = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters
        if not isinstance(model, GeoPreTrainedModel):
            raise DataError(
                f"this Trainer trains a {type(model).__name__}, a part of a model: push the model that it belongs to"
            )
        return model

    def _staged(self, max_shard_size: int | str | None) -> Path:
        """A copy of what a push uploads of the run's folder."""
        source, stage = self.run_folder, Path(tempfile.mkdtemp())
        model = self.accelerator.unwrap_model(self.model)
        if max_shard_size is None:
            copy_files(source, stage, MODEL_FILES)
        else:
            model.save_pretrained(stage, max_shard_size=max_shard_size)
        measured = measured_weights(source)
        if measured is not None and not self._shards_its_state and measured == weights_fingerprint(model):
            copy_files(source, stage, RUN_FILES)
        else:
            self.create_model_card(stage)
        return stage


def _push_and_remove(stage: Path, repo_id: str, **options) -> str:
    try:
        return push_folder(stage, repo_id, **options)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _push_and_warn(stage: Path, repo_id: str, **options) -> None:
    try:
        _push_and_remove(stage, repo_id, **options)
    except Exception as error:  # the Hub may be away for a while, and the run goes on
        logger.warning("%s: this checkpoint was not pushed: %s", repo_id, error)


def push_adapter(
    model: GeoPreTrainedModel,
    base: Path,
    adapter: Path,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
) -> None:
    """Push an adapter and its base as `<repo>-adapter` and `<repo>-base`, as private as the model is.

    Args:
        model: calibrated, with the adapter merged; what its config promises holds for base and adapter together.
        base: the folder of the model that the adapter belongs to.
        adapter: what peft saved.
        repo_id: of the model, with its owner.
    """
    for part, source in (("base", base), ("adapter", adapter)):
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(source, copy, dirs_exist_ok=True)
            described = Path(copy) / "adapter_config.json"
            if part == "base":
                model.config.save_pretrained(copy)
            else:
                settings = json.loads(described.read_text()) | {"base_model_name_or_path": f"{repo_id}-base"}
                described.write_text(json.dumps(settings, indent=2))
            write_card(copy, model.card_template, model.config, repo_id=f"{repo_id}-{part}")
            push_folder(copy, f"{repo_id}-{part}", private=private, token=token)
