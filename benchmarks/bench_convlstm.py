"""A ConvLSTM's training step, next to the plain form and to Keras.

OMP_NUM_THREADS=1 python benchmarks/bench_convlstm.py
"""

from __future__ import annotations

import os

import torch
from measure import Row, installed, make_parser, medians, report
from torch import nn

from geohf.tiles.cells import ConvLSTMCell, RecurrentEncoder


class PlainConvLSTM(nn.Module):
    """The usual form: one convolution over [x, h] at every step, states of zeros at the first."""

    def __init__(self, cells: list[ConvLSTMCell]):
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        steps = frames.unbind(1)
        for cell in self.cells:
            h = c = frames.new_zeros(len(frames), cell.hidden, *frames.shape[-2:])
            outputs = []
            for x in steps:
                i, f, g, o = cell.gates(torch.cat([x, h], 1)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            steps = outputs
        return steps[-1]


def keras_form(cells: list[ConvLSTMCell]):
    """Keras' ConvLSTM2D layers with the weights of our cells, on its torch backend; None where Keras is missing."""
    if not installed("keras"):
        return None
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = []
    for i, cell in enumerate(cells):
        layer = keras.layers.ConvLSTM2D(
            cell.hidden,
            cell.gates.kernel_size,
            padding="same",
            data_format="channels_first",
            return_sequences=i < len(cells) - 1,
        )
        layer.build((None, None, cell.inputs, 64, 64))
        weight = cell.gates.weight.detach().permute(2, 3, 1, 0)
        parts = (weight[:, :, : cell.inputs], weight[:, :, cell.inputs :], cell.gates.bias.detach())
        layer.set_weights([part.numpy() for part in parts])
        layers.append(layer)
    return keras.Sequential(layers)


def main() -> None:
    options = make_parser(__doc__, rounds=5).parse_args()
    torch.manual_seed(0)
    cells = [ConvLSTMCell(3, 32), ConvLSTMCell(32, 32)]
    plain, ours, keras = PlainConvLSTM(cells), RecurrentEncoder(cells), keras_form(cells)
    patched = RecurrentEncoder([ConvLSTMCell(48, 32), ConvLSTMCell(32, 32)], patch_size=4)
    frames = torch.randn(16, 6, 3, 64, 64)
    one, two = plain(frames), ours(frames)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    weights = list(plain.parameters())
    gradients = (torch.autograd.grad(out.square().mean(), weights) for out in (one, two))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    models = {"plain": plain, "ours": ours, "patched": patched}
    if keras is not None:
        torch.testing.assert_close(keras(frames), one, rtol=1e-4, atol=1e-5)
        models["keras"] = keras
    steps = {name: lambda m=m: m(frames).square().mean().backward() for name, m in models.items()}
    took = medians(steps, options.rounds)
    what = "ConvLSTM training step, 2 layers of 32, 16 x 6 frames of 3 x 64 x 64"
    usual = "one convolution over [x, h] a step"
    rows = [
        Row(what, usual, took["plain"] / took["ours"], 1.3),
        Row(what, "Keras' ConvLSTM2D on torch", took["keras"] / took["ours"] if "keras" in took else None, 1),
        Row(f"{what}, patch_size 4: another, smaller model", usual, took["plain"] / took["patched"]),
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
