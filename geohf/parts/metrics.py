"""The numbers of a detector on photos with labels: collected batch by batch, with intervals and the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_convert

from geohf.data.classes import class_names, classes_of
from geohf.errors import DataError
from geohf.metrics.directions import HIGHER, LOWER
from geohf.metrics.intervals import bootstrap_intervals
from geohf.metrics.records import Metric, join_metrics
from geohf.parts.answers import PartStateOutput
from geohf.parts.attribute_values import best_values
from geohf.parts.evaluator import PartEvaluator
from geohf.parts.processing import post_process
from geohf.parts.rows import LABELS, numbers_of, truths_of
from geohf.parts.state_metrics import METRICS as STATE_METRICS
from geohf.parts.state_metrics import STATE_NUMBERS

if TYPE_CHECKING:
    from geohf.parts.configuration import PartStateConfig

_MAPS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
METRICS = dict.fromkeys((*_MAPS, "joint_map", "ap/*"), HIGHER) | STATE_METRICS
METRICS |= {f"{name}/*": HIGHER for name in STATE_NUMBERS}  # of each attribute
METRICS |= {f"{name}_loss": LOWER for name in ("classifier", "box_reg", "objectness", "rpn_box_reg", "state")}
BASELINE_THRESHOLD = 0.5  # the constant answer says a part is there where half of the training photos show it
DRAWS = 200  # for intervals: every draw computes average precision anew


class DetectedPhotos(NamedTuple):
    """What a detector gives on a whole dataset.

    Attributes:
        numbers: the losses and the metrics of `PartEvaluator`.
        predictions: of each photo, all boxes as `PartEvaluator` takes them, in pixels of the upright photo.
    """

    numbers: dict[str, float]
    predictions: list[dict[str, np.ndarray]]


class BatchScores:
    """Collects the losses and the boxes of batches; what it computes does not depend on how they were batched.

    Args:
        keep: also keep the predictions and truths of every photo.
    """

    def __init__(self, config: PartStateConfig, keep: bool = False):
        self.config, self.evaluator = config, part_evaluator(config)
        self.keep = keep
        self.predictions: list[dict[str, np.ndarray]] = []
        self.targets: list[dict[str, np.ndarray]] = []
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def add(self, outputs: PartStateOutput, truths: Sequence[torch.Tensor]) -> None:
        """Add a batch.

        Args:
            truths: the tensors of `truth_names`, as `PartStateModel.forward` takes them.
        """
        losses, weights = outputs.losses, outputs.photo_weights
        assert losses is not None  # truths were given
        assert weights is not None
        self._losses.append(losses.double().cpu())
        self._weights.append(weights.double().cpu())
        assert outputs.original_sizes is not None
        given = dict(zip(truth_names(self.config), truths, strict=True))
        detections, targets = predictions_of(outputs, self.config), targets_of(given, outputs.original_sizes)
        self.evaluator.add(detections, targets)
        if self.keep:
            self.predictions += detections
            self.targets += targets

    def compute(self) -> dict[str, float]:
        """The mean losses, and the metrics of `PartEvaluator`."""
        weights = torch.cat(self._weights)
        means = (torch.cat(self._losses) * weights[:, None]).sum(0) / weights.sum()
        losses = {"loss": float(means @ means.new_tensor(self.config.loss_weights))}
        losses |= dict(zip(self.config.loss_parts, means.tolist(), strict=True))
        return losses | self.evaluator.compute()


def measure(
    config: PartStateConfig,
    outputs: DetectedPhotos,
    targets: Sequence[Mapping],
    constant: Sequence[Mapping] | None = None,
    intervals: bool = True,
) -> list[Metric]:
    """The numbers of detections, with intervals over photos and those of the constant baseline.

    Args:
        targets: of each photo, see `dataset_targets`.
        constant: the constant baseline's predictions of each photo, see `geohf.parts.baseline`.
    """
    baseline, ends = {}, {}
    if constant is not None:
        evaluator = part_evaluator(config, BASELINE_THRESHOLD)
        evaluator.add(constant, targets)
        baseline = evaluator.compute()
    if intervals:
        evaluator = part_evaluator(config)
        evaluator.add(outputs.predictions, targets)
        ends = bootstrap_intervals(evaluator.statistics(), np.arange(len(targets)), DRAWS)
    return join_metrics(outputs.numbers, ends, baseline)


def part_evaluator(config: PartStateConfig, threshold: float | None = None) -> PartEvaluator:
    """The evaluator for a model's parts and states, at its thresholds or at this one."""
    return PartEvaluator(
        num_parts=config.num_labels,
        num_states=config.num_states,
        absent_state=config.absent_index,
        score_threshold=config.thresholds if threshold is None else threshold,
        part_names=[config.id2label[i] for i in range(config.num_labels)],
        attributes=config.attributes,
    )


def truth_names(config: PartStateConfig) -> list[str]:
    """What of a batch are truths."""
    return ["labels", "boxes", "states", "iscrowd", *(["attributes"] if config.attributes else [])]


def predictions_of(outputs: PartStateOutput, config: PartStateConfig) -> list[dict[str, np.ndarray]]:
    """Outputs as the evaluator takes them: all boxes, in pixels of the upright photos."""
    detections = post_process(outputs, 0.0, outputs.original_sizes)
    for parts in detections if config.attributes else ():
        parts["attributes"], parts["attribute_scores"] = best_values(parts.pop("attribute_probs"), config)
    return [{name: values.cpu().numpy() for name, values in parts.items()} for parts in detections]


def targets_of(truths: Mapping[str, Any], sizes: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """Padded truths as the evaluator takes them.

    Args:
        truths: the tensors of `truth_names`, by name.
        sizes: (batch, 2) height and width of the upright photos.
    """
    pixels = box_convert(truths["boxes"].float(), "cxcywh", "xyxy") * sizes[:, None, [1, 0, 1, 0]]
    known = truths["labels"] >= 0
    columns = {**truths, "boxes": pixels}
    return [
        {name: values[i][known[i]].cpu().numpy() for name, values in columns.items()}
        for i in range(len(known))
    ]


def dataset_targets(dataset: Any, config: PartStateConfig) -> list[dict[str, Any]]:
    """The truths of a dataset with the columns of `part_features`, as the evaluator takes them, in the model's numbers.

    Raises:
        DataError: a part or a state that the model does not know.
    """
    parts, states = numbers_of(config.id2label), numbers_of(config.id2state)
    attributes = config.attributes or {}
    names = class_names(dataset, ("parts", "states", *attributes))
    known = [name for name in attributes if name in dataset.column_names]
    columns = {name: dataset[name][:] for name in ("image_id", "width", "height", *LABELS, *known)}
    targets = []
    for cells in zip(*columns.values(), strict=True):
        row = dict(zip(columns, cells, strict=True))
        row |= {column: classes_of(listed, row[column]) for column, listed in names.items()}
        try:
            truths = truths_of(row, parts, states, (row["width"], row["height"]), attributes)
        except DataError as error:
            raise DataError(f"photo {row['image_id']}, {error}") from None
        target = {"boxes": truths["boxes"].astype(np.float64), "labels": truths["parts"]}
        target |= {name: truths[name] for name in ("states", "iscrowd")}
        if attributes:
            target["attributes"] = np.stack([truths[name] for name in attributes], 1)
        targets.append(target | {"image_id": row["image_id"]})
    return targets
