"""What the card of a parts run says."""

from __future__ import annotations

from math import isnan, nan
from typing import TYPE_CHECKING

from geohf.metrics.records import CardData, Evaluation
from geohf.parts.metrics import DRAWS

if TYPE_CHECKING:
    from geohf.parts.trainer import PartStateTrainer

TITLES = {
    "map": "mAP 50:95",
    "joint_map": "mAP over parts and states",
    "state_f1": "State macro F1",
    "hallucination": "Hallucination rate",
}
SUMMARY = (
    "map",
    "map_50",
    "state_accuracy",
    "state_f1",
    "state_recall",
    "hallucination",
    "hallucination_iou",
    "present_recall",
    "absent_recall",
    "joint_map",
)


def card_data(trainer: PartStateTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the parts task asks for, see `model_cards/parts.md`."""
    facts = trainer.data_facts(evaluation, "photos") | {
        "interval": f"95 %, bootstrap of {DRAWS} draws over photos",
        "baseline_words": "every part where it usually is in the training photos, in its most frequent state",
    }
    return CardData(TITLES, facts, {"summary": summary_rows(evaluation), "parts": part_rows(evaluation)})


def summary_rows(evaluation: Evaluation) -> list[dict]:
    """The numbers that a person asks for first: a row of the constant baseline, where there is one, and one of the model."""
    rows = {"constant baseline": evaluation.baseline, "model": evaluation.values_by_name}
    known = [key for key in SUMMARY if any(not isnan(numbers.get(key, nan)) for numbers in rows.values())]
    return [
        {"": name} | {key: numbers.get(key) for key in known} for name, numbers in rows.items() if numbers
    ]


def part_rows(evaluation: Evaluation) -> list[dict]:
    """A row for each part with its average precision."""
    return [
        {"part": metric.name.removeprefix("ap/"), "AP": metric.value}
        for metric in evaluation.metrics
        if metric.name.startswith("ap/")
    ]
