"""Batches that training varies: turned and mirrored tiles, frames that are masked at random."""

from __future__ import annotations

import torch


def fewer_seen(step_mask: torch.Tensor, chance: float) -> torch.Tensor:
    """(batch, steps) bool with some of the seen steps masked at random; of each row one that was seen stays."""
    draw = torch.rand(step_mask.shape).masked_fill(~step_mask, -1)
    return step_mask & ((draw >= chance) | (draw == draw.amax(1, keepdim=True)))


def turned(batch: dict[str, torch.Tensor], image: bool) -> dict[str, torch.Tensor]:
    """Turn and mirror each row of a batch at random, all its frames and an image target alike.

    Oblong tiles are mirrored only.
    """
    names = ["pixel_values", "labels"] if image else ["pixel_values"]
    height, width = batch["pixel_values"].shape[-2:]
    changes = [lambda x: x.flip(-1), lambda x: x.flip(-2)]
    if height == width:
        changes.append(lambda x: x.transpose(-1, -2))
    choice = torch.randint(2 ** len(changes), (len(batch["pixel_values"]),))
    out = {name: batch[name].clone() for name in names}
    for bit, change in enumerate(changes):
        chosen = (choice >> bit & 1).bool()
        for name in names:
            out[name][chosen] = change(out[name][chosen])
    return batch | out
