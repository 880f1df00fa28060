"""What a model repo is made of, and the one way in which it is uploaded."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from geohf.errors import DataError

logger = logging.getLogger(__name__)

# A model repo is data. Whatever else lies in a run's folder (checkpoints, logs, a stray pickle) is not pushed.
MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    "model*.safetensors",  # not finished.safetensors, nor an optimizer's state
    "adapter_model*.safetensors",
    "model.safetensors.index*.json",
)
ANSWERS = ("map.html", "predictions.geojson", "predictions.csv")
RUN_FILES = (
    "README.md",
    "metrics.json",
    "log_history.csv",
    "*.png",  # of these, what the card shows
    *ANSWERS,  # not those about somebody's photographs, which `geohf predict` may have left here
)
# of the model that a run has measured, in its metrics.json
MEASURED_WEIGHTS = "weights_fingerprint"


def repo_files(folder: str | Path, patterns: Sequence[str] = (*MODEL_FILES, *RUN_FILES)) -> list[Path]:
    """The files of a folder that belong into a model repo (not those of its subfolders), sorted.

    A picture belongs there where the card names it: another one may be somebody's photograph.
    """
    folder = Path(folder)
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    card = folder / "README.md"
    shown = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    # by its whole name, not by one that ends or begins so
    named = {path for path in files if re.search(rf"(?<![\w.-]){re.escape(path.name)}(?![\w-])", shown)}
    return sorted(path for path in files if path.suffix != ".png" or path in named)


def copy_files(source: str | Path, target: str | Path, patterns: Sequence[str]) -> None:
    """Copy a folder's `repo_files` of these patterns to another folder."""
    for path in repo_files(source, patterns):
        shutil.copy(path, target)


def measured_weights(folder: str | Path) -> str | None:
    """The fingerprint of the weights that a folder's metrics.json was measured with; None where it does not say."""
    try:
        return json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8")).get(MEASURED_WEIGHTS)
    except (OSError, ValueError, AttributeError):
        return None


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] | None = None,
    more: Mapping[str, Path] | None = None,
) -> str:
    """Create the repo where it does not exist, upload the folder's `repo_files` in one commit, and give its address.

    The card's code loads the model from that repo then; the folder's own card stays as it is.

    Args:
        tags: added to those of the card.
        more: further files, by their path in the repo.

    Raises:
        DataError: the folder holds no model or no card.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = repo_files(folder)
    names = {path.name for path in files}
    weights = any(name.endswith(".safetensors") for name in names)
    if not weights or not names & {"config.json", "adapter_config.json"}:
        raise DataError(f"{folder}: holds no model (config.json and *.safetensors)")
    if "README.md" not in names:
        raise DataError(f"{folder}: has no model card (README.md)")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    contents = {path.name: _content(path, repo_id, tags) for path in files} | dict(more or {})
    info = api.create_commit(
        repo_id,
        operations=[CommitOperationAdd(name, content) for name, content in contents.items()],
        commit_message=commit_message or "Upload a geohf model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )
    logger.info("pushed %d files to %s", len(contents), repo_id)
    return str(info.commit_url)


def _content(path: Path, repo_id: str, tags: Sequence[str] | None) -> Path | bytes:
    if path.name == "adapter_config.json":
        adapter = json.loads(path.read_text(encoding="utf-8"))
        base = adapter.get("base_model_name_or_path")
        if base and Path(base).exists():  # a machine's folders are nobody's business
            adapter["base_model_name_or_path"] = Path(base).resolve().name
            return json.dumps(adapter, indent=2).encode()
    if path.name != "README.md":
        return path
    from geohf.hub.card import readdressed, tagged

    return tagged(readdressed(path.read_text(encoding="utf-8"), repo_id), tags or ()).encode()
