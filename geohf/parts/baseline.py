"""The answer that looks at no photo: each part where it usually is, in the state that it usually has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.parts.metrics import dataset_targets

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
    usual = np.zeros((config.num_labels, len(config.attribute_sizes)), np.int64)
    for column, size in enumerate(config.attribute_sizes):
        counts = np.zeros((config.num_labels, size), np.int64)
        for target in targets:
            value = target["attributes"][:, column]
            known = (value >= 0) & (target["states"] != config.absent_index)
            np.add.at(counts, (target["labels"][known], value[known]), 1)
        usual[:, column] = counts.argmax(1)
    answer: dict[str, list] = {name: [] for name in ("boxes", "labels", "scores", "states", "state_scores")}
    for part in range(config.num_labels):
        own = table[table[:, 0] == part]
        if not len(own):
            continue
        states = np.bincount(own[:, 1].astype(int), minlength=config.num_states)
        answer["boxes"].append(np.median(own[:, 2:], 0))
        answer["labels"].append(part)
        answer["scores"].append(min(1.0, len(own) / len(train)))
        answer["states"].append(int(states.argmax()))
        answer["state_scores"].append(states.max() / len(own))
    arrays = {name: np.array(values) for name, values in answer.items()}
    arrays |= {"boxes": arrays["boxes"].reshape(-1, 4), "labels": arrays["labels"].astype(np.int64)}
    return arrays | ({"attributes": usual[arrays["labels"]]} if config.attributes else {})


def constant_predictions(train: Any, photos: Any, config: PartStateConfig) -> list[dict]:
    """`constant_answer` for each of these photos, in its pixels."""
    answer = constant_answer(train, config)
    return [
        answer | {"boxes": answer["boxes"] * np.array([width, height, width, height])}
        for width, height in zip(photos["width"][:], photos["height"][:], strict=True)
    ]
