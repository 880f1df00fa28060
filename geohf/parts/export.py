"""A detector as an ONNX file: Faster R-CNN for one photo at a time, with queries for any number."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from geohf.errors import optional_package
from geohf.parts.decisions import with_temperatures
from geohf.parts.modeling import PartStateModel

OUTPUTS = ("boxes", "labels", "scores", "state_probs")


class OnePhoto(nn.Module):
    """(1, 3, height, width) to boxes (n, 4) in its pixels, labels, scores (n,) and state_probs (n, states)."""

    def __init__(self, model: PartStateModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = pixel_values.shape[-2:]
        images = ImageList(pixel_values, [(height, width)])
        (detections,) = self.model.detect(images, self.model.feature_maps(pixel_values), (height, width))
        detections = with_temperatures(detections, self.model.config)
        return tuple(detections[name] for name in output_names(self.model))


def output_names(model: PartStateModel) -> list[str]:
    """What a Faster R-CNN's file answers with."""
    return [*OUTPUTS, *(["attribute_probs"] if model.config.attributes else [])]


def export_onnx(model: PartStateModel, path: str | Path) -> Path:
    """Write a detector as ONNX; one that answers with queries as `geohf.models.export` does, for any number of photos.

    Of Faster R-CNN: `pixel_values` (1, 3, H, W) of the config's `image_size` to the `output_names`.

    The photo is prepared as the model's image processor does. Boxes are in pixels of the tensor: divide them by the
    photo's share of it, `image_sizes / original_sizes`.

    Raises:
        DataError: the package onnx is missing, or it has no word for what the detector does.
    """
    if model.answers_with_queries:
        return model.export_onnx(path)
    optional_package("onnx", "export", "exporting needs")  # the exporter writes with it
    path = Path(path)
    with torch.no_grad():
        torch.onnx.export(
            OnePhoto(copy.deepcopy(model).eval().cpu()),
            (torch.zeros(1, 3, *model.config.image_size),),
            str(path),
            input_names=["pixel_values"],
            output_names=output_names(model),
            dynamic_axes={name: {0: "parts"} for name in output_names(model)},
            opset_version=17,
            # the newer exporter cannot follow how proposals are chosen
            dynamo=False,
        )
    return path
