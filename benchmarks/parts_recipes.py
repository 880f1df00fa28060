"""The reference implementation's choices beside ours, trained on the generated sample with the same data, backbone and budget.

    OMP_NUM_THREADS=1 python benchmarks/parts_recipes.py --seeds 42 1 2 --epochs 10

- pairing: states of the first n regions are taken from the first n truths, as in the original, or each from the truth
  that it overlaps.
- absent parts: found like all others (the original), background, found and then judged by their state (`detect`), or
  ignored.

Prints two tables of held-out numbers, means over seeds with ranges.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measure import mean_and_range

from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.heads import PartRoIHeads, StateHead
from geohf.parts.losses import IGNORED
from geohf.recipes.train_parts import run
from geohf.report.tables import markdown_table

OWNERS = {"match_states": PartRoIHeads, "probabilities": StateHead}
SHOWN = {
    "map": "mAP",
    "state_accuracy": "state accuracy",
    "state_f1": "state macro F1",
    "hallucination": "hallucination",
    "hallucination_iou": "at its place",
    "present_recall": "present recall",
    "joint_map": "joint mAP",
}


def first_n_states(self, matched, labels, targets) -> list[torch.Tensor]:
    """The reference implementation's pairing: region i learns the state of truth i, whatever either shows."""
    paired = []
    for label, target in zip(labels, targets, strict=True):
        states = torch.full_like(label, IGNORED)
        n = min(len(label), len(target["states"]))
        states[:n] = target["states"][:n]
        paired.append(states)
    return paired


def never_absent(self, logits) -> torch.Tensor:
    """The reference implementation's answers: it tells no states, so a box of an absent part counts as much as any other."""
    logits = logits.clone()
    logits[:, self.config.absent_index] = -torch.inf
    return logits.softmax(-1)


@contextmanager
def patched(**methods) -> Iterator[None]:
    """Heads with some methods of the original."""
    kept = {name: getattr(OWNERS[name], name) for name in methods}
    for name, method in methods.items():
        setattr(OWNERS[name], name, method)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(OWNERS[name], name, method)


# name -> (options of the run, methods of the original)
PAIRINGS = {
    "original: first n regions to first n truths": ({}, {"match_states": first_n_states}),
    "ours: each region to the truth that it overlaps": ({}, {}),
}
ABSENT = {
    "original: found like all others": ({"absent": "detect"}, {"probabilities": never_absent}),
    "ours: background": ({}, {}),
    "found, score x (1 - P(absent))": ({"absent": "detect"}, {}),
    "ignored": ({"absent": "ignore"}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument(
        "--epochs", type=float, default=PartTrainingArguments(output_dir=".").num_train_epochs
    )
    parser.add_argument("--json", type=Path, help="also write every number here")
    options = parser.parse_args()
    numbers: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            done: dict[str, dict] = {}
            for name, (fields, methods) in (PAIRINGS | ABSENT).items():
                key = json.dumps([fields, sorted(methods)])
                if key not in done:  # ours stands in both tables
                    args = PartTrainingArguments(
                        output_dir=f"{folder}/run",
                        seed=seed,
                        num_train_epochs=options.epochs,
                        disable_tqdm=True,
                        logging_strategy="no",
                        dataloader_num_workers=0,
                    )
                    with patched(**methods):
                        found = run(
                            PartArguments(overlays=0, presence_threshold=0.5, **fields), args
                        ).evaluated
                    done[key] = found.values_by_name
                    shown = {k: round(done[key][k], 4) for k in SHOWN}
                    print(f"seed {seed}, {name}: {json.dumps(shown)}", flush=True)
                numbers.setdefault(name, []).append(done[key])
    print(f"\nHeld-out photos of the generated sample, means and ranges of seeds {options.seeds}:")
    for title, recipes in (("pairing of states", PAIRINGS), ("absent parts in training", ABSENT)):
        rows = [
            {title: name}
            | {text: mean_and_range([run[key] for run in numbers[name]]) for key, text in SHOWN.items()}
            for name in recipes
        ]
        print(f"\n{markdown_table(rows)}")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
