"""What place recognition spends its time on, next to the peers that people use for it.

Results are compared first and the script stops where they differ. Then the ways run in turn, round by round, and
the ratios of their median CPU times are printed beside their goals. Peers that are not installed are left out.

    OMP_NUM_THREADS=1 python benchmarks/bench_place.py [--only pairs matches search loss epochs] [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_geo import R, chord, drives, require
from scipy.spatial import cKDTree
from sklearn.neighbors import BallTree, NearestNeighbors

from geohf.geo import matches_within_m, pairs_within_m, unit_vectors
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.data import files_of, load_drives
from geohf.place.losses import info_nce, metre_masks
from geohf.place.metrics import recall_of_ranks
from geohf.place.modeling import GeoPlaceModel
from geohf.place.sample import write_sample
from geohf.place.search import blockwise_top_k, unit_descriptors
from geohf.place.splits import PlaceData
from geohf.place.trainer import train_head
from geohf.report import atomic_write, markdown_table
from geohf.tables import RowErrors
from geohf.vision.features import cached_features
from geohf.vision.pooling import pooled

RADIUS_M = 25.0
DAEJEON = Path(__file__).resolve().parents[2] / "shared" / "data" / "daejeon"


def seconds(ways: dict[str, Callable], rounds: int, times: int = 1) -> dict[str, float]:
    """Median CPU seconds of `times` calls of every way, ways interleaved; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            for _ in range(times):
                way()
            if number:
                spent[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in spent.items()}


def faster(what: str, ours: float, peer: float, goal: float | None = None) -> dict:
    """A row that says how many times the peer's time is ours."""
    ratio = peer / ours
    return {"what": what, "ratio": ratio, "goal": "" if goal is None else f"at least {goal:g}",
            "met": None if goal is None else ratio >= goal}  # fmt: skip


def within(what: str, ours: float, peer: float, goal: float) -> dict:
    """A row that says how many times our time is the peer's."""
    return {"what": what, "ratio": ours / peer, "goal": f"at most {goal:g}", "met": ours / peer <= goal}


def missing(module: str) -> bool:
    if importlib.util.find_spec(module) is None:
        print(f"left out: {module} is not installed")
        return True
    return False


# ---- pairs and matches


def bench_pairs(rounds: int) -> list[dict]:
    tables = {"drives": drives(100_000)}
    if DAEJEON.is_dir():
        parts = [
            np.loadtxt(DAEJEON / f"{name}.csv", delimiter=",", usecols=(1, 2))
            for name in ("database", "query")
        ]
        tables["Daejeon"] = np.concatenate(parts)
    else:
        print(f"left out: {DAEJEON} is not there")
    return [row for name, points in tables.items() for row in pairs_of(name, points, rounds)]


def pairs_of(name: str, points: np.ndarray, rounds: int) -> list[dict]:
    def kd_tree():
        return cKDTree(R * unit_vectors(points)).query_pairs(chord(RADIUS_M), output_type="ndarray")

    def ball_tree():
        radians = np.radians(points)
        return BallTree(radians, metric="haversine").query_radius(radians, RADIUS_M / R)

    found, plain, lists = pairs_within_m(points, RADIUS_M), kd_tree(), ball_tree()
    require(np.array_equal(found, plain[np.lexsort(plain.T[::-1])]), "pairs against the k-d tree")
    i, j = np.repeat(np.arange(len(points)), [len(row) for row in lists]), np.concatenate(lists)
    both = np.stack([i, j], 1)[i < j]
    require(np.array_equal(found, both[np.lexsort(both.T[::-1])]), "pairs against the BallTree")
    spent = seconds(
        {"ours": lambda: pairs_within_m(points, RADIUS_M), "kd": kd_tree, "ball": ball_tree}, rounds
    )
    what = f"all pairs within 25 m, {name}, {len(points)} points, {len(found)} pairs:"
    return [
        faster(f"{what} BallTree haversine to ours", spent["ours"], spent["ball"], 5),
        within(f"{what} ours to SciPy's query_pairs", spent["ours"], spent["kd"], 1.2),
    ]


