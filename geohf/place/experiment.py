"""One model, one seed, one method: measured frozen, trained, and measured again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import enable_full_determinism, set_seed

from geohf.models.settings import settings_refused
from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.audit import Finding, judge, near_duplicates
from geohf.place.confidence import confidence, evidence, fit_confidence
from geohf.place.configuration import ENCODERS, GeoPlaceConfig
from geohf.place.evaluation import Search, search
from geohf.place.modeling import GeoPlaceModel
from geohf.place.phase import PlacePhaseTrainer, finetune, head_descriptors, train_head
from geohf.place.splits import PlaceData
from geohf.training.finetuning import require_finetunable
from geohf.training.phase import phase_arguments
from geohf.training.settings import require_a_batch
from geohf.training.trainer import phase_history
from geohf.vision.backbones import backbone_config
from geohf.vision.features import cached_features

MODEL_FIELDS = (
    "dropout",
    "positive_m",
    "negative_m",
    "heading_deg",
    "contrastive_weight",
    "triplet_weight",
    "temperature",
    "margin",
    "mining",
    "hard_share",
)
# answers that a confidence looks at, as many as `GeoPlaceModel.decode` gives by default
_SEEN = 5


@dataclass
class PlaceRun:
    """One model, seed and method: the trained model, its searches on test queries, and its log.

    Attributes:
        baseline: the search with the frozen tower's feature alone.
        trained: the search after training.
        history: rows of the Trainer's log.
        log: rows of the seed's log, see `geohf.place.logs`.
        validation_r1: the best epoch's; None without validation.
        validation_score: what chose that epoch, as large-is-better: the recall, or the metric that was asked for.
        descriptors: (n, d) of all images, by the trained model.
        duplicates: what the audit found in the frozen features.
    """

    name: str
    seed: int
    method: str
    model: GeoPlaceModel
    baseline: Search
    trained: Search
    history: list[dict]
    log: list[dict]
    validation_r1: float | None
    descriptors: torch.Tensor
    duplicates: list[Finding]
    validation_score: float = -math.inf

    @property
    def label(self) -> str:
        """For file names."""
        kind = "" if self.method == "ours" else f"_{self.method}"
        return f"{Path(self.name).name}_seed{self.seed}{kind}"


def run_one(
    name: str, seed: int, method: str, data: PlaceData, options: PlaceArguments, args: PlaceTrainingArguments
) -> PlaceRun:
    """Measure one model frozen, train it, and measure it again.

    With no epochs to train, a model that was trained before is measured as it is, and a new one without a head.

    Args:
        name: of a tower or a trained model, see `make_model`.
        method: see `geohf.place.phase.train_head`.
    """
    (enable_full_determinism if args.full_determinism else set_seed)(seed)
    args, resume = _with_seed(args, seed), bool(args.resume_from_checkpoint)
    training = args.num_train_epochs > 0
    model = make_model(name, options if training else replace(options, projection_dim=0))
    if training:
        require_a_batch(args, len(data.train))
        require_finetunable(model, args, len(data.train))
    model.tower.to(args.device)
    features = cached_features(
        model.tower,
        model.processor,
        data.files,
        cache_dir=args.cache_dir,
        batch_size=args.feature_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else None,
        mode=args.feature_mode,
        pool=model.config.tower_pool,
    )
    frozen = features.mean((-2, -1)) if features.ndim == 4 else features
    baseline = search(frozen, data, data.test, options.radii_m)
    duplicates = [] if options.audit == "off" else near_duplicates(baseline.similarity[:, 0])
    judge(duplicates, options.audit == "strict")
    run = PlaceRun(name, seed, method, model, baseline, baseline, [], [], None, frozen, duplicates)
    whitening, phases, trainers = options.whitening_dim, {}, []
    if training:
        whitening = model.head.remove_whitening() or whitening
        trainers.append(train_head(model, features, data, args, method, run.label, resume))
        phases["head"] = trainers[-1].state.log_history
    run.descriptors = head_descriptors(model.head, features)
    if args.finetune != "none" and method == "ours":
        run.model, trainer = finetune(model, data, args, run.label, resume)
        trainers.append(trainer)
        phases["finetune"] = trainer.state.log_history
        run.descriptors = _encode(run.model, data, args)
    if whitening is not None and run.model.config.whitening_dim is None:
        run.model.head.fit_whitening(run.descriptors[data.train], whitening)
        run.descriptors = run.model.head.whiten(run.descriptors)
    run.trained = search(run.descriptors, data, data.test, options.radii_m)
    run.history = phase_history(**phases)
    run.log = [row for trainer in trainers for row in trainer.clock.rows]
    best = trainers[-1].best_row() if trainers and len(data.validation) else None
    if best is not None:
        run.validation_score, run.validation_r1 = trainers[-1].best_score(), best["eval_r1"]
    _fit_confidence(run, data, options)
    run.model.to("cpu").eval()
    return run


def make_model(name: str, options: PlaceArguments) -> GeoPlaceModel:
    """A new model around a tower, or a trained one where `name` is the folder or repo of a place model.

    Raises:
        DataError: options that do not go together, or a name that nothing has.
    """
    if _is_place_model(name):
        return GeoPlaceModel.from_pretrained(name)
    fields = {
        field: getattr(options, field) for field in (*MODEL_FIELDS, "mix_depth", "mix_channels", "mix_rows")
    }
    pooling = options.pooling or "tower"
    projection = options.projection_dim
    if projection is None:
        projection = None if pooling == "mixvpr" else 256
    fields |= {"pooling": pooling, "projection_dim": projection or None, "confidence_m": options.radii_m[0]}
    with settings_refused():
        return GeoPlaceModel.from_backbone(
            name,
            pretrained=options.pretrained is not False,
            image_size=options.image_size,
            backbone_weights=options.backbone_weights,
            **fields,
        )


def _is_place_model(name: str) -> bool:
    if name in ENCODERS or not ("/" in name or Path(name).is_dir()):  # timm's names need no look at the Hub
        return False
    return backbone_config(name)[1].get("model_type") == GeoPlaceConfig.model_type


def _with_seed(args: PlaceTrainingArguments, seed: int) -> PlaceTrainingArguments:
    """The same arguments with another seed."""
    changed = phase_arguments(args, "", seed=seed)
    changed.output_dir, changed.resume_from_checkpoint = args.output_dir, args.resume_from_checkpoint
    return changed


def _encode(model: GeoPlaceModel, data: PlaceData, args: PlaceTrainingArguments) -> torch.Tensor:
    """Descriptors of all images by a tower that has learned, on every process."""
    quiet = phase_arguments(args, "", eval_strategy="no", save_strategy="no")
    trainer = PlacePhaseTrainer(model, quiet, train_dataset=data.images, compute_metrics=None)
    return torch.from_numpy(trainer.predict(data.images).predictions)


def _fit_confidence(run: PlaceRun, data: PlaceData, options: PlaceArguments) -> None:
    if not len(data.validation):
        return
    checked = search(run.descriptors, data, data.validation, options.radii_m)
    seen = evidence(
        checked.similarity[:, :_SEEN], data.points[checked.answers[:, :_SEEN]], options.negative_m
    )
    run.model.config.confidence_weights = fit_confidence(seen, checked.right[:, 0])


def confidence_of(run: PlaceRun, data: PlaceData) -> np.ndarray | None:
    """(q,) confidences of the test queries' top answers; None where the model has none."""
    config, found = run.model.config, run.trained
    if config.confidence_weights is None:
        return None
    seen = evidence(found.similarity[:, :_SEEN], data.points[found.answers[:, :_SEEN]], config.negative_m)
    return confidence(seen, config.confidence_weights)
