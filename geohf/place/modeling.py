"""The place model: a photograph to a descriptor, and with an index to where it was taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers.utils import can_return_tuple

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.io import natural_key
from geohf.models.modeling import GeoPreTrainedModel
from geohf.models.settings import settings_refused
from geohf.place.answers import PlacePrediction, predictions_of
from geohf.place.audit import audit, judge
from geohf.place.configuration import ENCODERS, GeoPlaceConfig
from geohf.place.drives import files_of, load_drives, names_of
from geohf.place.head import GeoPlaceOutput, PlaceHead
from geohf.place.index import PlaceIndex, load_once
from geohf.place.metrics import RECALLS, place_metrics, retrieve
from geohf.place.processing import GeoPlaceImageProcessor
from geohf.place.sequences import Center, Method, in_order
from geohf.vision.backbones import backbone_config, build_tower, describe_backbone
from geohf.vision.pooling import map_size, pooled
from geohf.vision.preprocessing import with_fit
from geohf.vision.weights import weights_checksum, weights_fingerprint

if TYPE_CHECKING:
    from geohf.data.inputs import Part
    from geohf.data.task_data import TaskData
    from geohf.place.arguments import PlaceArguments

# what the sample is trained with: a backbone of random weights that takes seconds on a CPU
SAMPLE_MODEL, SAMPLE_IMAGE_SIZE = "test_resnet", 160
SAMPLE_MIX = {"mix_depth": 2, "mix_channels": 96, "mix_rows": 8}
REAL_MODEL = "dinov2_b"
MODEL_FIELDS = (
    "dropout",
    "positive_m",
    "negative_m",
    "heading_deg",
    "contrastive_weight",
    "triplet_weight",
    "temperature",
    "margin",
    "mining",
    "hard_share",
)
MIX_FIELDS = ("mix_depth", "mix_channels", "mix_rows")


class GeoPlaceModel(GeoPreTrainedModel):
    """Descriptors of places, near for pictures of one place in any light and far for others.

    The tower is frozen, and stays in eval mode, unless its parameters are asked to learn.

    >>> from geohf.place import GeoPlaceConfig
    >>> from geohf.vision.backbones import TimmTowerConfig
    >>> config = GeoPlaceConfig(vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96)
    >>> GeoPlaceModel(config).eval()(torch.zeros(1, 3, 64, 64)).descriptors.shape
    torch.Size([1, 256])
    """

    config_class = GeoPlaceConfig
    processor_class = GeoPlaceImageProcessor
    card_template = "place.md"
    predict_options: ClassVar[dict[str, dict]] = {
        "index": {"help": "File of a PlaceIndex to search in; without one the answers are descriptors."},
        "top_k": {"type": int, "help": "Images of the index to name."},
    }
    _no_split_modules = ("PlaceHead",)
    _keep_in_fp32_modules_strict = ("standardize", "descriptor_norm", "whiten")

    def __init__(self, config: GeoPlaceConfig):
        super().__init__(config)
        self.tower = build_tower(config.vision_config).requires_grad_(False)
        self.head = PlaceHead(config)
        self._hashed: tuple[list | None, str] = (None, "")
        self.finish_init()

    @classmethod
    def from_backbone(
        cls, name: str, *, pretrained: bool = True, image_size: int | None = None, **config_fields
    ) -> GeoPlaceModel:
        """A new model around one of the reference implementation's encoders (`geohf.place.configuration.ENCODERS`) or any other tower.

        Args:
            name, pretrained, image_size, config_fields: see `GeoPreTrainedModel.from_backbone`.

        Raises:
            DataError: no such backbone, or an image size that it cannot take.
        """
        name = ENCODERS.get(name, name)
        if config_fields.get("pooling", "tower") != "tower":
            backbone = describe_backbone(name, image_size)
            crop = backbone.image_processor["crop_size"]
            config_fields["feature_map"] = map_size(backbone.config, (crop["height"], crop["width"]))
        model = super().from_backbone(name, pretrained=pretrained, image_size=image_size, **config_fields)
        model.tower.requires_grad_(False)
        return model

    @classmethod
    def from_published(
        cls, name: str, file: str | os.PathLike, image_size: tuple[int, int] = (480, 640)
    ) -> GeoPlaceModel:
        """The model in a checkpoint that its authors published, see `geohf.place.published`.

        Args:
            name: `cosplace` or `eigenplaces`.
            file: the checkpoint, read as tensors alone.
            image_size: height and width that photographs are resized to, without a crop.

        Raises:
            DataError: another name, or a file whose tensors are not, name by name and shape by shape, the model's.
        """
        from geohf.place.published import load_published

        return load_published(cls, name, file, image_size)

    def train(self, mode: bool = True):
        """Set training mode, but leave what is frozen of the tower in eval mode."""
        super().train(mode)
        _eval_frozen(self.tower)
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        headings: torch.Tensor | None = None,
    ) -> GeoPlaceOutput:
        """Describe photographs.

        Args:
            pixel_values: (batch, 3, height, width).
            coordinates, headings: see `PlaceHead.forward`.
        """
        return self.head(pooled(self.tower, pixel_values, self.config.tower_pool), coordinates, headings)

    # ---- answers

    def fingerprint(self) -> str:
        """A digest of all weights and their type: descriptors compare only where the digest is the same."""
        # hashing takes as long as a photograph, so it is done again only where a tensor was changed or replaced
        state = weights_checksum(self)
        known, fingerprint = self._hashed
        if known != state:
            fingerprint = f"{weights_fingerprint(self)} {str(self.dtype).removeprefix('torch.')}"
            self._hashed = (state, fingerprint)
        return fingerprint

    def encode(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """(n, d) float32 descriptors of length 1, of anything that `predict` takes."""
        descriptors = [answer.descriptor for answer in self.predict(images, batch_size)]
        return (
            np.stack(descriptors) if descriptors else np.empty((0, self.config.descriptor_size), np.float32)
        )

    def predict(
        self,
        inputs: Any,
        batch_size: int = 32,
        index: PlaceIndex | str | os.PathLike | None = None,
        **options,
    ) -> list[PlacePrediction]:
        """Describe photographs and, with an index, say where they were taken.

        Args:
            inputs: paths, folders, PIL images, arrays, bytes or datasets, see `GeoPreTrainedModel.predict`.
            index: a `PlaceIndex`, or the file that holds one.
            options: see `decode`.

        Raises:
            DataError: an index of another model.
        """
        return super().predict(inputs, batch_size, index=self.open_index(index), **options)

    def predict_sequences(
        self,
        inputs: Any,
        index: PlaceIndex | str | os.PathLike,
        sequences: Sequence | None = None,
        center: Center = "online",
        method: Method = "filter",
        top_k: int = 5,
        batch_size: int = 32,
    ) -> list[PlacePrediction]:
        """Say where the photographs of a drive were taken, with the order of its frames heard.

        Args:
            inputs: what `predict` takes, in the order of time.
            sequences: the name of each photograph's drive; one if None. See `geohf.place.sequences.split_at_gaps`.
            center, method: see `geohf.place.sequences.center_descriptors` and `match_sequences`. The defaults look
                at earlier frames only.
            top_k: answers to give, at most as many as the index holds.

        Returns:
            One answer per photograph. Its `confidence` is the probability of the top answer given the frames; the
            answers of a drive whose order explains nothing are those of `predict` with this `center`.

        Raises:
            DataError: an index of another model, see `match_sequences`.
        """
        index = self.open_index(index)
        descriptors = self.encode(inputs, batch_size)
        similarity, found = index.match(descriptors, top_k, center, sequences, method=method)
        images = [[index.images[row] for row in some] for some in found.rows]
        answers = predictions_of(descriptors, similarity, index.points[found.rows], images, self.config)
        for answer, posterior, chained in zip(answers, found.posterior, found.chained, strict=True):
            if chained:
                answer.confidence = float(posterior[0])
        return answers

    def read_source(self, source: str) -> Part | None:
        """The images of a `poses.csv`, which lie below the folder above its own."""
        if Path(source).name != "poses.csv":
            return None
        images, _ = load_drives(source)
        return names_of(images), files_of(images)

    def rows_of(self, answer: PlacePrediction) -> list[dict[str, Any]]:
        """The point, how sure it is, and the named images with their similarity; without an index the descriptor."""
        return [answer.as_row()]

    def evaluate(
        self,
        data: str | os.PathLike,
        batch_size: int = 32,
        on_error: str = "raise",
        center: Center = "none",
        method: Method | None = None,
    ) -> dict[str, float]:
        """Recall, and meters to the top answer, where the first drive is the database and the others ask.

        Args:
            data: a folder with a `poses.csv` in each of its subfolders, in the order of their names, or a table or
                folder that `load_drives` takes, with a column of sequences.
            center, method: how the frames of a drive answer together, see `predict_sequences`; by default each
                answers alone.

        Returns:
            See `geohf.place.metrics.place_metrics`; right is what lies within `confidence_m`.

        Raises:
            DataError: a single drive, queries that are in the database, see `load_drives` and `retrieve`.
        """
        poses = sorted(Path(data).glob("*/poses.csv"), key=natural_key)
        images, _ = load_drives(poses or data, on_error=on_error)
        sequences, points, files = np.array(images["sequence"][:]), points_of(images), files_of(images)
        first = sequences == sequences[0]
        if first.all():
            raise DataError(f"{data}: is the single drive {str(sequences[0])!r}; a second one has to ask")
        database, queries, none = np.flatnonzero(first), np.flatnonzero(~first), np.arange(0)
        radius_m = self.config.confidence_m
        times_ns = images["time_ns"][:]
        judge(audit(files, points, sequences, times_ns, none, database, queries, radius_m), strict=False)
        descriptors = torch.from_numpy(self.encode(files, batch_size))
        if center == "none" and method is None:
            parts = (part[rows] for part in (descriptors, points) for rows in (database, queries))
            return retrieve(*parts, [radius_m]).values
        queries, drives = in_order(queries, sequences, times_ns)
        names = [str(files[row]) for row in database]
        index = PlaceIndex(descriptors[database], points[database], names, self.fingerprint())
        asked, most = descriptors[queries], max(RECALLS)
        if method is None:
            ranked = index.search(asked, most, center, drives)[1]
        else:
            ranked = index.match(asked, most, center, drives, method=method)[1].rows
        return place_metrics(ranked, points[database], points[queries], [radius_m], RECALLS)

    def open_index(self, index: PlaceIndex | str | os.PathLike | None) -> PlaceIndex | None:
        """The index, loaded where it is a path, after a check that it belongs to this model."""
        if index is None:
            return None
        if not isinstance(index, PlaceIndex):
            path = Path(index)
            index = load_once(path, path.stat().st_mtime_ns if path.exists() else 0)
        index.check_model(self)
        return index

    def decode(
        self, outputs: GeoPlaceOutput, index: PlaceIndex | None = None, top_k: int = 5
    ) -> list[PlacePrediction]:
        """Turn outputs into answers.

        Args:
            index: see `open_index`.
            top_k: answers to give, at most as many as the index holds.
        """
        descriptors = outputs.descriptors.float().cpu().numpy()
        if index is None:
            return [PlacePrediction(descriptor) for descriptor in descriptors]
        similarity, rows = index.search(descriptors, top_k)
        images = [[index.images[row] for row in some] for some in rows]
        return predictions_of(descriptors, similarity, index.points[rows], images, self.config)


def _eval_frozen(module: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.eval()
        return
    for child in module.children():
        if next(child.parameters(), None) is not None:
            _eval_frozen(child)


def make_model(options: PlaceArguments, data: TaskData | None = None) -> GeoPlaceModel:
    """A new model around the backbone that the options name first, or the trained place model of that name.

    Raises:
        DataError: options that do not go together, or a name that nothing has.
    """
    is_sample = options.train_csv is None and options.models is None
    name = (options.models or [SAMPLE_MODEL if is_sample else REAL_MODEL])[0]
    if _is_place_model(name):
        model = GeoPlaceModel.from_pretrained(name)
        if options.fit is not None:
            model.config.image_processor = with_fit(model.processor_settings, options.fit)
        return model
    fields = {field: getattr(options, field) for field in (*MODEL_FIELDS, *MIX_FIELDS)}
    pooling, projection = options.pooling or ("mixvpr" if is_sample else "tower"), options.projection_dim
    if projection is None:
        projection = None if pooling in ("gem_linear", "mixvpr") else 256
    fields |= {"pooling": pooling, "projection_dim": projection or None, "confidence_m": options.radii_m[0]}
    pretrained, image_size = options.pretrained is not False, options.image_size
    if is_sample:
        fields |= SAMPLE_MIX
        pretrained, image_size = bool(options.pretrained), image_size or SAMPLE_IMAGE_SIZE
    with settings_refused():
        return GeoPlaceModel.from_backbone(
            name,
            pretrained=pretrained,
            image_size=image_size,
            backbone_weights=options.backbone_weights,
            fit=options.fit,
            **fields,
        )


def _is_place_model(name: str) -> bool:
    if name in ENCODERS or not ("/" in name or Path(name).is_dir()):  # timm's names need no look at the Hub
        return False
    return backbone_config(name)[1].get("model_type") == GeoPlaceConfig.model_type
