"""What a parts run leaves for people: tables of what was found, inspection.csv, plots, and photos with their parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.io import atomic_write
from geohf.metrics.records import Evaluation
from geohf.parts.answers import SIDES
from geohf.parts.coco_eval import IOU_THRESHOLDS, RECALL_THRESHOLDS
from geohf.parts.decisions import presence_of
from geohf.parts.export import export_onnx as write_onnx
from geohf.parts.metrics import part_evaluator
from geohf.parts.overlays import write_overlays
from geohf.parts.vocabulary import ABSENT
from geohf.report.classes import plot_confusion_counts, plot_reliability
from geohf.report.style import EVAL, MUTED, TRAIN, drawing
from geohf.report.tables import write_csv

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig
    from geohf.parts.trainer import PartStateTrainer

SHEET = 4  # photos on the card


def write_outputs(
    trainer: PartStateTrainer,
    folder: Path,
    evaluation: Evaluation,
    overlays: int = 12,
    export_onnx: bool = False,
) -> Mapping[str, Any]:
    """Write inspection.csv, predictions.csv, the plots of the card and photos with their parts.

    Args:
        overlays: photos to draw.
        export_onnx: also write model.onnx.

    Returns:
        What metrics.json tells besides: `confusion`, see `PartEvaluator.confusion`, where there are states.
    """
    if not trainer.args.should_save:
        return {}
    photos, predictions, targets = evaluation.dataset, evaluation.predictions, evaluation.details["targets"]
    config = trainer.config
    write_predictions(folder, photos, predictions, targets, config)
    told = {}
    evaluator = part_evaluator(config)
    evaluator.add(predictions, targets)
    if config.tells_states:
        told["confusion"] = evaluator.confusion()
        if told["confusion"].any():
            states = [config.id2state[i] for i in range(config.num_states)]
            counts = folder / "confusion.png", told["confusion"], states, [*states, "missed"]
            plot_confusion_counts(*counts, "parts, boxes at IoU 0.5")
    scores, there = presence_of(predictions, targets, config.num_labels, config.absent_index).known
    if len(scores):
        plot_reliability(folder / "reliability.png", scores, there)
    plot_precision(folder / "average_precision.png", evaluation.values_by_name)
    plot_curves(folder / "precision_recall.png", evaluator.precision_curves())
    write_photos(folder, photos, predictions, targets, config, overlays)
    if export_onnx:
        write_onnx(trainer.model, folder / "model.onnx")
    return told


def write_predictions(
    folder: Path,
    photos: Any,
    predictions: Sequence[Mapping],
    targets: Sequence[Mapping],
    config: PartStateConfig,
) -> None:
    """Write inspection.csv, one row per part of each photo, and predictions.csv, one row per box above the threshold.

    Args:
        photos: in the order of the predictions and targets.
    """
    names, limits, attributes = photos["image_id"][:], np.asarray(config.thresholds), config.attributes
    rows = inspection_rows(predictions, image_ids=names, **names_in(config))
    truth = {
        (name, int(part)): config.id2state[int(state)]
        for name, target in zip(names, targets, strict=True)
        for part, state in zip(target["labels"], target["states"], strict=True)
        if state >= 0  # a crowd has none
    }
    for row in rows:
        row["true_state"] = truth.get((row["image_id"], config.label2id[row["part"]]))
    write_csv(folder / "inspection.csv", rows)
    boxes = []
    for name, detections in zip(names, predictions, strict=True):
        for i in np.flatnonzero(detections["scores"] >= limits[detections["labels"]]):
            row = {
                "image_id": name,
                "part": config.id2label[int(detections["labels"][i])],
                "score": float(detections["scores"][i]),
                "state": config.id2state[int(detections["states"][i])],
                "state_score": float(detections["state_scores"][i]),
            }
            row |= attribute_cells(detections, int(i), attributes)
            boxes.append(row | dict(zip(SIDES, detections["boxes"][i].tolist(), strict=True)))
    write_csv(folder / "predictions.csv", boxes or [{"image_id": None, "part": None, "score": None}])


def plot_precision(path: Path, metrics: Mapping[str, float]) -> None:
    """Draw the average precision of every part, best first."""
    known = [
        (name[3:], value) for name, value in metrics.items() if name.startswith("ap/") and value == value
    ]
    precisions = dict(sorted(known, key=lambda item: -item[1]))
    if not precisions:
        return
    with drawing(path, 6.4, 1.2 + 0.24 * len(precisions)) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(precisions))[::-1]
        axes.barh(places, list(precisions.values()), color=TRAIN, height=0.7)
        axes.set_yticks(places, list(precisions))
        for place, value in zip(places, precisions.values(), strict=True):
            axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=8.5)
        axes.axvline(metrics["map"], color="#52606d", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1.05)
        axes.set_ylim(-0.7, len(precisions) - 0.3)
        axes.set_xlabel(f"average precision, IoU 0.50 to 0.95 (mean {metrics['map']:.3f})")
        axes.set_title("Parts that are there")
        axes.grid(True, axis="x")


def plot_curves(path: Path, precision: np.ndarray) -> None:
    """Draw precision over recall at IoU 0.5, a thin line for each part, and the mean over parts at IoU 0.5 and 0.75.

    Args:
        precision: see `PartEvaluator.precision_curves`.
    """
    curves = precision[..., ~np.isnan(precision[0, 0])]
    if not curves.size:
        return
    with drawing(path, 5.6, 4.6) as figure:
        axes = figure.add_subplot()
        axes.plot(RECALL_THRESHOLDS, curves[0], color=MUTED, linewidth=0.7, alpha=0.6)
        for overlap, color in ((0.5, TRAIN), (0.75, EVAL)):
            mean = curves[np.isclose(IOU_THRESHOLDS, overlap)][0].mean(1)
            label = f"mean of parts, IoU {overlap} (AP {mean.mean():.3f})"
            axes.plot(RECALL_THRESHOLDS, mean, color=color, linewidth=2.2, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_title("Precision and recall, thin: each part at IoU 0.5")
        axes.legend(loc="upper right")
        axes.grid(True)


def write_photos(
    folder: Path,
    photos: Any,
    predictions: Sequence[Mapping],
    targets: Sequence[Mapping],
    config: PartStateConfig,
    count: int,
) -> None:
    """Draw the first photos with their parts into `overlays`, and some of them on one sheet, examples.png."""
    from PIL import Image

    count = min(count, len(photos))
    if not count:
        return
    files = write_overlays(
        folder / "overlays",
        [photos[i]["image"] for i in range(count)],
        predictions[:count],
        image_ids=photos["image_id"][:count],
        targets=targets[:count],
        **names_in(config),
    )
    pictures = [Image.open(path) for path in files[:SHEET]]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    sheet = Image.new("RGB", (2 * width, height * -(-len(pictures) // 2)), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (width * (i % 2), height * (i // 2)))
    with atomic_write(folder / "examples.png", binary=True) as file:
        sheet.save(file, "PNG")


def inspection_rows(
    predictions: Iterable[Mapping],
    id2label: Mapping[int, str],
    id2state: Mapping[int, str],
    image_ids: Sequence[str] | None = None,
    score_threshold: float | Sequence[float] = 0.5,
    attributes: Mapping[str, Sequence[str]] | None = None,
    absent_state: str = ABSENT,
) -> list[dict]:
    """One row per part and photo, also for parts that were not found.

    Args:
        predictions: of each photo: `boxes` (n, 4) xyxy, `labels`, `scores`, `states` and `state_scores` (n,).
        id2label, id2state: names of parts and states.
        image_ids: names of the photos, by default their numbers.
        score_threshold: a part is there where a detection has at least this score, and its state is not the absent one;
            one for all parts, or one for each.
        attributes: name -> values of what is told beside the state, in `attributes` and `attribute_scores` (n, attributes) of
            the predictions.
        absent_state: what parts that are not there are said to be.

    Returns:
        Rows of `image_id`, `part`, `present`, `state` (of a part that was not found the absent one), `score` (of the best
        detection, also below the threshold; 0 where there is none), `state_score`, `detections` (their number above
        the threshold), the box `xmin`, `ymin`, `xmax`, `ymax` in pixels, and of each attribute its value and score; the box, the
        state's score and the attributes are None for a part that was not found.
    """
    rows = []
    limits = np.broadcast_to(score_threshold, len(id2label))
    for number, prediction in enumerate(predictions):
        further = ("attributes", "attribute_scores") if attributes else ()
        columns = ("boxes", "labels", "scores", "states", "state_scores", *further)
        values = {key: np.asarray(prediction[key]) for key in columns}
        name = number if image_ids is None else image_ids[number]
        for part, label in id2label.items():
            mine = np.flatnonzero(values["labels"] == part)
            cells = _row(values, mine, id2state, float(limits[part]), attributes, absent_state)
            rows.append({"image_id": name, "part": label} | cells)
    return rows


def names_in(config: PartStateConfig) -> dict[str, Any]:
    """What `inspection_rows` and `write_overlays` take of a config."""
    names = {"id2label": config.id2label, "id2state": config.id2state, "attributes": config.attributes}
    return names | {"score_threshold": config.thresholds, "absent_state": config.absent_state or ABSENT}


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
    values: dict[str, np.ndarray], mine: np.ndarray, id2state, score_threshold: float, attributes, absent: str
) -> dict:
    scores = values["scores"][mine]
    best = float(scores.max()) if len(mine) else 0.0
    row = {"present": False, "state": absent, "score": round(best, 6), "state_score": None}
    row["detections"] = int((scores >= score_threshold).sum())
    if not row["detections"]:
        told = [key for name in attributes or () for key in (name, f"{name}_score")]
        return row | dict.fromkeys([*SIDES, *told])
    chosen = mine[scores.argmax()]
    state = id2state[int(values["states"][chosen])]
    box = [round(float(side), 3) for side in values["boxes"][chosen]]
    row |= {"present": state != absent, "state": state}
    row["state_score"] = round(float(values["state_scores"][chosen]), 6)
    return row | dict(zip(SIDES, box, strict=True)) | attribute_cells(values, chosen, attributes)
