"""Weights in memory and on disk: where they lie, and what tells them from others."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

# torch's own allocator gives such addresses. safetensors maps a file instead, and a kernel that reads whole cache
# lines may then sum in another order: the last bit of an answer would depend on the length of a file's header.
ALIGNMENT = 64

Module = TypeVar("Module", bound=nn.Module)


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it, at an address that is a multiple of 64 bytes."""
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def align_weights(module: nn.Module) -> None:
    """Move every parameter and buffer of a module to an address that is a multiple of 64 bytes, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        # a quantized weight has no address
        if tensor.device.type == "cpu" and type(tensor.data) is torch.Tensor:
            tensor.data = aligned(tensor.data)


class AlignedLoading(PreTrainedModel):
    """A `PreTrainedModel` whose `from_pretrained` leaves aligned weights, see `align_weights`."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers."""
        loaded = super().from_pretrained(*args, **kwargs)
        align_weights(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def load_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name -> tensor of a safetensors file, on the CPU and aligned, so that they compute as those that were saved.

    Raises:
        SafetensorError: the file is damaged.
    """
    return {name: aligned(tensor) for name, tensor in load_file(Path(path)).items()}


def weights_fingerprint(module: nn.Module) -> str:
    """A digest of every saved tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_checksum(module: nn.Module) -> list[tuple[int, ...]]:
    """What changes with any saved tensor, at the speed of memory: to ask whether a fingerprint still holds.

    torch's counter misses changes through `.data`; a sum over all bytes sees them, a sample rows that changed places.
    """
    checksums = []
    for tensor in module.state_dict().values():
        raw = tensor.detach().contiguous().flatten().view(torch.uint8)
        raw = raw.clone() if raw.storage_offset() % 8 else raw
        words, rest = raw[: len(raw) // 8 * 8].view(torch.int64), raw[len(raw) // 8 * 8 :]
        sample = words[:: max(1, len(words) // 64)]
        places = torch.arange(1, len(sample) + 1, device=sample.device)
        counter = 0 if tensor.is_inference() else tensor._version
        sums = torch.stack([words.sum(), rest.sum(), (sample * places).sum()])
        checksums.append((tensor.data_ptr(), counter, *sums.tolist()))
    return checksums


def in_eval_mode(module: Module) -> Module:
    """The module where all of it is in eval mode, else a copy of it that is, on the same weights.

    The module's own mode is never changed: other threads may compute with it at the same time.
    """
    if not any(part.training for part in module.modules()):
        return module
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()


def mark_initialized(module: nn.Module) -> None:
    """Tell transformers that this module's present values stay.

    `post_init` draws new values for every submodule, timm's and torchvision's too. Tensors on the meta device
    hold no value yet and must stay unmarked, or transformers would not notice that a checkpoint lacks them.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "meta":
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' own mark
