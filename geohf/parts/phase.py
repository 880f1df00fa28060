"""Training a detector: photos to batches, the losses of every photo, and mAP while it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.ops import box_convert

from geohf.errors import DataError
from geohf.parts.answers import PartStateOutput
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.losses import IGNORED, LOSS_PARTS
from geohf.parts.metrics import PartEvaluator
from geohf.parts.modeling import PartStateModel
from geohf.parts.processing import open_photo, post_process
from geohf.parts.rows import numbers_of, photo_name, require_columns, truths_of
from geohf.training.batches import BatchWithoutRows
from geohf.training.phase import PhaseTrainer

if TYPE_CHECKING:
    from datasets import Dataset

# of random and of published weights
RATES = (1e-3, 1e-4)
TRUTHS = ("labels", "boxes", "states", "iscrowd")
# of a batch: the column of a row
_COLUMNS = {
    "labels": "parts",
    "boxes": "boxes",
    "states": "states",
    "iscrowd": "iscrowd",
    "weights": "trust",
}


class PartCollator:
    """Rows of a dataset of photos with parts to a batch of tensors; see `PartStateModel.forward`.

    Rows are those of `load_parts`, or anyone's with an image, boxes, parts and states, as names or numbers, see
    `geohf.parts.rows.truths_of`.

    Args:
        model: gives the processor.
        augment: `(image, boxes) -> (image, boxes, kept rows)` on (3, h, w) uint8 and (n, 4) pixels, for training.
        trust: hand over how far each truth is trusted, as its weight in the loss.
    """

    def __init__(self, model: PartStateModel, augment: Callable | None = None, trust: bool = False):
        self.processor, self.augment, self.trust = model.processor, augment, trust
        self.parts, self.states = map(numbers_of, (model.config.id2label, model.config.id2state))

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        photos, truths = [], []
        for number, row in enumerate(rows):
            try:
                require_columns(row)
                photo = open_photo(row)
                height, width = photo.shape[-2:]
                found = truths_of(row, self.parts, self.states, (width, height))
            except DataError as error:
                raise DataError(f"photo {photo_name(row, number)}, {error}") from None
            truth = {name: torch.from_numpy(found[column]) for name, column in _COLUMNS.items()}
            if self.augment is not None:
                photo, boxes, kept = self.augment(photo, truth["boxes"])
                truth = {name: values[kept] for name, values in truth.items()} | {"boxes": boxes}
            height, width = photo.shape[-2:]
            scale = torch.tensor([width, height, width, height])
            truth["boxes"] = box_convert(truth["boxes"] / scale, "xyxy", "cxcywh")
            truth["iscrowd"] = truth["iscrowd"].long()
            photos.append(photo)
            truths.append(truth)
        batch: dict[str, Any] = dict(self.processor.fit(photos))
        longest = max(1, *(len(truth["labels"]) for truth in truths))
        empty = {"labels": IGNORED, "states": IGNORED}
        for name in _COLUMNS:
            if name != "weights" or self.trust:
                batch[name] = torch.stack(
                    [_padded(truth[name], longest, empty.get(name, 0)) for truth in truths]
                )
        batch["image_ids"] = [photo_name(row, number) for number, row in enumerate(rows)]
        return batch


def _padded(values: torch.Tensor, length: int, empty: float) -> torch.Tensor:
    whole = values.new_full((length, *values.shape[1:]), empty)
    whole[: len(values)] = values
    return whole


class PartPhaseTrainer(PhaseTrainer):
    """Trains a detector on a dataset of photos with parts; evaluates loss, mAP and states as it goes.

    Evaluation streams: no more than a batch's boxes are kept as tensors, and its numbers depend neither on the size
    of the batch nor on the number of processes.

    Args:
        model: a `PartStateModel`.
        train_dataset, eval_dataset: with the columns of `geohf.parts.data.load_parts`.
        augment: see `PartCollator`.
        trust_weighted: weigh each truth in the losses of regions by how far it is trusted.
    """

    shown_metrics = ("map", "state_f1", "hallucination")
    class_columns = ("parts", "states")
    arguments_class = PartTrainingArguments

    def __init__(
        self,
        model=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        augment: Callable | None = None,
        trust_weighted: bool = False,
        **kwargs,
    ):
        self.evaluator: PartEvaluator | None = None
        self._losses: list[torch.Tensor] = []
        self._kept: list[dict] | None = None
        self.augment, self.trust_weighted = augment, trust_weighted
        kwargs.setdefault("compute_metrics", self._metrics)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.label_names = list(TRUTHS)

    def make_collator(self, model, training: bool):
        """Of photos with their parts."""
        if not training:
            return PartCollator(model)
        return PartCollator(model, self.augment, self.trust_weighted)

    def run_settings(self):
        """As `PhaseTrainer`'s."""
        return {"trust_weighted": self.trust_weighted}

    def measured(self):
        """As `METRICS`, with each part by its name."""
        metrics = super().measured()
        parts = {f"ap/{name}": metrics["ap/*"] for name in self.config.id2label.values()}
        return {name: metric for name, metric in metrics.items() if name != "ap/*"} | parts

    def create_optimizer(self, *args, **kwargs):
        """As PhaseTrainer's, with one learning rate for all, and a lower one for published weights."""
        if self.args.learning_rate is None:
            self.args.learning_rate = RATES[self.config.backbone_name is not None]
        if self.args.backbone_learning_rate is None:
            self.args.backbone_learning_rate = self.args.learning_rate
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, num_training_steps, optimizer=None):
        """As transformers'; a rate that falls on a plateau watches the metric that chooses checkpoints."""
        if self.args.lr_scheduler_type == "reduce_lr_on_plateau":
            mode = "max" if self.args.greater_is_better else "min"
            self.args.lr_scheduler_kwargs = {"mode": mode} | dict(self.args.lr_scheduler_kwargs or {})
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss.

        Raises:
            DataError: it is not finite; the message names the photos.
        """
        names = inputs.get("image_ids") or [f"number {i}" for i in range(len(inputs["pixel_values"]))]
        # the kind of a batch tells whether its rows count
        inputs = type(inputs)((name, value) for name, value in inputs.items() if name != "image_ids")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not torch.isfinite(outputs.losses).all() and not isinstance(inputs, BatchWithoutRows):
            bad = (~torch.isfinite(outputs.losses)).any(1).tolist()
            bad = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
            raise DataError(
                f"the loss is not finite at step {self.state.global_step} for {len(bad)} of {len(names)} photos of a "
                f"batch ({', '.join(bad)}): look at their files and boxes, or lower the learning rate; "
                f"the last whole checkpoint in {self.args.output_dir} is sound"
            )
        return (loss, outputs) if return_outputs else loss

    def measure(self, dataset: Dataset) -> tuple[dict[str, float], list[dict[str, np.ndarray]]]:
        """The metrics on a dataset, and the boxes of every photo in it, on every process."""
        self._kept = []
        found = self.evaluation_loop(self.get_eval_dataloader(dataset), "measure", metric_key_prefix="eval")
        kept, self._kept = self._kept, None
        found.metrics.pop(
            "eval_model_preparation_time", None
        )  # transformers adds it where nothing was trained
        return {name.removeprefix("eval_"): value for name, value in found.metrics.items()}, kept

    def outputs_of(self, predictions) -> PartStateOutput:
        """Named outputs from the tuple that transformers hands over."""
        names = ("losses", "pred_boxes", "pred_labels", "scores", "state_probs", "original_sizes")
        return PartStateOutput(**dict(zip(names, map(torch.as_tensor, predictions), strict=True)))

    def _metrics(self, prediction, compute_result: bool = True) -> dict[str, float]:
        outputs = self.outputs_of(prediction.predictions)
        self._losses.append(outputs.losses.double().cpu())
        labels, boxes, states, iscrowd = (torch.as_tensor(part) for part in prediction.label_ids)
        found = predictions_of(outputs)
        if self.evaluator is None:
            self.evaluator = part_evaluator(self.config)
        self.evaluator.add(found, targets_of(labels, boxes, states, outputs.original_sizes, iscrowd))
        if self._kept is not None:
            self._kept += found
        if not compute_result:
            return {}
        means = torch.cat(self._losses).mean(0)
        metrics = self.evaluator.compute()
        self._losses, self.evaluator = [], None
        losses = {"loss": float(means @ means.new_tensor(self.config.loss_weights))} | dict(
            zip(LOSS_PARTS, means.tolist(), strict=True)
        )
        return losses | {name: value for name, value in metrics.items() if np.isscalar(value)}


def part_evaluator(config) -> PartEvaluator:
    """The evaluator for a model's parts and states."""
    return PartEvaluator(
        num_parts=config.num_labels,
        num_states=config.num_states,
        absent_state=config.absent_index,
        score_threshold=config.presence_threshold,
        part_names=[config.id2label[i] for i in range(config.num_labels)],
    )


