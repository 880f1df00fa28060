"""What place recognition spends its time on, next to the peers that people use for it.

OMP_NUM_THREADS=1 python benchmarks/bench_place.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from measure import Row, installed, make_parser, medians, report, require
from torch.nn.functional import normalize

from geohf.place.losses import info_nce, pair_masks
from geohf.place.search import blockwise_top_k, unit_descriptors


def search(rounds: int) -> Row:
    what, against = "exact top 10 of 10k queries in 100k x 256", "faiss IndexFlatIP"
    if not installed("faiss"):
        return Row(what, against, None, 1.4, cost=True)
    import faiss

    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    database, queries = (
        unit_descriptors(torch.randn(n, 256, generator=generator)) for n in (100_000, 10_000)
    )

    def ours():
        return blockwise_top_k(database, queries, 10)

    def peer():
        index = faiss.IndexFlatIP(256)
        index.add(database.numpy())
        return index.search(queries.numpy(), 10)

    (similarity, rows), (expected, expected_rows) = ours(), peer()
    require(np.abs(similarity.numpy() - expected).max() < 1e-5, "similarities against faiss")
    require((rows.numpy() == expected_rows).mean() > 0.9999, "answers against faiss")  # ties may swap
    took = medians({"ours": ours, "faiss": peer}, rounds)
    return Row(what, against, took["ours"] / took["faiss"], 1.4, cost=True)


def plain_info_nce(x, positive, negative, temperature=0.07):
    """The plainest form in torch: it overflows at low temperatures."""
    e = torch.exp(x @ x.T / temperature)
    return -torch.log((e * positive).sum(1) / (e * (positive | negative)).sum(1)).mean()


def batch_of(count: int, images_per_place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Descriptors (count, 256) and the masks of places 1 km apart, seen so many times each."""
    generator = torch.Generator().manual_seed(count)
    place = torch.arange(count).div(images_per_place, rounding_mode="floor")
    points = torch.stack([36 + 0.01 * place.double(), torch.full((count,), -115.0, dtype=torch.float64)], 1)
    x = normalize(torch.randn(count, 256, generator=generator), dim=-1)
    return (x.requires_grad_(), *pair_masks(points))


def with_gradient(loss: Callable, x: torch.Tensor, *rest) -> tuple[float, torch.Tensor]:
    value = loss(x, *rest)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def require_same_loss(one: Callable, other: Callable, batch: tuple, what: str) -> None:
    (value, gradient), (expected, slope) = (with_gradient(loss, *batch) for loss in (one, other))
    require(abs(value - expected) < 1e-4 and (gradient - slope).abs().max() < 1e-5, what)


def kept_bytes(loss: Callable, *arguments) -> int:
    """Bytes of the tensors that a loss keeps for its backward pass."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = loss(*arguments)
    del result
    return sum(kept.values())


def loss(rounds: int) -> list[Row]:
    batch = batch_of(256, 4)
    require_same_loss(info_nce, plain_info_nce, batch, "InfoNCE against the plain form")
    ways = {
        "ours": lambda: with_gradient(info_nce, *batch),
        "plain": lambda: with_gradient(plain_info_nce, *batch),
    }
    took = medians(ways, 3 * rounds, times=100)
    small, large = (kept_bytes(info_nce, *batch_of(count, 4)) for count in (256, 1024))
    what = "InfoNCE forward and backward, batch 256"
    return [
        Row(what, "the plainest torch form", took["ours"] / took["plain"], 1.3, cost=True),
        Row(
            "memory that InfoNCE keeps, batch 1024",
            "batch 256 (16: the square)",
            large / small,
            16.5,
            True,
            "× the memory",
        ),
        *(peer_loss(f"{what}, {images} images a place", batch_of(256, images), rounds) for images in (2, 4)),
    ]


def peer_loss(what: str, batch: tuple, rounds: int) -> Row:
    against = "pytorch-metric-learning NTXentLoss"
    if not installed("pytorch_metric_learning"):
        return Row(what, against, None, 50)
    from pytorch_metric_learning.losses import NTXentLoss

    peer = NTXentLoss(temperature=0.07)

    def ntxent(x, positive, negative):
        return peer(x, indices_tuple=(*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True)))

    def normalized(x, positive, negative):
        return info_nce(normalize(x, dim=-1), positive, negative)  # as the peer does

    # they are the same loss where every anchor has one positive
    require_same_loss(normalized, ntxent, batch_of(256, 2), "InfoNCE against NTXentLoss")
    took = medians(
        {"ours": lambda: with_gradient(info_nce, *batch), "peer": lambda: with_gradient(ntxent, *batch)},
        rounds,
        slow=("peer",),
    )
    return Row(what, against, took["peer"] / took["ours"], 50)


def main() -> None:
    options = make_parser(__doc__, rounds=5).parse_args()
    report([search(options.rounds), *loss(options.rounds)], options.json)


if __name__ == "__main__":
    main()
