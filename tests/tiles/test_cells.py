"""ConvLSTM and ConvGRU against references with every gate written out, and masks that change nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from geohf.tiles.cells import ConvGRUCell, ConvLSTMCell, RecurrentEncoder
from geohf.tiles.convolution import conv2d_same


def conv(x, weight, bias=None):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def reference_lstm(cell, frames):
    """Equation 3 of Shi et al., one convolution for each weight of the paper."""
    n, hidden = cell.inputs, cell.hidden
    weights, biases = cell.gates.weight.split(hidden), cell.gates.bias.split(hidden)
    (wxi, whi), (wxf, whf), (wxc, whc), (wxo, who) = ((w[:, :n], w[:, n:]) for w in weights)
    bi, bf, bc, bo = biases
    wci, wcf, wco = cell.peephole if cell.peephole is not None else torch.zeros(3, hidden, 1, 1).to(wxi)
    h = c = frames.new_zeros(len(frames), hidden, *frames.shape[-2:])
    for x in frames.unbind(1):
        i = torch.sigmoid(conv(x, wxi, bi) + conv(h, whi) + wci * c)
        f = torch.sigmoid(conv(x, wxf, bf) + conv(h, whf) + wcf * c)
        c = f * c + i * torch.tanh(conv(x, wxc, bc) + conv(h, whc))
        o = torch.sigmoid(conv(x, wxo, bo) + conv(h, who) + wco * c)
        h = o * torch.tanh(c)
    return h


def reference_gru(cell, frames):
    n, hidden = cell.inputs, cell.hidden
    (wz, uz), (wr, ur) = ((w[:, :n], w[:, n:]) for w in cell.gates.weight.split(hidden))
    bz, br = cell.gates.bias.split(hidden)
    w, u, b = cell.candidate.weight[:, :n], cell.candidate.weight[:, n:], cell.candidate.bias
    h = frames.new_zeros(len(frames), hidden, *frames.shape[-2:])
    for x in frames.unbind(1):
        z = torch.sigmoid(conv(x, wz, bz) + conv(h, uz))
        r = torch.sigmoid(conv(x, wr, br) + conv(h, ur))
        h = (1 - z) * h + z * torch.tanh(conv(x, w, b) + conv(r * h, u))
    return h


CASES = [
    (lambda: ConvLSTMCell(3, 4, 3), reference_lstm),
    (lambda: ConvLSTMCell(3, 4, 5, peephole=True), reference_lstm),
    (lambda: ConvGRUCell(3, 4, 3), reference_gru),
]


@pytest.mark.parametrize("shape", [(3, 5, 9, 7, 1), (2, 3, 40, 33, 5), (70, 8, 4, 4, 3)])
def test_the_convolutions_gradients_are_those_of_float64(shape, monkeypatch):
    monkeypatch.setattr(
        "geohf.tiles.convolution.RUN", 2**14
    )  # some lines at once, and several images of the last
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    batch, inputs, height, width, kernel = shape
    torch.manual_seed(0)
    parts = (
        torch.randn(batch, inputs, height, width),
        torch.randn(12, inputs, kernel, kernel),
        torch.randn(12),
    )
    ours, exact = (
        [part.to(dtype).requires_grad_() for part in parts] for dtype in (torch.float32, torch.float64)
    )
    out, expected = conv2d_same(*ours), conv(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    of_out = torch.randn_like(out)
    gradients = torch.autograd.grad(out, ours, of_out)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, exact, of_out.double()), strict=True):
        assert (got - wanted).abs().max() < 2e-6 * wanted.abs().max()


@pytest.mark.parametrize(("make", "reference"), CASES, ids=["lstm", "lstm-peephole", "gru"])
def test_outputs_and_gradients_equal_the_reference(make, reference, monkeypatch):
    monkeypatch.setattr("geohf.tiles.cells.RUN", 80)  # 5 pixels at once, and 4 that are left of 84
    torch.manual_seed(0)
    cell = make().double()
    if getattr(cell, "peephole", None) is not None:
        torch.nn.init.normal_(cell.peephole)
    frames = torch.randn(2, 5, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    tensors = [frames, *cell.parameters()]
    ours, theirs = RecurrentEncoder([cell])(frames), reference(cell, frames)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, tensors, seed), torch.autograd.grad(theirs, tensors, seed), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def make_encoder(kind):
    cell = ConvLSTMCell if kind == "lstm" else ConvGRUCell
    return RecurrentEncoder([cell(3 * 4, 8), cell(8, 8)], norm="group", patch_size=2)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_masked_step_is_as_if_it_were_not_there(kind):
    torch.manual_seed(1)
    encoder = make_encoder(kind)
    frames = torch.randn(1, 5, 3, 8, 8)
    mask = torch.tensor([[False, True, False, True, False]])
    frames[:, ~mask[0]] = torch.nan
    frames.requires_grad_()
    masked = encoder(frames, mask)
    without = encoder(frames[:, [1, 3]])
    assert torch.equal(masked, without)
    (gradient,) = torch.autograd.grad(masked.sum(), frames)
    assert torch.equal(gradient[:, [0, 2, 4]].nan_to_num(9), torch.zeros(1, 3, 3, 8, 8))


def test_rows_of_a_batch_keep_their_own_masks():
    torch.manual_seed(2)
    encoder = make_encoder("lstm")
    frames, mask = torch.randn(2, 3, 3, 8, 8), torch.tensor([[True, True, True], [False, True, True]])
    together = encoder(frames, mask)
    torch.testing.assert_close(together[:1], encoder(frames[:1]))
    torch.testing.assert_close(together[1:], encoder(frames[1:, 1:]))


def test_the_forget_gate_starts_open_and_weights_are_not_tiny():
    cell = ConvLSTMCell(3, 16)
    assert cell.gates.bias.view(4, 16)[1].tolist() == [1.0] * 16
    assert cell.gates.bias.view(4, 16)[[0, 2, 3]].abs().max() == 0
    recurrent = cell.gates.weight[:16, 3:].reshape(16, -1)
    torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(16), rtol=0, atol=1e-5)


def test_patch_size_moves_pixels_into_channels():
    encoder = RecurrentEncoder([ConvLSTMCell(3 * 16, 4)], patch_size=4)
    assert encoder(torch.zeros(2, 2, 3, 16, 24)).shape == (2, 4, 4, 6)


def test_the_gradient_written_by_hand_is_that_of_the_sums():
    torch.manual_seed(0)
    cell = ConvLSTMCell(2, 3).double()
    x, h, c = (torch.randn(2, n, 4, 5, dtype=torch.float64, requires_grad=True) for n in (2, 3, 3))

    def two_steps(x, h, c, *weights):
        names = dict(zip(dict(cell.named_parameters()), weights, strict=True))
        both = [torch.func.functional_call(cell, names, (x, state)) for state in ((h, c), None)]
        return (*both[0], *both[1])

    assert torch.autograd.gradcheck(two_steps, (x, h, c, *cell.parameters()))


def test_training_and_inference_answer_alike_in_half_precision_too():
    torch.manual_seed(0)
    tower, frames = RecurrentEncoder([ConvLSTMCell(3, 16)]), torch.randn(2, 3, 3, 8, 8)
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            trained = tower(frames)
            with torch.no_grad():
                asked = tower(frames)
        assert trained.dtype == asked.dtype
        torch.testing.assert_close(trained, asked)
