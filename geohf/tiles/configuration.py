"""The config of the tile model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from geohf.models.configuration import GeoConfig
from geohf.tiles.simvp import SHRINKS, VIDEO

Task = Literal["forecast", "estimate"]
TASKS = get_args(Task)
FRAMEWISE = ("attention", "ltae")  # encoders of single frames, with attention over time


@strict
class TileSequenceConfig(GeoConfig):
    """Everything that a tile model needs to answer in the targets' units.

    Args:
        encoder: `convlstm`, `convgru`, or a frame encoder (`vision_config`) with attention over time: `attention`
            (transformer layers) or `ltae` (one query per head); `simvp` and `tau` answer with frames alone.
        dates: the model sees when frames were taken and for when it answers, see `geohf.tiles.dates`; else the order
            of the steps alone.
        vision_config: of the frame encoder: a timm name's config; None for the recurrent encoders.
        feature_size: length of the frame encoder's pooled feature.
        backbone_name, backbone_license: where the frame encoder's first weights came from, None for random ones.
        image_size: height and width that tiles are resized to.
        hidden_sizes, kernel_sizes: of the recurrent layers, first to last; for `simvp` and `tau` the channels of a frame's
            maps and of the translator.
        translator_blocks: of `simvp` and `tau`.
        peephole: the ConvLSTM's gates see the cell's state, one weight per channel.
        norm: after each recurrent layer: `group` (GroupNorm, which no other step or tile can change) or `none`.
        patch_size: pixels of a patch become channels of one cell (space to depth) before the first layer.
        attention_layers, attention_heads: of the attention over time.
        head_size, dropout: of the head.
        frames: steps that the model was trained to see, masked ones included.
        labels: the steps of its training data, in order.
        task: `forecast` (never saw the target's step) or `estimate` (saw it).
        head: `numbers`, one for each of `targets`, or `image`: whole next frames, `prediction_length` of them.
        targets: names of the numbers.
        band_mean, band_std: of the training pixels.
        level_mean, level_std: (targets,) of the training rows.
        last_slope, change_mean, change_std: (targets,) a change counts from `last_slope` times the last known value:
            1 is the difference to it, less where training rows fall back to their mean. Its mean and spread.
        answers: what the head learned: `change`, `level`, or `both`, where only some tiles had a last value.
        loss: `mse`, `mae`, `huber`, `quantile`, or `gaussian`: mean and spread of every answer.
        quantiles: ascending, the middle one is the answer; for the quantile loss.
        coverage: share of tiles whose truth the interval shall hold.
        interval_margin: (targets,) by which calibration widened the interval; None where it was not possible.
        interval_groups: `cluster`: as `region`, for tiles that the model sees alike, `clusters`, see
            `geohf.tiles.clusters`. `region`: regions with enough validation tiles have margins of their own, `region_margins`,
            name -> (targets,); the others have the pooled one.
        nodata, max_nodata: the pixel value that means "not measured" where a file does not say it, and the share of
            such pixels above which a frame is masked.
        resampling: how tiles are resized: `bicubic`, or `nearest` for classes.
        reading: what of a raster becomes a frame, see `geohf.tiles.reading.Reading`; None: all of it.
        window: side in pixels of the windows around points that it was trained on; None for tiles that had boxes.
        pixel_kind: what the training images' headers say of their pixels, see `geohf.tiles.grid.pixel_kind`.
    """

    model_type = "geohf_tiles"
    ranges: ClassVar = {
        "(0, 1)": ("coverage",),
        "[1, inf)": ("patch_size", "frames", "prediction_length"),
        "[2, inf)": ("translator_blocks",),
    }

    encoder: Literal["convlstm", "convgru", "attention", "ltae", "simvp", "tau"] = "convlstm"
    dates: bool = False
    vision_config: dict | PreTrainedConfig | None = None
    feature_size: int = 512
    # lists; `Any` are those that are None only until `__post_init__` has run
    image_size: Any = None
    hidden_sizes: Any = None
    kernel_sizes: Any = None
    peephole: bool = False
    norm: Literal["none", "group"] = "group"
    patch_size: int = 1
    translator_blocks: int = 8
    attention_layers: int = 2
    attention_heads: int = 4
    head_size: int = 64
    dropout: float = 0.0
    frames: int = 6
    labels: list | None = None
    task: Task = "forecast"
    head: Literal["numbers", "image"] = "numbers"
    prediction_length: int = 1
    targets: Any = None
    band_mean: Any = None
    band_std: Any = None
    level_mean: Any = None
    level_std: Any = None
    last_slope: Any = None
    change_mean: Any = None
    change_std: Any = None
    answers: Literal["change", "level", "both"] = "change"
    loss: Literal["mse", "mae", "huber", "quantile", "gaussian"] = "mse"
    quantiles: Any = None
    coverage: float = 0.9
    interval_margin: list | None = None
    interval_groups: Literal["none", "region", "cluster"] = "none"
    clusters: dict | None = None
    region_margins: dict | None = None
    nodata: float | None = None
    max_nodata: float = 0.5
    resampling: Literal["bicubic", "nearest"] = "bicubic"
    pixel_kind: dict | None = None
    reading: dict | None = None
    window: int | None = None

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):
            settings = dict(self.vision_config)
            self.vision_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.image_size = list(self.image_size or (64, 64))
        self.hidden_sizes = list(self.hidden_sizes or ((64, 512) if self.encoder in VIDEO else (32, 32)))
        self.kernel_sizes = list(self.kernel_sizes or [3] * len(self.hidden_sizes))
        self.targets = list(self.targets or ["target"])
        self.band_mean, self.band_std = list(self.band_mean or [0.0] * 3), list(self.band_std or [1.0] * 3)
        scales = {
            "level_mean": 0.0,
            "level_std": 1.0,
            "last_slope": 1.0,
            "change_mean": 0.0,
            "change_std": 1.0,
        }
        for name, value in scales.items():
            setattr(self, name, list(getattr(self, name) or [value] * len(self.targets)))
        if self.loss == "quantile":
            tail = (1 - self.coverage) / 2
            self.quantiles = list(self.quantiles or (tail, 0.5, 1 - tail))
        super().__post_init__(**kwargs)

    @property
    def bands(self) -> int:
        """Bands of a frame."""
        return len(self.band_mean)

    @property
    def answers_per_target(self) -> int:
        """Numbers of the head for each target."""
        quantiles = len(self.quantiles) if self.loss == "quantile" else 1 + (self.loss == "gaussian")
        return quantiles * (2 if self.answers == "both" else 1)

    @property
    def framewise(self) -> bool:
        """Frames are encoded one by one, and attended to over time."""
        return self.encoder in FRAMEWISE

    @property
    def video(self) -> bool:
        """The encoder sees a whole sequence at once and answers with frames alone."""
        return self.encoder in VIDEO

    def validate_architecture(self):
        """Refuse settings that do not go together (called by transformers)."""
        super().validate_architecture()
        kernels, layers = len(self.kernel_sizes), len(self.hidden_sizes)
        if kernels != layers:
            raise ValueError(f"{kernels} kernel_sizes for {layers} hidden_sizes")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, got {self.kernel_sizes}")
        if self.norm == "group" and any(size % 4 for size in self.hidden_sizes):
            raise ValueError(f"norm 'group' needs hidden_sizes that 4 divides, got {self.hidden_sizes}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size must be height and width, at least 1, got {self.image_size}")
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if len(self.band_std) != self.bands:
            raise ValueError(f"{len(self.band_std)} band_std for {self.bands} band_mean")
        if self.framewise and (self.vision_config is None or self.head == "image"):
            raise ValueError(f"encoder {self.encoder!r} needs a frame encoder, and answers with no image")
        self._validate_frames()
        if self.head == "image" and self.loss in ("quantile", "gaussian"):
            raise ValueError("an image is learned with mse, mae or huber")
        if self.loss == "quantile":
            shares = self.quantiles
            if len(shares) % 2 == 0 or any(b <= a for a, b in pairwise([0, *shares, 1])):
                raise ValueError(f"quantiles must be an odd number of ascending shares in (0, 1): {shares}")

    def _validate_frames(self) -> None:
        """Of models that answer with frames."""
        if self.prediction_length > 1 and (self.head != "image" or self.dates):
            raise ValueError(
                "prediction_length counts frames that are predicted without dates: it needs head 'image' "
                "(--target_type last-image) and no dates"
            )
        if not self.video:
            return
        if self.head != "image" or self.dates:
            raise ValueError(
                f"encoder {self.encoder!r} predicts frames, without dates: it needs head 'image' (--target_type "
                "last-image) and no dates"
            )
        odd = any(size % 2 for size in self.hidden_sizes)  # GroupNorm has two groups
        if len(self.hidden_sizes) != 2 or odd or self.patch_size != 1:
            raise ValueError(
                f"encoder {self.encoder!r} takes two even hidden_sizes, of a frame's maps and of the translator, and patch_size "
                f"1; got {self.hidden_sizes} and {self.patch_size}"
            )
        if any(side % SHRINKS for side in self.image_size):
            raise ValueError(
                f"encoder {self.encoder!r} needs sides that {SHRINKS} divides, got {self.image_size}"
            )
