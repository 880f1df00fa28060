"""Convolutional recurrent networks: ConvLSTM and ConvGRU, written from their papers.

A masked step leaves every state exactly as it was, whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from geohf.tiles.convolution import RUN, conv2d_same, pixels

BLOCK = 16  # oneDNN computes channels in blocks of so many


class ConvLSTMCell(nn.Module):
    """One step of a ConvLSTM (Shi et al., Convolutional LSTM Network, NeurIPS 2015, equation 3).

    All gates are convolved at once. Of a sequence's first step, where the state is zero, only the input's share is
    computed, and no forget gate. The forget gate starts open (bias 1; Jozefowicz et al. 2015).

    Args:
        inputs, hidden: channels.
        kernel: side of the convolutions, odd.
        peephole: the gates see the cell's state. The paper's weights have the state's shape; here they have one
            entry per channel, so that they do not fix the image's size.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 3, peephole: bool = False):
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.peephole = nn.Parameter(torch.zeros(3, hidden, 1, 1)) if peephole else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw input weights by Glorot's rule, recurrent ones orthogonal, biases 0 but the forget gate's 1."""
        _draw(self.gates.weight, self.inputs, gates=4)
        bias = self.gates.bias
        assert bias is not None
        with torch.no_grad():
            bias.zero_()
            bias[self.hidden : 2 * self.hidden] = 1.0

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, inputs, height, width) and (h, c), None for zeros, to the new (h, c)."""
        weight, bias = self.gates.weight, self.gates.bias
        assert bias is not None
        if state is None:  # there is nothing to forget
            weight, bias = (torch.cat([all[: self.hidden], all[2 * self.hidden :]]) for all in (weight, bias))
        shown, before = (None, None) if state is None else state
        gates = _convolved(weight, bias, self.inputs, x, shown)
        same_type = before is None or before.dtype == gates.dtype
        if self.peephole is None and gates.requires_grad and same_type:
            return _Gates.apply(gates, before)
        if before is None:
            i, g, o = gates.chunk(3, 1)
            c = torch.sigmoid(i) * torch.tanh(g)
        else:
            i, f, g, o = gates.chunk(4, 1)
            if self.peephole is not None:
                i, f = i + self.peephole[0] * before, f + self.peephole[1] * before
            c = torch.sigmoid(f) * before + torch.sigmoid(i) * torch.tanh(g)
        if self.peephole is not None:
            o = o + self.peephole[2] * c
        return torch.sigmoid(o) * torch.tanh(c), c


class _Gates(torch.autograd.Function):
    """The cell behind its convolution, in training: the same sums, of so many pixels at once as the cache holds.

    Over whole tensors each of the sums waits for memory. Gates become in place what they are behind their sigmoid or
    tanh. Without a state before, there is no forget gate.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, before: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gates, before = pixels(gates.detach()), None if before is None else pixels(before)
        parts = 3 if before is None else 4
        c, h, kept = gates.new_empty(3, *gates.shape[:-1], gates.shape[-1] // parts)
        for gate, old, new, out, shown in _runs(gates, before, c, h, kept):
            i, *f, g, o = gate.chunk(parts, -1)
            candidate = g.contiguous().tanh_()
            gate.sigmoid_()  # the candidate's, too: one run over memory is vectorized whatever the channels
            torch.mul(i, g.copy_(candidate), out=new)
            if old is not None:
                new.add_(f[0] * old)
            torch.mul(torch.tanh(new, out=shown), o, out=out)
        ctx.save_for_backward(gates, before, kept)
        return h.movedim(-1, 1), c.movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_h: torch.Tensor, of_c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        gates, before, kept = ctx.saved_tensors
        of_gates, of_before = torch.empty_like(gates), None if before is None else torch.empty_like(kept)
        parts = 3 if before is None else 4
        runs = _runs(gates, before, kept, pixels(of_h), pixels(of_c), of_gates, of_before)
        for gate, old, shown, to_h, to_c, to_gate, to_old in runs:
            (i, *f, g, o), (to_i, *to_f, to_g, to_o) = gate.chunk(parts, -1), to_gate.chunk(parts, -1)
            _of_sigmoid(to_h * shown, o, grad_input=to_o)
            cell = torch.ops.aten.tanh_backward(to_h * o, shown).add_(to_c)
            _of_sigmoid(cell * g, i, grad_input=to_i)
            _of_tanh(cell * i, g, grad_input=to_g)
            if old is not None:
                _of_sigmoid(cell * old, f[0], grad_input=to_f[0])
                torch.mul(cell, f[0], out=to_old)
        return of_gates.movedim(-1, 1), None if of_before is None else of_before.movedim(-1, 1)


_of_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_of_tanh = torch.ops.aten.tanh_backward.grad_input


def _runs(*tensors: torch.Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The same few pixels of each of (batch, height, width, channels), None of None; all at once but on a CPU."""
    flat = [None if x is None else x.flatten(0, -2) for x in tensors]
    first = flat[0]
    assert first is not None
    size = max(1, RUN // first.shape[-1] if first.device.type == "cpu" else len(first))
    for start in range(0, len(first), size):
        yield tuple(None if x is None else x[start : start + size] for x in flat)


class ConvGRUCell(nn.Module):
    """One step of a ConvGRU (Ballas et al., Delving Deeper into Convolutional Networks, ICLR 2016).

    Args:
        inputs, hidden: channels.
        kernel: side of the convolutions, odd.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 3):
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.gates = nn.Conv2d(inputs + hidden, 2 * hidden, kernel, padding=kernel // 2)
        self.candidate = nn.Conv2d(inputs + hidden, hidden, kernel, padding=kernel // 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw input weights by Glorot's rule, recurrent ones orthogonal, biases 0."""
        for convolution, gates in ((self.gates, 2), (self.candidate, 1)):
            _draw(convolution.weight, self.inputs, gates)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor] | None) -> tuple[torch.Tensor]:
        """(batch, inputs, height, width) and (h,), None for zeros, to the new (h,)."""
        before = None if state is None else state[0]
        gates, candidate = self.gates, self.candidate
        both = _convolved(gates.weight, gates.bias, self.inputs, x, before)
        update, reset = torch.sigmoid(both).chunk(2, 1)
        seen = None if before is None else reset * before
        new = torch.tanh(_convolved(candidate.weight, candidate.bias, self.inputs, x, seen))
        return (update * new if before is None else (1 - update) * before + update * new,)


