"""What a large index costs: bytes a row, time of a batch of 64 questions, and how often the best answer is found.

    OMP_NUM_THREADS=1 python benchmarks/place_index.py --rows 1000000

The rows are made, clusters of 512 numbers in any direction; a question is a row with noise. A million rows take about
6 GB of memory, most of it for the float32 rows that all storages are compared with.
"""

from __future__ import annotations

import resource

import numpy as np
import torch
from measure import installed, make_parser, medians

from geohf.place.index import PlaceIndex
from geohf.place.search import blockwise_top_k
from geohf.place.storage import STORAGES, check_storage
from geohf.report.tables import markdown_table

SIZE, BATCH, PER_CLUSTER, BLOCK = 512, 64, 40, 50_000


def make_rows(count: int) -> torch.Tensor:
    """(count, 512) of length 1, in clusters of 40."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(count // PER_CLUSTER, SIZE, generator=generator)
    rows = torch.empty(count, SIZE)
    for start in range(0, count, BLOCK):
        part = rows[start : start + BLOCK]
        at = torch.randint(len(centers), (len(part),), generator=generator)
        part[:] = centers[at] + 0.5 * torch.randn(part.shape, generator=generator)
        part /= torch.linalg.vector_norm(part, dim=1, keepdim=True)
    return rows


def main() -> None:
    parser = make_parser(__doc__ or "", rounds=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    rows = make_rows(args.rows)
    asked = rows[torch.linspace(0, args.rows - 1, BATCH).long()]
    noise = torch.randn(asked.shape, generator=torch.Generator().manual_seed(1))
    queries = torch.nn.functional.normalize(asked + 0.02 * noise, dim=1)
    best = blockwise_top_k(rows, queries, 1)[1]
    stored = {}
    for name in STORAGES:
        kind = check_storage(name)
        stored[name] = kind.of(rows[:BLOCK])
        for start in range(BLOCK, args.rows, BLOCK):
            stored[name] = stored[name].append(rows[start : start + BLOCK])
        found = stored[name].top_k(queries, 10)[1]
        took = medians({name: lambda kept=stored[name]: kept.top_k(queries, 10)}, args.rounds)[name]
        stored[name] = {
            "storage": name,
            "bytes a row": stored[name].bytes_per_row,
            "seconds for 64": took,
            "best in the top 10": float((found == best).any(1).float().mean()),
        }
    for backend in ("ivf", "hnsw", "usearch"):
        if args.rows <= 100_000 and installed("usearch" if backend == "usearch" else "faiss"):
            index = PlaceIndex(rows, np.ones((args.rows, 2)), [""] * args.rows, "")
            found = index.search(queries, 10, backend=backend)[1]
            way = {backend: lambda index=index, name=backend: index.search(queries, 10, backend=name)}
            right = (found == best.numpy()).any(1).mean()
            took = medians(way, args.rounds)[backend]
            stored[backend] = {"storage": backend, "seconds for 64": took, "best in the top 10": float(right)}
    times = stored["float32"]["seconds for 64"]
    table = [row | {"times as fast as float32": times / row["seconds for 64"]} for row in stored.values()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.rows} rows of {SIZE}, on one thread; faiss {'is' if installed('faiss') else 'is not'} installed"
    )
    print(f"peak memory {peak:.1f} GiB\n\n{markdown_table(table, digits=3)}")


if __name__ == "__main__":
    main()
