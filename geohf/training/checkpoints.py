"""The state of a run on disk without pickle: nested state in one safetensors file, and which checkpoint is whole."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from geohf.io import atomic_path, atomic_write
from geohf.vision.weights import aligned

# written last, so a checkpoint that has it is whole
COMPLETE = "complete.json"


def save_tree(tree: Any, path: str | Path) -> None:
    """Save nested dicts, lists and tuples of tensors, numbers, strings and None, as safetensors with JSON in the header.

    Raises:
        TypeError: a leaf is of another type.
    """
    tensors: dict[str, torch.Tensor] = {}

    def pack(node):
        if isinstance(node, np.ndarray):
            node = torch.from_numpy(node)
        if isinstance(node, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[pack(key), pack(value)] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            return {type(node).__name__: [pack(value) for value in node]}
        if isinstance(node, np.generic):
            node = node.item()
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"cannot save a {type(node).__name__} without pickle")

    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"tree": json.dumps(pack(tree))})


def load_tree(path: str | Path) -> Any:
    """Load what `save_tree` saved, tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  not a dict
        tree = json.loads(file.metadata()["tree"])

    def unpack(node):
        if not isinstance(node, dict):
            return node
        ((kind, value),) = node.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "dict":
            return {unpack(key): unpack(item) for key, item in value}
        items = [unpack(item) for item in value]
        return tuple(items) if kind == "tuple" else items

    return unpack(tree)


def random_state() -> dict:
    """The state of every random generator that training draws from."""
    state = cpu_random_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def cpu_random_state() -> dict:
    """The state of the generators that a collator draws from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  the global generator is what libraries draw from
        "cpu": torch.get_rng_state(),
    }


def set_random_state(state: dict) -> None:
    """Continue every generator where `random_state` saw it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys), *rest))  # noqa: NPY002
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def mark_complete(checkpoint: str | Path, step: int) -> None:
    """Say that everything of this checkpoint is on disk: its files and their sizes."""
    sizes = {path.name: path.stat().st_size for path in Path(checkpoint).iterdir() if path.is_file()}
    with atomic_write(Path(checkpoint) / COMPLETE) as file:
        json.dump({"global_step": step, "files": sizes}, file)


def is_complete(checkpoint: str | Path) -> bool:
    """Whether this checkpoint was written to its end, and none of its files was deleted or cut since."""
    try:
        files = json.loads((Path(checkpoint) / COMPLETE).read_text())["files"]
        return all((Path(checkpoint) / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # gone, or no such JSON
        return False


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint in a run's folder that was written to its end, or None.

    A process that was killed while it saved or deleted one leaves some of its files; the one before counts.
    """
    found = {re.fullmatch(r"checkpoint-(\d+)", path.name): path for path in Path(folder).glob("checkpoint-*")}
    whole = [(int(name[1]), str(path)) for name, path in found.items() if name and is_complete(path)]
    return max(whole)[1] if whole else None
