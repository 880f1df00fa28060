"""The files of a backbone: in a folder of the user's, or fetched from the Hub; and the tensors in them."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from geohf.errors import DataError
from geohf.vision.weights import load_tensors

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
# under which training programs put a state dict
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
HUB_SECONDS = 5  # for a sign of life


def hub_files(name: str, files: Sequence[str], known: Sequence[str] = ()) -> Path | None:
    """Fetch what a repo of the Hub has of these files, from the cache where the Hub cannot be reached.

    Args:
        known: names that are no repos, to suggest near ones.

    Returns:
        The folder that they lie in; None where the repo has none of them.

    Raises:
        DataError: there is no such repo, or it can neither be reached nor was it downloaded before.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

    reached, folder = hub_is_reached(), None
    for file in files:
        try:
            folder = Path(hf_hub_download(name, file, local_files_only=not reached)).parent
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            if reached:
                raise DataError(_unreached(name, known)) from None
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"no backbone {name!r}: neither timm nor the Hub knows it{_near(name, known)}: {reason}"
            ) from None
        except Exception as error:  # what the client's transport raises where the Hub stops halfway
            raise DataError(f"{name}: {file} cannot be fetched, the Hub broke off: {error}") from None
    if folder is None and not reached:
        raise DataError(_unreached(name, known))
    return folder


def hub_is_reached() -> bool:
    """Whether the Hub answers at all, within seconds; False where HF_HUB_OFFLINE forbids to ask."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # whatever the client's transport raises
        return False
    return True


def _unreached(name: str, known: Sequence[str]) -> str:
    return (
        f"backbone {name!r}: the Hub cannot be reached, and it was not downloaded before{_near(name, known)}; give a "
        "folder that holds it, or a timm name with --pretrained false for random weights; HF_HUB_OFFLINE=1 takes "
        "what was downloaded without asking"
    )


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.rpartition("/")[2].split(".")[0], known, n=3)
    return f" (timm has {', '.join(close)})" if close else ""


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of a model's folder, all parts of them; safetensors where there are both.

    Raises:
        DataError: there are none, or a part is missing.
    """
    for file in (folder / name for name in WEIGHT_FILES):
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        parts = [folder / part for part in _parts_named(file)]
        absent = [part.name for part in parts if not part.is_file()]
        if absent:
            raise DataError(f"{folder}: lacks {', '.join(absent)}, which {file.name} names")
        return parts
    others = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", *PICKLED))
    if len(others) == 1:
        return others
    held = f"; it holds {', '.join(file.name for file in others)}" if others else ""
    raise DataError(f"{folder}: the weights cannot be loaded: it has no model.safetensors{held}")


def _parts_named(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


def hub_weights(name: str, filename: str | None = None) -> Path:
    """A folder that holds the weights of a repo of the Hub."""
    wanted = (filename,) if filename else WEIGHT_FILES
    for file in wanted:
        folder = hub_files(name, [file])
        if folder is not None:
            if file.endswith(".json"):
                hub_files(name, _parts_named(folder / file))
            return folder
    raise DataError(f"{name}: the repo holds no weights ({', '.join(wanted)})")


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name -> tensor of a file of weights (`.safetensors`; `.pth`, `.pt`, `.bin` as tensors alone), or of a folder.

    Raises:
        DataError: there is no such file, it is damaged, or it holds anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        return {name: t for file in weight_files(path) for name, t in read_tensors(file).items()}
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights")
    if path.suffix not in (".safetensors", *PICKLED):
        raise DataError(f"{path}: weights are read from .safetensors, {', '.join(PICKLED)}")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_tensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError) as error:
        raise DataError(f"{path}: the weights cannot be loaded: {error}") from None
    except Exception as error:  # whatever a broken pickle leads to, and one that holds more than tensors
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: the weights cannot be loaded as tensors alone: {reason}") from None
    if isinstance(content, torch.Tensor):  # a file of one number or matrix, which its name describes
        content = {path.stem: content}
    for name in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise DataError(f"{path}: holds no state dict, of names and tensors")
    for prefix in _PREFIXES:
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def reason_of(error: Exception | None) -> str:
    """All lines of an error that torch gives on weights, in one, long lists cut short."""
    if not isinstance(error, (RuntimeError, OSError, ValueError)):
        return f"they are those of another model ({type(error).__name__}: {error})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(
        line if len(line) <= 300 else line[:300].rsplit(",", 1)[0] + ", ..." for line in lines[:6]
    )
