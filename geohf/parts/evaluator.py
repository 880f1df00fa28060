"""Everything that is reported about parts and their states, collected batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from geohf.errors import DataError
from geohf.parts.coco_eval import AREAS, IOU_THRESHOLDS, Detections, GroundTruth, MatchedBoxes
from geohf.parts.decisions import presence_in
from geohf.parts.state_metrics import (
    STATE_NUMBERS,
    Table,
    attribute_metrics,
    calibration_error,
    confusion_counts,
    is_there,
    join_photos,
    match_attributes,
    match_states,
    state_error,
    state_metrics,
    take_rows,
    unlisted_parts,
    verification_metrics,
)


def evaluate_detections(
    predictions: Iterable[Mapping],
    targets: Iterable[Mapping],
    num_parts: int | None = None,
    num_states: int | None = None,
    absent_state: int | None = 2,
    part_names: Sequence[str] | None = None,
    score_threshold: float | Sequence[float] = 0.5,
) -> dict[str, float]:
    """The metrics of `PartEvaluator` for the predictions of all photos at once.

    >>> box = {"boxes": [[0, 0, 9, 9]], "labels": [0], "states": [1]}
    >>> metrics = evaluate_detections([box | {"scores": [0.9], "state_scores": [1.0]}], [box])
    >>> [round(metrics[name], 6) for name in ("map", "state_accuracy", "joint_map")]
    [1.0, 1.0, 1.0]
    """
    evaluator = PartEvaluator(num_parts, num_states, absent_state, part_names, score_threshold)
    evaluator.add(predictions, targets)
    return evaluator.compute()


# of no photo
_NONE = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "states": np.zeros(0, np.int64)}
_NONE |= {"scores": np.zeros(0), "state_scores": np.zeros(0), "attributes": np.zeros((0, 1), np.int64)}


class _Photos(NamedTuple):
    """All photos that were added, one after the other, and how many parts and states there are."""

    detections: Table
    truths: Table
    crowds: Table
    parts: int
    states: int


class PartEvaluator:
    """Collects predictions and truths of photos; what it computes does not depend on how they were batched.

    Args:
        num_parts, num_states: by default one more than the largest index that occurs.
        absent_state: index of the state of parts that are not there; None: there is none, and parts that are not listed are absent.
        part_names: for the names of metrics, by default the indices.
        score_threshold: from which all metrics but the average precisions count a detection; one for all parts, or one for each.
        attributes: name -> values of what is told of a part beside its state; predictions and targets then have `attributes`
            (n, attributes), the numbers of the values, in targets below 0 where unlabeled.

    A prediction is a mapping of arrays or tensors with `boxes` (n, 4) xyxy in pixels, `labels` (n,) part indices from 0, `scores`
    (n,), `states` (n,) and `state_scores` (n,). A target has `boxes`, `labels` and `states`, absent parts with the box where they
    would be. Where every target has an `image_id`, it breaks ties between photos, and their order does not matter either. Where
    `iscrowd` (n,) is 1, a box is COCO's region of several such parts, of any state: detections in it that find no truth do not count.
    """

    def __init__(
        self,
        num_parts: int | None = None,
        num_states: int | None = None,
        absent_state: int | None = 2,
        part_names: Sequence[str] | None = None,
        score_threshold: float | Sequence[float] = 0.5,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ):
        self.attributes = attributes or {}
        self.num_parts = num_parts if num_parts is not None else (len(part_names) if part_names else None)
        self.num_states = num_states
        self.absent_state = absent_state
        self.part_names = part_names
        self.score_threshold = score_threshold
        self.reset()

    def reset(self) -> None:
        """Forget all photos."""
        self._photos: list[tuple[dict, dict, dict]] = []  # detections, truths, crowds
        self._ids: list = []

    def __len__(self) -> int:
        return len(self._photos)

    def add(self, predictions: Iterable[Mapping], targets: Iterable[Mapping]) -> None:
        """Add photos.

        Raises:
            DataError: not as many predictions as targets, arrays that do not fit each other, an index out of range, a
                score that is not finite.
        """
        predictions, targets = list(predictions), list(targets)
        if len(predictions) != len(targets):
            raise DataError(f"{len(predictions)} predictions for {len(targets)} targets")
        limits = {"labels": self.num_parts, "states": self.num_states}
        for prediction, target in zip(predictions, targets, strict=True):
            name = target.get("image_id", f"number {len(self._photos)}")
            scores, further = ("scores", "state_scores"), len(self.attributes)
            detections = _checked(prediction, scores, f"prediction of photo {name}", further)
            truths, crowds = _checked_target(target, f"target of photo {name}", further)
            for table in (detections, truths, crowds):
                columns = [(key, table[key], limit) for key, limit in limits.items()]
                if self.attributes and table is not crowds:
                    told = zip(self.attributes.items(), table["attributes"].T, strict=True)
                    columns += [(key, numbers, len(values)) for (key, values), numbers in told]
                for key, numbers, limit in columns:
                    if limit is not None and (numbers >= limit).any():
                        raise DataError(f"photo {name}: {key} hold {numbers.max()}, there are {limit} from 0")
            self._photos.append((detections, truths, crowds))
            given: Any = target.get("image_id")
            self._ids.append(given.item() if hasattr(given, "item") else given)

    def compute(self) -> dict[str, float]:
        """All metrics, as floats; NaN where there is nothing to count.

        - `map`, `map_50`, `map_75`, `ap/<part>`: COCO's average precision on parts that are not absent
        - `map_small`, `map_medium`, `map_large`: the same on parts whose boxes cover up to 32 x 32 pixels of the photo, up to
          96 x 96, and more; `mar_1`, `mar_10`, `mar_100`: COCO's average recall with so many boxes of a part in a photo
        - `joint_map`: the same over pairs of part and state, with score times state score
        - `state_accuracy`, `state_f1` (macro), `state_recall`: see `state_metrics`
        - `state_accuracy/NAME`, `state_f1/NAME`, `state_recall/NAME`: of each attribute, see `attribute_metrics`
        - `hallucination`, `hallucination_iou`, `present_recall`, `absent_recall`: see `verification_metrics`
        - `presence_ece`, `state_ece`: how far the score of a part's best detection lies from how often the part is there, and
          the score of a state from how often it is right (expected calibration error, 15 bins)
        """
        photos = self._joined()
        truths, parts = photos.truths, photos.parts
        whole, pairs = self._matched(photos)
        precision = whole.precision()
        metrics = {"map": _mean(precision)}
        for percent in (50, 75):
            metrics[f"map_{percent}"] = _mean(precision[np.isclose(IOU_THRESHOLDS, percent / 100)])
        detections, there, crowds = self._boxes(photos)
        for size, area in AREAS.items():
            metrics[f"map_{size}"] = _mean(MatchedBoxes(detections, there, parts, crowds, area).precision())
        metrics |= {f"mar_{count}": _mean(whole.recall(count)) for count in (1, 10, 100)}
        metrics["joint_map"] = _mean(pairs.precision())
        sure = self._sure(photos)
        metrics |= state_metrics(self._confusion(photos), self.absent_state)
        metrics["state_ece"] = state_error(sure, truths, parts, self.absent_state)
        presence = presence_in(*photos[:3], len(self), parts, self.absent_state)
        metrics["presence_ece"] = calibration_error(*presence.known)
        if self.num_states == 1:  # there is nothing to tell
            metrics |= dict.fromkeys(("joint_map", "state_ece", *STATE_NUMBERS), float("nan"))
        if self.attributes:
            told = match_attributes(sure, truths, parts)
            metrics |= attribute_metrics(told, truths, self.attributes, self.absent_state)
        unlisted = self._unlisted(photos)
        metrics |= verification_metrics(sure, truths, parts, self.absent_state, photos.crowds, unlisted)
        for part in range(parts):
            metrics[f"ap/{self.part_names[part] if self.part_names else part}"] = _mean(precision[..., part])
        return metrics

    def statistics(self) -> Callable[[np.ndarray], dict[str, float]]:
        """`map`, `joint_map`, `state_f1` and `hallucination` of photos by their numbers, of which some stand twice.

        For `geohf.metrics.intervals.bootstrap_intervals`; boxes are matched once for all draws.
        """
        photos = self._joined()
        truths, parts = photos.truths, photos.parts
        whole, pairs = self._matched(photos)
        sure = self._sure(photos)
        told = match_states(sure, truths, parts)
        values = match_attributes(sure, truths, parts) if self.attributes else None
        unlisted = self._unlisted(photos)

        def measure(numbers: np.ndarray) -> dict[str, float]:
            counts = np.bincount(numbers, minlength=len(self))
            rows = _repeated(truths, counts)
            drawn = take_rows(truths, rows)
            missing = unlisted and take_rows(unlisted, _repeated(unlisted, counts))
            verified = verification_metrics(sure, drawn, parts, self.absent_state, photos.crowds, missing)
            metrics = {"map": _mean(whole.precision(counts)), "hallucination": verified["hallucination"]}
            if self.num_states != 1:
                confusion = confusion_counts(drawn["states"], told[rows], photos.states)
                metrics["joint_map"] = _mean(pairs.precision(counts))
                metrics["state_f1"] = state_metrics(confusion, self.absent_state)["state_f1"]
            if values is not None:
                of_each = attribute_metrics(values[rows], drawn, self.attributes, self.absent_state)
                metrics |= {key: value for key, value in of_each.items() if key.startswith("state_f1/")}
            return metrics

        return measure

    def confusion(self) -> np.ndarray:
        """(states, states + 1) int64 counts of truths: row = true state, column = predicted one, the last: missed."""
        return self._confusion(self._joined())

    def precision_curves(self) -> np.ndarray:
        """(10 overlaps, 101 recalls, parts) precision at COCO's recalls from 0 to 1; NaN of a part that is never there."""
        photos = self._joined()
        detections, there, crowds = self._boxes(photos)
        return MatchedBoxes(detections, there, photos.parts, crowds).precision()

    def _unlisted(self, photos: _Photos) -> Table | None:
        listed = photos.truths, photos.crowds, len(self), photos.parts
        return unlisted_parts(*listed) if self.absent_state is None else None

    def _sure(self, photos: _Photos) -> Table:
        """The detections that have the score."""
        detections, limit = photos.detections, np.asarray(self.score_threshold)
        limit = limit[detections["labels"]] if limit.ndim else limit
        return take_rows(detections, detections["scores"] >= limit)

    def _boxes(self, photos: _Photos) -> tuple[Detections, GroundTruth, GroundTruth]:
        """Detections, parts that are not absent, and crowds, for average precision."""
        there = is_there(photos.truths["states"], self.absent_state)
        truths = GroundTruth.of(photos.truths, there)
        return Detections.of(photos.detections), truths, GroundTruth.of(photos.crowds)

    def _matched(self, photos: _Photos) -> tuple[MatchedBoxes, MatchedBoxes]:
        """Boxes matched by their parts, and by their pairs of part and state."""
        detections, truths, crowds = self._boxes(photos)
        own, parts, states = photos.detections, photos.parts, photos.states
        true_states = photos.truths["states"]
        true_states = true_states[is_there(true_states, self.absent_state)]
        pairs = detections._replace(
            label=own["labels"] * states + own["states"], score=own["scores"] * own["state_scores"]
        )
        true_pairs = truths._replace(label=truths.label * states + true_states)
        crowd_pairs = GroundTruth(  # a crowd holds its part in every state
            np.repeat(crowds.photo, states),
            (crowds.label[:, None] * states + np.arange(states)).ravel(),
            np.repeat(crowds.box, states, axis=0),
        )
        of_pairs = MatchedBoxes(pairs, true_pairs, parts * states, crowd_pairs)
        return MatchedBoxes(detections, truths, parts, crowds), of_pairs

    def _confusion(self, photos: _Photos) -> np.ndarray:
        told = match_states(self._sure(photos), photos.truths, photos.parts)
        return confusion_counts(photos.truths["states"], told, photos.states)

    def _joined(self) -> _Photos:
        order: Sequence[int] = range(len(self._photos))
        if self._ids and all(name is not None for name in self._ids):
            if len(set(self._ids)) < len(self._ids):
                raise DataError("two targets have the same image_id")
            order = sorted(order, key=self._ids.__getitem__)
        photos = [self._photos[i] for i in order] or [(_NONE, _NONE, _NONE)]
        detections, truths, crowds = (join_photos(tables, tables[0]) for tables in zip(*photos, strict=True))
        parts = self.num_parts or _count(detections["labels"], truths["labels"], crowds["labels"])
        states = self.num_states or _count(detections["states"], truths["states"])
        return _Photos(detections, truths, crowds, parts, states)


