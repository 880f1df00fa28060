"""What a region run leaves for people: predictions as CSV, GeoJSON and a map, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.data.tables import points_of
from geohf.data.task_data import facts_of
from geohf.geo import frame_distance
from geohf.metrics.density import DRAWN_REGIONS, regions_of
from geohf.metrics.records import Evaluation
from geohf.region.answers import RegionAnswers, points_array
from geohf.region.configuration import GeoRegionConfig
from geohf.region.decoding import weighted_points
from geohf.region.density import has_density, mixture_of
from geohf.region.experts import RegionOutput
from geohf.report.classes import plot_confusion
from geohf.report.geojson import write_geojson
from geohf.report.map_png import error_map_png
from geohf.report.maps import write_map
from geohf.report.plots import plot_dropped, plot_error_cdf, plot_scatter
from geohf.report.tables import write_csv
from geohf.report.uncertainty import plot_uncertainty
from geohf.training.report import thumbnails_of

if TYPE_CHECKING:
    from datasets import Dataset

    from geohf.region.trainer import GeoRegionTrainer


def write_outputs(
    trainer: GeoRegionTrainer, folder: Path, evaluation: Evaluation, thumbnails: int = 0
) -> Mapping[str, Any]:
    """Write tables of numbers and predictions, what the filters dropped, plots and, for `wgs84`, maps with `thumbnails`.

    Metrics.json tells beside the numbers a row for every region, and how many rows each filter dropped.
    """
    config, details = trainer.model.config, evaluation.details
    facts, table = facts_of(evaluation.dataset), details["table"]
    if trainer.args.should_save:
        dropped = facts_of(trainer.train_rows).get("dropped_rows")
        if dropped:
            write_dropped(folder, trainer.train_rows, dropped, config.frame)
        write_csv(folder / "evaluation.csv", table)
        answers = with_regions(details["answers"], config, details["outputs"])
        small = thumbnails_of(trainer, evaluation.dataset, thumbnails)
        write_predictions(folder, evaluation.dataset, answers, config.frame, small)
        if config.frame == "wgs84":
            _plot_uncertainty(folder, answers)
        plot_run(folder, config, details["answers"], details["centers"])
    extra = {name: facts[name] for name in ("left_out_for_buffer", "dropped") if name in facts}
    return {"regions": table[:-1]} | extra


def with_regions(answers: RegionAnswers, config: GeoRegionConfig, outputs: RegionOutput) -> RegionAnswers:
    """The answers; the first ones with their credible regions, where the model has a calibrated density."""
    if not has_density(config) or config.routed_masses is None:
        return answers
    first = (part[:DRAWN_REGIONS] for part in outputs.routed())
    drawn = regions_of(mixture_of(config, *weighted_points(config, *first)), config.routed_masses)
    mapped = [replace(one, credible_regions=areas) for one, areas in zip(answers.routed, drawn, strict=False)]
    return replace(answers, routed=mapped + answers.routed[len(mapped) :])


def _plot_uncertainty(folder: Path, answers: RegionAnswers) -> None:
    routed = answers.routed
    sureness: dict[str, list[float | None]] = {
        "localizability": [answer.localizability for answer in routed],
        "radius": [None if answer.radius is None else -answer.radius for answer in routed],
        "probability of the first region": [answer.regions[0].probability for answer in routed],
    }
    regions = [answer.credible_regions for answer in routed]
    plot_uncertainty(folder, points_array(routed), answers.truth, regions, sureness)


def write_predictions(
    folder: Path,
    dataset: Dataset,
    answers: RegionAnswers,
    frame: str,
    thumbnails: Sequence[str | None] | None = None,
) -> None:
    """Write predictions.csv, and for `wgs84` predictions.geojson and map.html.

    The photographs, and small ones for the map, are in the order of the answers.
    """
    routed, truth = answers.routed, answers.truth
    points, own = points_array(routed), points_array(answers.given)
    errors, given_errors = (frame_distance(predicted, truth, frame) for predicted in (points, own))
    unit = routed[0].unit
    named = zip(dataset["filename"][:], dataset["region"][:], routed, strict=True)
    rows = []
    for i, (name, region, answer) in enumerate(named):
        row = {
            "filename": name,
            "Region_ID": region,
            "latitude": truth[i, 0],
            "longitude": truth[i, 1],
            "predicted_latitude": answer.latitude,
            "predicted_longitude": answer.longitude,
            f"radius_{unit}": answer.radius,
            "predicted_region": answer.regions[0].name,
            "probability": answer.regions[0].probability,
            f"distance_{unit}": errors[i],
            "given_region_latitude": own[i, 0],
            "given_region_longitude": own[i, 1],
            f"given_region_distance_{unit}": given_errors[i],
        }
        if answers.headings is not None:
            row |= {"predicted_heading": answer.heading, "heading": answers.headings[i]}
        if answer.localizability is not None:
            row["localizability"] = answer.localizability
        rows.append(row)
    write_csv(folder / "predictions.csv", rows)
    if frame == "planar":  # a planar frame has no place on a map of the earth
        return
    # of the distance it has a column of its own
    properties = [{name: cell for name, cell in row.items() if name != "distance_m"} for row in rows]
    write_geojson(folder / "predictions.geojson", points, properties, truth=truth)
    shown = ("Region_ID", "predicted_region", "probability", "given_region_distance_m")
    write_map(
        folder / "map.html",
        points,
        truth,
        labels=dataset["filename"][:],
        details={name: [row[name] for row in rows] for name in shown},
        radius_m=[answer.radius for answer in routed],
        headings=None if answers.headings is None else [answer.heading for answer in routed],
        regions=[answer.credible_regions for answer in routed],
        thumbnails=thumbnails,
        title=f"{len(rows)} photographs: where they are and where the model puts them",
    )


def plot_run(
    folder: Path, config: GeoRegionConfig, answers: RegionAnswers, centers: np.ndarray | None = None
) -> None:
    """Plots of held-out photographs for the card: their errors, beside those of their regions' centers, and the router's."""
    truth, frame, names = answers.truth, config.frame, config.regions
    points = points_array(answers.routed)
    if frame == "planar":
        plot_scatter(folder / "error_scatter.png", truth, points, "units of the data")
    else:
        error_map_png(folder / "error_map.png", points, truth, "Held-out photographs", unit="m")
        compared = {"routed": points, "region given": points_array(answers.given)}
        if centers is not None:
            compared["center of the region"] = centers[answers.labels]
        plot_error_cdf(
            folder / "error_cdf.png",
            {name: frame_distance(p, truth, frame) / 1000 for name, p in compared.items()},
        )
    if len(names) > 1:
        predicted = answers.named(config.label2id)
        plot_confusion(folder / "confusion.png", answers.labels, predicted, names)


def write_dropped(folder: Path, kept: Dataset, dropped: Sequence[dict], frame: str) -> None:
    """Write dropped.csv and dropped.png: the rows that filters left out, and why."""
    write_csv(folder / "dropped.csv", dropped)
    points = {
        name: np.array([[r["latitude"], r["longitude"]] for r in dropped if r["filter"] == name])
        for name in dict.fromkeys(row["filter"] for row in dropped)
    }
    unit = "degrees" if frame == "wgs84" else "units of the data"
    plot_dropped(folder / "dropped.png", points_of(kept), points, unit)
