"""What the card of a street run says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geohf.metrics.intervals import DRAWS
from geohf.metrics.records import CardData, Evaluation
from geohf.street.levels import LEVELS
from geohf.street.metrics import CLASS_METRICS

if TYPE_CHECKING:
    from geohf.street.trainer import GeoStreetTrainer

TITLES = {
    "score": "Competition score",
    "top1": "Top-1 accuracy",
    "mean_km": "Mean distance (km)",
    "median_km": "Median distance (km)",
}
LEVEL_TITLES = {f"{level.replace('-', '_')}_accuracy": f"Right {level}" for level in ("area", *LEVELS)} | {
    "consistency": "Points within the state that is answered"
}
STAGE_COLUMNS = (*CLASS_METRICS, "mean_km", "median_km", "within_25_km", "within_200_km", "geoscore")


def card_data(trainer: GeoStreetTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the street task asks for, see `model_cards/street.md`."""
    named = trainer.levels is not None
    facts = trainer.data_facts(evaluation, "places") | {
        "interval": f"95 %, bootstrap of {DRAWS} draws over places; Wilson's for top-1{' and names' * named}",
        "baseline_words": "the most frequent states and the most central point of the training places, for every place",
        "coverage": evaluation.values_by_name.get("coverage"),
    }
    stages = trainer.stage_rows(STAGE_COLUMNS)
    return CardData(TITLES | LEVEL_TITLES, facts, {"stages": stages, "kept": trainer.kept, "named": named})
