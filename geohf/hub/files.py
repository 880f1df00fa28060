"""What a model repo is made of, and the one way in which it is uploaded."""

from __future__ import annotations

import logging
from pathlib import Path

from geohf.errors import DataError

logger = logging.getLogger(__name__)

# A model repo is data. Whatever else lies in a run's folder (checkpoints, logs, a stray pickle) stays at home.
REPO_FILES = (
    "config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "metrics.json",
    "log_history.csv",
    "*.png",
    "*.html",
    "*.geojson",
    "predictions.csv",
)


def repo_files(folder: str | Path) -> list[Path]:
    """The files of a folder that belong into a model repo (not those of its subfolders), sorted."""
    folder = Path(folder)
    return sorted({path for pattern in REPO_FILES for path in folder.glob(pattern) if path.is_file()})


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Create the repo where it does not exist and upload the folder's `repo_files` in one commit.

    The card's code loads the model from that repo then; the folder's own card stays as it is.

    Returns:
        The commit's address.

    Raises:
        DataError: the folder holds no model or no card.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = repo_files(folder)
    names = {path.name for path in files}
    if not names & {"config.json", "adapter_config.json"} or not any(
        n.endswith(".safetensors") for n in names
    ):
        raise DataError(f"{folder}: holds no model (config.json and *.safetensors)")
    if "README.md" not in names:
        raise DataError(f"{folder}: has no model card (README.md)")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.create_commit(
        repo_id,
        operations=[CommitOperationAdd(path.name, _content(path, repo_id)) for path in files],
        commit_message=commit_message or "Upload a geohf model",
        revision=revision,
        create_pr=create_pr,
    )
    logger.info("pushed %d files to %s", len(files), repo_id)
    return str(info.commit_url)


def _content(path: Path, repo_id: str) -> Path | bytes:
    if path.name != "README.md":
        return path
    from geohf.hub.card import readdressed

    return readdressed(path.read_text(encoding="utf-8"), repo_id).encode()
