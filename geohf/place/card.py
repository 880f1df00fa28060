"""What the card of a place run says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geohf.data.task_data import facts_of
from geohf.metrics.calibration import expected_calibration_error
from geohf.metrics.intervals import DRAWS
from geohf.metrics.records import CardData, Evaluation
from geohf.place.choice import lowered
from geohf.place.comparison import comparison_rows
from geohf.place.losses.cosface import sectors_of

if TYPE_CHECKING:
    from geohf.place.trainer import GeoPlaceTrainer

RULE_WORDS = {
    "has_match": "queries with a database image within the threshold",
    "all": "all queries, those without a match as never right",
}


def card_data(trainer: GeoPlaceTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the place task asks for, see `model_cards/place.md`."""
    retrieval, details = evaluation.details["retrieval"], evaluation.details
    heading_deg, searched = trainer.model.config.heading_deg, len(trainer.database_of(evaluation.dataset))
    facts = trainer.data_facts(evaluation, "queries")
    counts = {"train": "streamed"} | facts["counts"]
    queries = " and ".join(f"{count} {name}" for name, count in counts.items() if name != "train")
    facts |= {
        "rows": f"{counts['train']} images to train on, a database of {searched}, {queries} queries",
        "interval": f"95 %, bootstrap of {DRAWS} draws over drives, or over stretches of 250 m where they are few",
        "baseline": "frozen backbone",
        "baseline_words": "the same search by the feature of the backbone as it was before training",
        "radius_m": retrieval.radius_m,
        "matched": retrieval.values["queries_with_match"],
    }
    sure = [prediction.confidence for prediction in evaluation.predictions]
    if None not in sure:
        facts["calibration_error"] = expected_calibration_error(np.array(sure), retrieval.right[:, 0])
    names = ("auc_pr", "full_precision_recall", "risk_coverage", "answered", "answered_precision")
    values = {name: retrieval.values.get(name, math.nan) for name in names}
    facts |= {name: value for name, value in values.items() if math.isfinite(value)}
    leaks = facts_of(evaluation.dataset).get("leaks")
    if leaks is not None:
        leaks = [leak["message"] for leak in leaks] + [finding.message for finding in details["duplicates"]]
    return CardData(
        {f"r{count}": f"Recall@{count}, {retrieval.radius_m:g} m, has_match" for count in (1, 5, 10)},
        facts,
        {
            "recalls": recall_rows(retrieval.values),
            "stages": trainer.stage_rows(("r1", "r5", "r10", "median_m", "mean_m")),
            "kept": trainer.kept,
            "lowered": lowered(trainer.stages),
            "comparison": comparison_rows(trainer.runs),
            "leaks": leaks,
            "sector_deg": heading_deg and 360 / sectors_of(heading_deg),
        },
    )


def recall_rows(values: Mapping[str, float]) -> list[dict]:
    """A row for every threshold and rule, from names like `recall@5_has_match_25m`."""
    rows: dict[tuple, dict] = {}
    for name, value in values.items():
        if parts := re.fullmatch(r"recall@(\d+)_(\w+)_([\d.]+)m", name):
            count, rule, meters = parts.groups()
            rows.setdefault((meters, rule), {"threshold": f"{meters} m", "rule": rule})[f"R@{count}"] = value
    return [row | {"counted": RULE_WORDS[row["rule"]]} for row in rows.values()]