def _checked_target(target: Mapping, name: str, attributes: int) -> tuple[dict, dict]:
    """A target's truths and its crowds; a crowd needs no state."""
    states = _array(target, "states", name, np.int64)
    crowd: np.ndarray = np.zeros(len(states), bool)
    if target.get("iscrowd") is not None:
        crowd = _array(target, "iscrowd", name, np.int64) > 0
        if len(crowd) != len(states):
            raise DataError(f"{name}: lengths differ: states {len(states)}, iscrowd {len(crowd)}")
    whole = _checked({**target, "states": np.where(crowd, 0, states)}, (), name, attributes)
    return take_rows(whole, ~crowd), take_rows(whole, crowd)


def _checked(values: Mapping, scores: Sequence[str], name: str, attributes: int) -> dict[str, np.ndarray]:
    indices = ("labels", "states")
    arrays = {"boxes": _array(values, "boxes", name, np.float64).reshape(-1, 4)}
    arrays |= {key: _array(values, key, name, np.int64) for key in indices}
    arrays |= {key: _array(values, key, name, np.float64) for key in scores}
    if attributes:
        arrays["attributes"] = _array(values, "attributes", name, np.int64).reshape(-1, attributes)
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: lengths differ: {lengths}")
    for key in indices:
        if (arrays[key] < 0).any():
            raise DataError(f"{name}: {key} hold {arrays[key].min()}; indices start at 0")
    for key in ("boxes", *scores):
        if not np.isfinite(arrays[key]).all():
            raise DataError(f"{name}: {key} hold NaN or infinity")
    turned = arrays["boxes"][(arrays["boxes"][:, 2:] < arrays["boxes"][:, :2]).any(1)]
    if len(turned):
        raise DataError(
            f"{name}: boxes hold {turned[0].tolist()}; they must be left, top, right, bottom, not left, top, width, height"
        )
    return arrays


def _array(values: Mapping, key: str, name: str, dtype) -> np.ndarray:
    if key not in values:
        raise DataError(f"{name}: lacks {key!r}; it has {', '.join(values)}")
    value = values[key]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return np.asarray(value, dtype)


def _repeated(table: Table, counts: np.ndarray) -> np.ndarray:
    """Rows of a table, each as often as its photo counts."""
    return np.repeat(np.arange(len(table["photo"])), counts[table["photo"]])


def _count(*indices: np.ndarray) -> int:
    return int(max(values.max(initial=0) for values in indices)) + 1


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
