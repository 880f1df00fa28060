"""Which way a camera looked: a head on a photograph's feature, and its loss on the circle."""

from __future__ import annotations

import torch
from torch import nn

from geohf.errors import DataError
from geohf.models.losses import mean_of_known


def perceptron(size: int, hidden_size: int, outputs: int, dropout: float) -> nn.Sequential:
    """A small perceptron behind a backbone."""
    return nn.Sequential(
        nn.LayerNorm(size),
        nn.Linear(size, hidden_size),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, outputs),
    )


class HeadingHead(nn.Module):
    """From a feature of this size to a direction of length 1: its sine towards the east, its cosine towards the north."""

    def __init__(self, size: int, hidden_size: int, dropout: float):
        super().__init__()
        self.layers = perceptron(size, hidden_size, 2, dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., size) to (..., 2)."""
        return nn.functional.normalize(self.layers(features).float(), dim=-1)


def heading_loss(
    directions: torch.Tensor, headings: torch.Tensor, items: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of 1 - cos(difference): 0 for the right direction, 1 at a right angle, 2 for the opposite one.

    Args:
        directions: (..., 2) of length 1, see `HeadingHead`.
        headings: (...) degrees clockwise from north; those that are NaN do not count.
        items: number to divide by; None: the headings that count.

    >>> at = torch.deg2rad(torch.tensor([359.0, 10.0]))
    >>> loss = heading_loss(torch.stack([at.sin(), at.cos()], -1), torch.tensor([1.0, torch.nan]))
    >>> round(loss.item(), 6)  # two degrees
    0.000609
    """
    counts = headings.isfinite()
    truth = torch.deg2rad(torch.where(counts, headings, 0.0).float())
    cosines = (directions * torch.stack([truth.sin(), truth.cos()], -1)).sum(-1)
    return mean_of_known(1 - cosines, counts, items)


def degrees_of_directions(directions: torch.Tensor) -> torch.Tensor:
    """(..., 2) directions to (...) degrees clockwise from north in [0, 360); NaN stays NaN.

    >>> degrees_of_directions(torch.tensor([[0.0, 1.0], [-1.0, 0.0]])).tolist()
    [0.0, 270.0]
    """
    return torch.rad2deg(torch.atan2(directions[..., 0], directions[..., 1])) % 360


def refuse_mirrors(predict_heading: bool, test_time: str | None) -> None:
    """Raise DataError where a model that tells headings shall average over mirror images, see `geohf.vision.augmentation`."""
    if test_time == "flip" and predict_heading:
        raise DataError(
            "a mirror image looks another way, so headings are not averaged over it: take 'crops'"
        )
