"""The place model: a photograph to a descriptor, and with an index to where it was taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.utils import can_return_tuple

from geohf.data.inputs import Inputs
from geohf.errors import DataError
from geohf.io import refuse_overwriting
from geohf.models.modeling import GeoPreTrainedModel
from geohf.models.settings import settings_refused
from geohf.place.answers import PlacePrediction, predictions_of
from geohf.place.configuration import ENCODERS, PROJECTING_POOLINGS, GeoPlaceConfig
from geohf.place.drives import files_of, load_drives, names_of
from geohf.place.engines import Backend
from geohf.place.frames import answer_drives, answer_rows, find_frames
from geohf.place.head import GeoPlaceOutput, PlaceHead
from geohf.place.index import PlaceIndex, load_once
from geohf.place.options import EVALUATE_OPTIONS, PREDICT_OPTIONS
from geohf.place.processing import GeoPlaceImageProcessor
from geohf.place.sequences import Center, Method, check_options
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
    "loss",
    "contrastive_weight",
    "triplet_weight",
    "temperature",
    "margin",
    "mining",
    "hard_share",
)
POOLING_FIELDS = (
    *("mix_depth", "mix_channels", "mix_rows", "clusters", "cluster_dim", "token_dim"),
    *("boq_channels", "boq_queries", "boq_rows"),
)


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
    predict_options = PREDICT_OPTIONS
    evaluate_options = EVALUATE_OPTIONS
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
        cls,
        name: str,
        *,
        pretrained: bool = True,
        image_size: int | None = None,
        fit: str | None = "squeeze",
        **config_fields,
    ) -> GeoPlaceModel:
        """A new model around one of the reference implementation's encoders (`geohf.place.configuration.ENCODERS`) or any other tower.

        Args:
            name, pretrained, image_size, fit: see `GeoPreTrainedModel.from_backbone`; the whole picture tells a place better
                than its middle.
            config_fields: see `GeoPlaceConfig`; with neither `head` nor `projection_dim` the head is `residual`, and none
                behind the poolings that project themselves.

        Raises:
            DataError: no such backbone, or an image size that it cannot take.
        """
        name = ENCODERS.get(name, name)
        if config_fields.get("pooling", "tower") != "tower":
            backbone = describe_backbone(name, image_size)
            crop = backbone.image_processor["crop_size"]
            config_fields["feature_map"] = map_size(backbone.config, (crop["height"], crop["width"]))
        if not {"head", "projection_dim"} & set(config_fields):
            projects = config_fields.get("pooling") in PROJECTING_POOLINGS
            config_fields |= {"projection_dim": None} if projects else {"head": "residual"}
        model = super().from_backbone(
            name, pretrained=pretrained, image_size=image_size, fit=fit, **config_fields
        )
        model.tower.requires_grad_(False)
        return model

    @classmethod
    def from_published(
        cls, name: str, file: str | os.PathLike, image_size: tuple[int, int] | None = None
    ) -> GeoPlaceModel:
        """The model in a checkpoint that its authors published, see `geohf.place.published`.

        Args:
            name: one of `geohf.place.layouts.LAYOUTS`: `cosplace`, `eigenplaces`, `mixvpr`, `salad`, `cliquemining`,
                `boq-dinov2`, `boq-resnet50`, `megaloc`.
            file: the checkpoint, read as tensors alone.
            image_size: height and width that photographs are resized to, without a crop; None: those that it was
                published for. DINOv2 takes any multiples of 14, its position embeddings are brought to the size.

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
        return super().predict(inputs, batch_size, index=index, **options)

    def steps(self, index: PlaceIndex | str | os.PathLike | None = None, **options):
        """As `GeoPreTrainedModel.steps`; the index is opened once."""
        return super().steps(index=self.open_index(index), **options)

    def predict_sequences(
        self,
        inputs: Any,
        index: PlaceIndex | str | os.PathLike,
        sequences: Sequence | None = None,
        center: Center = "online",
        method: Method | None = "filter",
        top_k: int = 5,
        batch_size: int = 32,
        near: Any = None,
    ) -> list[PlacePrediction]:
        """Say where the photographs of drives were taken, with the order of their frames heard.

        Args:
            inputs: tables and folders of drives, or photographs in the order of time, see
                `geohf.place.frames.find_frames`.
            sequences: the name of each photograph's drive, instead of what the inputs say.
            center, method: see `geohf.place.sequences.center_descriptors` and `match_sequences`. The defaults look
                at earlier frames only. Without a method frames answer one by one.
            top_k: answers to give, at most as many as the index holds.
            near: see `PlaceIndex.search`.

        Returns:
            One answer per photograph, in the order of the inputs. Its `confidence` is the probability of the top answer
            given the frames where `chained`; the answers of a drive whose order explains nothing are those of its single
            frames with this `center`.

        Raises:
            DataError: an index of another model, see `match_sequences`.
        """
        check_options(center, method)
        index = self.open_index(index)
        frames = find_frames(inputs, self.samples, sequences)
        descriptors = self.encode(frames.images, batch_size)
        return answer_drives(index, descriptors, frames, self.config, center, method, top_k, near)

    def predict_to_file(
        self,
        sources: Any,
        output: str | os.PathLike,
        batch_size: int = 32,
        center: Center = "none",
        method: Method | None = None,
        **options,
    ) -> int:
        """As `GeoPreTrainedModel.predict_to_file`; with `center` or `method` drives answer as a whole.

        Args:
            center, method: see `predict_sequences`.
            options: of `predict`, and `on_error`.

        Raises:
            DataError: drives without an index, an index of another model, see `geohf.models.predicting`.
        """
        check_options(center, method)
        if center == "none" and method is None:
            return super().predict_to_file(sources, output, batch_size, **options)
        index = self.open_index(options.pop("index", None))
        if index is None:
            raise DataError("drives are searched for in an index: give one with --index")
        if options.pop("backend", "exact") != "exact":
            raise DataError("drives are searched for exactly: leave --backend out")
        refuse_overwriting(output, sources if isinstance(sources, (list, tuple)) else [sources])
        frames = find_frames(sources, self.samples)
        chosen = {"top_k": options.pop("top_k", 5), "near": options.pop("near", None)}
        chosen |= {"center": center, "method": method}
        finish = partial(answer_rows, index, frames, self.config, chosen)
        inputs = Inputs([(frames.names, frames.images)])
        return super().predict_to_file(inputs, output, batch_size, finish=finish, **options)

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`descriptors`, (batch, d) of length 1."""
        return {"descriptors": self(pixel_values).descriptors}

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
        **protocol,
    ) -> dict[str, float]:
        """Recall, and meters to the top answer, of queries that are searched for in a database.

        Args:
            data: a folder with `database` and `queries` (or `queries_NAME`, several), itself or in `images/test`, see
                `geohf.place.protocols`; or one with a `poses.csv` in each of its subfolders, in the order of their names,
                or a table or folder that `load_drives` takes, with a column of sequences, whose first drive is the
                database while the others ask.
            center, method: how the frames of a drive answer together, see `predict_sequences`; by default each
                answers alone.
            protocol: `utm`, the zone of coordinates without one (planar meters where a folder of `database` and
                `queries` has none); `radius_m`, meters within which an answer is right (the config's `confidence_m`);
                `recalls`, the N of recall; `rule`, which of both `r1`, `r5`, ... follow; `benchmark`, a name of
                `geohf.place.protocols.BENCHMARKS`: 25 m, the N 1, 5, 10 and 20, the rule `all`, and a warning where the
                set has another size.

        Returns:
            See `geohf.place.metrics.place_metrics`, and `database`, its size; with several sets of queries the names
            begin with `NAME/`.

        Raises:
            DataError: a single drive, queries that are in the database, see `load_drives` and `retrieve`.
        """
        from geohf.place.evaluation import evaluate_place

        return evaluate_place(self, data, batch_size, on_error, center, method, **protocol)

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
        self,
        outputs: GeoPlaceOutput,
        index: PlaceIndex | None = None,
        top_k: int = 5,
        near: Any = None,
        backend: Backend = "exact",
    ) -> list[PlacePrediction]:
        """Turn outputs into answers.

        Args:
            index: see `open_index`.
            top_k: answers to give, at most as many as the index holds.
            near, backend: see `PlaceIndex.search`.
        """
        descriptors = outputs.descriptors.float().cpu().numpy()
        if index is None:
            return [PlacePrediction(descriptor) for descriptor in descriptors]
        similarity, rows = index.search(descriptors, top_k, near=near, backend=backend)
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
    fields = {field: getattr(options, field) for field in (*MODEL_FIELDS, *POOLING_FIELDS)}
    pooling = options.pooling or ("mixvpr" if is_sample else "tower")
    fields |= {"pooling": pooling, "confidence_m": options.radii_m[0], **_head_fields(options, pooling)}
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
            fit=options.fit or "squeeze",
            **fields,
        )


def _head_fields(options: PlaceArguments, pooling: str) -> dict[str, Any]:
    head = options.head
    if head is None:
        projects = pooling in PROJECTING_POOLINGS
        named = options.projection_dim or (options.methods[0] == "original" and not projects)
        without = projects or options.projection_dim == 0
        head = "mlp" if named else "none" if without else "residual"
    dim = (options.projection_dim or 256) if head == "mlp" else None
    return {"head": "residual" if head == "residual" else "mlp", "projection_dim": dim}


def _is_place_model(name: str) -> bool:
    if name in ENCODERS or not ("/" in name or Path(name).is_dir()):  # timm's names need no look at the Hub
        return False
    return backbone_config(name)[1].get("model_type") == GeoPlaceConfig.model_type
