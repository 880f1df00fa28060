"""The street model: from one to eight views of a place to its state and its point."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils import can_return_tuple

from geohf.data.samples import without_decoding
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.models.configuration import as_data_error
from geohf.models.heading import refuse_mirrors
from geohf.models.modeling import GeoPreTrainedModel
from geohf.street.answers import StreetPrediction
from geohf.street.benchmarks import load_benchmark
from geohf.street.captions import caption_answers, caption_outputs, read_captions
from geohf.street.classes import describe_classes, labels_of
from geohf.street.configuration import GeoStreetConfig
from geohf.street.decoding import StreetDecoding, points_and_candidates
from geohf.street.gallery import gallery_of
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.levels import Levels, levels_of
from geohf.street.options import EVALUATE_OPTIONS, PREDICT_OPTIONS
from geohf.street.places import as_places, headings_of
from geohf.street.processing import GeoStreetImageProcessor, StreetCollator, split_views
from geohf.vision.augmentation import variants
from geohf.vision.towers import build_tower, tower_features
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.data.inputs import Part
    from geohf.data.task_data import TaskData
    from geohf.street.arguments import StreetArguments

logger = logging.getLogger(__name__)

# what the sample is trained with: a backbone that learns in seconds on a CPU, from random weights
SAMPLE_BACKBONE, SAMPLE_IMAGE_SIZE = "test_byobnet", 64
REAL_BACKBONE = "geolocal/StreetCLIP"
# options that are fields of the config
MODEL_FIELDS = (
    *("fusion", "heading_aware", "predict_heading", "heading_weight"),
    *("point_estimate", "radius_coverage", "density", "vmf_components", "refine", "rank"),
    *("smoothing", "smoothing_km", "class_weight", "gps_loss", "gps_scale", "gps_weight"),
    *("location_encoder", "match_weight", "noise_m"),
)
UNHEARD_BY_VMF = ("gps_loss", "gps_scale", "point_estimate")  # it has a loss and a central point of its own
# what the encoder of positions is trained with, and on the sample, where it is to learn in minutes on a CPU
LOCATION_FIELDS = {"location_hidden_size": (1024, 128), "queue_size": (4096, 256)}


class GeoStreetModel(StreetDecoding, GeoPreTrainedModel):
    """State and coordinates from one to eight street views.

    >>> from geohf.street import GeoStreetConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoStreetConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96,
    ...                          class_centroids=[[36.8, -119.4], [31.5, -99.3]], id2label={0: "California", 1: "Texas"})
    >>> output = GeoStreetModel(config).eval()(torch.zeros(1, 4, 3, 64, 64))
    >>> output.logits.shape, output.coordinates.shape
    (torch.Size([1, 2]), torch.Size([1, 2]))
    """

    config_class = GeoStreetConfig
    processor_class = GeoStreetImageProcessor
    card_template = "street.md"
    predict_options = PREDICT_OPTIONS
    evaluate_options = EVALUATE_OPTIONS
    _no_split_modules = ["StreetHead"]  # noqa: RUF012  transformers declares it so
    _keep_in_fp32_modules_strict = {"standardize", "location", "gallery", "queue", "prototypes", "ranker"}  # noqa: RUF012

    def __init__(self, config: GeoStreetConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config)
        self.head = StreetHead(config)
        self.finish_init()

    @classmethod
    def from_published(
        cls, name: str, folder: str | os.PathLike | None = None, backbone: str | None = None
    ) -> GeoStreetModel:
        """The model that its authors published, see `geohf.street.published`.

        Args:
            name: `geoclip` or `osv5m`.
            folder: where it lies: a release folder of the Hub, or GeoCLIP's package; the installed package where None.
            backbone: a folder of the CLIP that it stands on; fetched from the Hub where None.

        Raises:
            DataError: another name, a folder whose tensors are not, name by name and shape by shape, the model's, or
                no backbone.
        """
        from geohf.street.published import load_published

        return load_published(cls, name, folder, backbone)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        loss_items: dict[str, torch.Tensor] | None = None,
        test_time: str | None = None,
    ) -> GeoStreetOutput:
        """Locate places.

        Args:
            pixel_values: (batch, views, 3, height, width), or (batch, 3, height, width) for one view.
            view_mask, headings, labels, coordinates, loss_items: see `StreetHead.forward`.
            test_time: see `view_features`.
        """
        features = self.view_features(pixel_values, view_mask, test_time)
        return self.head(features, view_mask, headings, labels, coordinates, loss_items)

    def view_features(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, test_time: str | None = None
    ) -> torch.Tensor:
        """The backbone's features of every view, (batch, views, features); missing views are not computed.

        Args:
            test_time: the mean of those of each picture and of its mirror image (`flip`) or of its corners (`crops`).
        """
        if test_time is not None:
            refuse_mirrors(self.config.predict_heading, test_time)
            several = [self.view_features(pixels, view_mask) for pixels in variants(pixel_values, test_time)]
            return torch.stack(several).mean(0)
        if pixel_values.ndim == 4:
            pixel_values = pixel_values[:, None]
        if view_mask is None or bool(view_mask.all()):
            return tower_features(self.tower, pixel_values.flatten(0, 1)).unflatten(0, pixel_values.shape[:2])
        present = tower_features(self.tower, pixel_values[view_mask])
        features = present.new_zeros(*view_mask.shape, present.shape[-1])
        features[view_mask] = present
        return features

    def count_loss_items(self, batch: dict) -> dict[str, torch.Tensor]:
        """How many rows of a batch count for each part of the loss."""
        return self.head.count_loss_items(batch)

    def photo_of(self, sample: Any) -> Any:
        """The first view of a place."""
        return split_views(sample)[0][0]

    def read_source(self, source: str) -> Part | None:
        """The places to be found of a folder in the competition's layout, or of a table with views or headings."""
        from geohf.street.competition import TEMPLATE, load_competition
        from geohf.street.photos import table_of_views

        if not (Path(source) / TEMPLATE).is_file():
            return table_of_views(source)
        places = load_competition(Path(source), "raise")[0]["test"]
        return list(map(str, places["sample_id"][:])), without_decoding(places)

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of one view a place: `probabilities` of the classes, (batch, classes), after the temperature; `coordinates`,
        (batch, 2) degrees; `embeddings` that compare with a gallery's positions; each where the model has them.
        """
        features = tower_features(self.tower, pixel_values)[:, None]
        outputs = self.head(features, torch.ones_like(features[..., 0], dtype=torch.bool))
        exported = {}
        if outputs.logits is not None:
            exported["probabilities"] = (outputs.logits.float() / self.config.temperature).softmax(-1)
        if self.config.gps_head != "gallery":
            points, *_ = points_and_candidates(self.head, outputs, exported.get("probabilities"), None)
            exported["coordinates"] = points
        if outputs.embeddings is not None:
            exported["embeddings"] = outputs.embeddings
        return exported

    def evaluate(
        self,
        data: str | os.PathLike,
        batch_size: int = 32,
        on_error: str = "raise",
        levels: str | os.PathLike | Levels | None = None,
        benchmark: str | None = None,
        test_time: str | None = None,
    ) -> dict[str, float]:
        """Score, top-1 and top-5, distances and coverage on the places that `data` holds out, see `load_for_evaluation`.

        Args:
            levels: the share of points in the right country, region, sub-region and city, too, and of those in the state
                that is answered; see `geohf.street.levels`.
            test_time: see `view_features`.
            benchmark: `data` is the table of this benchmark, see `geohf.street.benchmarks.load_benchmark`.
        """
        from geohf.street.data import load_for_evaluation
        from geohf.street.metrics import measure

        named = None if levels is None else levels_of(levels)  # before the work, not after it
        if benchmark is None:
            rows = load_for_evaluation(str(data), self.config, on_error)
        else:
            rows = load_benchmark(str(data), benchmark, on_error)
        labels, truth = labels_of(rows, self.config), points_of(rows)
        if (labels < 0).all() and not np.isfinite(truth).any():
            raise DataError(f"{data}: no place has a state that the model knows, or a position")
        collator = StreetCollator(self)
        batch = collator if test_time is None else lambda rows: collator(rows) | {"test_time": test_time}
        outputs = self.outputs_on(rows, batch, batch_size)
        headings = headings_of(rows, self.config.max_views)
        answers = self.decode(outputs, top_k=1)
        measured = measure(self.config, outputs, answers, labels, truth, None, False, headings, named)
        return {"places": len(rows)} | {metric.name: metric.value for metric in measured}

    def steps(
        self,
        captions: str | Sequence[str] | None = None,
        text_model: str | None = None,
        test_time: str | None = None,
        **options: Any,
    ) -> tuple[Callable[[list], BatchFeature], Callable[[BatchFeature], list]]:
        """See `AnsweringModel.steps`; captions are read before the first batch."""
        if text_model is not None and captions is None:
            raise DataError("text_model reads captions, and there are none")
        prepare, answer = super().steps(**options)
        if captions is not None:
            model = in_eval_mode(self)
            read = read_captions(model, captions, text_model)

            @torch.inference_mode()
            def answer(tensors: BatchFeature) -> list:
                tensors = tensors.to(model.device)
                tensors["pixel_values"] = model.as_read(tensors["pixel_values"])
                outputs, logits = caption_outputs(model, read, tensors, tensors.get("test_time"))
                return caption_answers(model, read, outputs, logits, **options)

        if test_time is None:
            return prepare, answer
        return lambda samples: BatchFeature({**prepare(samples), "test_time": test_time}), answer

    def predict(self, inputs: Any, batch_size: int = 32, **options) -> list[StreetPrediction]:
        """Locate places from paths, folders, PIL images, arrays, bytes or datasets; see `decode` for options.

        One place with several views is a dict (`{"north": ..., "east": ...}`) or a list within the list.

        Args:
            options: `captions`, two or more: the answers tell how well each fits, by the text model of the CLIP that the
                model stands on (`text_model`, its repo or folder, where that is not the backbone's). One caption with `{}`
                for the name of a class answers with these classes in place of the trained ones, zero-shot. `test_time`:
                the features are the mean of several, see `view_features`; the radius was calibrated without.
        """
        if self.config.location_encoder != "none":
            options = {"keep": True} | options
        return super().predict(inputs, batch_size, **options)


def make_model(options: StreetArguments, data: TaskData) -> GeoStreetModel:
    """A model for these training places: their classes and box, and the backbone that the options name.

    Raises:
        DataError: options that do not go together, or a backbone that is not found.
    """
    fields = {name: getattr(options, name) for name in MODEL_FIELDS}
    others = UNHEARD_BY_VMF if options.gps_head == "vmf" else ("vmf_components",)
    unheard = [name for name in others if fields[name] != type(options).__dataclass_fields__[name].default]
    if unheard:
        named = ", ".join(f"--{name}" for name in unheard)
        logger.warning("%s: without effect on --gps_head %s", named, options.gps_head)
    train = as_places(data.labeled)
    how = {name: getattr(options, name) for name in ("max_cells", "cells", "cell_points", "polygons")}
    classes = describe_classes(train, **how)
    if options.gps_head in ("gallery", "vmf") and not options.max_cells:  # the point needs no classes
        classes = {"gps_box": classes["gps_box"]}
    density = options.density or options.gps_head == "vmf"
    fields |= {"gps_head": options.gps_head, "density": density} | classes
    if fields["smoothing_km"] is None:
        # the published temperatures: 300 km for states, 75 km for PIGEON's geocells
        fields["smoothing_km"] = 300.0 if options.smoothing == "cell" and not fields.get("cells") else 75.0
    tiny = options.data is None and options.backbone is None
    for name, defaults in LOCATION_FIELDS.items():
        given = getattr(options, name)
        fields[name] = defaults[tiny] if given is None else given
    with as_data_error():
        model = GeoStreetModel.from_backbone(
            options.backbone or (SAMPLE_BACKBONE if tiny else REAL_BACKBONE),
            pretrained=not tiny if options.pretrained is None else options.pretrained,
            backbone_weights=options.backbone_weights,
            image_size=SAMPLE_IMAGE_SIZE if tiny and options.image_size is None else options.image_size,
            fit=options.fit,
            **fields,
        )
    if options.location_encoder != "none":
        model.head.match.set_gallery(gallery_of(options.gallery, model.config, points_of(train)))
    return model
