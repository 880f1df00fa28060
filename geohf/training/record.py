"""What a run is of: settings, data and starting weights, so that it is never taken for another, or goes on as one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from geohf.data.columns import stored_column
from geohf.data.rows import mark_of

# settings that change no weight, or that a run may change on its way
FREE = [
    # what is told and kept of it, and where
    *(
        "output_dir",
        "run_name",
        "project",
        "report_to",
        "trackio_*",
        "log_*",
        "logging_*",
        "disable_tqdm",
        "debug",
    ),
    *("hub_*", "push_to_hub", "save_*", "eval_*", "include_*", "skip_memory_metrics", "greater_is_better"),
    # how it goes on
    *(
        "resume_from_checkpoint",
        "restore_*",
        "overwrite_*",
        "do_*",
        "ignore_data_skip",
        "enable_jit_checkpoint",
    ),
    # how far: that is its goal
    *("num_train_epochs", "max_steps", "*_epochs", "head_min_steps"),
    # how a batch, which counts as a whole, is divided
    *("per_device_*", "gradient_accumulation_steps", "auto_find_batch_size"),
    # on which machine, and how fast
    *("use_cpu", "local_rank", "ddp_*", "fsdp*", "deepspeed", "accelerator_config", "parallelism_config"),
    *("bf16*", "fp16*", "tf32", "full_determinism", "torch_compile*", "torch_empty_cache_steps"),
    *("cache_dir", "cache_workers", "feature_batch_size"),
    *("dataloader_num_workers", "dataloader_p*", "dataloader_m*"),
]
OF_TOWERS = ("finetune", "finetune_blocks", "lora_rank", "backbone_learning_rate", "layer_decay")
GOALS = ("max_steps", "num_train_epochs")


def record_of(args, model: torch.nn.Module, dataset: Any, further: Mapping[str, Any]) -> dict:
    """What the run is of, as JSON can hold it.

    Args:
        model: as it is before the first step.
        dataset: that it is trained on.
        further: settings beside the arguments.
    """
    free = FREE + ([] if any("tower" in n.split(".") for n, _ in model.named_parameters()) else [*OF_TOWERS])
    settings = {k: v for k, v in args.to_dict().items() if not any(fnmatchcase(k, name) for name in free)}
    settings["batch"] = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    own: Any = getattr(model, "config", None)
    config = own.to_dict() if hasattr(own, "to_dict") else {}
    fleeting = ("_name_or_path", "transformers_version", "architectures", "dtype")
    record = {
        "goal": {name: getattr(args, name) for name in GOALS},
        "settings": settings | dict(further),
        "model": {name: value for name, value in config.items() if name not in fleeting},
        "data": _data(dataset),
        "weights": _samples(model),
    }
    return json.loads(json.dumps(record, default=str))


def differences(old: Mapping, new: Mapping) -> list[str]:
    """In words, what two records have different; their goals aside."""
    words = []
    for part in ("settings", "model"):
        for name in sorted({*old[part], *new[part]}):
            was, now = old[part].get(name), new[part].get(name)
            if not _alike(was, now):
                words.append(f"{name} was {_short(was)}, now {_short(now)}")
    if old["data"] != new["data"]:
        words.append(f"the training data are others ({old['data']['rows']} rows, now {new['data']['rows']})")
    if not _alike(old["weights"], new["weights"], 1e-3):
        words.append("the weights that training starts from are others")
    return words


def is_longer(old: Mapping, new: Mapping) -> bool | None:
    """Whether a record's goal lies beyond another's; None where it lies before it, or is of another kind."""
    was, now = old["goal"], new["goal"]
    if was == now:
        return False
    if (was["max_steps"] > 0) != (now["max_steps"] > 0):
        return None
    name = "max_steps" if now["max_steps"] > 0 else "num_train_epochs"
    return None if now[name] < was[name] else now[name] > was[name]


def goal_words(record: Mapping) -> str:
    """`5 epochs` or `200 steps`."""
    goal = record["goal"]
    return f"{goal['max_steps']} steps" if goal["max_steps"] > 0 else f"{goal['num_train_epochs']:g} epochs"


def _data(dataset: Any) -> dict:
    """Its number of rows, and a hash of its columns: of images their sizes in bytes, as folders move and copies age."""
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    digest = hashlib.sha256()
    for name, values in _columns(dataset):
        content = values.tobytes() if isinstance(values, np.ndarray) else repr(values).encode()
        digest.update(f"{name} {getattr(values, 'shape', len(values))} ".encode() + content)
    return {"rows": rows, "content": digest.hexdigest()}


def _columns(dataset: Any) -> Iterable[tuple[str, Any]]:
    if hasattr(dataset, "key_arrays"):
        yield from dataset.key_arrays().items()
    elif isinstance(dataset, (list, tuple)) and all(isinstance(row, Mapping) for row in dataset):
        yield "rows", [{name: mark_of(value, True) for name, value in row.items()} for row in dataset]
    elif hasattr(dataset, "column_names") and hasattr(dataset, "__len__"):  # no stream
        from datasets import Image, List

        for name, feature in (dataset.features or {}).items():  # a stream may not know them
            feature = feature.feature if isinstance(feature, List) else feature
            if not isinstance(feature, dict):
                column = stored_column(dataset, name)
                yield name, _file_sizes(column) if isinstance(feature, Image) else column.to_pylist()


def _file_sizes(column: Any) -> list[int | None]:
    """How many bytes each image has, in the table or on disk; none is read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while not pa.types.is_struct(column.type):  # views of a place
        column = pc.list_flatten(column)
    held = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
    paths = pc.struct_field(column, "path").to_pylist()
    return [_size(path) if size is None and path else size for size, path in zip(held, paths, strict=True)]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # an address of fsspec
        return None


def _samples(model: torch.nn.Module) -> dict[str, list[float]]:
    """Some values of every tensor: sums would differ with the number of threads. Adapters start from random ones."""
    samples = {}
    for name, tensor in model.state_dict().items():
        if "lora_" not in name and tensor.numel():
            flat = tensor.detach().flatten()
            rows = torch.linspace(0, len(flat) - 1, min(4, len(flat))).long().to(flat.device)
            samples[name] = [round(float(value), 9) for value in flat[rows]]
    return samples


def _alike(a: Any, b: Any, tolerance: float = 1e-6) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return numbers and (
            math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance**2) or (a != a and b != b)
        )
    return a == b


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
