"""All the training of the parts task: one phase, and the numbers of the detector that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from geohf.data.streaming import is_stream
from geohf.errors import DataError, require_share
from geohf.metrics.records import Evaluation
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.baseline import constant_predictions
from geohf.parts.card import card_data
from geohf.parts.decisions import fit_decisions, require_enough_photos, reset_decisions
from geohf.parts.detectors import keep_constants
from geohf.parts.metrics import DetectedPhotos, dataset_targets, measure
from geohf.parts.outputs import write_outputs
from geohf.parts.phase import PartPhaseTrainer
from geohf.parts.rows import as_photos, require_attributes_in
from geohf.parts.state_balance import COUNTED, count_states, repeat_factors, repeated_rows
from geohf.training.finetuning import unfreeze_last
from geohf.training.trainer import GeoTrainer

logger = logging.getLogger(__name__)

# torchvision's own number of stages that learn when it starts from published weights
TRAINED_STAGES = 3


class PartStateTrainer(GeoTrainer, PartPhaseTrainer):
    """Trains a detector of parts and their states, and keeps the best weights.

    Args:
        model: a `PartStateModel`.
        train_dataset, eval_dataset: rows with an `image`, `boxes`, `parts` and `states`, see `truths_of`; or a stream.
        augment, trust_weighted: see `PartPhaseTrainer`.
        The others: as transformers', see `GeoTrainer`.
    """

    phase_class = PartPhaseTrainer
    arguments_class = PartTrainingArguments
    read_rows = staticmethod(as_photos)
    write_outputs, card_data = write_outputs, card_data

    def run_phases(self, resume: bool) -> None:
        """Train the detector; the first stages of its backbone stay as `args.trained_stages` says."""
        limits = {name: getattr(self.args, name) for name in ("max_missed", "max_hallucinated")}
        if any(limit is not None for limit in limits.values()):
            self._require_promises(limits)
        require_attributes_in(self.train_dataset, self.config.attributes or ())
        reset_decisions(self.config)
        model, stages = self.model, self.args.trained_stages
        if model.answers_with_queries:
            keep_constants(model.detector)
            if stages:
                raise DataError(
                    f"trained_stages of {model.config.architecture} is 0, and its backbone stays as it is, or left out"
                )
        elif stages is None and model.config.backbone_name is not None:
            stages = TRAINED_STAGES
        if stages is not None:
            model.tower.requires_grad_(False)
            if stages:
                unfreeze_last(model.tower, stages)
        extras = {"augment": self.augment, "trust_weighted": self.trust_weighted}
        self.run_phase("train", train=self._photos_of_an_epoch(), resume=resume, extras=extras)

    def _photos_of_an_epoch(self) -> Any:
        """The training photos, some several times; what is done for rare states needs their counts."""
        photos, config, threshold = self.train_dataset, self.config, self.args.repeat_threshold
        if threshold:  # not 0, nor False
            require_share(repeat_threshold=threshold)
        if config.state_balance not in COUNTED and not threshold:
            return photos
        if threshold and is_stream(photos):
            raise DataError(
                "--repeat_threshold shows photos again, and a stream comes as it is: leave it at 0"
            )
        if self.train_rows is None:
            raise DataError(
                f"state_balance {config.state_balance} counts the states of all training photos, and a stream is not read "
                "beforehand: use focal, or give train_labels"
            )
        targets = dataset_targets(self.train_rows, config)
        if threshold:
            rows = repeated_rows(repeat_factors(targets, config, threshold), self.args.seed)
            logger.info("an epoch shows %d photos %d times, for their rare states", len(photos), len(rows))
            photos, targets = photos.select(rows), [targets[row] for row in rows]
        if config.state_balance in COUNTED:  # of what is shown, as often as it is
            config.state_counts = count_states(targets, config)
        return photos

    def _require_promises(self, limits: Mapping[str, float | None]) -> None:
        """Refuse, before hours of training, limits that nothing could promise afterwards."""
        if self.config.threshold_rule == "given":
            raise DataError(
                "--presence_threshold and --max_missed or --max_hallucinated exclude each other: give one"
            )
        if self.eval_dataset is None:
            raise DataError("--max_missed and --max_hallucinated need validation photos")
        if hasattr(self.eval_dataset, "__len__"):
            require_enough_photos(len(self.eval_dataset), **limits)

    def _forget_calibration(self) -> None:
        reset_decisions(self.config)

    def _calibrate(self) -> None:
        """Fit temperatures and thresholds on the validation photos, see `fit_decisions`."""
        reset_decisions(self.config)
        detections = self.detect(self.eval_dataset)
        limits = self.args.max_missed, self.args.max_hallucinated
        fit_decisions(self.config, detections.predictions, self.kept_targets, *limits)

    def outputs(self, dataset) -> DetectedPhotos:
        """What the model finds in a whole dataset with labels, and its numbers, on every process."""
        return self.detect(dataset)

    def measure(self, dataset, outputs: DetectedPhotos, prefix="eval", intervals=True) -> Evaluation:
        """See `geohf.parts.metrics.measure`."""
        config, train, constant = self.config, self.train_rows, None
        targets = dataset_targets(dataset, config)
        if train is not None:
            constant = constant_predictions(train, dataset, config)
        metrics = measure(config, outputs, targets, constant, intervals)
        return Evaluation(metrics, dataset, outputs.predictions, prefix, targets=targets)
