"""The answer that looks at no photo: each part where it usually is, in the state that it usually has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.parts.metrics import dataset_targets
from geohf.parts.state_balance import count_pairs
from geohf.parts.state_metrics import join_photos

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig


def constant_answer(train: Any, config: PartStateConfig) -> dict[str, np.ndarray]:
    """One prediction for every photo, from training photos alone.

    Args:
        train: photos with the columns of `part_features`.

    Returns:
        boxes (n, 4) as shares of width and height (the median of each side), labels, scores (share of the photos
        that show the part), states (the commonest) and state_scores, perhaps attributes, for each part that was ever seen.
    """
    sizes = np.array([train["width"][:], train["height"][:]], np.float64).T
    targets = dataset_targets(train, config)
    rows = [
        (part, state, *box / np.tile(size, 2))
        for target, size in zip(targets, sizes, strict=True)
        for box, part, state in zip(target["boxes"], target["labels"], target["states"], strict=True)
        if state != config.absent_index and state >= 0  # a crowd has none
    ]
    table = np.array(rows, np.float64).reshape(-1, 6)
    parts = np.unique(table[:, 0]).astype(np.int64)
    rows_of = [table[table[:, 0] == part] for part in parts]
    states = [np.bincount(rows[:, 1].astype(int), minlength=config.num_states) for rows in rows_of]
    answer = {
        "boxes": np.array([np.median(rows[:, 2:], 0) for rows in rows_of]).reshape(-1, 4),
        "labels": parts,
        "scores": np.array([min(1.0, len(rows) / len(train)) for rows in rows_of]),
        "states": np.array([int(counts.argmax()) for counts in states]),
        "state_scores": np.array([counts.max() / counts.sum() for counts in states]),
    }
    if config.attributes:
        answer["attributes"] = np.stack(
            [_usual_values(targets, config, column)[parts] for column in range(len(config.attributes))], 1
        )
    return answer


def _usual_values(targets: list[dict], config: PartStateConfig, column: int) -> np.ndarray:
    """(parts,) the commonest value of an attribute, of parts that are there."""
    whole = join_photos(targets, ("labels", "states", "attributes"))
    values = np.where(whole["states"] == config.absent_index, -1, whole["attributes"][:, column])
    counts = count_pairs([whole["labels"]], [values], config.num_labels, config.attribute_sizes[column])
    return counts[0].argmax(1)


def constant_predictions(train: Any, photos: Any, config: PartStateConfig) -> list[dict]:
    """`constant_answer` for each of these photos, in its pixels."""
    answer = constant_answer(train, config)
    return [
        answer | {"boxes": answer["boxes"] * np.array([width, height, width, height])}
        for width, height in zip(photos["width"][:], photos["height"][:], strict=True)
    ]
