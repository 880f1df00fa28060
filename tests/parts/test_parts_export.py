"""ONNX answers as the model does."""

import numpy as np
import pytest
import torch
from helpers.parts_models import build_model, photos

from geohf.parts.export import OUTPUTS, export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.mark.parametrize(
    "fields",
    [{"box_detections_per_image": 500}, {"one_per_part": True, "absent": "detect", "state_per_part": True}],
)
def test_onnx_finds_the_same_parts(fields, tmp_path):
    model = build_model(**fields)
    path = export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    counts = set()
    for seed in range(4):
        inputs = model.processor(photos(1, seed=seed, size=(64, 96)))["pixel_values"]
        found = dict(zip(OUTPUTS, session.run(None, {"pixel_values": inputs.numpy()}), strict=True))
        with torch.inference_mode():
            outputs = model(inputs)
        (expected,) = model.processor.post_process_object_detection(outputs, 0.0, [(64, 96)])
        counts.add(len(expected["labels"]))
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4, err_msg=name)
    assert max(counts) > 2
    assert len(counts) > 1 or "one_per_part" in fields  # the number of parts is no constant of the graph


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = build_model().train()
    export_onnx(model, tmp_path / "model.onnx")
    assert model.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