def predictions_of(outputs: PartStateOutput) -> list[dict[str, np.ndarray]]:
    """Outputs as the evaluator takes them: all boxes, in pixels of the upright photos."""
    return [
        {name: values.cpu().numpy() for name, values in parts.items()}
        for parts in post_process(outputs, 0.0, outputs.original_sizes)
    ]


def targets_of(labels, boxes, states, sizes, iscrowd) -> list[dict[str, np.ndarray]]:
    """Padded truths as the evaluator takes them."""
    pixels = box_convert(boxes.float(), "cxcywh", "xyxy") * sizes[:, None, [1, 0, 1, 0]]
    known = labels >= 0
    columns = {"boxes": pixels, "labels": labels, "states": states, "iscrowd": iscrowd}
    return [
        {name: values[i][known[i]].cpu().numpy() for name, values in columns.items()}
        for i in range(len(labels))
    ]


def dataset_targets(dataset: Dataset) -> list[dict[str, Any]]:
    """The truths of a dataset as `load_parts` gives it, as the evaluator takes them."""
    columns = [dataset[name][:] for name in ("boxes", "parts", "states", "iscrowd", "image_id")]
    return [
        {
            "boxes": np.array(boxes, np.float64).reshape(-1, 4),
            "labels": np.array(parts, np.int64),
            "states": np.array(states, np.int64),
            "iscrowd": np.array(crowds, bool),
            "image_id": name,
        }
        for boxes, parts, states, crowds, name in zip(*columns, strict=True)
    ]
