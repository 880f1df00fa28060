"""The config of the street model."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from geohf.geo.quadtree import CellTree
from geohf.models.configuration import GeoConfig

Fusion = Literal["mean", "concat", "attention", "weighted"]
GpsHead = Literal["offset", "bounded", "gallery", "vmf"]
GpsLoss = Literal["smooth_l1", "mse", "mae", "haversine"]
LocationEncoder = Literal["none", "equal_earth", "sphere", "spherical_harmonics"]
Smoothing = Literal["cell", "point", "none"]
FUSIONS, GPS_LOSSES, SMOOTHINGS = get_args(Fusion), get_args(GpsLoss), get_args(Smoothing)


@strict
class GeoStreetConfig(GeoConfig):
    """Everything that a street model needs to answer in states and degrees.

    Args:
        vision_config: the backbone's own config; any model type of transformers, or `geohf_timm`.
        feature_size: length of the backbone's pooled feature.
        backbone_name, backbone_license: where the backbone's first weights came from, None for random ones.
        max_views: views of one place at the most, 1 to 8.
        heading_aware: tell the model which way each view looks.
        fusion: how views become one: `mean` (PIGEON found it best), `concat`, `attention` or `weighted`.
        hidden_size, gps_hidden_size, dropout: of the heads.
        gps_head: `offset` (a step from each class centroid, classify then regress as in OSV-5M), `bounded`
            (the reference implementation's: a point in the bounding box), `gallery` (the position that matches best,
            see `location_encoder`) or `vmf` (a mixture of von Mises-Fisher distributions, see `geohf.street.density`).
        vmf_components: of the mixture.
        point_estimate: how class probabilities become one point with the `offset` head: `medoid` (the candidate with the
            least expected distance; of many classes, among the most probable), `mean` (on the sphere), `top`, or
            `hierarchical` (the class with the greatest product of the probabilities of all levels).
        class_centroids: (classes, 2) latitude and longitude of every class; None for a model without classes.
        class_extents: (classes, 2) degrees that an offset may reach.
        class_extents_southwest: the same to the south and west, where these differ, as in the baseline of OSV-5M.
        head_norm_groups: of a group norm behind each of then two hidden layers, `hidden_size` and `gps_hidden_size`, of the
            class and offset heads, as in the baseline of OSV-5M; 0: none.
        class_indices: the competition's `state_idx` of every class; None where there is none.
        cells: the classes are geocells made from the training points, not named states.
        cell_tree: how the earth is divided into these cells, see `geohf.geo.quadtree.CellTree.to_dict`, over all of whose
            levels the class loss then goes; None: the cell of the nearest centroid.
        gps_box: south, west, north, east of the training points; west > east crosses the antimeridian.
        smoothing: soft targets `cell` (from the true class's centroid), `point` (from the true point) or `none`.
        smoothing_km: their temperature.
        gps_loss: `smooth_l1`, `mse`, `mae` (degrees over `gps_scale`) or `haversine` (km over `gps_scale_km`).
        gps_scale: degrees of latitude and longitude in one unit of loss; None: half the box, or a class's extent.
        class_weight, gps_weight, match_weight, heading_weight: of the parts in the total loss.
        location_encoder: the frame in which positions are encoded to be matched with photographs, `equal_earth`
            (GeoCLIP's), `sphere` or `spherical_harmonics`; `none`: nothing is matched. See `geohf.street.location`.
        location_size, location_hidden_size, location_sigmas, location_degrees: of the encoder.
        gallery_size: positions that are saved with the model, among which it looks for a photograph's.
        queue_size: earlier positions that a batch is compared with in training.
        noise_m, queue_noise_m: how far the batch's and the queue's positions are moved; nearer ones are no negatives.
        predict_heading: tell which way each view looks.
        refine: prototypes a class at most, of which the best is answered, see `geohf.models.prototypes`; 0: none.
        prototypes: how many there are.
        rank: candidates (classes, prototypes or positions of the gallery) at most that a ranker puts into order, see
            `geohf.street.ranker`; 0: none.
        ranked: there is such a ranker.
        temperature: fitted on validation, divides the logits.
        radius_coverage: share of places that `radius_m` shall hold.
        radius_new_area: the radius was calibrated on whole held-out blocks: it is promised for areas without training
            places; otherwise only among them.
        density: answer with a density, too: the mixture of the `vmf` head, or the probabilities of classes, spread around
            their points.
        density_scale, region_masses: how far, in extents of a class or in standard deviations of a component, and the masses
            of the regions that hold 50 and 90 % of places; fitted on validation, None where that was not possible.
        radius_factor, radius_floor_m: the calibrated radius is factor * (expected distance + floor); None where validation
            was too small to promise the coverage.
    """

    model_type = "geohf_street"
    ranges: ClassVar = {
        "[1, 8]": ("max_views",),
        "[1, inf)": ("vmf_components",),
        "(0, 1)": ("radius_coverage",),
        "(0, inf)": ("temperature", "smoothing_km", "gps_scale_km", "hidden_size", "gps_hidden_size"),
        "[0, inf)": (
            *("class_weight", "gps_weight", "match_weight", "heading_weight"),
            *("queue_size", "noise_m", "queue_noise_m"),
        ),
    }
    sub_configs_defaults: ClassVar = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model")
    }

    vision_config: dict | PreTrainedConfig | None = None
    feature_size: int = 512
    max_views: int = 8
    heading_aware: bool = False
    fusion: Fusion = "mean"
    hidden_size: int = 512
    gps_hidden_size: int = 256
    dropout: float = 0.1
    head_norm_groups: int = 0
    gps_head: GpsHead = "offset"
    vmf_components: int = 4
    point_estimate: Literal["medoid", "mean", "top", "hierarchical"] = "medoid"
    class_centroids: list | None = None
    class_extents: list | None = None
    class_extents_southwest: list | None = None
    class_indices: list | None = None
    cells: bool = False
    cell_tree: dict | None = None
    gps_box: list | None = None
    smoothing: Smoothing = "cell"
    smoothing_km: float = 300.0
    gps_loss: GpsLoss = "smooth_l1"
    gps_scale: list | None = None
    gps_scale_km: float = 5000.0
    class_weight: float = 0.8
    gps_weight: float = 0.2
    match_weight: float = 1.0
    heading_weight: float = 1.0
    location_encoder: LocationEncoder = "none"
    location_size: int = 512
    location_hidden_size: int = 1024
    location_sigmas: list | tuple = (1.0, 16.0, 256.0)
    location_degrees: int = 20
    gallery_size: int = 0
    queue_size: int = 4096
    noise_m: float = 150.0
    queue_noise_m: float = 1000.0
    predict_heading: bool = False
    refine: int = 0
    prototypes: int = 0
    rank: int = 0
    ranked: bool = False
    temperature: float = 1.0
    radius_coverage: float = 0.9
    radius_factor: float | None = None
    radius_floor_m: float = 0.0
    radius_new_area: bool = False
    density: bool = False
    density_scale: float | None = None
    region_masses: list | None = None

    def __post_init__(self, **kwargs: Any):
        if self.class_centroids is not None and kwargs.get("num_labels") is None and self.id2label is None:
            self.id2label = {i: f"class {i}" for i in range(len(self.class_centroids))}
        super().__post_init__(**kwargs)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for a model that only regresses."""
        return len(self.class_centroids or ())

    @property
    def class_numbers(self) -> dict[str, int]:
        """Name -> number of every class."""
        return {name: int(number) for name, number in (self.label2id or {}).items()}

    @property
    def keeps_places(self) -> bool:
        """Whether decoding needs what the heads see of each place."""
        return bool(self.refine or self.rank)

    def _has_candidates(self) -> bool:
        return self.class_centroids is not None and self.gps_head == "offset"

    def validate_architecture(self):
        """Refuse settings that do not go together (called by transformers)."""
        super().validate_architecture()
        if self.gps_scale is not None and (not _are_pairs([self.gps_scale]) or min(self.gps_scale) <= 0):
            raise ValueError(f"gps_scale is two positive numbers of degrees, got {self.gps_scale}")
        if self.gps_box is not None and len(self.gps_box) != 4:
            raise ValueError("gps_box must be [south, west, north, east]")
        for name in ("class_centroids", "class_extents", "class_extents_southwest"):
            if getattr(self, name) is not None and not _are_pairs(getattr(self, name)):
                raise ValueError(f"{name} must be pairs of finite degrees")
        sizes, groups = (self.hidden_size, self.gps_hidden_size), self.head_norm_groups
        if groups and not (self._has_candidates() and all(size % groups == 0 for size in sizes)):
            raise ValueError(
                "head_norm_groups needs classes, gps_head 'offset', and a hidden_size and gps_hidden_size that it divides"
            )
        if self.density and self.gps_head != "vmf" and not self._has_candidates():
            raise ValueError("density needs gps_head 'vmf', or classes and gps_head 'offset'")
        if self.class_centroids is not None:
            n = len(self.class_centroids)
            for name in ("class_extents", "class_extents_southwest", "class_indices", "id2label"):
                value = getattr(self, name)
                if value is not None and len(value) != n:
                    raise ValueError(f"{name} has {len(value)} entries for {n} classes")
            if self.cell_tree is not None and CellTree.from_dict(self.cell_tree).cells != n:
                raise ValueError(f"cell_tree has another number of cells than the {n} classes")
        elif self.gps_head == "offset" and self.gps_box is not None:
            raise ValueError("gps_head 'offset' needs class_centroids; a model without classes is 'bounded'")
        if self.gps_head == "gallery" and self.location_encoder == "none":
            encoders = ", ".join(get_args(LocationEncoder)[1:])
            raise ValueError(f"gps_head 'gallery' needs a location_encoder: {encoders}")
        refinable = self.class_centroids is not None and self.gps_head not in ("gallery", "vmf")
        if self.refine < 0 or (self.refine and not refinable):
            raise ValueError("refine needs classes, and a point that comes from these")
        if self.rank and (self.rank < 2 or (self.gps_head != "gallery" and not self._has_candidates())):
            raise ValueError("rank needs two candidates or more, of the gps_head 'offset' or 'gallery'")
        if self.ranked and not self.rank:
            raise ValueError("a model with a ranker says of how many candidates: rank")


def _are_pairs(rows: list) -> bool:
    return all(
        isinstance(row, (list, tuple))
        and len(row) == 2
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in row)
        for row in rows
    )
