"""Weights of timm's models that were trained elsewhere, on other bands: as a folder that `--backbone` takes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from geohf.errors import DataError, did_you_mean, listed
from geohf.io import json_text
from geohf.vision.repos import read_tensors


def convert_timm(
    file: str | os.PathLike,
    folder: str | os.PathLike,
    architecture: str,
    bands: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    license: str | None = None,
    image_size: int = 224,
) -> list[str]:
    """Write a state dict of a timm model as a folder in timm's format: config.json, model.safetensors, README.md.

    The names may have a prefix, as those of `SSL4EO` (MoCo) and BigEarthNet v2 have; it is found. Every weight of the
    model but its classifier must be there.

    Args:
        file: read as tensors alone.
        folder: a new one.
        architecture: timm's name of the model.
        bands: names of what it sees, in its order.
        mean, std: of each band's pixels in training: from 0 to 1 as torchvision gives them, or of the pixels as they are.
        license: of the weights.
        image_size: side of the images that it was trained on, in pixels.

    Returns:
        Names of what was left out: the classifier, and what lies beside the model.

    Raises:
        DataError: the folder is there, timm has no such model, the numbers of bands differ, a spread is not above 0, or a weight is missing,
            left over, or of another shape.
    """
    import timm

    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder}: is there already; name a new folder for the backbone")
    if not timm.is_model(architecture):
        raise DataError(f"timm has no model {architecture!r}{did_you_mean(architecture, timm.list_models())}")
    if not len(bands) == len(mean) == len(std):
        raise DataError(
            f"{len(bands)} bands, {len(mean)} means and {len(std)} spreads: one of each for every band"
        )
    if not all(map(math.isfinite, mean)) or not all(0 < spread < math.inf for spread in std):
        raise DataError(
            f"means must be finite and spreads above 0, got {listed(list(mean))} and {listed(list(std))}"
        )
    tensors = read_tensors(file)
    with torch.device("meta"):
        wanted = timm.create_model(architecture, num_classes=0, in_chans=len(bands)).state_dict()
    prefix = _prefix(file, architecture, tensors, wanted)
    held = {name: tensors[prefix + name] for name in wanted}
    for name, tensor in held.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{file}: {prefix}{name} has the shape {tuple(tensor.shape)}, and {architecture} of {len(bands)} bands needs "
                f"{tuple(wanted[name].shape)}"
            )
    left = sorted(set(tensors) - {prefix + name for name in wanted})
    parts = {name.partition(".")[0] for name in wanted}
    more = [
        name for name in left if name.startswith(prefix) and name[len(prefix) :].partition(".")[0] in parts
    ]
    if more:
        raise DataError(
            f"{file}: {architecture} has no place for {', '.join(more[:3])}; it is of another model"
        )
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": {"in_chans": len(bands)},
        "bands": list(bands),
        "pretrained_cfg": {
            "input_size": [len(bands), image_size, image_size],
            "mean": list(mean),
            "std": list(std),
            "crop_pct": 1.0,
            "num_classes": 0,
            "license": license,
        },
    }
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / "model.safetensors")
    (folder / "README.md").write_text(_card(architecture, bands, license), encoding="utf-8")
    (folder / "config.json").write_text(json_text(config), encoding="utf-8")
    return left


def _prefix(file: str | os.PathLike, architecture: str, tensors: Mapping, wanted: Mapping) -> str:
    """What stands before every name of the model in the file."""
    first = next(iter(wanted))
    prefixes = sorted(
        {name[: -len(first)] for name in tensors if name.endswith(first)}, key=lambda p: (len(p), p)
    )
    lacking = {prefix: [name for name in wanted if prefix + name not in tensors] for prefix in prefixes}
    whole = [prefix for prefix, names in lacking.items() if not names]
    if len(whole) > 1:
        raise DataError(
            f"{file}: holds {architecture} more than once, below {' and '.join(map(repr, whole))}; save one of them alone"
        )
    if whole:
        return whole[0]
    names = min(lacking.values(), key=len, default=[first])
    raise DataError(
        f"{file}: lacks {len(names)} weights of {architecture}, {', '.join(names[:3])} among them"
    )


def _card(architecture: str, bands: Sequence[str], license: str | None) -> str:
    head = f"---\nlibrary_name: timm\n{f'license: {license}' if license else ''}\n---\n".replace("\n\n", "\n")
    return f"{head}\n{architecture} of {len(bands)} bands: {', '.join(bands)}.\n"
