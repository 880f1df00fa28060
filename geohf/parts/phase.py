"""One phase of a detector's training: the losses of every photo, and mAP while it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from geohf.data.classes import NamedClasses, class_names
from geohf.data.streaming import is_stream
from geohf.errors import DataError
from geohf.parts.answers import PartStateOutput
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.augment import Mosaic, StatePaste, make_augmentation, require_queries_for_mosaic
from geohf.parts.metrics import BatchScores, DetectedPhotos, truth_names
from geohf.parts.processing import PartCollator
from geohf.parts.state_metrics import STATE_NUMBERS
from geohf.training.batches import EmptyBatch
from geohf.training.phase import PhaseTrainer

# of random and of published weights
RATES = (1e-3, 1e-4)
QUERY_BACKBONE_SHARE = 0.1  # of the rate, as these detectors are trained by their authors
# of a `PartStateOutput`, in the order of its fields, what an evaluation needs
_OUTPUTS = ("losses", "photo_weights", "pred_boxes", "pred_labels", "scores", "state_probs", "original_sizes")
_OF_COLLATORS = ("paste_rare", "mosaic", "multi_scale")  # arguments that the collator of training hears


class PartPhaseTrainer(PhaseTrainer):
    """Trains a detector on a dataset of photos with parts; evaluates loss, mAP and states as it goes.

    Evaluation streams: no more than a batch's boxes are kept as tensors, and its numbers depend neither on the size
    of the batch nor on the number of processes.

    Args:
        model: a `PartStateModel`.
        train_dataset, eval_dataset: with the columns of `geohf.parts.data.load_parts`.
        augment: see `PartCollator`; by default what `args.augment` and `args.flip` say.
        trust_weighted: weigh each truth in the losses of regions by how far it is trusted; by default as the arguments say.
    """

    shown_metrics = ("map", "state_f1", "hallucination")
    arguments_class = PartTrainingArguments

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        *,
        augment: Callable | None = None,
        trust_weighted: bool | None = None,
        **kwargs,
    ):
        self._scores: BatchScores | None = None
        self._keep = False
        self._kept: list[dict] = []
        self.kept_targets: list[dict] = []  # of the photos of the last `detect`, as its predictions
        self.augment, self._trust_weighted = augment, trust_weighted
        super().__init__(model, args, data_collator, **kwargs)
        unheard = [f"--{name}" for name in _OF_COLLATORS if getattr(self.args, name)]
        if data_collator is not None and unheard:
            raise DataError(
                f"{' and '.join(unheard)}: the data_collator that was given makes the batches and does not hear it; leave one of "
                "them out (a PartCollator takes changes and multi_scale itself)"
            )
        self.label_names = truth_names(self.config)

    @property
    def class_columns(self) -> tuple[str, ...]:  # type: ignore[override]  # each attribute is one
        """The columns of rows that name a class, or number it."""
        return ("parts", "states", *(self.config.attributes or ()))

    @property
    def trust_weighted(self) -> bool:
        """Whether each truth is weighed by how far it is trusted."""
        return self.args.trust_weighted if self._trust_weighted is None else self._trust_weighted

    def make_collator(self, model, training: bool):
        """Of photos with their parts."""
        if not training:
            return PartCollator(model)
        augment, args, config = self.augment, self.args, model.config
        if augment is None and args.augment:
            values = (config.id2state.values(), *(config.attributes or {}).values())
            augment = make_augmentation(args.flip, part_names=config.id2label.values(), value_names=values)
        return PartCollator(model, augment, self.trust_weighted, list(self._changes(model)), args.multi_scale)

    def _changes(self, model) -> Iterator[Callable]:
        """What changes a training photo by others: a part in a rarer state, then a mosaic."""
        for name in ("paste_rare", "mosaic"):
            if getattr(self.args, name) and is_stream(self.train_dataset):
                raise DataError(
                    f"--{name} takes any training photo, and a stream comes as it is: leave it at 0"
                )
        if self.train_dataset is None:
            return
        if self.args.paste_rare:
            yield StatePaste(self.train_dataset, model.config, self.args.paste_rare)
        if self.args.mosaic:
            require_queries_for_mosaic(self.train_dataset, model)
            read = NamedClasses(PartCollator(model).read, class_names(self.train_dataset, self.class_columns))
            yield Mosaic(self.train_dataset, read, self.args.mosaic)

    def run_settings(self):
        """As `PhaseTrainer`'s."""
        return {"trust_weighted": self.trust_weighted}

    def measured(self):
        """As `METRICS`, with each part by its name."""
        metrics = dict(super().measured())
        names = {"ap/*": list(self.config.id2label.values())}
        names |= {f"{name}/*": list(self.config.attributes or ()) for name in STATE_NUMBERS}
        each: dict = {}
        for pattern, listed in names.items():
            each |= dict.fromkeys((pattern.replace("*", name) for name in listed), metrics.pop(pattern))
        return metrics | each

    def create_optimizer(self, *args, **kwargs):
        """As PhaseTrainer's, with one learning rate for all, and a lower one for published weights."""
        if self.args.learning_rate is None:
            self.args.learning_rate = RATES[self.config.backbone_name is not None]
        if self.args.backbone_learning_rate is None:
            published = self.config.architecture != "faster_rcnn" and self.config.backbone_name is not None
            share = QUERY_BACKBONE_SHARE if published else 1
            self.args.backbone_learning_rate = self.args.learning_rate * share
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
        finite = torch.isfinite(outputs.losses).all(1).tolist()
        if not all(finite) and not isinstance(inputs, EmptyBatch):
            bad = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
            raise DataError(
                f"the loss is not finite at step {self.state.global_step} for {len(bad)} of {len(names)} photos of a "
                f"batch ({', '.join(bad)}): look at their files and boxes, or lower the learning rate; "
                f"the last whole checkpoint in {self.args.output_dir} is sound"
            )
        return (loss, outputs) if return_outputs else loss

    def detect(self, dataset) -> DetectedPhotos:
        """The numbers on a dataset with labels, and the boxes of every photo in it, on every process."""
        photos = self.get_eval_dataloader(dataset)
        given, self.compute_metrics = self.compute_metrics, self._metrics  # not a user's own
        self._keep = True
        try:
            output = self.evaluation_loop(photos, "detect", metric_key_prefix="eval")
        finally:
            self.compute_metrics, self._keep = given, False
        # transformers adds it where nothing was trained
        output.metrics.pop("eval_model_preparation_time", None)
        numbers = {name.removeprefix("eval_"): value for name, value in output.metrics.items()}
        return DetectedPhotos(numbers, self._kept)

    def evaluation_loop(self, *args, **kwargs):
        """As transformers'."""
        self._scores = None  # of an evaluation that was broken off
        return super().evaluation_loop(*args, **kwargs)

    def outputs_of(self, predictions) -> PartStateOutput:
        """Named outputs from the tuple that transformers hands over."""
        further = ["attribute_probs"] if self.config.attributes else []
        tensors: dict[str, Any] = dict(
            zip((*_OUTPUTS, *further), map(torch.as_tensor, predictions), strict=True)
        )
        return PartStateOutput(**tensors)

    def _metrics(self, prediction, compute_result: bool = True) -> dict[str, float]:
        if self._scores is None:
            self._scores = BatchScores(self.config, self._keep)
        truths = [torch.as_tensor(part) for part in prediction.label_ids]
        self._scores.add(self.outputs_of(prediction.predictions), truths)
        if not compute_result:
            return {}
        scores, self._scores = self._scores, None
        self._kept, self.kept_targets = scores.predictions, scores.targets
        return scores.compute()
