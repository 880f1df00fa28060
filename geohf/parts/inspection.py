"""What an inspector reads: each part of each photo, whether it is there, in which state, where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from geohf.parts.answers import SIDES
from geohf.parts.vocabulary import ABSENT


def inspection_rows(
    predictions: Iterable[Mapping],
    id2label: Mapping[int, str],
    id2state: Mapping[int, str],
    image_ids: Sequence[str] | None = None,
    score_threshold: float | Sequence[float] = 0.5,
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> list[dict]:
    """One row a part a photo, also for parts that were not found.

    Args:
        predictions: of each photo: `boxes` (n, 4) xyxy, `labels`, `scores`, `states` and `state_scores` (n,).
        id2label, id2state: names of parts and states.
        image_ids: names of the photos, by default their numbers.
        score_threshold: a part is there where a detection has at least this score, and its state is not `absent`; one
            for all parts, or one for each.
        attributes: name -> values of what is told beside the state, in `attributes` and `attribute_scores` (n, attributes) of
            the predictions.

    Returns:
        Rows of `image_id`, `part`, `present`, `state` (of a part that was not found `absent`), `score` (of the best
        detection, also below the threshold; 0 where there is none), `state_score`, `detections` (their number above
        the threshold), the box `xmin`, `ymin`, `xmax`, `ymax` in pixels, and of each attribute its value and score; the box, the
        state's score and the attributes are None for a part that was not found.
    """
    rows = []
    limits = np.broadcast_to(score_threshold, len(id2label))
    for number, prediction in enumerate(predictions):
        values = {
            key: np.asarray(prediction[key])
            for key in ("boxes", "labels", "scores", "states", "state_scores")
        }
        if attributes:
            values |= {key: np.asarray(prediction[key]) for key in ("attributes", "attribute_scores")}
        name = number if image_ids is None else image_ids[number]
        for part, label in id2label.items():
            mine = np.flatnonzero(values["labels"] == part)
            rows.append(
                {"image_id": name, "part": label}
                | _row(values, mine, id2state, float(limits[part]), attributes)
            )
    return rows


def attribute_cells(
    prediction: Mapping, box: int, attributes: Mapping[str, Sequence[str]] | None
) -> dict[str, str | float]:
    """The value of each attribute of a box, and its score."""
    cells: dict[str, str | float] = {}
    for column, (name, values) in enumerate((attributes or {}).items()):
        cells[name] = values[int(prediction["attributes"][box, column])]
        cells[f"{name}_score"] = round(float(prediction["attribute_scores"][box, column]), 6)
    return cells


def _row(
    values: dict[str, np.ndarray], mine: np.ndarray, id2state, score_threshold: float, attributes
) -> dict:
    scores = values["scores"][mine]
    best = float(scores.max()) if len(mine) else 0.0
    row = {"present": False, "state": ABSENT, "score": round(best, 6), "state_score": None}
    row["detections"] = int((scores >= score_threshold).sum())
    if not row["detections"]:
        told = [key for name in attributes or () for key in (name, f"{name}_score")]
        return row | dict.fromkeys([*SIDES, *told])
    chosen = mine[scores.argmax()]
    state = id2state[int(values["states"][chosen])]
    box = [round(float(side), 3) for side in values["boxes"][chosen]]
    row |= {"present": state != ABSENT, "state": state}
    row["state_score"] = round(float(values["state_scores"][chosen]), 6)
    return row | dict(zip(SIDES, box, strict=True)) | attribute_cells(values, chosen, attributes)
