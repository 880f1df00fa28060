"""SimVP: the next frames of a sequence at once, by convolutions alone, with gSTA or TAU between its two ends.

SimVP is Gao et al., CVPR 2022, its gated translator gSTA Tan et al., 2022 (SimVPv2), TAU Tan et al., CVPR 2023. Where these have
batch norm, here stands GroupNorm: no tile of a batch changes another one's answer. Every answered frame has the newest frame's
first map beside it, for frames may be fewer or more than answers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

VIDEO = ("simvp", "tau")  # encoders of whole sequences
STRIDES = (1, 2, 1, 2)
SHRINKS = 4  # sides of the inner maps are so many times smaller


def _stage(inputs: int, width: int, stride: int = 1, grows: bool = False) -> nn.Sequential:
    """A 3 x 3 convolution that halves or doubles the sides or keeps them, GroupNorm, SiLU."""
    convolution = nn.Conv2d(inputs, 4 * width if grows else width, 3, stride, padding=1)
    layers = [convolution, nn.PixelShuffle(2)] if grows else [convolution]
    return nn.Sequential(*layers, nn.GroupNorm(2, width), nn.SiLU())


class LargeKernel(nn.Module):
    """What a kernel of 21 x 21 sees, in three steps: 5 x 5 and dilated 7 x 7, each channel by itself, then 1 x 1."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.near = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.far = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.mix = nn.Conv2d(width, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, width, height, width) to as many maps of `out` channels."""
        return self.mix(self.far(self.near(x)))


class Gated(nn.Module):
    """gSTA: half of the large kernel's channels open or close the other half."""

    def __init__(self, width: int):
        super().__init__()
        self.kernel = LargeKernel(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As many channels as came."""
        value, gate = self.kernel(x).chunk(2, 1)
        return value * gate.sigmoid()


class TemporalUnit(nn.Module):
    """TAU: attention within frames (the large kernel) times attention over the channels of all frames."""

    def __init__(self, width: int):
        super().__init__()
        squeezed = max(width // 16, 4)
        self.kernel = LargeKernel(width, width)
        down, up = nn.Linear(width, squeezed, bias=False), nn.Linear(squeezed, width, bias=False)
        self.channels = nn.Sequential(down, nn.ReLU(), up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As many channels as came."""
        shares = self.channels(x.mean((-2, -1))).sigmoid()[..., None, None]
        return shares * self.kernel(x) * x


class Block(nn.Module):
    """One block of the translator: attention, then a multilayer perceptron, both scaled from 0.01; then 1 x 1 to `out`."""

    def __init__(self, width: int, out: int, unit: type[nn.Module]):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(2, width) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((width, 1, 1), 1e-2) for _ in range(2))
        self.attention = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GELU(), unit(width), nn.Conv2d(width, width, 1)
        )
        inner = 8 * width
        self.perceptron = nn.Sequential(
            nn.Conv2d(width, inner, 1),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
            nn.GELU(),
            nn.Conv2d(inner, width, 1),
        )
        self.out = nn.Identity() if out == width else nn.Conv2d(width, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, width, height, width) to `out` channels."""
        seen = self.norms[0](x)
        x = x + self.scales[0] * (self.attention(seen) + seen)
        x = x + self.scales[1] * self.perceptron(self.norms[1](x))
        return self.out(x)


class SimVP(nn.Module):
    """Maps of the next frames, from which a 1 x 1 convolution reads their pixels.

    Args:
        bands: of a frame.
        frames: that are seen, exactly so many.
        answered: frames that are predicted.
        width, hidden: channels of a frame's maps, and of the translator, which sees all frames at once.
        blocks: of the translator.
        unit: `simvp` (gSTA) or `tau`.
    """

    def __init__(
        self, bands: int, frames: int, answered: int, width: int, hidden: int, blocks: int, unit: str
    ):
        super().__init__()
        kind = {"simvp": Gated, "tau": TemporalUnit}[unit]
        self.answered = answered
        inputs = [bands, *[width] * 3]
        self.encoder = nn.ModuleList(_stage(n, width, s) for n, s in zip(inputs, STRIDES, strict=True))
        widths = [frames * width, *[hidden] * (blocks - 1), answered * width]
        self.translator = nn.Sequential(*(Block(a, b, kind) for a, b in pairwise(widths)))
        inputs = [width] * 3 + [2 * width]
        self.decoder = nn.ModuleList(
            _stage(n, width, grows=s > 1) for n, s in zip(inputs, reversed(STRIDES), strict=True)
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, bands, height, width) to (batch, answered, width, height, width); 4 divides the sides."""
        batch, steps = frames.shape[:2]
        first = x = self.encoder[0](frames.flatten(0, 1))
        for stage in self.encoder[1:]:
            x = stage(x)
        newest = first.unflatten(0, (batch, steps))[:, -1:].expand(-1, self.answered, -1, -1, -1)
        x = self.translator(x.unflatten(0, (batch, steps)).flatten(1, 2))
        x = x.unflatten(1, (self.answered, -1)).flatten(0, 1)
        for stage in self.decoder[:-1]:
            x = stage(x)
        x = self.decoder[-1](torch.cat([x, newest.flatten(0, 1)], 1))
        return x.unflatten(0, (batch, self.answered))
