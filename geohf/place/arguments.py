"""The arguments of a place run: its data and model, and its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from geohf.errors import DataError, require_choice, require_whole, require_within
from geohf.metrics.directions import LOSS
from geohf.place.metrics import METRICS
from geohf.place.sequences import check_options
from geohf.training.arguments import GeoTrainingArguments, argument
from geohf.training.options import (
    DataArguments,
    FinetuneArguments,
    HeadFirstArguments,
    PhotoArguments,
    StreamingArguments,
    with_default,
)

METHODS = ("ours", "original")


@dataclass
class PlaceArguments(PhotoArguments, StreamingArguments):
    """Data and model of the place task."""

    row_word = "places"

    train_csv: list[str] | None = argument(
        None,
        "Drives to train on: poses.csv files, other tables, or folders of photographs; default: the built-in sample.",
    )
    val_csv: list[str] | None = argument(
        None, "Queries to choose the best epoch by; default: blocks of the training drives are held out."
    )
    test_csv: list[str] | None = argument(
        None, "Queries for the reported numbers; default: blocks of the training drives are held out."
    )
    database_csv: list[str] | None = argument(
        None,
        "Images to search in; default: the training tables, or the first drive where blocks are held out.",
    )
    # neighbors that follow each other are the pairs of a stream's batches
    buffer_size: int = with_default(StreamingArguments, "buffer_size", 0)
    camera_id: str | None = argument(None, "Take only the rows of this camera.")
    utm: str | None = argument(
        None,
        "Zone of UTM coordinates that come without one: '54 north', '54S' (band S) or 'EPSG:32654'; planar: meters that are none of UTM.",
    )
    sample_size: int = argument(800, "Pictures of each of the sample's two drives.")
    validation_share: float = with_default(DataArguments, "validation_share", 0.15)
    test_share: float = with_default(DataArguments, "test_share", 0.15)
    block_m: float = argument(300.0, "Side of the blocks that are held out, in meters.")
    audit: str = argument(
        "report",
        "Leaks: report stops where a query is in the database and reports the rest, strict stops at any, off looks for none.",
    )
    models: list[str] | None = argument(
        None,
        "clip_b32, clip_l14, siglip_b16, dinov2_b, convnext_b, resnet50, any timm or transformers name, or trained models; default: dinov2_b, for the sample a tiny one.",
    )
    seeds: list[int] | None = argument(None, "One run a model and seed; default: --seed.")
    methods: list[str] = field(
        default_factory=lambda: list(METHODS),
        metadata={
            "help": "ours, original (the reference implementation's recipe with the same budget), or both to compare them."
        },
    )
    image_size: int | None = argument(None, "Input side in pixels; default: the backbone's own.")
    pooling: str | None = argument(
        None,
        "tower, cls, avg, gem, gem_linear, mixvpr, netvlad, supervlad, salad or boq; default: tower, for the sample mixvpr.",
    )
    head: str | None = argument(
        None,
        "residual (begins as the pooled feature itself), mlp (the original's projection) or none; default: "
        "residual, none behind gem_linear, mixvpr, netvlad, supervlad, salad and boq, for the method original the mlp.",
    )
    projection_dim: int | None = argument(
        None, "Length of the mlp's descriptor, and asks for that head; 0: no head; default: 256."
    )
    mix_depth: int = argument(4, "Feature mixers of mixvpr.")
    mix_channels: int = argument(512, "Channels that mixvpr gives.")
    mix_rows: int = argument(4, "Rows that mixvpr gives.")
    clusters: int | None = argument(
        None, "Clusters of salad, netvlad (default: 64) and supervlad (default: 4)."
    )
    cluster_dim: int = argument(128, "Length of what a cluster of salad sums.")
    token_dim: int = argument(256, "Length of what salad takes of the class token.")
    boq_channels: int = argument(384, "Channels inside boq.")
    boq_queries: int = argument(64, "Queries of each of boq's two blocks.")
    boq_rows: int = argument(32, "Rows that boq gives.")
    dropout: float = argument(0.1, "In the mlp.")
    whitening_dim: int | None = argument(
        None,
        "Length of whitened descriptors (PCA), 0: none; default: whitened where that helps on validation queries.",
    )
    truncate_dim: int | None = argument(
        None, "Numbers of the projected descriptor to keep, its first ones; default: all."
    )
    matryoshka_dims: list[int] | None = argument(
        None, "Lengths at which descriptors may be cut later: the loss is taken of their first numbers, too."
    )
    positive_m: float = argument(25.0, "Pairs up to so many meters apart are one place.")
    negative_m: float = argument(100.0, "Pairs farther apart than this are two places.")
    heading_deg: float | None = argument(
        None,
        "Pairs of one place look the same way within so many degrees; of cosface about the width of a class.",
    )
    cell_m: float = argument(10.0, "Side of the cells that are cosface's classes, in meters.")
    loss: str = argument(
        "hybrid",
        "hybrid (InfoNCE and triplets), multi_similarity or cosface (classes: cells of training images); original has its own.",
    )
    contrastive_weight: float = argument(1.0, "Weight of the contrastive loss.")
    triplet_weight: float = argument(0.3, "Weight of the triplet loss.")
    temperature: float = argument(0.07, "Of the contrastive loss.")
    margin: float = argument(0.5, "Of the triplet loss.")
    mining: str = argument("half_hard", "Negatives of triplets: batch_hard, semi_hard or half_hard.")
    hard_share: float = argument(0.5, "Share of hard negatives of half_hard.")
    radii_m: list[float] = field(
        default_factory=lambda: [25.0, 10.0, 50.0],
        metadata={"help": "Meters within which an answer is right; the first one counts."},
    )
    center: str = argument(
        "none", "Measure drives as a whole, too, their own mean removed: none, database, sequence or online."
    )
    method: str | None = argument(
        None, "Measure drives as a whole, too, the order of their frames heard: filter, smooth or diagonal."
    )
    verify: int = argument(
        0,
        "Answers of a doubtful search that local features put in order: what doubtful is, is learned on validation queries, and recall is measured with it, too; 0: none.",
    )
    abstain: float | None = argument(
        None,
        "Precision of answers (0.95) for which the confidence below which the model abstains is chosen on validation queries.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_options(self.center, self.method)
        require_within("(0, 1]", abstain=self.abstain)
        require_whole(0, verify=self.verify)
        require_choice(("report", "strict", "off"), audit=self.audit)
        for method in [self.methods] if isinstance(self.methods, str) else self.methods:
            require_choice(METHODS, methods=method)
        if self.streaming and "original" in self.methods:
            raise DataError(
                "--methods original draws its batches of all training images, not of a stream: add --methods ours"
            )
        if self.streaming and self.loss == "cosface":
            raise DataError(
                "--loss cosface has classes of all training images, not of a stream: take another"
            )
        require_choice(("residual", "mlp", "none", None), head=self.head)
        require_choice(("hybrid", "multi_similarity", "cosface"), loss=self.loss)
        if self.head in ("residual", "none") and self.projection_dim:
            raise DataError(
                f"projection_dim is the mlp's, and the head is {self.head!r}; leave one of them out"
            )
        if not self.radii_m or not all(0 < radius < math.inf for radius in self.radii_m):
            raise DataError(f"radii_m must be meters above 0, got {self.radii_m}")

    def require_places(self, args: PlaceTrainingArguments) -> None:
        """Raise DataError, before anything is read, where no run would make the batches that are asked for."""
        if "ours" not in self.methods:
            args.require_places("--methods original draws its batches at random")
        if self.streaming:
            args.require_places("--streaming true takes rows in the table's order")


@dataclass
class PlaceTrainingArguments(HeadFirstArguments):
    """GeoTrainingArguments with batches of places, and what of the backbone learns."""

    metrics = LOSS | METRICS
    backbone_epochs = 5.0

    output_dir: str = with_default(GeoTrainingArguments, "output_dir", "outputs/place")
    head_epochs: float = with_default(HeadFirstArguments, "head_epochs", 30.0)
    per_device_train_batch_size: int = argument(32, "Images in a batch.")
    per_device_eval_batch_size: int = argument(256, "Images in a batch of evaluation.")
    weight_decay: float = with_default(GeoTrainingArguments, "weight_decay", 1e-4)
    early_stopping_patience: int = argument(
        0, "Evaluations without a better recall before training stops; 0: never."
    )
    images_per_place: int = argument(4, "Images of one place in a batch.")
    clique_m: float | None = argument(
        None,
        "Images of a place in a batch lie within so many meters of each other; default: within positive_m of one of them; original has its own batches.",
    )
    hard_place_share: float = argument(
        0.5, "Share of a batch's places that are chosen for being mistaken for each other."
    )
    finetune: str = with_default(FinetuneArguments, "finetune", "none")
    finetune_blocks: int = with_default(FinetuneArguments, "finetune_blocks", 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("[0, 1]", hard_place_share=self.hard_place_share)

    def require_places(self, instead: str) -> None:
        """Raise DataError where batches of places are asked for, and others are made instead."""
        if self.clique_m is not None:
            raise DataError(f"{instead}, and --clique_m is of batches of places: leave it out")
