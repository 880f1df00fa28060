"""What the Trainer costs on cached features, against a bare loop that slices the same tensors.

Both train the same street head by the same loss with the same fused AdamW on the same batches. Weights are
compared first; then both ways run in turn, and the medians of their CPU time are printed as a ratio.

    OMP_NUM_THREADS=1 python benchmarks/bench_trainer.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from geohf.street.configuration import GeoStreetConfig
from geohf.street.head import StreetHead
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.tensor_table import TensorTable
from geohf.training.trainer import GeoTrainer


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="Cached features.")
    parser.add_argument("--features", type=int, default=768, help="Length of a feature.")
    parser.add_argument("--classes", type=int, default=33, help="Classes of the head.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[256], help="Rows of a batch.")
    parser.add_argument("--epochs", type=int, default=1, help="Epochs of one run.")
    parser.add_argument("--rounds", type=int, default=5, help="Runs of each way.")
    parser.add_argument(
        "--max_ratio", type=float, default=None, help="Exit with 1 where a ratio is above it."
    )
    parser.add_argument("--profile", action="store_true", help="Print where one Trainer run spends its time.")
    return parser


def make_head(args) -> StreetHead:
    torch.manual_seed(0)
    centroids = torch.rand(args.classes, 2, dtype=torch.float64) * 20 + 30
    config = GeoStreetConfig(feature_size=args.features, class_centroids=centroids.tolist(), dropout=0.0)
    return StreetHead(config)


def make_table(args) -> TensorTable:
    generator = torch.Generator().manual_seed(1)
    return TensorTable(
        features=torch.randn(args.rows, 1, args.features, generator=generator),
        labels=torch.randint(0, args.classes, (args.rows,), generator=generator),
        coordinates=torch.rand(args.rows, 2, generator=generator, dtype=torch.float64) * 20 + 30,
    )


def orders(args) -> list[torch.Tensor]:
    """The order of rows in each epoch, as accelerate's sampler draws it from the seed."""
    generator = torch.Generator()
    return [torch.randperm(args.rows, generator=generator.manual_seed(42 + e)) for e in range(args.epochs)]


def bare_loop(args, table: TensorTable, batch_size: int) -> StreetHead:
    head = make_head(args).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for order in orders(args):
        for rows in order.split(batch_size):
            loss = head(**{name: column[rows] for name, column in table.columns.items()}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return head


def with_trainer(args, table: TensorTable, batch_size: int) -> StreetHead:
    head = make_head(args)
    with tempfile.TemporaryDirectory() as folder:
        settings = GeoTrainingArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=batch_size,
            num_train_epochs=args.epochs,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=0.0,
            disable_tqdm=True,
        )
        GeoTrainer(head, settings, train_dataset=table).train()
    return head


WAYS = {"bare loop": bare_loop, "GeoTrainer": with_trainer}


def compare(args, table: TensorTable, batch_size: int) -> float:
    """The largest difference of a weight between the two ways."""
    states = [way(args, table, batch_size).state_dict() for way in WAYS.values()]
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


def measure(args, table: TensorTable, batch_size: int) -> dict[str, float]:
    """The median CPU seconds of each way."""
    seconds = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            start = time.process_time()
            way(args, table, batch_size)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    args = make_parser().parse_args()
    torch.set_num_threads(1)
    table = make_table(args)
    if args.profile:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(with_trainer, args, table, args.batch_sizes[0])
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    print(f"{args.rows} x {args.features}, {args.classes} classes, {args.epochs} epoch(s), 1 thread")
    print(f"{'batch':>6} {'bare loop':>10} {'GeoTrainer':>11} {'ratio':>6} {'weights differ by':>18}")
    worst = 0.0
    for batch_size in args.batch_sizes:
        difference = compare(args, table, batch_size)
        if difference > 1e-4:
            sys.exit(f"the two ways do not train the same: weights differ by {difference:g}")
        median = measure(args, table, batch_size)
        ratio = median["GeoTrainer"] / median["bare loop"]
        worst = max(worst, ratio)
        print(
            f"{batch_size:>6} {median['bare loop']:>8.2f} s {median['GeoTrainer']:>9.2f} s {ratio:>6.2f} {difference:>18.1e}"
        )
    if args.max_ratio is not None and worst > args.max_ratio:
        sys.exit(1)


if __name__ == "__main__":
    main()