def bench_matches(rounds: int) -> list[dict]:
    rng = np.random.default_rng(1)
    database = drives(20_000)
    queries = database[rng.integers(0, len(database), 5000)] + rng.normal(0, 3e-5, (5000, 2))
    ranked = rng.integers(0, len(database), (5000, 10))
    hits = matches_within_m(database, queries, RADIUS_M)
    for query in range(0, 5000, 2):  # half of the queries have a right answer somewhere
        own = hits[1][hits[0][query] : hits[0][query + 1]]
        if len(own):
            ranked[query, rng.integers(10)] = rng.choice(own)

    def ours():
        return recall_of_ranks(ranked, matches_within_m(database, queries, RADIUS_M))

    def tree():
        search = NearestNeighbors(radius=RADIUS_M / R, metric="haversine", algorithm="ball_tree")
        return search.fit(np.radians(database))

    def count(positives):
        right, counted = np.zeros(3), 0
        for answers, own in zip(ranked, positives, strict=True):
            counted += len(own) > 0
            for at, n in enumerate((1, 5, 10)):
                right[at] += np.isin(answers[:n], own).any()
        return dict(zip((1, 5, 10), right / counted, strict=True))

    def at_once():
        return count(tree().radius_neighbors(np.radians(queries), return_distance=False))

    def one_by_one():
        search = tree()
        return count(
            [search.radius_neighbors(row[None], return_distance=False)[0] for row in np.radians(queries)]
        )

    expected = ours()
    for way in (at_once, one_by_one):
        require(all(abs(way()[n] - expected[n]) < 1e-12 for n in expected), "recall against scikit-learn")
    spent = seconds({"ours": ours, "at once": at_once, "loop": one_by_one}, rounds)
    what = (
        f"recall@1, 5, 10 and its ground truth, 20k x 5k, {len(hits[1])} matches: scikit-learn radius search"
    )
    return [
        faster(f"{what} in a loop over queries to ours", spent["ours"], spent["loop"], 30),
        faster(f"{what} at once, then a loop that counts, to ours", spent["ours"], spent["at once"]),
    ]


# ---- search


def bench_search(rounds: int) -> list[dict]:
    if missing("faiss"):
        return []
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
    spent = seconds({"ours": ours, "faiss": peer}, rounds)
    return [
        within(
            "exact top 10 of 10k in 100k x 256: ours to faiss IndexFlatIP", spent["ours"], spent["faiss"], 1.4
        )
    ]


# ---- loss


def plain_info_nce(x, positive, negative, temperature=0.07):
    """The plainest form in torch: it overflows at low temperatures."""
    e = torch.exp(x @ x.T / temperature)
    return -torch.log((e * positive).sum(1) / (e * (positive | negative)).sum(1)).mean()


