"""The arguments of a region run: its data and model, and its training."""

from __future__ import annotations

from dataclasses import dataclass

from geohf.data.splits import SPLITS
from geohf.errors import DataError, require_choice
from geohf.geo import FRAMES
from geohf.geo.scalers import SCALERS
from geohf.metrics.directions import LOSS
from geohf.region.configuration import EXPERTS, require_consistent
from geohf.region.metrics import METRICS
from geohf.training.arguments import argument
from geohf.training.options import (
    DataArguments,
    HeadFirstArguments,
    HeadingArguments,
    PhotoArguments,
    StreamingArguments,
    with_default,
)

AUGMENTATIONS = ("none", "light", "full")


@dataclass
class RegionArguments(PhotoArguments, HeadingArguments, StreamingArguments):
    """Data, filters and model of the region task."""

    train_csv: str | None = argument(
        None, "Table with filename, latitude, longitude and Region_ID; default: the built-in sample."
    )
    train_dir: str | None = argument(None, "Folder of its images; default: the table's own folder.")
    val_csv: str | None = argument(
        None, "Table that the numbers are measured on; default: held out of the training table."
    )
    val_dir: str | None = argument(None, "Folder of its images; default: the table's own folder.")
    frame: str = argument("wgs84", "What the coordinates are: wgs84 (degrees) or planar (units of the data).")
    exclude: list[str] | None = argument(None, "File names to leave out, or .txt files that hold one a line.")
    sample_size: int = argument(240, "Training photographs a region in the built-in sample.")
    regions: list[str] | None = argument(
        None, "Train these regions only; with --start_from their experts alone change."
    )
    start_from: str | None = argument(
        None, "Folder or repo of a region model of which --regions are retrained."
    )
    mad_threshold: float = argument(
        4.0, "Training rows farther from the median than so many MADs go; 0: off."
    )
    dbscan_eps: float = argument(
        50.0, "Training rows in no cluster go: meters (planar: units) within a cluster; 0: off."
    )
    dbscan_min_samples: int = argument(10, "Rows within eps that make a cluster.")
    percentile_low: float = argument(1.0, "Training rows of a region below this percentile go.")
    percentile_high: float = argument(99.0, "Above this one, too; 0 and 100: off.")
    iqr_factor: float = argument(
        0.0, "Training rows so many IQRs outside their region's quartiles go; 0: off."
    )
    iqr_regions: list[str] | None = argument(None, "Regions that --iqr_factor is for; default: all.")
    min_rows: int = argument(20, "Regions with fewer training rows are left out, and their rows listed.")
    split: str = argument("stratified", "How rows are held out: stratified, random or blocks.")
    validation_share: float = with_default(DataArguments, "validation_share", 0.15)
    test_share: float = with_default(DataArguments, "test_share", 0.15)
    block_size: float = argument(200.0, "Side of the blocks of --split blocks, meters or units.")
    block_buffer: float = argument(50.0, "Training rows this near to held-out blocks are left out.")
    place_radius: float = argument(
        0.0,
        "Rows so near to each other, meters or units, are one place, which no split divides; 0: of the same position.",
    )
    backbone: str | None = argument(
        None,
        "Vision backbone: a timm name, or a repo or folder; default: convnext_small, for the sample a tiny one.",
    )
    image_size: int | None = argument(None, "Input side in pixels; default: the backbone's own.")
    experts: str = argument(
        "separate", "separate (a backbone a region, and one for the router) or shared (a head a region)."
    )
    scaler: str = argument("robust", "Coordinate scaler of each region: robust, standard or minmax.")
    point_loss: str = argument(
        "mse", "mse on scaled coordinates, or the distance: haversine (wgs84), euclidean (planar)."
    )
    radius_coverage: float = argument(0.9, "Share of photographs that the answered radius shall hold.")
    refine: int = argument(
        0,
        "Prototypes a region at most: the place of the one that looks most alike is answered, where that helps "
        "(wgs84); 0: none.",
    )
    density: bool = argument(
        False,
        "Answer with a density, too: regions that hold 50 and 90 %% of photographs, and localizability (wgs84).",
    )

    def __post_init__(self):
        super().__post_init__()
        require_choice(FRAMES, frame=self.frame)
        require_choice(EXPERTS, experts=self.experts)
        require_choice(SCALERS, scaler=self.scaler)
        require_choice(SPLITS, split=self.split)
        require_consistent(self)
        if self.iqr_regions and not self.iqr_factor:
            raise DataError("iqr_regions says where --iqr_factor counts, which is 0: it is off")
        if self.refine and self.streaming:
            raise DataError("refine needs the training photographs at hand, not a stream of them")


@dataclass
class RegionTrainingArguments(HeadFirstArguments):
    """HeadFirstArguments with cosine warm restarts."""

    metrics = LOSS | METRICS
    backbone_epochs = 20.0

    output_dir: str = with_default(HeadFirstArguments, "output_dir", "outputs/region")
    head_epochs: float = with_default(HeadFirstArguments, "head_epochs", 20.0)
    per_device_train_batch_size: int = argument(16, "Photographs in a batch.")
    learning_rate: float = argument(2e-3, "Peak learning rate of the heads.")
    backbone_learning_rate: float | None = argument(
        None, "Peak learning rate of the backbones; default: 1e-5 for published weights, else the heads'."
    )
    weight_decay: float = with_default(HeadFirstArguments, "weight_decay", 1e-4)
    early_stopping_patience: int = argument(
        10, "Evaluations without a better loss before training stops; 0: never."
    )
    warmup_steps: float = argument(0.0, "Warm-up: steps, or below 1 the share of all steps.")
    t_0: float = argument(10.0, "Epochs until the learning rate restarts; 0: --lr_scheduler_type decides.")
    t_mult: int = argument(1, "Each period is so many times as long as the last.")
    eta_min: float = argument(0.01, "Share of the learning rate at the end of a period.")
    augment: str = argument(
        "light",
        "Images in training: none, light (crop, color) or full (the reference implementation's, with flips and rotation); never those of a frozen backbone's cached features.",
    )

    def __post_init__(self):
        super().__post_init__()
        require_choice(AUGMENTATIONS, augment=self.augment)
        if self.t_0 < 0 or self.t_mult < 1 or not 0 <= self.eta_min <= 1:
            raise DataError("t_0 must be at least 0, t_mult at least 1 and eta_min between 0 and 1")
        if self.t_0 and self.lr_scheduler_type != "cosine":
            raise DataError(
                f"lr_scheduler_type {self.lr_scheduler_type.value!r} is not taken while the rate restarts every "
                f"{self.t_0:g} epochs: add --t_0 0"
            )
