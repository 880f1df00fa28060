"""The arguments of a tile run: its data and model, and its training."""

from __future__ import annotations

from dataclasses import dataclass

from geohf.errors import DataError, require_within
from geohf.metrics.directions import LOSS
from geohf.tiles.configuration import FRAMEWISE
from geohf.tiles.metrics import METRICS
from geohf.training.arguments import GeoTrainingArguments, argument
from geohf.training.options import (
    BackboneArguments,
    DataArguments,
    FinetuneArguments,
    StreamingArguments,
    with_default,
)


@dataclass
class TileArguments(DataArguments, BackboneArguments, StreamingArguments):
    """Data and model of the tile task."""

    row_word = "tiles"

    data: str | None = argument(
        None,
        "Table of tiles (CSV, Parquet), its folder, or one place's images: a folder, a zip file, a STAC item "
        "collection, a zarr store; default: the sample.",
    )
    image_dir: str | None = argument(
        None, "Folder of <label>/<region_id><extension>; default: Images beside the table."
    )
    asset: list[str] | None = argument(
        None,
        "Asset of the items of a STAC collection as --data (variable of a zarr store), or several of one band each, "
        "which become bands in this order; default: the only one, or that with the role data.",
    )
    labels: list[str] | None = argument(
        None, "Labels of the steps (years, months, dates, numbers), oldest first; default: all there are."
    )
    extension: str = argument(".tif", "Extension of the image files.")
    targets: list[str] | None = argument(None, "Target columns of the table; default: target.")
    target_from: str | None = argument(
        None, "Compute the target from the images: ndvi_fall (see --nir, --red) or color_share (see --color)."
    )
    nir: int = argument(4, "Number of the near-infrared band, from 1.")
    red: int = argument(3, "Number of the red band, from 1.")
    color: list[int] | None = argument(None, "Color to count; default: 196 40 27, built-up land.")
    tile_size: int = argument(32, "Side in pixels of tiles cut from a folder, or around points of a table.")
    sample_size: int = argument(16, "Regions in the built-in sample.")
    task: str = argument(
        "forecast", "forecast sees frames before the target's year, estimate that year's, too."
    )
    target_type: str = argument("target", "target (numbers), or last-image (the whole frame).")
    prediction_length: int = argument(1, "Frames that --target_type last-image predicts, step by step.")
    target_years: int = argument(3, "How many of the last labels are targets, where their values are known.")
    frames: int | None = argument(None, "Frames to see before the target; default: all there are.")
    predict_change: bool = argument(True, "Predict the difference to the last known value if there is one.")
    max_missing: float = argument(0.5, "Share of a region's years that may lack an image; 0: none.")
    nodata: float | None = argument(None, "Nodata value of files that name none; default: the others'.")
    align: bool = argument(False, "Read rasters of other CRS, resolution, origin onto the first one's grid.")
    grid: str | None = argument(None, "Raster whose grid --align takes; default: the first of each place.")
    bands: list[int] | None = argument(
        None, "Bands to see, from 1, in this order; default: all but the cloud band."
    )
    class_values: list[int] | None = argument(
        None, "Classes of class maps (0 to 8 of Dynamic World); each becomes a band of ones and zeros."
    )
    cloud_band: int | None = argument(None, "Number of the band of unmeasured pixels; it is not seen.")
    cloud_values: list[int] | None = argument(None, "Its values that say so; default: all but 0.")
    qa_bits: list[int] | None = argument(None, "Bits of it, from 0, that say so: 3 4 of Landsat's QA_PIXEL.")
    dequantize: str | None = argument(None, "aef: int8 embeddings of AlphaEarth become numbers.")
    max_nodata: float = argument(0.5, "Frames with a larger share of pixels without data are masked.")
    split: str | None = argument(None, "region, blocks (default below five regions), or random, which leaks.")
    allow_leaks: bool = argument(False, "Allow --split random.")
    validation_share: float = with_default(DataArguments, "validation_share", 0.15)
    test_share: float = with_default(DataArguments, "test_share", 0.15)
    block_px: float | None = argument(None, "Side of --split blocks' blocks in pixels; default: four tiles.")
    folds: int | None = argument(
        None,
        "Train so many models beside the run's own (3 or more), each tested on regions or blocks that it never "
        "saw, so that every tile is predicted once.",
    )
    test_labels: list[str] | None = argument(
        None,
        "Labels whose answers are the test, on all tiles; nothing at or after the first of them is trained on.",
    )
    buffer_px: float = argument(
        0.0,
        "Pixels between training and held-out tiles, on the ground; --split region needs images that say where they lie.",
    )
    image_size: list[int] | None = argument(None, "Height and width of resized tiles; default: 32 32.")
    resampling: str | None = argument(None, "bicubic, or nearest (default with a color table) for classes.")
    encoder: str = argument("convlstm", "convlstm, convgru, attention, ltae; simvp, tau for last-image.")
    dates: bool | None = argument(
        None,
        "See when frames were taken and for when the answer is; default: attention and ltae do where labels "
        "are dates, months or years.",
    )
    backbone: str | None = argument(None, "Frame encoder of attention and ltae: a timm or transformers name.")
    pretrained: bool = with_default(BackboneArguments, "pretrained", True)
    normalize: str = argument(
        "data",
        "Mean and spread that bands are standardized by: the training pixels' (data), or those that the "
        "backbone was published with (backbone).",
    )
    hidden_sizes: list[int] | None = argument(
        None,
        "Channels of each recurrent layer; default: 32 32. Of simvp and tau those of a frame's maps and of the "
        "translator: 64 512.",
    )
    kernel_sizes: list[int] | None = argument(None, "Side of each layer's convolutions; default: 3.")
    peephole: bool = argument(False, "Gates of the ConvLSTM see its cell.")
    norm: str = argument("group", "After each recurrent layer: group or none.")
    translator_blocks: int = argument(8, "Blocks of simvp's and tau's translator.")
    patch_size: int = argument(4, "Pixels of a patch become channels (space to depth); 1: none.")
    dropout: float = argument(0.0, "Dropout in the head.")
    loss: str = argument("huber", "mse, mae, huber, quantile, or gaussian (a spread for each answer).")
    quantiles: list[float] | None = argument(None, "Of the quantile loss; default: coverage's ends and 0.5.")
    coverage: float = argument(0.9, "Share of tiles that the interval shall hold.")
    interval_groups: str = argument(
        "none",
        "A margin for each region with enough validation tiles (region), for tiles that the model sees alike "
        "(cluster), or one for all (none).",
    )

    def require_backbone(self) -> None:
        """Refuse a frame encoder without a backbone, and a backbone's scales without a frame encoder."""
        framewise = self.encoder in FRAMEWISE
        if framewise and self.backbone is None:
            raise DataError(f"--encoder {self.encoder} needs a frame encoder: --backbone with any timm name")
        if not framewise and self.normalize == "backbone":
            raise DataError(f"--normalize backbone needs a frame encoder, {self.encoder} is none")


@dataclass
class TileTrainingArguments(FinetuneArguments):
    """GeoTrainingArguments with the tile task's own."""

    metrics = LOSS | METRICS

    output_dir: str = with_default(GeoTrainingArguments, "output_dir", "outputs/tiles")
    num_train_epochs: float = argument(8.0, "Epochs.")
    per_device_train_batch_size: int = argument(64, "Tiles in a batch.")
    per_device_eval_batch_size: int = argument(256, "Tiles in a batch of evaluation.")
    learning_rate: float = argument(3e-3, "Peak learning rate.")
    augment: bool = argument(True, "Turn and mirror tiles, all frames alike.")
    frame_dropout: float = argument(
        0.0, "Chance of a frame to be masked in training; at least one of a tile stays."
    )
    cache_workers: int | None = argument(None, "Processes that cut tiles; default: one a core.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("[0, 1)", frame_dropout=self.frame_dropout)
