"""BoQ: learned queries that ask the map of a picture."""

from __future__ import annotations

import torch
from torch import nn


class QueryBlock(nn.Module):
    """One layer of a transformer over the places of the map, and a bag of learned queries that ask what it gives."""

    def __init__(self, channels: int, queries: int):
        super().__init__()
        heads = max(1, channels // 64)
        self.encoder = nn.TransformerEncoderLayer(
            channels, heads, 4 * channels, dropout=0.0, batch_first=True
        )
        self.queries = nn.Parameter(torch.randn(1, queries, channels))
        self.self_attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_q = nn.LayerNorm(channels)
        self.cross_attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, places, channels) to the same, and to the answers, (batch, queries, channels)."""
        places = self.encoder(places)
        asked = self.queries  # they hear each other, not the picture, so once a batch is enough
        asked = self.norm_q(asked + self.self_attn(asked, asked, asked, need_weights=False)[0])
        asked = asked.expand(len(places), -1, -1)
        return places, self.norm_out(self.cross_attn(asked, places, places, need_weights=False)[0])


class BoQ(nn.Module):
    """The answers to the queries of all blocks, mixed to a few rows.

    Ali-bey, Chaib-draa, Giguère: BoQ: A Place is Worth a Bag of Learnable Queries, CVPR 2024.

    Args:
        channels: of the map that comes in.
        width: channels that the blocks work on, a multiple of 64 or below it.
        queries: of each block.
        blocks: how many.
        rows: what the answers are mixed to.
    """

    def __init__(self, channels: int, width: int, queries: int, blocks: int, rows: int):
        super().__init__()
        self.proj_c = nn.Conv2d(channels, width, 3, padding=1)
        self.norm_input = nn.LayerNorm(width)
        self.boqs = nn.ModuleList(QueryBlock(width, queries) for _ in range(blocks))
        self.fc = nn.Linear(blocks * queries, rows)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to (batch, width x rows)."""
        places = self.norm_input(self.proj_c(features).flatten(2).mT)
        answers = []
        for block in self.boqs:
            places, answer = block(places)
            answers.append(answer)
        return self.fc(torch.cat(answers, 1).mT).flatten(1)
