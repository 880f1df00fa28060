"""What the card of a parts run says."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import TYPE_CHECKING

from geohf.metrics.records import CardData, Evaluation
from geohf.parts.decisions import part_scores
from geohf.parts.metrics import DRAWS
from geohf.parts.state_metrics import STATE_NUMBERS

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig
    from geohf.parts.trainer import PartStateTrainer

TITLES = {
    "map": "mAP 50:95",
    "joint_map": "mAP over parts and states",
    "state_f1": "State macro F1",
    "hallucination": "Hallucination rate",
}
_VERIFIED = ("hallucination", "hallucination_iou", "present_recall", "absent_recall")
SUMMARY = ("map", "map_50", *STATE_NUMBERS, *_VERIFIED, "joint_map", "presence_ece", "state_ece")
# COCO's other numbers
COCO = ("map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


def card_data(trainer: PartStateTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the parts task asks for, see `model_cards/parts.md`."""
    facts = trainer.data_facts(evaluation, "photos") | {
        "interval": f"95 %, bootstrap of {DRAWS} draws over photos",
        "baseline_words": "every part where it usually is in the training photos, in its most frequent state",
    }
    tables = {
        "summary": summary_rows(evaluation),
        "coco": summary_rows(evaluation, COCO),
        "parts": part_rows(evaluation, trainer.config),
        "attributes": attribute_rows(evaluation, trainer.config),
    }
    return CardData(TITLES, facts, tables)


def summary_rows(evaluation: Evaluation, names: Sequence[str] = SUMMARY) -> list[dict]:
    """These numbers: a row of the constant baseline, where there is one, and one of the model."""
    rows = {"constant baseline": evaluation.baseline, "model": evaluation.values_by_name}
    known = [key for key in names if any(not isnan(numbers.get(key, nan)) for numbers in rows.values())]
    return [
        {"": name} | {key: numbers.get(key) for key in known} for name, numbers in rows.items() if numbers
    ]


def part_rows(evaluation: Evaluation, config: PartStateConfig) -> list[dict]:
    """A row for each part: its average precision, and precision, recall and F1 at its threshold."""
    names = [config.id2label[i] for i in range(config.num_labels)]
    numbers = part_scores(config, evaluation.predictions, evaluation.details["targets"])
    return [
        {"part": name, "AP": evaluation.values_by_name.get(f"ap/{name}")} | row
        for name, row in zip(names, numbers, strict=True)
    ]


def attribute_rows(evaluation: Evaluation, config: PartStateConfig) -> list[dict]:
    """A row for each attribute: how well it is told, and how well the constant baseline tells it."""
    return [
        {"attribute": name, "values": ", ".join(values)}
        | {key: evaluation.values_by_name.get(f"{key}/{name}") for key in STATE_NUMBERS}
        | {"baseline state_f1": evaluation.baseline.get(f"state_f1/{name}")}
        for name, values in (config.attributes or {}).items()
    ]
