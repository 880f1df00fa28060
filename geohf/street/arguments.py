"""The arguments of a street run: its data and model, and its training."""

from __future__ import annotations

from dataclasses import dataclass, field

from geohf.errors import require_choice
from geohf.metrics.directions import LOSS
from geohf.street.cells import CELLS
from geohf.street.metrics import METRICS
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.options import (
    HeadFirstArguments,
    HeadingArguments,
    MapArguments,
    PhotoArguments,
    StreamingArguments,
    with_default,
)
from geohf.vision.preprocessing import FITS


@dataclass
class StreetArguments(MapArguments, PhotoArguments, HeadingArguments, StreamingArguments):
    """Data and model of the street task."""

    row_word = "places"

    data: str | None = field(
        default=None,
        metadata={
            "help": "Competition folder, folder or table of photographs, or dataset name; default: the built-in sample."
        },
    )
    sample_size: int = field(default=16, metadata={"help": "Places a state in the built-in sample."})
    split: str = field(
        default="stratified", metadata={"help": "How places are held out: stratified, random or blocks."}
    )
    block_km: float = field(default=50.0, metadata={"help": "Side of the blocks of --split blocks."})
    buffer_km: float = field(
        default=10.0, metadata={"help": "Training places this near to held-out blocks are left out."}
    )
    place_radius_m: float = field(
        default=1.0,
        metadata={
            "help": "Rows so near to each other are one place, which no split divides; 0: rows of the same position."
        },
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "Vision backbone: a timm name, or a repo or folder; default: geolocal/StreetCLIP, for the sample a tiny one."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Input side in pixels; default: the backbone's own."}
    )
    max_cells: int = field(
        default=64,
        metadata={
            "help": "Geocells of --cells kmeans; 0 for places without states: pure regression in the bounding box."
        },
    )
    cells: str | None = field(
        default=None,
        metadata={
            "help": "Make geocells, whether or not places name states: kmeans, quadtree or polygons; default: kmeans for "
            "places without states."
        },
    )
    cell_points: int = field(
        default=50,
        metadata={"help": "A cell of --cells quadtree or polygons with so many training places is divided."},
    )
    polygons: str | None = field(
        default=None, metadata={"help": "GeoJSON of named areas for --cells polygons."}
    )
    fusion: str = field(
        default="mean", metadata={"help": "How views are joined: mean, concat, attention or weighted."}
    )
    heading_aware: bool = field(default=False, metadata={"help": "Tell the model which way each view looks."})
    gps_head: str = field(
        default="offset",
        metadata={
            "help": "offset (from the class centroid), bounded (the reference implementation's), gallery (the position "
            "that matches best, needs --location_encoder; with --max_cells 0 without any class) or vmf (a mixture of von "
            "Mises-Fisher distributions, with --density)."
        },
    )
    vmf_components: int = field(default=4, metadata={"help": "Components of the mixture of --gps_head vmf."})
    location_encoder: str = field(
        default="none",
        metadata={
            "help": "Match photographs with positions encoded as equal_earth (GeoCLIP), sphere or spherical_harmonics."
        },
    )
    gallery: str = field(
        default="train",
        metadata={
            "help": "Positions to match with: train, cells, grid:KM, or a table; saved with the model."
        },
    )
    location_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Width of the encoder of positions; default: 1024, for the sample 128."},
    )
    queue_size: int | None = field(
        default=None,
        metadata={
            "help": "Earlier positions that a batch is compared with; default: 4096, for the sample 256."
        },
    )
    noise_m: float = field(
        default=150.0, metadata={"help": "How far positions are moved in training, in meters."}
    )
    refine: int = field(
        default=0,
        metadata={
            "help": "Prototypes a class at most: the best of the best classes is answered, where that helps; 0: none."
        },
    )
    rank: int = field(
        default=0,
        metadata={
            "help": "Candidates (classes, prototypes or positions of the gallery) that a ranker puts into order, where "
            "that helps; 0: none."
        },
    )
    match_weight: float = field(default=1.0, metadata={"help": "Weight of the matching loss."})
    heading_weight: float = field(default=1.0, metadata={"help": "Weight of the heading loss."})
    point_estimate: str = field(
        default="medoid",
        metadata={"help": "Point from class probabilities: medoid, mean, top or hierarchical."},
    )
    smoothing: str = field(
        default="cell",
        metadata={
            "help": "Soft labels: cell (centroid to centroids), point (true point to centroids) or none."
        },
    )
    smoothing_km: float | None = field(
        default=None,
        metadata={"help": "Temperature of the soft labels; default: 300 from state to state, else 75."},
    )
    gps_loss: str = field(default="smooth_l1", metadata={"help": "smooth_l1, mse, mae or haversine."})
    gps_scale: list[float] | None = field(
        default=None,
        metadata={
            "help": "Degrees of latitude and longitude in one unit of GPS loss; default: half the box, or a class's extent."
        },
    )
    class_weight: float = field(default=0.8, metadata={"help": "Weight of the class loss."})
    gps_weight: float = field(default=0.2, metadata={"help": "Weight of the GPS loss."})
    radius_coverage: float = field(
        default=0.9, metadata={"help": "Share of places that the answered radius shall hold."}
    )
    density: bool = field(
        default=False,
        metadata={
            "help": "Answer with a density, too: regions that hold 50 and 90 %% of places, and localizability."
        },
    )
    levels: str | None = field(
        default=None,
        metadata={
            "help": "Table of towns or GeoJSON: accuracy by country, region, sub-region and city, too."
        },
    )
    outlines: str | None = field(default=None, metadata={"help": "GeoJSON of borders to draw on the map."})
    map_places: int = field(
        default=2000,
        metadata={"help": "Places on the map: held-out ones first, then validation, then training."},
    )

    def __post_init__(self):
        super().__post_init__()
        require_choice(FITS, fit=self.fit)
        require_choice(CELLS, cells=self.cells)


@dataclass
class StreetTrainingArguments(HeadFirstArguments):
    """GeoTrainingArguments with the two phases of the street task."""

    metrics = LOSS | METRICS
    backbone_epochs = 10.0

    output_dir: str = with_default(GeoTrainingArguments, "output_dir", "outputs/street")
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Places in a batch of phase 2."})
    early_stopping_patience: int = field(
        default=5, metadata={"help": "Evaluations without a better score before a phase stops; 0: never."}
    )
    head_min_steps: int = field(
        default=200,
        metadata={"help": "Steps of the heads alone at least, where few places make few steps an epoch."},
    )
    head_batch_size: int = field(
        default=64, metadata={"help": "Places in a batch where the heads learn alone."}
    )
    augment: bool = field(default=False, metadata={"help": "Crop and color jitter in phase 2."})
