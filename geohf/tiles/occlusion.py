"""What a model looks at: how far its answer moves where a band of a frame, or a whole frame, is taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.tiles.dataset import BoundRows
    from geohf.tiles.modeling import TileSequenceModel

MOST_TILES = 32  # that are looked at


@torch.inference_mode()
def occlusion(model: TileSequenceModel, rows: BoundRows) -> np.ndarray:
    """The mean absolute change of the first target's answer (Zeiler and Fergus 2014), over some of the rows.

    A band of a frame is taken away by the training pixels' mean in its place, a whole frame by its mask; the one
    frame that a tile shows is never masked.

    Args:
        model: answers with numbers.
        rows: bound to the model; `MOST_TILES` of them are drawn.

    Returns:
        (steps, bands + 1) in the target's unit, the last column for whole frames; NaN where no tile shows the frame.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_TILES])
    batch = {
        name: tensor.to(model.device)
        for name, tensor in rows.__getitems__(chosen.tolist()).items()
        if name != "labels"
    }
    model = in_eval_mode(model)
    pixels, mask = batch["pixel_values"].to(model.dtype), batch["step_mask"]

    def answer(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        values = model(**batch | {"pixel_values": pixels, "step_mask": mask}).predictions
        return values[:, 0].float().sort(-1).values[:, values.shape[-1] // 2]

    before = answer(pixels, mask)
    several = mask.sum(1) > 1
    steps, bands = pixels.shape[1:3]
    moved = np.full((steps, bands + 1), np.nan)
    for step in range(steps):
        for band in range(bands + 1):
            counts = mask[:, step] & (several if band == bands else True)
            if not counts.any():
                continue
            if band == bands:
                fewer = mask.clone()
                fewer[counts, step] = False
                after = answer(pixels, fewer)
            else:
                without = pixels.clone()
                without[:, step, band] = 0  # standardized: the mean
                after = answer(without, mask)
            change = (after - before).abs()[counts]
            moved[step, band] = float(change[change.isfinite()].mean()) if change.isfinite().any() else np.nan
    return moved
