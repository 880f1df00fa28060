"""ONNX files of pixels: onnxruntime answers as torch does, for one image and for three."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from helpers import place_models, region_models, street_models
from PIL import Image

from geohf.errors import DataError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnx", reason="needs onnx")


def place(**fields):
    return place_models.build_model(projection_dim=None, **fields)


def street(**fields):
    return street_models.spread_out(street_models.build_model(temperature=2.0, **fields))


def street_refined(**fields):
    """With prototypes at two pictures of each class, or with a ranker of these classes, whose weights are random."""
    model = street(**fields)
    if model.config.refine:
        places = torch.randn(10, model.config.feature_size, generator=torch.Generator().manual_seed(1))
        points = np.array(model.config.class_centroids)[np.arange(10) % 5] + 0.1 * np.arange(10)[:, None]
        model.head.prototypes.fit(places, points, np.arange(10) % 5, 2)
        model.config.prototypes = len(model.head.prototypes.points)
    else:
        torch.nn.init.normal_(model.head.ranker.change[1].weight)
    return model


MODELS = {
    "place": lambda: place_models.build_model(),
    "place gem": lambda: place(pooling="gem"),
    "place mixvpr": lambda: place(pooling="mixvpr"),
    "place boq": lambda: place(pooling="boq"),
    "place salad": lambda: place(pooling="salad", clusters=3),
    "place netvlad": lambda: place(pooling="netvlad"),
    "place supervlad": lambda: place(pooling="supervlad"),
    "region": lambda: region_models.build_model("separate", temperature=1.7),
    "region shared": lambda: region_models.build_model("shared", temperature=1.7),
    "region planar": lambda: region_models.build_model("shared", "planar"),
    "street": lambda: street(),
    "street mean": lambda: street(point_estimate="mean"),
    "street medoid": lambda: street(point_estimate="medoid"),
    "street attention": lambda: street(fusion="attention"),
    "street prototypes": lambda: street_refined(refine=2),
    "street ranker": lambda: street_refined(rank=4, ranked=True),
    "street regresses": lambda: street_models.build_model(classes=False),
    "street gallery": lambda: street_models.build_model(gps_head="gallery", location_encoder="sphere"),
}


def session_of(model, path):
    session = onnxruntime.InferenceSession(str(model.export_onnx(path)), providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("name", MODELS)
def test_onnx_answers_as_torch(name, tmp_path):
    model = MODELS[name]().eval()
    session, told = session_of(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert told["model_type"] == model.config.model_type
    assert json.loads(told["preprocessor"])["image_mean"] == list(model.processor.image_mean)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, int(told["height"]), int(told["width"]), generator=generator)
    mean, std = (
        torch.tensor(getattr(model.processor, f"image_{of}"))[:, None, None] for of in ("mean", "std")
    )
    with torch.inference_mode():
        expected = model.export_outputs((images - mean) / std)
    assert [output.name for output in session.get_outputs()] == list(expected)
    for rows in (1, 3):
        found = session.run(None, {"images": images[:rows].numpy()})
        for ours, theirs in zip(expected.values(), found, strict=True):
            np.testing.assert_allclose(ours[:rows].numpy(), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", ["place", "region", "street"])
def test_onnx_answers_as_predict(task, tmp_path):
    """From photographs of the model's own size, so that nothing is resized."""
    model = MODELS[task]().eval()
    session, told = session_of(model, tmp_path / "model.onnx")
    height, width = int(told["height"]), int(told["width"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    size = {"height": height, "width": width}
    model.config.image_processor = {**model.config.image_processor, "size": size}
    answers = model.predict([Image.fromarray(picture) for picture in pixels])
    names = [output.name for output in session.get_outputs()]
    found = dict(
        zip(names, session.run(None, {"images": pixels.transpose(0, 3, 1, 2) / np.float32(255)}), strict=True)
    )
    if task == "place":
        np.testing.assert_allclose(found["descriptors"], [a.descriptor for a in answers], atol=1e-4)
        return
    points = [(answer.latitude, answer.longitude) for answer in answers]
    np.testing.assert_allclose(found["coordinates"], points, atol=1e-4)
    best = [(a.regions if task == "region" else a.states)[0].probability for a in answers]
    np.testing.assert_allclose(found["probabilities"].max(1), best, atol=1e-4)


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    from geohf.recipes import export

    MODELS["place gem"]().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "model"), "--output", str(tmp_path / "m.onnx")])
    export.main()
    assert (tmp_path / "m.onnx").stat().st_size > 1000
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DataError, match=r"pip install 'geohf\[export\]'"):
        export.main()
