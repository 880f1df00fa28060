"""The config of the region model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from geohf.errors import DataError, require_whole, require_within
from geohf.geo.scalers import CoordinateScaler
from geohf.models.configuration import GeoConfig

if TYPE_CHECKING:
    from geohf.region.arguments import RegionArguments

Experts = Literal["separate", "shared"]
EXPERTS = get_args(Experts)
POINT_LOSSES = {"wgs84": ("mse", "haversine"), "planar": ("mse", "euclidean")}
# what distances are measured in
UNITS = {"wgs84": "m", "planar": "units"}


def require_consistent(settings: GeoRegionConfig | RegionArguments) -> None:
    """Raise DataError where fields that a config and the options of a run share do not go together."""
    losses, frame = POINT_LOSSES[settings.frame], settings.frame
    if settings.point_loss not in losses:
        raise DataError(
            f"point_loss must be one of {', '.join(losses)} with frame {frame}, got {settings.point_loss!r}"
        )
    require_whole(0, refine=settings.refine)
    require_within("(0, 1)", radius_coverage=settings.radius_coverage)
    if settings.refine and frame != "wgs84":
        raise DataError("refine needs frame wgs84: prototypes are places of the earth that lie together")
    if settings.density and frame != "wgs84":
        raise DataError("density needs frame wgs84: it lies on the sphere, and its regions are GeoJSON")


@strict
class GeoRegionConfig(GeoConfig):
    """Everything that a region model needs to answer in the coordinates of its training data.

    The names of the regions are in `id2label`; lists with an entry per region follow its order.

    Args:
        vision_config: the towers' own config; any model type of transformers, or `geohf_timm`.
        feature_size: length of a tower's pooled feature.
        backbone_name, backbone_license: where the towers' first weights came from, None for random ones.
        frame: `wgs84` (degrees, great-circle meters) or `planar` (two columns in a unit of the data).
        experts: `separate` (each region's expert has a tower of its own, and so has the router) or `shared`
            (one tower for all, a head a region).
        hidden_size, dropout: of the heads.
        scaler: how scales were fitted: `robust`, `standard` or `minmax`.
        scalers: a region's `center` and `scale` of latitude and longitude, see
            `geohf.geo.scalers.CoordinateScaler`; None before training.
        point_loss: `mse` on scaled coordinates, or the distance to the true point in sizes of its region:
            `haversine` for `wgs84`, `euclidean` for `planar`.
        temperature: fitted on validation, divides the router's logits.
        radius_coverage: share of photographs that `radius` shall hold.
        expert_errors: each expert's median error on validation photographs of its region, meters or units of
            the data; None before calibration.
        refine: prototypes a region at most, of which the one that looks most alike is answered, see
            `geohf.models.prototypes`; 0: none; for `wgs84`.
        prototypes: how many each region has; None before training.
        density: answer with a density, too: the experts' points, spread around; for `wgs84`.
        density_scale: how far, in expected errors of an expert; fitted on validation, None where that was not possible.
        routed_masses, given_masses: of the regions that hold 50 and 90 % of photographs, whose region is found by the router
            and whose region is given; None where validation was too small to promise that.
        predict_heading: tell which way each photograph looks.
        radius_new_area: the radius was calibrated on whole held-out blocks: it is promised for ground without training
            photographs; otherwise only among them.
        routed_factor, given_factor: the calibrated radius of a point is its factor times (the spread of the
            experts' points + their expected errors): one factor for regions found by the router and one for
            regions that are given. None where validation was too small to promise the coverage.
    """

    model_type = "geohf_region"
    ranges: ClassVar = {"(0, inf)": ("temperature", "density_scale")}
    sub_configs_defaults: ClassVar = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="geohf_timm")
    }

    vision_config: dict | PreTrainedConfig | None = None
    feature_size: int = 512
    frame: Literal["wgs84", "planar"] = "wgs84"
    experts: Experts = "separate"
    hidden_size: int = 256
    dropout: float = 0.1
    scaler: Literal["robust", "standard", "minmax"] = "robust"
    scalers: list | None = None
    point_loss: str = "mse"
    refine: int = 0
    prototypes: list | None = None
    density: bool = False
    density_scale: float | None = None
    routed_masses: list | None = None
    given_masses: list | None = None
    predict_heading: bool = False
    temperature: float = 1.0
    radius_coverage: float = 0.9
    radius_new_area: bool = False
    expert_errors: list | None = None
    routed_factor: float | None = None
    given_factor: float | None = None

    @property
    def num_regions(self) -> int:
        """Number of regions."""
        return len(self.id2label)

    @property
    def regions(self) -> list[str]:
        """Names of the regions by their numbers; the dicts of a config that was loaded are in another order."""
        return [self.id2label[number] for number in range(self.num_regions)]

    @property
    def unit(self) -> str:
        """Unit of distances: `m` for wgs84, `units` (of the data) for planar."""
        return UNITS[self.frame]

    @property
    def coordinate_scaler(self) -> CoordinateScaler:
        """All regions' scalers as one of (regions, 2) centers and scales."""
        if self.scalers is None:
            raise ValueError(
                "the config has no scalers: fit one a region on training rows, see geohf.geo.scalers"
            )
        return CoordinateScaler.stack([CoordinateScaler.from_dict(s, self.frame) for s in self.scalers])

    def validate_architecture(self):
        """Refuse settings that do not go together (called by transformers)."""
        super().validate_architecture()
        require_consistent(self)
        for name in ("routed_masses", "given_masses"):
            masses = getattr(self, name)
            if masses is not None and (len(masses) != 2 or not all(0 <= mass <= 1 for mass in masses)):
                raise ValueError(f"{name} must be two numbers between 0 and 1, got {masses}")
        for name in ("scalers", "expert_errors", "prototypes"):
            value = getattr(self, name)
            if value is not None and len(value) != self.num_regions:
                raise ValueError(f"{name} has {len(value)} entries for {self.num_regions} regions")
        if self.scalers is not None:
            _ = self.coordinate_scaler  # raises what is wrong with it
