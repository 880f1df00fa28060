"""Tiles that a model sees alike: groups with margins of their own, which any sample can be told to belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.tiles.dataset import BoundRows
    from geohf.tiles.modeling import TileSequenceModel

MOST_CLUSTERS = 8
MOST_ROWS = 4096  # of training that clusters are fitted on
BATCH = 256


def cluster_count(rows: int, coverage: float) -> int:
    """How many clusters so many validation rows can calibrate: twice as many rows each as a margin needs, on average.

    >>> cluster_count(79, 0.9), cluster_count(120, 0.9), cluster_count(10_000, 0.9)
    (0, 3, 8)
    """
    count = min(MOST_CLUSTERS, int(rows / round(4 / (1 - coverage), 6)))
    return count if count > 1 else 0


def fit_clusters(states: torch.Tensor, count: int) -> dict[str, Any]:
    """k-means of (n, size) states, each number in units of its spread.

    Returns:
        For a config: `scale` (size,), and `centers` (count, size) in units of it.
    """
    from sklearn.cluster import KMeans

    scale = states.double().std(0).clamp(min=1e-6)
    fitted = KMeans(count, n_init=4, random_state=0).fit((states.double() / scale).numpy())
    return {"scale": scale.tolist(), "centers": fitted.cluster_centers_.tolist()}


def nearest_clusters(clusters: dict[str, Any], states: torch.Tensor) -> torch.Tensor:
    """(n,) the number of the nearest center of each state."""
    scale, centers = (
        torch.tensor(clusters[name], dtype=torch.float32, device=states.device)
        for name in ("scale", "centers")
    )
    return torch.cdist(states.float() / scale, centers).argmin(1)


def cluster_names(numbers: torch.Tensor) -> list[str]:
    """What clusters are called in `region_margins` and in tables."""
    return [f"cluster {number + 1}" for number in numbers.tolist()]


@torch.inference_mode()
def states_of(model: TileSequenceModel, rows: BoundRows, most: int | None = None) -> torch.Tensor:
    """(n, size) what the head sees of rows, on the CPU.

    Args:
        rows: bound to the model.
        most: so many of them are drawn at most.
    """
    chosen: np.ndarray = np.arange(len(rows))
    if most is not None and len(rows) > most:
        chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
    ready, states = in_eval_mode(model), []
    for part in np.array_split(chosen, -(-len(chosen) // BATCH)):
        batch = {name: tensor.to(model.device) for name, tensor in rows.__getitems__(part.tolist()).items()}
        names = ("pixel_values", "step_mask", "dates", "features")
        states.append(ready.state(**{name: batch.get(name) for name in names}).float().cpu())
    return torch.cat(states)
