"""What the Trainer costs on cached features, against a bare loop that slices the same tensors.

Both train the same street head by the same loss with the same fused AdamW on the same batches.

    OMP_NUM_THREADS=1 python benchmarks/bench_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from measure import Row, make_parser, medians, report, require

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.street.configuration import GeoStreetConfig
from geohf.street.head import StreetHead
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.phase import PhaseTrainer


def make_head(args) -> StreetHead:
    torch.manual_seed(0)
    centroids = torch.rand(args.classes, 2, dtype=torch.float64) * 20 + 30
    config = GeoStreetConfig(feature_size=args.features, class_centroids=centroids.tolist(), dropout=0.0)
    return StreetHead(config)


def make_table(args) -> TensorDictDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDictDataset(
        features=torch.randn(args.rows, 1, args.features, generator=generator),
        labels=torch.randint(0, args.classes, (args.rows,), generator=generator),
        coordinates=torch.rand(args.rows, 2, generator=generator, dtype=torch.float64) * 20 + 30,
    )


def orders(args) -> list[torch.Tensor]:
    """The order of rows in each epoch, as accelerate's sampler draws it from the seed."""
    generator = torch.Generator()
    return [torch.randperm(args.rows, generator=generator.manual_seed(42 + e)) for e in range(args.epochs)]


def bare_loop(args, table: TensorDictDataset, batch_size: int) -> StreetHead:
    head = make_head(args).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for order in orders(args):
        for rows in order.split(batch_size):
            loss = head(**{name: column[rows] for name, column in table.columns.items()}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return head


def with_trainer(args, table: TensorDictDataset, batch_size: int) -> StreetHead:
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
        PhaseTrainer(head, settings, train_dataset=table).train()
    return head


def largest_difference(one: StreetHead, other: StreetHead) -> float:
    """Of any weight."""
    theirs = other.state_dict()
    return max(float((value - theirs[name]).abs().max()) for name, value in one.state_dict().items())


def main() -> None:
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=50_000, help="cached features")
    parser.add_argument("--features", type=int, default=768, help="length of a feature")
    parser.add_argument("--classes", type=int, default=33, help="classes of the head")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[256], help="rows of a batch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of one run")
    args = parser.parse_args()
    table = make_table(args)
    rows = []
    for size in args.batch_sizes:
        ways = {
            "bare": lambda size=size: bare_loop(args, table, size),
            "ours": lambda size=size: with_trainer(args, table, size),
        }
        apart = largest_difference(*(way() for way in ways.values()))
        require(apart < 1e-4, f"the two ways train weights that differ by {apart:g}")
        took = medians(ways, args.rounds)
        what = f"PhaseTrainer on {args.rows:,} cached features of {args.features}, batch {size}"
        rows.append(
            Row(what, "a bare loop over the same tensors", took["ours"] / took["bare"], 1.5, cost=True)
        )
    report(rows, args.json)


if __name__ == "__main__":
    main()
