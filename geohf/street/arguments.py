"""The arguments of a street run: its data and model, and its training."""

from __future__ import annotations

from dataclasses import dataclass

from geohf.errors import DataError, require_choice
from geohf.metrics.directions import LOSS
from geohf.street.cells import CELLS
from geohf.street.metrics import METRICS
from geohf.training.arguments import GeoTrainingArguments, argument
from geohf.training.options import (
    HeadFirstArguments,
    HeadingArguments,
    PhotoArguments,
    StreamingArguments,
    with_default,
)


@dataclass
class StreetArguments(PhotoArguments, HeadingArguments, StreamingArguments):
    """Data and model of the street task."""

    row_word = "places"

    data: str | None = argument(
        None,
        "Competition folder, folder or table of photographs, or dataset name; default: the built-in sample.",
    )
    sample_size: int = argument(16, "Places a state in the built-in sample.")
    split: str = argument("stratified", "How places are held out: stratified, random or blocks.")
    block_km: float = argument(50.0, "Side of the blocks of --split blocks.")
    buffer_km: float = argument(10.0, "Training places this near to held-out blocks are left out.")
    place_radius_m: float = argument(
        1.0, "Rows so near to each other are one place, which no split divides; 0: rows of the same position."
    )
    backbone: str | None = argument(
        None,
        "Vision backbone: a timm name, or a repo or folder; default: geolocal/StreetCLIP, for the sample a tiny one.",
    )
    image_size: int | None = argument(None, "Input side in pixels; default: the backbone's own.")
    max_cells: int = argument(
        64, "Geocells of --cells kmeans; 0 for places without states: pure regression in the bounding box."
    )
    cells: str | None = argument(
        None,
        "Make geocells, whether or not places name states: kmeans, quadtree or polygons; default: kmeans for "
        "places without states.",
    )
    cell_points: int = argument(50, "A cell of quadtree or polygons with so many training places is divided.")
    polygons: str | None = argument(None, "GeoJSON of named areas for --cells polygons.")
    fusion: str = argument("mean", "How views are joined: mean, concat, attention or weighted.")
    heading_aware: bool = argument(False, "Tell the model which way each view looks.")
    gps_head: str = argument(
        "offset",
        "offset (from the class centroid), bounded (the reference implementation's), gallery (the position "
        "that matches best, needs --location_encoder; with --max_cells 0 without any class) or vmf (a mixture of von "
        "Mises-Fisher distributions, with --density).",
    )
    vmf_components: int = argument(4, "Components of the mixture of --gps_head vmf.")
    location_encoder: str = argument(
        "none",
        "Match photographs with positions encoded as equal_earth (GeoCLIP), sphere or spherical_harmonics.",
    )
    gallery: str = argument(
        "train", "Positions to match with, saved along: train, cells, grid:KM or a table."
    )
    location_hidden_size: int | None = argument(None, "Position encoder's width; default: 1024, sample 128.")
    queue_size: int | None = argument(
        None, "Earlier positions that a batch is compared with; default: 4096, for the sample 256."
    )
    noise_m: float = argument(150.0, "How far positions are moved in training, in meters.")
    refine: int = argument(
        0, "Prototypes a class at most: the best of the best classes is answered, where that helps; 0: none."
    )
    rank: int = argument(
        0,
        "Candidates (classes, prototypes or positions of the gallery) that a ranker puts into order, where "
        "that helps; 0: none.",
    )
    match_weight: float = argument(1.0, "Weight of the matching loss.")
    heading_weight: float = argument(1.0, "Weight of the heading loss.")
    point_estimate: str = argument("medoid", "Point of class probabilities: medoid, mean, top, hierarchical.")
    smoothing: str = argument(
        "cell", "Soft labels: cell (centroid to centroids), point (true point to centroids) or none."
    )
    smoothing_km: float | None = argument(None, "Soft labels' temperature; default: 300 for states, else 75.")
    gps_loss: str = argument("smooth_l1", "smooth_l1, mse, mae or haversine.")
    gps_scale: list[float] | None = argument(
        None,
        "Degrees of latitude and longitude in one unit of GPS loss; default: half the box, or a class's extent.",
    )
    class_weight: float = argument(0.8, "Weight of the class loss.")
    gps_weight: float = argument(0.2, "Weight of the GPS loss.")
    radius_coverage: float = argument(0.9, "Share of places that the answered radius shall hold.")
    density: bool = argument(
        False, "Answer with a density, too: regions that hold 50 and 90 %% of places, and localizability."
    )
    levels: str | None = argument(
        None, "Table of towns or GeoJSON: accuracy by country, region, sub-region and city, too."
    )
    outlines: str | None = argument(None, "GeoJSON of borders to draw on the map.")
    map_places: int = argument(2000, "Places on the map: held-out ones, then validation, then training.")

    def __post_init__(self):
        super().__post_init__()
        require_choice((*CELLS, None), cells=self.cells)
        if self.polygons is not None and self.cells != "polygons":
            raise DataError("--polygons goes with --cells polygons")


@dataclass
class StreetTrainingArguments(HeadFirstArguments):
    """GeoTrainingArguments with the two phases of the street task."""

    metrics = LOSS | METRICS
    backbone_epochs = 10.0

    output_dir: str = with_default(GeoTrainingArguments, "output_dir", "outputs/street")
    per_device_train_batch_size: int = argument(16, "Places in a batch of phase 2.")
    early_stopping_patience: int = argument(
        5, "Evaluations without a better score before a phase stops; 0: never."
    )
    head_min_steps: int = argument(200, "Least steps of the heads alone, where few places make few an epoch.")
    head_batch_size: int = argument(64, "Places in a batch where the heads learn alone.")
    augment: bool = argument(False, "Crop and color jitter in phase 2.")
