"""What the card of a region run says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from geohf.metrics.intervals import DRAWS
from geohf.metrics.records import CardData, Evaluation

if TYPE_CHECKING:
    from geohf.region.trainer import GeoRegionTrainer


def titles(unit: str) -> dict[str, str]:
    """The metrics that the card names first."""
    return {
        f"routed_mean_{unit}": f"Mean error ({unit})",
        f"routed_median_{unit}": f"Median error ({unit})",
        f"given_mean_{unit}": f"Mean error with the region given ({unit})",
        "router_accuracy": "Region accuracy",
    }


def card_data(trainer: GeoRegionTrainer, evaluation: Evaluation) -> CardData:
    """What the template of the region task asks for, see `model_cards/region.md`."""
    unit, table = trainer.model.config.unit, evaluation.details["table"]
    facts = {"own_table": False, "dropped": {}} | trainer.data_facts(evaluation, "photographs")
    facts |= {
        "interval": f"95 %, bootstrap of {DRAWS} draws over photographs; Wilson's for the region",
        "baseline_words": "the center of all training points, or of the region's where the region is given",
        "warm_restarts": bool(trainer.args.t_0),
        "region_90": evaluation.values_by_name.get("routed_region_90"),
    }
    stages = trainer.stage_rows([*titles(unit)])
    tables = {"regions": summary_rows(table, unit), "stages": stages, "kept": trainer.kept}
    return CardData(titles(unit), facts, tables | {"final": table[-1], "finetune": trainer.args.finetune})


def summary_rows(table: Sequence[Mapping], unit: str) -> list[dict]:
    """A row per region, and one for all, with the numbers that a person asks for first."""
    shown = {
        "region": "region",
        "n": "photos",
        "mse_scaled": "MSE scaled",
        "mse": "MSE unscaled",
        f"given_mean_{unit}": f"mean {unit}, region given",
        f"routed_mean_{unit}": f"mean {unit}, routed",
        f"routed_median_{unit}": f"median {unit}, routed",
        f"routed_p90_{unit}": f"p90 {unit}, routed",
        f"center_mean_{unit}": f"mean {unit} of the region's center",
        "router_accuracy": "router right",
    }
    return [{title: row[key] for key, title in shown.items() if key in row} for row in table]