def _convolved(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    inputs: int,
    x: torch.Tensor,
    state: torch.Tensor | None,
) -> torch.Tensor:
    if state is None:  # a convolution over zeros is left out
        return conv2d_same(x, weight[:, :inputs], bias)
    if inputs % BLOCK:  # together they would fill their last block of channels with zeros, and pay for them
        return conv2d_same(state, weight[:, inputs:], bias).add_(conv2d_same(x, weight[:, :inputs]))
    return conv2d_same(torch.cat([x, state], 1), weight, bias)


@torch.no_grad()
def _draw(weight: torch.Tensor, inputs: int, gates: int) -> None:
    out, _, height, width = weight.shape
    hidden = out // gates
    bound = math.sqrt(6 / ((inputs + hidden) * height * width))
    weight[:, :inputs].uniform_(-bound, bound)
    for gate in range(gates):
        recurrent = torch.empty(hidden, hidden * height * width, device=weight.device)
        if weight.device.type != "meta":  # no values are there to make orthogonal
            nn.init.orthogonal_(recurrent)
        part = slice(gate * hidden, (gate + 1) * hidden)
        weight[part, inputs:] = recurrent.view(hidden, hidden, height, width)


Cell = ConvLSTMCell | ConvGRUCell


class RecurrentEncoder(nn.Module):
    """Layers of recurrent cells over a sequence of frames.

    Args:
        cells: the first to the last layer, `ConvLSTMCell` or `ConvGRUCell`.
        norm: `group` or `none`, of each layer's output.
        patch_size: pixels of a patch become channels of one cell before the first layer (space to depth).
    """

    def __init__(self, cells: Sequence[Cell], norm: str = "none", patch_size: int = 1):
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.norms = nn.ModuleList(
            nn.GroupNorm(4, cell.hidden) if norm == "group" else nn.Identity() for cell in cells
        )
        self.patch_size = patch_size

    def forward(
        self, frames: torch.Tensor, step_mask: torch.Tensor | None = None, planes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The last layer's output after the last step, see `encode`."""
        return self.encode(frames, step_mask, planes)[0]

    def encode(
        self, frames: torch.Tensor, step_mask: torch.Tensor | None = None, planes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
        """The last layer's output after the last step, and the state of every layer, from which `step` goes on.

        Args:
            frames: (batch, steps, bands, height, width).
            step_mask: (batch, steps) bool, False for steps to pass over; None: all are seen.
            planes: (batch, steps, n) numbers that are constant over a frame, more channels of the first layer.

        Returns:
            (batch, hidden, height / patch_size, width / patch_size), and a state a layer.
        """
        if step_mask is not None:  # what no tile of the batch sees costs nothing
            seen = step_mask.any(0)
            seen[-1] |= ~seen.any()
            frames, step_mask = frames[:, seen], step_mask[:, seen]
            planes = None if planes is None else planes[:, seen]
        steps = [F.pixel_unshuffle(x, self.patch_size) for x in frames.unbind(1)]
        if planes is not None:
            steps = [
                torch.cat([x, plane[..., None, None].expand(-1, -1, *x.shape[-2:]).to(x.dtype)], 1)
                for x, plane in zip(steps, planes.unbind(1), strict=True)
            ]
        steps = [x.contiguous(memory_format=torch.channels_last) for x in steps]
        states: list[tuple[torch.Tensor, ...]] = []
        for cell, norm in zip(self.cells, self.norms, strict=True):
            state, outputs = None, []
            for t, x in enumerate(steps):
                new = cell(x, state)
                state = new if step_mask is None else _kept(new, state, step_mask[:, t])
                outputs.append(state[0])
            steps = [norm(outputs[-1])] if cell is self.cells[-1] else [norm(x) for x in outputs]
            states.append(state or ())
        return steps[-1], states

    def step(self, frame: torch.Tensor, states: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """The last layer's output after one frame more (batch, bands, height, width); `states` go on with it."""
        x = F.pixel_unshuffle(frame, self.patch_size).contiguous(memory_format=torch.channels_last)
        for i, (cell, norm) in enumerate(zip(self.cells, self.norms, strict=True)):
            states[i] = cell(x, states[i])
            x = norm(states[i][0])
        return x


def _kept(new, state, seen) -> tuple[torch.Tensor, ...]:
    """The new state of the rows whose step was seen, the old one of the others."""
    seen = seen[:, None, None, None]
    # where, not a product: what a masked step holds may be NaN
    old = state or [torch.zeros_like(part) for part in new]
    return tuple(torch.where(seen, a, b) for a, b in zip(new, old, strict=True))
