"""The region model: from a photograph to its region and its point, by the experts of all regions in one repo."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature
from transformers.utils import can_return_tuple

from geohf.data.classes import class_number
from geohf.data.inputs import Inputs
from geohf.errors import DataError
from geohf.geo.scalers import CoordinateScaler, fit_scaler
from geohf.models.heading import HeadingHead, refuse_mirrors
from geohf.models.loading import load_model
from geohf.models.modeling import GeoPreTrainedModel
from geohf.models.settings import settings_refused
from geohf.region.answers import RegionPrediction
from geohf.region.configuration import GeoRegionConfig
from geohf.region.decoding import both_answers, decode, locate
from geohf.region.experts import RegionExpert, RegionOutput, RegionRouter, make_head
from geohf.region.inputs import of_region, of_regions, table_with_regions, with_named_regions
from geohf.region.metrics import measure
from geohf.region.objective import RegionObjective
from geohf.region.processing import GeoRegionImageProcessor, RegionCollator, split_sample
from geohf.region.rows import as_photos, headings_of, load_labeled, located, truth_of
from geohf.region.selection import names_of, region_order, warn_of_spellings
from geohf.vision.augmentation import TEST_TIME_OPTION, averaged_features
from geohf.vision.towers import build_tower

if TYPE_CHECKING:
    from geohf.data.inputs import Part
    from geohf.data.task_data import TaskData
    from geohf.region.arguments import RegionArguments

logger = logging.getLogger(__name__)

# what the sample is trained with: a backbone that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "test_resnet", 48
REAL_BACKBONE = "convnext_small"
MODEL_FIELDS = (
    "frame",
    "experts",
    "scaler",
    "point_loss",
    "radius_coverage",
    "refine",
    "density",
    "predict_heading",
)


class GeoRegionModel(RegionObjective, GeoPreTrainedModel):
    """Coordinates of photographs by regions: a router, and an expert a region.

    >>> from geohf.region import GeoRegionConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoRegionConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96,
    ...                          id2label={0: "3", 1: "5"}, experts="shared",
    ...                          scalers=[{"center": [36.37, 127.36], "scale": [0.01, 0.01]},
    ...                                   {"center": [36.35, 127.38], "scale": [0.01, 0.01]}])
    >>> output = GeoRegionModel(config).eval()(torch.zeros(1, 3, 64, 64))
    >>> output.logits.shape, output.scaled.shape, output.coordinates.shape
    (torch.Size([1, 2]), torch.Size([1, 2, 2]), torch.Size([1, 2]))
    """

    config_class = GeoRegionConfig
    processor_class = GeoRegionImageProcessor
    card_template = "region.md"
    predict_options: ClassVar[dict[str, dict]] = {
        "region": {"help": "The region of all inputs, where it is known."},
        "top_k": {"type": int, "help": "Regions to name."},
        "credible_regions": {
            "action": "store_true",
            "default": None,
            "help": "Draw where 50 and 90 %% of photographs like this were taken, as GeoJSON; for a model with --density.",
        },
        "test_time": TEST_TIME_OPTION,
    }
    evaluate_options: ClassVar[dict[str, dict]] = {"test_time": TEST_TIME_OPTION}
    _no_split_modules = ["RegionExpert"]  # noqa: RUF012  transformers declares it so
    _keep_in_fp32_modules_strict = {"scaler_center", "scaler_scale", "prototypes"}  # noqa: RUF012

    def __init__(self, config: GeoRegionConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config)
        self.router: nn.Module = make_head(config, config.num_regions)
        experts = nn.ModuleList(RegionExpert(config, i) for i in range(config.num_regions))
        self.experts: Sequence[RegionExpert] = experts  # type: ignore[assignment]  # torch does not say of what
        self.targets: tuple[str, ...] = ("labels", "coordinates")
        if config.predict_heading:
            self.direct = HeadingHead(config.feature_size, config.hidden_size, config.dropout)
            self.targets = (*self.targets, "headings")
        self.finish_init()

    @classmethod
    def from_backbone(cls, name: str, **kwargs) -> GeoRegionModel:
        """As `GeoPreTrainedModel.from_backbone`; every expert's tower starts from the same weights."""
        model = super().from_backbone(name, **kwargs)
        for expert in model.experts:
            if expert.tower is not None:
                expert.tower.load_state_dict(model.tower.state_dict())
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """As `GeoPreTrainedModel.from_pretrained`.

        Raises:
            DataError: the weights are damaged, or do not belong to the scalers of the config.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        for expert in model.experts:
            if model.config.scalers is not None and not expert.has_own_scaler():
                raise DataError(
                    f"{pretrained_model_name_or_path}: the weights of region {model.config.id2label[expert.number]} "
                    "belong to another scaler than that of config.json, which was changed"
                )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `GeoPreTrainedModel.save_pretrained`."""
        for expert in self.experts:
            expert.store_scaler()  # a model that was cast as a whole has it in half precision
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_scaler(self, region: str, scaler: CoordinateScaler) -> None:
        """Give a region another scaler, before its expert is trained anew."""
        number, scalers = self.region_number(region), self.config.scalers
        assert scalers is not None
        scalers[number] = scaler.to_dict()
        self.experts[number].store_scaler()

    def router_module(self) -> RegionRouter:
        """The router with its tower, to be trained without the experts."""
        return RegionRouter(self.config, self.tower, self.router, getattr(self, "direct", None))

    def take_router(self, router: RegionRouter) -> None:
        """Put back what `router_module` gave; adapters leave heads that are other objects."""
        self.tower, self.router = router.tower, router.head
        if router.direct is not None:
            self.direct = router.direct

    @property
    def scaler(self) -> CoordinateScaler:
        """All regions' scalers as one."""
        return self.config.coordinate_scaler

    # ---- forward

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        regions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        test_time: str | None = None,
    ) -> RegionOutput:
        """Locate photographs.

        Args:
            pixel_values: (batch, 3, height, width).
            regions: (batch,) numbers of the regions that are given, -1 where unknown: such a photograph is
                located by the experts of all regions, weighted with the router's probabilities.
            labels: (batch,) true region numbers for the loss; in training only their experts run.
            coordinates: (batch, 2) true latitude and longitude, NaN where unknown.
            headings: (batch,) true degrees clockwise from north, NaN where unknown.
            loss_items: part -> rows over which its mean goes; None: the rows of this batch that count.
            test_time: the features are the mean of those of each picture and of its mirror image (`flip`) or of its
                corners (`crops`).
        """
        refuse_mirrors(self.config.predict_heading, test_time)
        given = torch.full((len(pixel_values),), -1) if regions is None else regions
        given = given.to(pixel_values.device)
        asked = labels if self.training and labels is not None else given
        routed = labels is not None or bool((given < 0).any())
        shared = self.config.experts == "shared"
        told = self.config.predict_heading
        looked = shared or routed or told
        features = averaged_features(self.tower, pixel_values, test_time) if looked else None
        directions = self.direct(features) if told else None
        inputs = {"pixel_values": pixel_values}
        if shared:
            assert features is not None
            inputs = {"features": features}
        scaled = self._ask_experts(inputs, asked, None if shared else test_time)
        logits = (
            self.router(features).float()
            if features is not None
            else scaled.new_zeros(len(scaled), self.config.num_regions)
        )
        loss, parts = None, None
        if labels is not None and coordinates is not None:
            loss, parts = self.losses(logits, scaled, labels, coordinates, loss_items, directions, headings)
        others = torch.arange(logits.shape[1], device=given.device) != given[:, None]
        known = given[:, None] >= 0
        logits = torch.where(known, 0.0, logits).masked_fill(known & others, -torch.inf)
        with torch.no_grad():
            # in training not every expert that the router may think of was asked
            coordinates = None if self.training else self.locate(logits, scaled)
        return RegionOutput(loss, logits, scaled, coordinates, parts, directions)

    def _ask_experts(
        self, inputs: dict[str, torch.Tensor], asked: torch.Tensor, test_time: str | None
    ) -> torch.Tensor:
        """(batch, regions, 2): every row of its own expert, or of all where that is unknown; else NaN."""
        answers = []
        for expert in self.experts:
            rows = (asked == expert.number) | (asked < 0)
            if bool(rows.all()):
                answers.append(expert(**inputs, test_time=test_time).scaled)
                continue
            answer = torch.full((len(asked), 2), torch.nan, device=asked.device)
            if bool(rows.any()):
                own = {name: values[rows] for name, values in inputs.items()}
                found = expert(**own, test_time=test_time).scaled
                answer = answer.index_put((rows.nonzero()[:, 0],), found)
            answers.append(answer)
        return torch.stack(answers, 1)

    # ---- answers

    def locate(self, logits: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
        """(batch, regions) logits and (batch, regions, 2) answers to (batch, 2) points, averaged in the frame."""
        return locate(self.config, logits, scaled)

    def decode(
        self, outputs: RegionOutput, top_k: int = 5, credible_regions: bool = False
    ) -> list[RegionPrediction]:
        """Turn outputs into answers.

        Args:
            top_k: regions to name; those that are ruled out are never named.
            credible_regions: draw where 50 and 90 % of photographs like this were taken, for a model with a calibrated density.
        """
        return decode(self.config, outputs, top_k, credible_regions)

    def region_number(self, region: str | int | None) -> int:
        """The number of a region by its name, -1 for None, NaN or an empty one; see `class_number`.

        Raises:
            DataError: a region that the model does not know.
        """
        return max(class_number(region, self.config.label2id, "region"), -1)

    def rows_of(self, answer: RegionPrediction) -> list[dict[str, Any]]:
        """See `RegionPrediction.as_row`."""
        return [answer.as_row()]

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`probabilities` of the regions, (batch, regions), after the temperature, and `coordinates`, (batch, 2) float64."""
        outputs = self(pixel_values)
        probabilities = (outputs.logits / self.config.temperature).softmax(-1)
        return {"probabilities": probabilities, "coordinates": outputs.coordinates}

    def evaluate(
        self,
        data: str | os.PathLike,
        batch_size: int = 32,
        on_error: str = "raise",
        test_time: str | None = None,
    ) -> dict[str, float]:
        """Errors with the region given and routed, MSE, router accuracy and coverage; see `evaluation_rows`.

        Args:
            data: a table as `load_region_table` takes it, or a folder in the reference implementation's layout, whose validation
                table is measured.
            test_time: see `predict`.
        """
        dataset, collator = load_labeled(data, self.config, on_error), RegionCollator(self, ())
        batch = collator if test_time is None else lambda rows: collator(rows) | {"test_time": test_time}
        outputs = self.outputs_on(dataset, batch, batch_size)
        answers = both_answers(
            self.config, outputs, *truth_of(dataset, self.config), headings_of(dataset, self.config)
        )
        return {metric.name: metric.value for metric in measure(self.config, answers, intervals=False)}

    def prepare(self, samples: list) -> BatchFeature:
        """As `GeoPreTrainedModel.prepare`, for samples that may name their region."""
        split = [split_sample(sample) for sample in samples]
        return super().prepare(
            [{"image": image, "region": self.region_number(region)} for image, region in split]
        )

    def samples(self, inputs: Any) -> Sequence | Iterable:
        """As every task's; a dataset that numbers its regions names them, for numbers may be other regions' names."""
        return with_named_regions(super().samples(inputs))

    def find_inputs(self, sources: Any) -> Inputs:
        """As every task's, with the names of regions, see `samples`."""
        inputs = super().find_inputs(sources)
        return Inputs([(names, with_named_regions(samples)) for names, samples in inputs.parts])

    def read_source(self, source: str) -> Part | None:
        """The photographs of a table of file names with a column of regions, each with its own, as datasets bring them."""
        return table_with_regions(source)

    def predict(
        self, inputs: Any, batch_size: int = 32, region: str | int | Sequence | None = None, **options
    ) -> list[RegionPrediction]:
        """Locate photographs from paths, folders, PIL images, arrays, bytes or datasets.

        Args:
            inputs: as in `GeoPreTrainedModel.predict`; a sample may be a dict with `image` and `region`.
            region: the region of all photographs, or one a photograph (None where it is unknown).
            options: of `decode`, and `test_time`: `flip` or `crops`, the features are the mean of those of each picture and
                of its mirror image or its corners; the radius was calibrated without.

        Raises:
            DataError: a region that the model does not know, or not one region a photograph.
        """
        if region is None or isinstance(region, str) or not isinstance(region, Iterable):
            return super().predict(inputs, batch_size, region=region, **options)
        if isinstance(region, (Set, Mapping)):
            raise DataError("the regions of photographs are a list in their order, not a set or a dict")
        samples, names = self.samples(inputs), list(region)
        if isinstance(samples, Sized) and len(names) != len(samples):
            raise DataError(f"{len(names)} regions for {len(samples)} photographs")
        named = of_regions(samples, names)
        return super().predict(list(named) if isinstance(samples, list) else named, batch_size, **options)

    def steps(self, region: str | int | None = None, test_time: str | None = None, **options):
        """As `GeoPreTrainedModel.steps`, for photographs that all are of one region, where one is named."""
        prepare, answer = super().steps(**options)
        looks = {} if test_time is None else {"test_time": test_time}

        def prepared(samples: list) -> BatchFeature:
            named = samples if region is None else [of_region(sample, region) for sample in samples]
            return BatchFeature({**prepare(named), **looks})

        return prepared, answer


def _tell_kept(options: RegionArguments, config: GeoRegionConfig) -> None:
    """Say which options the model that training goes on from does not follow."""
    known = type(options).__dataclass_fields__
    kept = [
        f"--{name} {getattr(options, name)} (it has {getattr(config, name)})"
        for name in MODEL_FIELDS
        if getattr(options, name) not in (known[name].default, getattr(config, name))
    ]
    if kept:
        logger.warning(
            "%s stays as it was trained: without effect are %s", options.start_from, ", ".join(kept)
        )


def make_model(options: RegionArguments, data: TaskData) -> GeoRegionModel:
    """A model of the training rows' regions, scaled by these rows: a new one, or that of `start_from`.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    train = as_photos(data.labeled)
    named, points = np.array(names_of(train), object), located(train, options.frame)
    named[~np.isfinite(points).all(1)] = None
    found = region_order(name for name in named if name is not None)
    if options.start_from is not None:
        model = load_model(options.start_from, "cpu", GeoRegionModel)
        _tell_kept(options, model.config)
        for name in options.regions or found:
            model.set_scaler(name, fit_scaler(points[named == name], model.config.scaler, model.config.frame))
        return model
    warn_of_spellings(found)
    scalers = [fit_scaler(points[named == name], options.scaler, options.frame).to_dict() for name in found]
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    tiny = options.train_csv is None and options.backbone is None
    with settings_refused():
        return GeoRegionModel.from_backbone(
            options.backbone or (SAMPLE_BACKBONE if tiny else REAL_BACKBONE),
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            backbone_weights=options.backbone_weights,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            fit=options.fit,
            id2label=dict(enumerate(found)),
            scalers=scalers,
            **fields,
        )
