"""The numbers of a street run in words: how sure they are, and the facts of its card."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geohf.geo import great_circle_m
from geohf.hub.card import data_source
from geohf.metrics.intervals import DRAWS, bootstrap_intervals, mean_interval, share_interval
from geohf.street.arguments import StreetArguments
from geohf.street.metrics import competition_score

TITLES = {
    "score": "Competition score",
    "top1": "Top-1 accuracy",
    "mean_km": "Mean distance (km)",
    "median_km": "Median distance (km)",
}
_HOW = {"stratified": "at random in each state or geocell", "random": "at random", "blocks": "whole blocks"}
_STAGES = (
    "score",
    "top1",
    "top5",
    "ece",
    "mean_km",
    "median_km",
    "within_25_km",
    "within_200_km",
    "geoscore",
)


def street_intervals(logits, points, labels, truth, scored: bool = True) -> dict[str, tuple[float, float]]:
    """The ends of a 95 % interval of each of `TITLES`, drawn place by place.

    Args:
        logits, points, labels, truth, scored: see `geohf.street.metrics.street_metrics`.
    """
    labels, points, truth = np.asarray(labels), np.asarray(points, np.float64), np.asarray(truth, np.float64)
    located, labelled, found = np.isfinite(truth).all(1), labels >= 0, {}
    if logits is not None and labelled.any():
        top5 = np.argsort(-np.asarray(logits, np.float64), 1, kind="stable")[:, :5]
        found["top1"] = share_interval(top5[labelled, 0] == labels[labelled])
        if scored:
            both = labelled & located
            columns = [column[both] for column in (top5, points, labels, truth)]
            found |= bootstrap_intervals(
                lambda rows: {"score": competition_score(*(column[rows] for column in columns))},
                np.arange(both.sum()),
            )
    km = great_circle_m(points[located], truth[located]) / 1000
    found["mean_km"] = mean_interval(km)
    found |= bootstrap_intervals(lambda rows: {"median_km": np.median(km[rows])}, np.arange(len(km)))
    return {name: ends for name, ends in found.items() if ends is not None}


def card_facts(
    options: StreetArguments, seed: int, data, stages: Mapping[str, Mapping[str, float]], coverage
) -> dict:
    """What the card's template asks for, see `geohf.hub.card.write_card`.

    Args:
        data: of the run: its splits, and which of them is `held_out`.
        stages: name -> numbers, in the order of training.
        coverage: share of held-out places within their radius, None where it has none.
    """
    name, count = data.held_out, len(data.splits[data.held_out])
    blocks = f" of {options.block_km:g} km, {options.buffer_km:g} km kept clear" * (options.split == "blocks")
    facts = data_source(options.data) | {
        "rows": ", ".join(f"{len(part)} {key}" for key, part in data.splits.items()) + " places",
        "split": f"{_HOW[options.split]}{blocks}",
        "validation": True,
        "seed": seed,
        "split_name": name,
        "measured": count,
        "unit": "places",
        "interval": f"95 %, bootstrap of {DRAWS} draws over places; Wilson's for top-1",
        "baseline": "constant answer",
        "baseline_words": "the most frequent states and the most central point of the training places, for every place",
        "chosen_on_held_out": name == "validation",
        "coverage": coverage,
    }
    rows = [
        {"": f"{stage} ({count} {name} places)"} | {key: numbers[key] for key in _STAGES if key in numbers}
        for stage, numbers in stages.items()
    ]
    return {"titles": TITLES, "data": facts, "stages": rows}


def summary_rows(stages: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """A row a stage with the numbers that a person asks for first."""
    shown = {
        "score": "score",
        "top1": "top-1",
        "top5": "top-5",
        "mean_km": "mean km",
        "median_km": "median km",
    }
    return [
        {"stage": stage} | {title: numbers[key] for key, title in shown.items() if key in numbers}
        for stage, numbers in stages.items()
    ]
