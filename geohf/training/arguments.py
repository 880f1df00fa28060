"""The arguments that every task's training shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from huggingface_hub.utils import validate_repo_id
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from geohf.errors import DataError, require_at_least, require_within
from geohf.metrics.directions import LOSS, MetricInfo, find_metric, not_measured, wrong_direction


def argument(default: Any, help: str) -> Any:
    """A dataclass field of the command line: its default, and what `--help` says of it."""
    return field(default=default, metadata={"help": help})


# what no run can do with less, of all tasks; by the least that it takes
AT_LEAST = {
    1: (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "head_batch_size",
        "feature_batch_size",
        "gradient_accumulation_steps",
        "images_per_place",
        "lora_rank",
        "finetune_blocks",
        "cache_workers",
    ),
    0: (
        "num_train_epochs",
        "head_epochs",
        "learning_rate",
        "backbone_learning_rate",
        "weight_decay",
        "warmup_steps",
        "early_stopping_patience",
        "dataloader_num_workers",
        "seed",
    ),
}

# flags of transformers that would do nothing here, or nothing right: name -> (what it must be, why)
NOT_HONORED: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (
        0.0,
        "geohf's models compute their own losses; the street task has --smoothing",
    ),
    "neftune_noise_alpha": (None, "it adds noise to a text model's embeddings"),
    "use_liger_kernel": (False, "it replaces the layers of language models"),
    "include_num_input_tokens_seen": ("no", "images are no tokens"),
    "prediction_loss_only": (False, "metrics need the predictions"),
    "remove_unused_columns": (False, "geohf's collators choose the columns"),
    "eval_do_concat_batches": (True, "metrics are of a whole dataset"),
    "eval_use_gather_object": (False, "outputs are tensors, and gathered as such"),
    "batch_eval_metrics": (False, "metrics are of a whole dataset"),
    "bf16_full_eval": (False, "the weights would stay in half precision; bf16 evaluates in bfloat16, too"),
    "fp16_full_eval": (False, "the weights would stay in half precision; fp16 evaluates in float16, too"),
    "label_names": (None, "a task's Trainer knows which columns hold its labels"),
    "debug": ([], "its hooks do not know geohf's outputs"),
    "do_train": (
        True,
        "recipes and `train` train; `geohf evaluate` and `geohf predict` do the rest with a model that is there",
    ),
}


@dataclass
class GeoTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with other defaults and seven fields more.

    Other defaults: evaluation, saving and logging every epoch, the best checkpoint at the end, one checkpoint
    kept beside the best, fused AdamW, warm-up over the first tenth, cosine decay, no tracker unless asked for.
    """

    output_dir: str | None = argument(None, "Folder for the model and everything a run leaves.")
    eval_strategy: str = argument("epoch", "When to evaluate: no, steps or epoch.")
    save_strategy: str = argument("epoch", "When to save a checkpoint: no, steps, epoch or best.")
    logging_strategy: str = argument("epoch", "When to log: no, steps or epoch.")
    load_best_model_at_end: bool = argument(True, "End with the best checkpoint's weights.")
    hub_strategy: str = argument(
        "end",
        "What --push_to_hub sends: end (the finished model), every_save, checkpoint or all_checkpoints too.",
    )
    save_total_limit: int | None = argument(1, "Checkpoints to keep beside the best one.")
    optim: str = argument("adamw_torch_fused", "The optimizer.")
    learning_rate: float = argument(1e-3, "Peak learning rate of the heads.")
    weight_decay: float = argument(1e-6, "Weight decay, not for biases and norms.")
    warmup_steps: float = argument(0.1, "Warm-up: steps, or below 1 the share of all steps.")
    lr_scheduler_type: str = argument("cosine", "The learning rate's schedule.")
    # transformers declares these two as bool: None is settled before it reads them
    dataloader_pin_memory: bool | None = argument(  # type: ignore[assignment]
        None, "Pin memory in the loader; by default where there is a GPU to copy to."
    )
    bf16: bool | None = argument(  # type: ignore[assignment]
        None, "bfloat16 autocast; by default on a GPU that has it and never on a CPU."
    )
    do_train: bool = argument(True, "A recipe trains: `geohf evaluate` and `geohf predict` do not.")
    remove_unused_columns: bool = argument(False, "geohf's collators choose the columns.")
    logging_nan_inf_filter: bool = argument(False, "A loss that is not finite stops the run.")
    restore_callback_states_from_checkpoint: bool = argument(
        True, "A resumed run remembers how long it has waited for a better score."
    )
    backbone_learning_rate: float | None = argument(
        None, "Peak learning rate of the backbone; default: 1e-5, or a third of the heads' for a random one."
    )
    layer_decay: float = argument(
        1.0, "Learning rate of each block of the backbone, relative to that of the block behind it."
    )
    ema_decay: float | None = argument(
        None,
        "Evaluate, save and keep a moving average of the weights that forgets so slowly, as 0.999; default: none.",
    )
    early_stopping_patience: int = argument(
        3, "Evaluations without a better score before training stops; 0: never."
    )
    cache_dir: str | None = argument(
        None, "Folder of cached features; default: $GEOHF_CACHE or the Hugging Face cache."
    )
    feature_batch_size: int = argument(32, "Images in one pass of a frozen backbone.")
    feature_mode: Literal["eager", "compile", "int8"] = argument(
        "eager", "How a frozen backbone computes features; int8 is for CPUs, close but not exact."
    )

    metrics: ClassVar[Mapping[str, MetricInfo]] = LOSS  # what an evaluation measures
    not_honored: ClassVar[Mapping[str, tuple[Any, str]]] = NOT_HONORED

    def __post_init__(self):
        import torch

        # before transformers fills in "loss", and a direction that it reads off the name
        self.asked_metric = self.metric_for_best_model
        self._settle_direction()
        gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = gpu
        super().__post_init__()
        self.require_honored()
        launched = int(os.environ.get("WORLD_SIZE", 1))
        if launched > self.world_size:  # they would all train the same, and write over each other
            raise DataError(
                f"{launched} processes were launched and no GPU joins them; on CPUs add --use_cpu true"
            )
        for least, names in AT_LEAST.items():
            require_at_least(least, **{name: getattr(self, name, None) for name in names})
        require_within("(0, 1]", layer_decay=self.layer_decay)
        require_within("(0, 1)", ema_decay=self.ema_decay)
        if self.seed >= 2**32:
            raise DataError(f"seed must be below 2**32, got {self.seed}")
        trackers = {*self.report_to} - {*get_available_reporting_integrations(), "none"}
        if trackers:
            raise DataError(
                f"report_to names {', '.join(sorted(trackers))}, which is not installed or not known"
            )
        if self.push_to_hub and self.hub_model_id:
            validate_repo_id(self.hub_model_id)
        self.resume_from_checkpoint = _yes_or_no("resume_from_checkpoint", self.resume_from_checkpoint)

    @property
    def order_seed(self) -> int:
        """The seed of the order in which rows are seen: `data_seed`, or `seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def feature_settings(self) -> dict[str, Any]:
        """How a frozen backbone's features are computed and kept, see `geohf.vision.features.cached_features`."""
        import torch

        return {
            "cache_dir": self.cache_dir,
            "batch_size": self.feature_batch_size,
            "num_workers": self.dataloader_num_workers,
            "autocast": torch.bfloat16 if self.bf16 else None,
            "mode": self.feature_mode,
        }

    def _settle_direction(self) -> None:
        metric = None if self.asked_metric is None else find_metric(self.asked_metric, self.metrics)
        if self.asked_metric is None and self.greater_is_better is not None:
            raise DataError("greater_is_better says nothing without metric_for_best_model")
        if metric is None:
            return
        if self.greater_is_better not in (None, metric.greater_is_better):
            raise DataError(wrong_direction(self.asked_metric, metric))
        self.greater_is_better = metric.greater_is_better

    def require_honored(self) -> None:
        """Raise DataError for a flag of transformers that would be passed over without a word."""
        for name, (value, why) in self.not_honored.items():
            if getattr(self, name) != value:
                raise DataError(f"{name} cannot be {getattr(self, name)!r}: {why}")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise DataError(
                f"train_sampling_strategy cannot be {self.train_sampling_strategy!r}: images have no length; take "
                "random or sequential"
            )

    def require_known_metric(self) -> None:
        """Raise DataError where the metric that chooses the best weights is none of the task's."""
        if self.asked_metric is not None and find_metric(self.asked_metric, self.metrics) is None:
            raise DataError(not_measured(self.asked_metric, self.metrics))


def _yes_or_no(name: str, value) -> bool | None:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise DataError(f"{name} is true or false, got {value!r}: a run goes on from its own output_dir")
    return words[str(value).lower()]
