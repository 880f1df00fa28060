"""What is taken of a backbone's output: its own pooled feature, the class token, an average, or the whole map; standardized."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geohf.errors import DataError
from geohf.vision.backbones import TimmTower
from geohf.vision.towers import build_tower, tower_features

POOLS = ("tower", "cls", "avg", "map", "tokens", "attended")


def pooled(tower: Any, pixel_values: torch.Tensor, pool: str = "tower") -> torch.Tensor:
    """A backbone's features of images, pooled in one of the ways of `POOLS`.

    Args:
        pixel_values: (batch, 3, height, width).
        pool: `tower` (what the backbone itself calls its feature, see `tower_features`), `cls` (class token),
            `avg` (mean over the map), `map`, `tokens` (the class token, or the mean where there is none, then the
            map), or `attended` (the tokens, and how much the class token attends to each in the last block, summed over
            its heads, as a last channel; 0 for the class token).

    Returns:
        (batch, features), or (batch, channels, rows, columns) for `map`, (batch, channels, 1 + rows x columns) for
        `tokens`, with a channel more for `attended`.

    Raises:
        DataError: the backbone has no class token; for `attended`, it is no vision transformer of timm.
        ValueError: an unknown way.
    """
    if pool == "tower":
        return tower_features(tower, pixel_values)
    if pool == "attended":
        return _attended(tower, pixel_values)
    prefix, grid = _tokens(tower, pixel_values)
    if pool == "cls":
        if prefix is None:
            raise DataError(
                f"a {tower.config.model_type} backbone has no class token; use pooling avg or gem"
            )
        return prefix[:, 0]
    if pool == "avg":
        return grid.mean((-2, -1))
    if pool == "map":
        return grid
    if pool == "tokens":
        first = grid.mean((-2, -1)) if prefix is None else prefix[:, 0]
        return torch.cat([first[..., None], grid.flatten(2)], -1)
    raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")


def _attended(tower: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    timm: Any = getattr(tower, "timm", None)
    last: Any = timm.blocks[-1] if hasattr(timm, "blocks") else None
    if not hasattr(getattr(last, "attn", None), "qkv") or timm.num_prefix_tokens < 1:
        raise DataError("the attention of a class token is read of the vision transformers of timm alone")
    hidden, [(patches, prefix)] = timm.forward_intermediates(
        pixel_values, indices=[len(timm.blocks) - 2], return_prefix_tokens=True, output_fmt="NLC"
    )
    before = last.norm1(torch.cat([prefix, patches], 1))
    queries, keys, _ = (
        last.attn.qkv(before).unflatten(-1, (3, last.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    )
    scores = (queries[:, :, :1] @ keys.mT * last.attn.scale).softmax(-1)[:, :, 0, prefix.shape[1] :].sum(1)
    attention = torch.nn.functional.pad(scores, (1, 0))[:, None]
    tokens = torch.cat([hidden[:, :1], hidden[:, prefix.shape[1] :]], 1).mT
    return torch.cat([tokens, attention.to(tokens.dtype)], 1)


def map_size(config, image_size: tuple[int, int]) -> list[int]:
    """Channels, rows and columns of a backbone's map for images of (height, width), by a pass without storage."""
    with torch.device("meta"), torch.no_grad():
        return list(pooled(build_tower(config).eval(), torch.empty(1, 3, *image_size), "map").shape[1:])


def _tokens(tower: Any, pixel_values) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Tokens before the map (batch, n, channels), None without any; the map (batch, channels, rows, columns)."""
    if isinstance(tower, TimmTower):
        hidden = tower.timm.forward_features(pixel_values)
        channels_last = getattr(tower.timm, "output_fmt", "NCHW") == "NHWC"
        patch: Any = tower.timm.patch_embed.patch_size if hidden.ndim == 3 else None
    else:
        hidden, channels_last = tower(pixel_values).last_hidden_state, False
        patch = getattr(tower.config, "patch_size", None)
    if hidden.ndim == 4:
        return None, hidden.movedim(-1, 1) if channels_last else hidden
    sides = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = (length // side for length, side in zip(pixel_values.shape[-2:], sides, strict=True))
    first = hidden.shape[1] - rows * columns
    grid = hidden[:, first:].mT.unflatten(-1, (rows, columns)).contiguous()
    return (hidden[:, :first] if first else None), grid


class FeatureStandardizer(nn.Module):
    """Subtracts the training features' mean and divides by their standard deviation; does nothing before `fit`.

    Else a head spends its first epochs on the large mean that features of a frozen backbone share.

    Args:
        size: length of a feature.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("std", torch.ones(size, dtype=torch.float32))

    def fit(self, features: torch.Tensor) -> None:
        """Take mean and standard deviation from (n, size) training features; a constant one keeps scale 1."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., size) to (..., size) in the features' own type."""
        return ((features.float() - self.mean) / self.std).to(features.dtype)
