"""A convolution whose weight learns as fast as its input, for the recurrent cells."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

RUN = 2**18  # so many numbers at once lie in a core's cache


def conv2d_same(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`conv2d` with an odd kernel that keeps the image's size; float32 on a CPU learns by `_Convolution`.

    Args:
        x: (batch, inputs, height, width).
        weight: (outputs, inputs, kernel, kernel).
        bias: (outputs,).

    Returns:
        (batch, outputs, height, width).
    """
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    learns = weight.requires_grad and torch.is_grad_enabled()
    if plain and learns and not torch.is_autocast_enabled("cpu"):
        return _Convolution.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class _Convolution(torch.autograd.Function):
    """The weight's gradient as a sum of products of matrices: the windows of so many lines as the cache holds, a row each.

    Where a processor has no AVX-512, oneDNN computes this gradient at half the speed of the two other convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_out: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        outputs, inputs, kernel, _ = weight.shape
        side = kernel // 2
        of_x = None
        if ctx.needs_input_grad[0]:
            geometry = ((1, 1), (side, side), (1, 1), False, (0, 0), 1)
            wanted = (True, False, False)
            of_x = torch.ops.aten.convolution_backward(of_out, x, weight, None, *geometry, wanted)[0]
        windows = F.pad(pixels(x), (0, 0, side, side, side, side)).unfold(1, kernel, 1).unfold(2, kernel, 1)
        windows = windows.permute(0, 1, 2, 4, 5, 3)  # (batch, height, width, kernel, kernel, inputs)
        size = kernel * kernel * inputs
        at_once = max(1, RUN * torch.get_num_threads() // (x.shape[-1] * size))
        images = max(1, at_once // x.shape[-2])
        of_weight, of_bias = weight.new_zeros(outputs, size), weight.new_zeros(outputs)
        for of_part, part in zip(pixels(of_out).split(images), windows.split(images), strict=True):
            for of_lines, lines in zip(of_part.split(at_once, 1), part.split(at_once, 1), strict=True):
                of_rows = of_lines.reshape(-1, outputs)
                of_weight.addmm_(of_rows.T, lines.reshape(-1, size))
                of_bias += of_rows.sum(0)
        of_weight = of_weight.view(outputs, kernel, kernel, inputs).permute(0, 3, 1, 2)
        return of_x, of_weight, of_bias if ctx.has_bias else None


def pixels(x: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) to (batch, height, width, channels) that lie so."""
    return x.movedim(1, -1).contiguous()
