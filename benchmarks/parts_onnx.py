"""ONNX files of a detector that answers with queries, in 8 and 16 bits: their size, time and answers beside those in 32 bits.

    python benchmarks/parts_onnx.py

Trains rt_detr_v2 on a few painted photos until it knows them by heart, writes it as ONNX, converts the file with
onnxruntime's own tools, and prints the table that docs/parts.md shows. `agreement` is the share of the 32-bit file's boxes with a
score of at least 0.3 that the other file tells with the same part and state, at IoU 0.9. Times are CPU time on one thread.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torchvision.ops import box_iou
from transformers import set_seed

from geohf.data.task_data import TaskData
from geohf.parts.arguments import PartArguments, PartTrainingArguments
from geohf.parts.data import load_parts
from geohf.parts.evaluator import evaluate_detections
from geohf.parts.metrics import dataset_targets
from geohf.parts.modeling import PartStateModel, make_model
from geohf.parts.processing import open_photo
from geohf.parts.sample import SAMPLE_DETECTORS, write_sample
from geohf.parts.trainer import PartStateTrainer
from geohf.report.tables import markdown_table

SURE = 0.3  # score of a box that is compared
SAME = 0.9  # IoU of what is one box in both answers
Convert = Callable[[str, str], None]


class Photos:
    """The photos that fix the ranges of activations, one at a time, as onnxruntime asks for them."""

    def __init__(self, images: np.ndarray):
        self.batches = iter(images[:, None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def train(folder: str, photos: int, steps: int) -> tuple[PartStateModel, TaskData]:
    """A detector that has seen these photos, 128 x 96 pixels each, so often."""
    rows = load_parts(write_sample(f"{folder}/sample", size=photos, width=128))[0]["train"]
    fields = dict(SAMPLE_DETECTORS["rt_detr_v2"], image_size=[96, 128])
    options = PartArguments(architecture="rt_detr_v2", pretrained=False, config_overrides=json.dumps(fields))
    args = PartTrainingArguments(
        output_dir=f"{folder}/out",
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        max_grad_norm=1.0,
        warmup_steps=20,
        augment=False,
        eval_strategy="no",
        save_strategy="no",
        dataloader_num_workers=0,
        disable_tqdm=True,
        use_cpu=True,
    )
    data = TaskData(rows, rows)
    set_seed(args.seed)
    trainer = PartStateTrainer(make_model(options, data), args, None, rows)
    trainer.train()
    return trainer.model, data


def conversions(images: np.ndarray) -> dict[str, Convert]:
    """What onnxruntime has, by what the table calls it."""
    signed = QuantType.QInt8

    def static(source: str, target: str, operations: list[str]) -> None:
        quantize_static(
            source,
            target,
            Photos(images),
            op_types_to_quantize=operations,
            per_channel=True,
            weight_type=signed,
        )

    def half(source: str, target: str) -> None:
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)

    return {
        "float16": half,
        "int8 weights, ranges at run time": lambda a, b: quantize_dynamic(a, b, weight_type=signed),
        "int8 weights of MatMul alone, likewise": lambda a, b: quantize_dynamic(
            a, b, weight_type=signed, op_types_to_quantize=["MatMul"]
        ),
        "int8 convolutions, ranges from the photos": lambda a, b: static(a, b, ["Conv"]),
        "int8 convolutions and MatMul, likewise": lambda a, b: static(a, b, ["Conv", "MatMul", "Gemm"]),
    }


def answers(path: str, images: np.ndarray, rounds: int) -> tuple[list[dict[str, np.ndarray]], float]:
    """What a file tells of each photo, as `evaluate_detections` takes it, and the least milliseconds a photo."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, took = [output.name for output in session.get_outputs()], []
    for _ in range(rounds):
        start = time.process_time()
        found = dict(zip(names, session.run(None, {"images": images}), strict=True))
        took.append(time.process_time() - start)
    told = {name: found[name] for name in ("boxes", "labels", "scores")}
    told |= {"states": found["state_probs"].argmax(-1), "state_scores": found["state_probs"].max(-1)}
    each = [{name: values[i] for name, values in told.items()} for i in range(len(images))]
    return each, 1000 * min(took) / len(images)


def agreement(ours: list[dict], theirs: list[dict]) -> float:
    """Share of the sure boxes of one file that another tells, too."""
    same = []
    for one, other in zip(ours, theirs, strict=True):
        sure = one["scores"] >= SURE
        overlaps = box_iou(*(torch.from_numpy(found["boxes"]) for found in (one, other))).numpy()
        alike = [one[name][:, None] == other[name][None] for name in ("labels", "states")]
        same += ((overlaps >= SAME) & alike[0] & alike[1]).any(1)[sure].tolist()
    return float(np.mean(same)) if same else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice, a line an operation
    with tempfile.TemporaryDirectory() as folder:
        model, data = train(folder, options.photos, options.steps)
        targets = dataset_targets(data.train, model.config)
        images = np.stack([open_photo(row).numpy() for row in data.train]).astype(np.float32) / 255
        whole = str(model.export_onnx(f"{folder}/float32.onnx"))
        reference, _ = answers(whole, images, 1)
        rows = []
        for name, convert in {"float32": None, **conversions(images)}.items():
            path = whole if convert is None else f"{folder}/other.onnx"
            if convert is not None:
                convert(whole, path)
            try:
                found, took = answers(path, images, options.rounds)
            except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
                rows.append({"": name, "answers": f"none: {str(error).splitlines()[0][:80]}"})
                continue
            numbers = evaluate_detections(found, targets, model.config.num_labels, model.config.num_states)
            rows.append(
                {
                    "": name,
                    "MB": round(Path(path).stat().st_size / 1e6, 2),
                    "CPU ms a photo": round(took, 1),
                    "mAP": round(numbers["map"], 3),
                    "joint mAP": round(numbers["joint_map"], 3),
                    "agreement": round(agreement(reference, found), 3),
                }
            )
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
