"""Descriptors of real photographs in other number formats and in ONNX, against float32: a corridor walked twice (VPR-Bench).

    python benchmarks/place_precision.py path/to/corridor

The folder holds `ref/`, `query/` and `ground_truth.json`; the backbone is frozen and sees the whole picture. int8 is what
onnxruntime makes of the exported file; `--feature_mode int8` changes linear layers alone, which a CNN does not have.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)

from geohf.models.export import INPUT, export_onnx
from geohf.place import GeoPlaceModel
from geohf.place.metrics import recall_of_ranks
from geohf.place.search import top_k
from geohf.report.tables import markdown_table

BATCH = 16
CALIBRATION = 32  # photographs by which the ranges of activations are found


class Photographs(CalibrationDataReader):
    """References one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, images: torch.Tensor):
        self.inputs = iter([{INPUT: image[None].numpy()} for image in images])

    def get_next(self) -> dict | None:
        return next(self.inputs, None)


def ways(
    model: GeoPlaceModel, images: torch.Tensor, folder: Path
) -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """Name and function of each way from (n, 3, height, width) pixels between 0 and 1 to descriptors."""
    mean, std = (
        torch.tensor(getattr(model.processor, f"image_{name}"))[:, None, None] for name in ("mean", "std")
    )

    def eager(batch: torch.Tensor) -> torch.Tensor:
        return model((batch - mean) / std).descriptors

    def autocast(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return eager(batch)

    def session(file: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run
        return lambda batch: torch.from_numpy(run(["descriptors"], {INPUT: batch.numpy()})[0])

    yield "float32", eager
    yield "bf16, autocast", autocast
    whole, prepared, small = (folder / f"{name}.onnx" for name in ("whole", "prepared", "int8"))
    export_onnx(model, whole)
    yield "float32, ONNX", session(whole)
    # which fails on a batch of any size
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(str(prepared), str(small), weight_type=QuantType.QUInt8)
    yield "int8, ONNX, dynamic", session(small)
    for per_channel in (False, True):
        calibration = Photographs(images[:: max(len(images) // CALIBRATION, 1)])
        quantize_static(str(prepared), str(small), calibration, per_channel=per_channel)
        scales = "a channel" if per_channel else "a layer"
        yield f"int8, ONNX, calibrated, a scale {scales}", session(small)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice about preparing, which is done
    truth = json.loads((options.folder / "ground_truth.json").read_text())
    right = [truth[str(query)] for query in range(len(truth))]
    matches = np.cumsum([0, *map(len, right)]), np.concatenate(right)
    model = GeoPlaceModel.from_backbone(options.backbone, projection_dim=None, fit="squeeze").eval()
    mean, std = (
        torch.tensor(getattr(model.processor, f"image_{name}"))[:, None, None] for name in ("mean", "std")
    )
    references, queries = (
        model.processor(sorted((options.folder / part).glob("*.jpg")))["pixel_values"] * std + mean
        for part in ("ref", "query")
    )
    table, exact = [], None
    with tempfile.TemporaryDirectory() as scratch:
        for name, describe in ways(model, references, Path(scratch)):
            parts = [
                torch.cat([describe(batch).float() for batch in part.split(BATCH)])
                for part in (references, queries)
            ]
            both = torch.cat(parts)
            exact = both if exact is None else exact
            cosines = torch.cosine_similarity(both, exact)
            recall = recall_of_ranks(top_k(*parts, 10)[1].numpy(), matches)
            table.append(
                {
                    "descriptors": name,
                    "cosine to float32, least": f"{cosines.min():.6f}",
                    "mean": f"{cosines.mean():.6f}",
                }
                | {f"R@{n}": f"{value:.3f}" for n, value in recall.items()}
            )
    print(f"{len(queries)} queries among {len(references)} references\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main()
