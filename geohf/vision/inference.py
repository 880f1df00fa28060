"""How a frozen backbone computes: exactly, compiled, or with its linear layers in 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from geohf.errors import DataError
from geohf.vision.pooling import pooled

MODES = ("eager", "compile", "int8")


def feature_function(
    tower: nn.Module, pool: str = "tower", mode: str = "eager", batch_size: int = 32
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images to the features of a backbone that is in eval mode and does not change any more.

    Args:
        pool: what is taken of the backbone's output, see `geohf.vision.pooling.pooled`.
        mode: `eager`; `compile` (`torch.compile` with frozen weights: the same up to rounding, needs a C++ compiler
            on a CPU, and some seconds once); `int8` (dynamic quantization of the linear layers, CPU only: close to
            the exact features, not equal).
        batch_size: the most images in a call. A compiled tower always sees so many, or it would compile again.

    Returns:
        (batch, 3, height, width) to what `pooled` gives. To be called without gradients.

    Raises:
        DataError: the backbone or the machine cannot compute in this way.
        ValueError: an unknown mode.
    """
    if mode == "eager":
        return lambda pixel_values: pooled(tower, pixel_values, pool)
    if mode == "compile":
        return _compiled(tower, pool, batch_size)
    if mode == "int8":
        quantized = _int8(tower)
        return lambda pixel_values: pooled(quantized, pixel_values, pool)
    raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")


def _compiled(tower: nn.Module, pool: str, batch_size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch._dynamo.exc import TorchDynamoException

    run = torch.compile(lambda x: pooled(tower, x, pool), dynamic=False, options={"freezing": True})

    def features(pixel_values: torch.Tensor) -> torch.Tensor:
        short = batch_size - len(pixel_values)
        filled = torch.cat([pixel_values, pixel_values[-1:].expand(short, -1, -1, -1)])
        try:
            return run(filled)[: len(pixel_values)]
        except TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"torch.compile cannot compile the backbone; use the mode eager: {reason}"
            ) from error

    return features


def _int8(tower: nn.Module) -> nn.Module:
    """A copy of the backbone whose linear layers hold 8-bit weights and quantize their inputs as they come."""
    if next(tower.parameters()).device.type != "cpu":
        raise DataError("the mode int8 computes on a CPU only; on a GPU use bf16")
    if not any(type(module) is nn.Linear for module in tower.modules()):
        raise DataError(
            "the mode int8 changes linear layers only, and this backbone has none; use the mode eager"
        )
    try:
        from torch.ao.quantization import quantize_dynamic
    except ImportError:
        raise DataError(f"torch {torch.__version__} no longer has the mode int8; use eager") from None
    # torch warns that it is deprecated: the successor, torchao, is one more package
    return quantize_dynamic(tower, {nn.Linear}, dtype=torch.qint8)
