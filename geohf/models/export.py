"""A model as an ONNX file that takes plain pixels: mean and standard deviation, lengths and temperature are inside."""

from __future__ import annotations

import copy
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from geohf.errors import optional_package
from geohf.io import atomic_path, json_text

if TYPE_CHECKING:
    from geohf.models.answering import AnsweringModel

INPUT = "images"


class KnownOperations(TorchFunctionMode):
    """While it is entered, what the exporter has no word for is computed by what it has one for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == torch.Tensor.mT.__get__:  # type: ignore[attr-defined]
            return args[0].transpose(-1, -2)
        if func in (torch.deg2rad, torch.rad2deg):
            return args[0] * (math.pi / 180 if func is torch.deg2rad else 180 / math.pi)
        if func is torch.arctan2 and args[0].dtype == torch.float64:
            y, x = args  # runtimes have it in float32 alone: one step of Newton's gives the other digits
            guess = torch.arctan2(y.float(), x.float()).double()
            return guess + (y * guess.cos() - x * guess.sin()) / (x * x + y * y).sqrt()
        if func is functional.multi_head_attention_forward:
            return attention(*args), None
        return func(*args, **kwargs or {})


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    size: int,
    heads: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *others: Any,
) -> torch.Tensor:
    """`torch.nn.functional.multi_head_attention_forward` without masks, in shapes that follow the batch."""
    out_weight, out_bias = others[-2:]
    parts = zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True)
    split = [
        functional.linear(part.transpose(0, 1), w, b).unflatten(-1, (heads, size // heads)).transpose(1, 2)
        for part, w, b in parts
    ]
    attended = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    return functional.linear(attended, out_weight, out_bias).transpose(0, 1)


class OfPixels(nn.Module):
    """(batch, 3, height, width) of pixels from 0 to 1, red first, to the outputs of `AnsweringModel.export_outputs`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: AnsweringModel):
        super().__init__()
        self.model = model
        processor = model.processor
        for name in ("mean", "std"):
            values = torch.tensor(getattr(processor, f"image_{name}"), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.export_outputs((images - self.mean) / self.std).values())


def export_onnx(model: AnsweringModel, path: str | os.PathLike) -> Path:
    """Write a model as ONNX, opset 18.

    The file has one input, `images`, any number of (3, height, width) float32 from 0 to 1, red first, of the height and
    width in its metadata (`height`, `width`; `preprocessor` holds, as JSON, how the model's own processor brings a picture
    there). Its outputs are those of the model's `export_outputs`, by their names.

    Raises:
        DataError: the package onnx is missing, or the task has no such outputs.
    """
    onnx = optional_package("onnx", "export", "exporting needs")
    whole = OfPixels(copy.deepcopy(model).eval().float().cpu())
    # of one: what is traced as a constant of its batch then serves any number
    example = torch.rand(1, *model.dummy_inputs["pixel_values"].shape[-3:])
    with torch.no_grad():
        names = list(whole.model.export_outputs(example))
    axes = {name: {0: "batch"} for name in (INPUT, *names)}
    with atomic_path(path) as temporary:
        with torch.no_grad(), KnownOperations(), warnings.catch_warnings():
            # of the exporter, about itself and about shapes that are fixed here
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole,
                (example,),
                str(temporary),
                input_names=[INPUT],
                output_names=names,
                dynamic_axes=axes,
                opset_version=18,
                dynamo=False,  # the newer exporter needs another package
            )
        proto = onnx.load(str(temporary))
        told = {"height": example.shape[2], "width": example.shape[3], "model_type": model.config.model_type}
        told |= {"preprocessor": json_text(model.processor_settings)}
        onnx.helper.set_model_props(proto, {name: str(value) for name, value in told.items()})
        onnx.save(proto, str(temporary))
    return Path(path)
