"""As many quadtree cells as OpenStreetView-5M has, made of a million places: time, memory, and what a training step costs.

OMP_NUM_THREADS=1 python benchmarks/bench_cells.py
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from measure import Row, make_parser, medians, report, require, seconds
from memory import alone, peak_added
from points import world
from torch import nn

from geohf.geo import cell_soft_targets, point_soft_targets
from geohf.geo.cells import nearest_centroids
from geohf.geo.quadtree import quadtree
from geohf.geo.soft_targets import CentroidRuns
from geohf.street.hierarchy import level_tensors
from geohf.street.losses import hierarchical_cross_entropy
from geohf.vision.backbones import resolve_backbone
from geohf.vision.towers import build_tower, tower_features

# 4^6 boxes of 244 or 245 places, of which those of 245 are cut once more: 11,398 cells, where OSV-5M has 11,399
PLACES, SPLIT, CELLS = 4096 * 244 + 2434, 245, 4096 + 3 * 2434
WIDTH, HIDDEN = 768, 512
BATCH, WITH_BACKBONE = 64, 16  # on cached features, and where the backbone learns, too
PROCESSES = 5  # where memory lies differs from process to process, and a step's time with it


def centroids_of(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(cells, 2) the place of each cell that comes first: enough to measure with."""
    return points[np.unique(labels, return_index=True)[1]]


def tree_memory() -> float:
    points = world(PLACES)
    return peak_added(lambda: quadtree(points, SPLIT))


def targets_memory(whole: bool) -> float:
    """Of the soft targets of all places, a batch at a time, or of the matrix of all cells."""
    centroids = torch.from_numpy(world(CELLS, 1))
    if whole:
        return peak_added(lambda: cell_soft_targets(centroids, 75.0))
    labels = torch.randint(CELLS, (100, BATCH), generator=torch.Generator().manual_seed(0))
    runs = CentroidRuns(centroids)
    cell_soft_targets(runs, 75.0, labels[0])
    return peak_added(lambda: sum(float(cell_soft_targets(runs, 75.0, batch)[0, 0]) for batch in labels))


def steps(centroids: torch.Tensor, levels, backbone: str | None) -> dict:
    """A training step on one batch: plain cross-entropy, and ours with smoothed labels and all levels."""
    torch.manual_seed(0)
    described = None if backbone is None else resolve_backbone(backbone)
    tower = None if described is None else build_tower(described.config)
    size = WIDTH if described is None else described.feature_size
    head = nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, len(centroids))
    )
    learned = [*head.parameters(), *([] if tower is None else tower.parameters())]
    optimizer = torch.optim.AdamW(learned, 1e-4)
    inputs = torch.randn(BATCH, size) if tower is None else torch.randn(WITH_BACKBONE, 3, 224, 224)
    labels = torch.randint(len(centroids), (len(inputs),))
    truth, counts = centroids[labels] + 0.1, torch.ones(len(inputs), dtype=torch.bool)
    runs = CentroidRuns(centroids)  # made once, as the model does

    def step(loss) -> None:
        logits = head(inputs if tower is None else tower_features(tower, inputs))
        optimizer.zero_grad()
        loss(logits).backward()
        optimizer.step()

    def ours(logits):
        return hierarchical_cross_entropy(logits, cell_soft_targets(runs, 75.0, labels), counts, levels)

    def by_points(logits):
        return hierarchical_cross_entropy(logits, point_soft_targets(truth, runs), counts, levels)

    losses = {"plain": lambda logits: nn.functional.cross_entropy(logits, labels)}
    losses |= {"cell": ours, "point": by_points}
    return {name: lambda loss=loss: step(loss) for name, loss in losses.items()}


def step_seconds(centroids: torch.Tensor, levels, backbone: str | None, rounds: int) -> dict[str, float]:
    return medians(steps(centroids, levels, backbone), rounds)


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--backbone", default="resnet18", help="of the second step, with random weights")
    options = parser.parse_args()
    points, made = world(PLACES), []
    spent = seconds(lambda: made.append(quadtree(points, SPLIT)))
    tree, labels = made[0]
    require(tree.cells == CELLS, f"{tree.cells} cells instead of {CELLS}")
    require(bool((tree.assign(points) == labels).all()), "cells of the places that made them")
    centroids = centroids_of(points, labels)
    found = seconds(lambda: tree.assign(points))
    nearest = seconds(lambda: nearest_centroids(points, centroids))
    size = f"{PLACES:,} places, {CELLS:,} cells"
    cells, levels = torch.from_numpy(centroids), level_tensors(tree.levels)
    rows = [
        Row("making the tree", size, spent, unit="s"),
        Row("making the tree: memory", size, alone(tree_memory), unit="MiB"),
        Row("the cells of all places", f"the nearest of as many centroids, {nearest:.1f} s", nearest / found),
        Row("smoothed targets, a batch at a time: memory", f"the matrix of all, {alone(targets_memory, True):.0f} MiB",
            alone(targets_memory, False), unit="MiB"),
    ]  # fmt: skip
    for name, backbone, processes, rounds in (
        ("heads on cached features", None, PROCESSES, 5 * options.rounds),
        (f"with {options.backbone}", options.backbone, 1, 2),
    ):
        taken = [alone(step_seconds, cells, levels, backbone, rounds) for _ in range(processes)]
        plain = 1000 * statistics.median(each["plain"] for each in taken)
        for way in ("cell", "point"):
            ratios = sorted(each[way] / each["plain"] for each in taken)
            spread = f"; {processes} processes, {ratios[0]:.2f} to {ratios[-1]:.2f}" if processes > 1 else ""
            against, ratio = f"plain cross-entropy, {plain:.0f} ms{spread}", statistics.median(ratios)
            what = f"a step {name}, {len(levels) + 1} levels, smoothed by {way}"
            rows.append(Row(what, against, ratio, 1.1, cost=True))
    report(rows, options.json)


if __name__ == "__main__":
    main()
