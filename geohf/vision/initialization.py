"""Keeping the values that a module was built with."""

from __future__ import annotations

from torch import nn


def mark_initialized(module: nn.Module) -> None:
    """Tell transformers that this module's present values stay.

    `post_init` draws new values for every submodule, timm's and torchvision's too. Tensors on the meta device
    hold no value yet and must stay unmarked, or transformers would not notice that a checkpoint lacks them.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "meta":
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' own mark
