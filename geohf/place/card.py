"""The facts that a place model's card states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geohf.hub.card import data_source
from geohf.metrics.intervals import DRAWS
from geohf.place.arguments import PlaceArguments
from geohf.place.audit import Finding
from geohf.place.comparison import comparison_rows
from geohf.place.experiment import PlaceRun
from geohf.place.splits import PlaceData
from geohf.report import reliability_bins

RULE_WORDS = {
    "has_match": "queries with a database image within the threshold",
    "all": "all queries, those without a match as never right",
}


def card_facts(
    kept: PlaceRun,
    runs: Sequence[PlaceRun],
    findings: Sequence[Finding],
    data: PlaceData,
    options: PlaceArguments,
    sure: np.ndarray | None,
) -> dict:
    """Keyword arguments of `geohf.hub.card.write_card` for the run that is kept.

    Args:
        sure: (q,) confidences of its answers to the test queries.
    """
    found, radius_m = kept.trained, options.radii_m[0]
    source = Path(options.train_csv[0])
    facts = data_source(None if data.generated else str(source.absolute().parent)) | {
        "rows": f"{len(data.train)} images to train on, a database of {len(data.database)}, "
        f"{len(data.validation)} validation and {len(data.test)} test queries",
        "split": data.protocol,
        "seed": kept.seed,
        "split_name": "test",
        "measured": found.metrics["queries"],
        "unit": "queries",
        "interval": f"95 %, bootstrap of {DRAWS} draws over drives, or over stretches of 250 m where they are few",
        "baseline": "frozen backbone",
        "baseline_words": "the same search by the feature of the backbone as it was before training",
        "chosen_on_held_out": False,
        "validation": len(data.validation) > 0,
        "radius_m": radius_m,
        "matched": found.metrics["queries_with_match"],
    }
    if sure is not None:
        *_, facts["calibration_error"] = reliability_bins(sure, found.right[:, 0])
    return {
        "titles": {f"r{count}": f"Recall@{count}, {radius_m:g} m, has_match" for count in (1, 5, 10)},
        "data": facts,
        "stages": recall_rows(found.metrics),
        "comparison": comparison_rows(runs),
        "leaks": None if options.audit == "off" else [finding.message for finding in findings],
    }


def recall_rows(metrics: dict[str, float]) -> list[dict]:
    """A row for every threshold and rule, from names like `recall@5_has_match_25m`."""
    rows: dict[tuple, dict] = {}
    for name, value in metrics.items():
        parts = re.fullmatch(r"recall@(\d+)_(\w+)_([\d.]+)m", name)
        if parts:
            row = rows.setdefault((parts[3], parts[2]), {"threshold": f"{parts[3]} m", "rule": parts[2]})
            row[f"R@{parts[1]}"] = value
    return [row | {"counted": RULE_WORDS[row["rule"]]} for row in rows.values()]
