"""The numbers of a parts run in words: for its card and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from geohf.hub.card import data_source
from geohf.parts.arguments import PartArguments

DRAWS = 200  # for intervals: every draw computes average precision anew
TITLES = {
    "map": "mAP 50:95",
    "joint_map": "mAP over parts and states",
    "state_f1": "State macro F1",
    "hallucination": "Hallucination rate",
}
_HOW = {"stratified": "in the same proportion of every part in every state", "random": "at random"}
SUMMARY = (
    "map",
    "map_50",
    "state_accuracy",
    "state_f1",
    "state_recall",
    "hallucination",
    "hallucination_iou",
)
SUMMARY += ("present_recall", "absent_recall", "joint_map")


def card_facts(options: PartArguments, seed: int, data, stages: Mapping[str, Mapping[str, float]]) -> dict:
    """What the card's template asks for, see `geohf.hub.card.write_card`.

    Args:
        data: of the run: its splits, and which of them is `held_out`.
        stages: name -> numbers, the constant answer and the model.
    """
    name, count = data.held_out, len(data.splits[data.held_out])
    rows = [
        {"": f"{stage} ({count} {name} photos)"} | {key: numbers[key] for key in SUMMARY}
        for stage, numbers in stages.items()
    ]
    facts = data_source(options.data) | {
        "rows": ", ".join(f"{len(split)} {key}" for key, split in data.splits.items()) + " photos",
        "split": _HOW[options.split],
        "validation": True,
        "seed": seed,
        "split_name": name,
        "measured": count,
        "unit": "photos",
        "interval": f"95 %, bootstrap of {DRAWS} draws over photos",
        "baseline": "constant answer",
        "baseline_words": "every part where it usually is in the training photos, in its most frequent state",
        "chosen_on_held_out": name == "validation",
    }
    return {"titles": TITLES, "data": facts, "stages": rows, "parts": part_rows(stages["model"])}


def summary_rows(stages: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """A row a way to answer, with the numbers that a person asks for first."""
    titles = {
        "map": "mAP",
        "map_50": "mAP 50",
        "state_f1": "state macro F1",
        "state_recall": "state recall",
        "hallucination": "hallucination",
        "present_recall": "present recall",
        "joint_map": "joint mAP",
    }
    return [
        {"": stage} | {title: numbers[key] for key, title in titles.items()}
        for stage, numbers in stages.items()
    ]


def part_rows(metrics: Mapping[str, float]) -> list[dict]:
    """A row a part with its average precision."""
    return [
        {"part": name.removeprefix("ap/"), "AP": value}
        for name, value in metrics.items()
        if name.startswith("ap/")
    ]
