"""A model as a repo of the Hub: what is saved of it, and what is uploaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel

from geohf.hub.files import RUN_FILES, copy_files, measured_weights, push_folder
from geohf.vision.weights import weights_fingerprint

# what `save_pretrained(push_to_hub=True)` takes for `push_to_hub`
HUB_OPTIONS = (
    "repo_id",
    "private",
    "commit_message",
    "commit_description",
    "create_pr",
    "revision",
    "tags",
)


class ModelRepo(PreTrainedModel):
    """How every geohf model is saved and pushed: as data, without pickle, code or numbers of other weights."""

    if TYPE_CHECKING:  # transformers takes a bare annotation of `config` for the config's class
        config: Any
        processor: Any
        card_template: ClassVar[str]

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json, and push if asked to."""
        push = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        for code in ("custom_pipelines", "auto_map"):  # a repo of ours holds none
            vars(self.config).pop(code, None)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self.processor.save_pretrained(save_directory)
        if push:
            hub |= {name: kwargs[name] for name in ("token", "max_shard_size") if name in kwargs}
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    def push_to_hub(  # type: ignore[override]  # all but the repo by name; use_temp_dir and the like mean nothing here
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Upload the model, its processor and its card in one commit, without pickle and without code.

        The card, metrics, predictions and plots of the folder that the model was loaded from go along where they were
        measured with these very weights; any other model gets a card without numbers.

        Args:
            tags: added to those of the card.

        Returns:
            The commit's address.
        """
        from geohf.hub.card import write_card

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            source = self.config._name_or_path
            if source and (Path(source) / "README.md").is_file() and self._was_measured_in(Path(source)):
                copy_files(source, folder, RUN_FILES)
            else:
                write_card(folder, self.card_template, self.config, repo_id=repo_id)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
                tags=tags,
            )

    def _was_measured_in(self, folder: Path) -> bool:
        """Whether the numbers in a run's folder are those of this model's weights."""
        measured = measured_weights(folder)
        # a run that does not say what it measured: it can only have been what lies there
        if measured is None:
            try:
                measured = weights_fingerprint(type(self).from_pretrained(folder))
            except (OSError, ValueError):
                return False
        return measured == weights_fingerprint(self)
