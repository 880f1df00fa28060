"""The facts that a place model's card states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def card_context(
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
    found = kept.trained
    facts = {
        "name": "generated sample" if data.generated else Path(options.train_csv[0]).absolute().parent.name,
        "split_name": "test",
        "generated": data.generated,
        "protocol": data.protocol,
        "places": f"{len(data.train)} images to train on, a database of {len(data.database)}, "
        f"{len(data.validation)} validation and {len(data.test)} test queries",
        "radius_m": options.radii_m[0],
        "queries": found.metrics["queries"],
        "matched": found.metrics["queries_with_match"],
        "interval": (found.metrics["r1_low"], found.metrics["r1_high"]),
    }
    if sure is not None:
        *_, facts["calibration_error"] = reliability_bins(sure, found.right[:, 0])
    results = [
        {
            "type": f"recall@{count}",
            "name": f"Recall@{count}, {options.radii_m[0]:g} m, has_match",
            "value": value,
        }
        for count in (1, 5, 10)
        if (value := found.metrics.get(f"r{count}")) is not None
    ]
    return {
        "metrics": recall_rows(found.metrics),
        "data": facts,
        "results": results,
        "comparison": comparison_rows(runs),
        "leaks": [finding.message for finding in findings],
    }


def recall_rows(metrics: dict[str, float]) -> list[dict]:
    """A row for every threshold and rule, from names like `recall@5_has_match_25m`."""
    rows: dict[tuple, dict] = {}
    for name, value in metrics.items():
        parts = re.fullmatch(r"recall@(\d+)_(\w+)_([\d.]+)m", name)
        if parts:
            row = rows.setdefault((parts[3], parts[2]), {"threshold": f"{parts[3]} m", "rule": parts[2]})
            row[f"R@{parts[1]}"] = value
            row["counted"] = RULE_WORDS[parts[2]]
    return list(rows.values())
