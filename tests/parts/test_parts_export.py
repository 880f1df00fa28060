"""ONNX answers as the model does."""

import numpy as np
import pytest
import torch
from helpers.parts_models import build_model, build_query_model, photos

from geohf.errors import DataError
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


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine", "lw_detr"])
def test_onnx_of_queries_takes_any_number_of_photos(architecture, tmp_path):
    """As sets: where scores are nearly equal, their order may differ."""
    model = build_query_model(architecture, absent="detect", state_per_part=True)
    path = export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == list(OUTPUTS)
    images = torch.rand(3, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(getattr(model.processor, f"image_{of}"))[:, None, None] for of in ("mean", "std")
    )
    with torch.inference_mode():
        outputs = model((images - mean) / std)
    (expected, *_) = model.processor.post_process_object_detection(outputs, 0.0, [(64, 128)] * 3)
    for count in (1, 2, 3):
        found = dict(zip(names, session.run(None, {"images": images[:count].numpy()}), strict=True))
        assert found["boxes"].shape[:2] == (count, 36)
        if count == 1:
            np.testing.assert_allclose(found["scores"][0], expected["scores"], atol=1e-4)
        for i in range(count):
            ours, theirs = _rows_of(outputs, i), _found_rows(found, i)
            away = np.abs(ours[:, None] - theirs[None]).max(-1)
            assert away.min(0).max() < 1e-4
            assert away.min(1).max() < 1e-4


def _rows_of(outputs, i):
    boxes = outputs.pred_boxes[i]
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    columns = [corners, outputs.pred_labels[i, :, None], outputs.scores[i, :, None], outputs.state_probs[i]]
    return torch.cat(columns, 1).numpy()


def _found_rows(found, i):
    boxes = found["boxes"][i] / np.array([128, 64, 128, 64])
    columns = [boxes, found["labels"][i, :, None], found["scores"][i, :, None], found["state_probs"][i]]
    return np.concatenate(columns, 1)


def test_what_onnx_has_no_word_for_is_refused(tmp_path):
    with pytest.raises(DataError, match="rf_detr resizes its positions"):
        export_onnx(build_query_model("rf_detr"), tmp_path / "model.onnx")
    with pytest.raises(DataError, match="one for one photo at a time"):
        build_model().export_onnx(tmp_path / "model.onnx")