def batch_of(count: int, images_per_place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Descriptors (count, 256) and the masks of places 1 km apart, seen so many times each."""
    generator = torch.Generator().manual_seed(count)
    place = torch.arange(count).div(images_per_place, rounding_mode="floor")
    points = torch.stack([36 + 0.01 * place.double(), torch.full((count,), -115.0, dtype=torch.float64)], 1)
    x = torch.nn.functional.normalize(torch.randn(count, 256, generator=generator), dim=-1)
    return (x.requires_grad_(), *metre_masks(points))


def with_gradient(loss: Callable, x: torch.Tensor, *rest) -> tuple[float, torch.Tensor]:
    value = loss(x, *rest)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


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


def bench_loss(rounds: int) -> list[dict]:
    x, positive, negative = batch_of(256, 4)
    (value, gradient), (expected, slope) = (
        with_gradient(loss, x, positive, negative) for loss in (info_nce, plain_info_nce)
    )
    require(
        abs(value - expected) < 1e-4 and (gradient - slope).abs().max() < 1e-5,
        "InfoNCE against the plain form",
    )
    small, large = (kept_bytes(info_nce, *batch_of(count, 4)) for count in (256, 1024))
    ways = {
        "ours": lambda: with_gradient(info_nce, x, positive, negative),
        "plain": lambda: with_gradient(plain_info_nce, x, positive, negative),
    }
    spent = seconds(ways, 3 * rounds, times=100)
    rows = [within("InfoNCE, batch 256, forward and backward: ours to the plainest torch form",
                   spent["ours"], spent["plain"], 1.3),
            within("InfoNCE: bytes kept at batch 1024 to those at 256 (16: with the square)", large, small, 16.5)]  # fmt: skip
    if missing("pytorch_metric_learning"):
        return rows
    from pytorch_metric_learning.losses import NTXentLoss

    peer = NTXentLoss(temperature=0.07)

    def ntxent(x, positive, negative):
        # they are the same loss where every anchor has one positive
        return peer(x, indices_tuple=(*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True)))

    def normalised(x, positive, negative):
        return info_nce(torch.nn.functional.normalize(x, dim=-1), positive, negative)  # as the peer does

    for images in (2, 4):
        batch = batch_of(256, images)
        if images == 2:
            (value, gradient), (expected, slope) = (
                with_gradient(loss, *batch) for loss in (normalised, ntxent)
            )
            same = abs(value - expected) < 1e-4 and (gradient - slope).abs().max() < 1e-5
            require(same, "InfoNCE against NTXentLoss")
        theirs = seconds({"peer": functools.partial(with_gradient, ntxent, *batch)}, 1)["peer"]
        what = f"InfoNCE, batch 256, {images} images a place: NTXentLoss to ours"
        rows.append(faster(what, spent["ours"] / 100, theirs, 50))
    return rows


# ---- epochs


def bench_epochs(backbone: str = "vit_base_patch16_224", size: int = 120) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        write_sample(f"{folder}/data", size=size)
        images, _ = load_drives([f"{folder}/data/{name}/poses.csv" for name in ("noon", "dusk")])
        rows = np.arange(len(images))
        noon, train = rows[:size], rows[rows % 4 > 0]
        data = PlaceData(images, train, noon, rows[size + 1 :: 4], rows[size::4], RowErrors(), "benchmark")
        files = files_of(images)
        model = GeoPlaceModel.from_backbone(backbone, pretrained=False)

        @torch.inference_mode()
        def one_pass():
            parts = [files[at : at + 32] for at in range(0, len(files), 32)]
            return torch.cat([pooled(model.tower, model.processor.pixel_values(part)) for part in parts])

        args = PlaceTrainingArguments(
            output_dir=f"{folder}/run",
            num_train_epochs=15,
            learning_rate=1e-4,
            use_cpu=True,
            disable_tqdm=True,
        )
        begin = time.process_time()
        plain = one_pass()
        middle = time.process_time()
        features = cached_features(model.tower, model.processor, files, cache_dir=f"{folder}/cache")
        train_head(model, features, data, args)
        end = time.process_time()
        require(float((features - plain).abs().max() / plain.abs().max()) < 1e-4, "cached features")
    what = f"features of {len(files)} images by {backbone} and 15 epochs on them: to one pass of it"
    return [within(what, end - middle, middle - begin, 1.3)]


PARTS = {
    "pairs": bench_pairs,
    "matches": bench_matches,
    "search": bench_search,
    "loss": bench_loss,
    "epochs": lambda rounds: bench_epochs(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="Parts to run.")
    parser.add_argument("--rounds", type=int, default=5, help="Runs of each way.")
    parser.add_argument("--json", type=Path, help="Also write the rows to this file.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for part in options.only for row in PARTS[part](options.rounds)]
    print(f"\nmedians of CPU time, results compared first:\n\n{markdown_table(rows, digits=3)}")
    if options.json:
        with atomic_write(options.json) as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
