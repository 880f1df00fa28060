"""How well the attributes of parts are told: as the states, each over its own values, of parts that somebody labeled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geohf.parts.state_metrics import confusion_counts, match_states, state_metrics

Table = dict[str, np.ndarray]


def match_attributes(found: Table, truths: Table, parts: int) -> np.ndarray:
    """(truths, attributes) the value told of each, -1 where the part is missed; matched as in `match_states`."""
    columns = found["attributes"].T
    return np.stack([match_states(found | {"states": column}, truths, parts) for column in columns], 1)


def attribute_metrics(
    told: np.ndarray, truths: Table, attributes: Mapping[str, Sequence[str]], absent_state: int | None
) -> dict[str, float]:
    """`state_accuracy/NAME`, `state_f1/NAME` and `state_recall/NAME` of each attribute, see `state_metrics`.

    What nobody labeled counts for nothing, nor does a part that is absent.

    Args:
        told: see `match_attributes`.
        truths: `states` (n,) and `attributes` (n, attributes), below 0 where unlabeled.
    """
    there = truths["states"] != (-1 if absent_state is None else absent_state)
    numbers: dict[str, float] = {}
    for column, (name, values) in enumerate(attributes.items()):
        true = truths["attributes"][:, column]
        known = there & (true >= 0)
        confusion = confusion_counts(true[known], told[known, column], len(values))
        found = state_metrics(confusion, absent_state=None)
        numbers |= {f"{key}/{name}": value for key, value in found.items()}
    return numbers
