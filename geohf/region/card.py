"""The numbers of a region run in words: how sure they are, and the facts of its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from geohf.geo import frame_distance
from geohf.hub.card import data_source
from geohf.metrics.intervals import DRAWS, bootstrap_intervals, mean_interval, share_interval
from geohf.region.answers import points_array
from geohf.region.arguments import RegionArguments, RegionTrainingArguments
from geohf.region.configuration import GeoRegionConfig
from geohf.region.evaluation import RegionAnswers
from geohf.region.loading import RegionData

_HOW = {"stratified": "at random in each region", "random": "at random", "blocks": "whole blocks"}


def titles(unit: str) -> dict[str, str]:
    """The metrics that the card names first."""
    return {
        f"routed_mean_{unit}": f"Mean error ({unit})",
        f"routed_median_{unit}": f"Median error ({unit})",
        f"given_mean_{unit}": f"Mean error with the region given ({unit})",
        "router_accuracy": "Region accuracy",
    }


def region_intervals(answers: RegionAnswers, config: GeoRegionConfig) -> dict[str, tuple[float, float]]:
    """The ends of a 95 % interval of each of `titles`, drawn photograph by photograph."""
    routed, given = (
        frame_distance(points_array(part), answers.truth, config.frame)
        for part in (answers.routed, answers.given)
    )
    named = np.array([config.label2id[answer.regions[0].name] for answer in answers.routed])
    found = {
        f"routed_mean_{config.unit}": mean_interval(routed),
        f"given_mean_{config.unit}": mean_interval(given),
        "router_accuracy": share_interval(named == answers.labels),
    }
    found |= bootstrap_intervals(
        lambda rows: {f"routed_median_{config.unit}": np.median(routed[rows])}, np.arange(len(routed))
    )
    return {name: ends for name, ends in found.items() if ends is not None}


def card_facts(
    options: RegionArguments,
    args: RegionTrainingArguments,
    data: RegionData,
    table: Sequence[dict],
    unit: str,
    is_sample: bool,
) -> dict:
    """What the card's template asks for, see `geohf.hub.card.write_card`.

    Args:
        table: rows of `geohf.region.metrics.evaluation_rows`, the one of all regions last.
    """
    counts = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    blocks = f" of {options.block_size:g}, {options.block_buffer:g} kept clear" * (options.split == "blocks")
    split, own_table = f"{_HOW[options.split]}{blocks}", options.val_csv is not None
    facts = data_source(None if is_sample else options.train_csv) | {
        "rows": ", ".join(f"{count} {name}" for name, count in counts.items()) + " photographs",
        "split": f"a table of their own; validation photographs {split} from the training table"
        if own_table
        else split,
        "seed": args.seed,
        "split_name": "test",
        "measured": counts["test"],
        "unit": "photographs",
        "interval": f"95 %, bootstrap of {DRAWS} draws over photographs; Wilson's for the region",
        "baseline": "no image",
        "baseline_words": "the centre of all training points, or of the region's where the region is given",
        "chosen_on_held_out": False,
        "validation": counts["validation"] > 0,
        "own_table": own_table,
        "dropped": dict(Counter(row["filter"] for row in data.dropped)),
        "warm_restarts": bool(args.t_0),
    }
    final = {name: value for name, value in table[-1].items() if name != "region"}
    return {"titles": titles(unit), "data": facts, "regions": summary_rows(table, unit), "final": final}


def summary_rows(table: Sequence[Mapping], unit: str) -> list[dict]:
    """A row a region, and one for all, with the numbers that a person asks for first."""
    shown = {
        "region": "region",
        "n": "photos",
        "mse_scaled": "MSE scaled",
        "mse": "MSE unscaled",
        f"given_mean_{unit}": f"mean {unit}, region given",
        f"routed_mean_{unit}": f"mean {unit}, routed",
        f"routed_median_{unit}": f"median {unit}, routed",
        f"routed_p90_{unit}": f"p90 {unit}, routed",
        f"centre_mean_{unit}": f"mean {unit} of the region's centre",
        "router_accuracy": "router right",
    }
    return [{title: row[key] for key, title in shown.items()} for row in table]
