"""Detectors of transformers: saved, loaded, started from published weights, and trained by the recipe."""

import json

import pytest
import torch
from helpers.parts_models import PARTS, STATES, build_query_model, parse
from transformers import AutoConfig, AutoModelForObjectDetection

from geohf.errors import DataError
from geohf.parts import PartStateModel
from geohf.parts.configuration import DETECTORS
from geohf.recipes.train_parts import run


def outputs(model):
    with torch.inference_mode():
        return model(torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("architecture", DETECTORS)
def test_a_saved_detector_gives_the_same_bits(architecture, tmp_path):
    model = build_query_model(architecture)
    model.save_pretrained(tmp_path)
    loaded = PartStateModel.from_pretrained(tmp_path).eval()
    for (name, own), (_, other) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(own, other), name
    expected, found = outputs(model), outputs(loaded)
    for name in ("pred_boxes", "pred_labels", "scores", "state_probs"):
        assert torch.equal(expected[name], found[name]), name
    assert "tmp" not in (tmp_path / "config.json").read_text()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A detector of five classes as transformers saves it, with the processor of RT-DETR."""
    folder = tmp_path_factory.mktemp("published") / "rtdetr_v2_tiny"
    fields = dict(build_query_model("rt_detr_v2").config.detector_config) | {"anchor_image_size": [64, 64]}
    torch.manual_seed(1)
    config = AutoConfig.for_model("rt_detr_v2", num_labels=5, **fields)
    detector = AutoModelForObjectDetection.from_config(config).eval()
    detector.save_pretrained(folder)
    processor = {"image_processor_type": "RTDetrImageProcessor", "do_normalize": False}
    processor |= {"size": {"height": 64, "width": 130}, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder, detector


def test_published_weights_are_taken_but_for_the_classes(published):
    folder, detector = published
    model = PartStateModel.from_backbone(str(folder), id2label=PARTS, id2state=STATES)
    config = model.config
    assert (config.architecture, config.norm, config.image_size) == ("rt_detr_v2", "batch", [64, 128])
    assert config.backbone_name == "rtdetr_v2_tiny"
    assert config.backbone_license == "apache-2.0"
    assert config.image_processor == {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    theirs, new = detector.state_dict(), set()
    for name, tensor in model.detector.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            assert torch.equal(tensor, theirs[name]), name
        else:
            new.add(name.split(".")[-2] if name[-6] != "." else name)
    biases = [
        p
        for n, p in model.detector.named_parameters()
        if n.endswith(("score_head.bias", "class_embed.0.bias"))
    ]
    for bias in biases:  # a probability of 0.01
        torch.testing.assert_close(bias, torch.full((3,), -4.59512))
    assert biases
    assert new
    # from what geohf saved of it, with other parts again
    again = PartStateModel.from_detector(
        _saved(model, folder.parent / "ours"), id2label={0: "a"}, id2state={0: "x", 1: "y"}, absent_state=None
    )
    weight = "model.enc_bbox_head.layers.0.weight"
    assert torch.equal(dict(again.detector.named_parameters())[weight], theirs[weight])
    assert again.config.image_processor == config.image_processor


def _saved(model, folder):
    model.save_pretrained(folder)
    return str(folder)


def test_random_weights_of_a_published_detector_learn_with_group_norms(published):
    model = PartStateModel.from_detector(str(published[0]), pretrained=False, id2label=PARTS, id2state=STATES)
    assert model.config.norm == "group"
    assert model.config.backbone_name is None
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def test_what_is_no_detector_is_refused(published, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    fields = {"id2label": PARTS, "id2state": STATES}
    with pytest.raises(DataError, match=r"holds no detector of rt_detr_v2, .*, but clip"):
        PartStateModel.from_detector(str(folder), **fields)
    with pytest.raises(DataError, match="d_fine alone names no weights: give the repo or folder"):
        PartStateModel.from_detector("d_fine", **fields)
    with pytest.raises(DataError, match="architecture must be one of rt_detr_v2, d_fine"):
        parse("--architecture", "yolo")
    options, args = parse(
        "--architecture", "d_fine", "--backbone", published[0], "--output_dir", tmp_path / "out"
    )
    options.sample_size = 24
    with pytest.raises(DataError, match="is rt_detr_v2, and not --architecture d_fine"):
        run(options, args)
    (tmp_path / "torn").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "torn" / name).write_text((published[0] / name).read_text())
    with pytest.raises(DataError, match=r"torn: .*holds no weights|torn: .*cannot be loaded"):
        PartStateModel.from_detector(str(tmp_path / "torn"), **fields)


def test_the_recipe_trains_a_detector_and_goes_on_with_it(bikes, tmp_path):
    detector = build_query_model("d_fine").config.detector_config
    words = ["--data", bikes, "--architecture", "d_fine", "--pretrained", "false", "--image_size", 64, 96]
    words += ["--config_overrides", json.dumps({"detector_config": detector | {"num_queries": 40}})]
    words += [
        "--output_dir",
        tmp_path,
        "--num_train_epochs",
        1,
        "--per_device_train_batch_size",
        4,
        "--overlays",
        1,
    ]
    trainer = run(*parse(*words))
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert {"loss", "classifier_loss", "box_reg_loss", "state_loss", "map"} <= set(numbers["eval"])
    assert "objectness_loss" not in numbers["eval"]
    card = (tmp_path / "README.md").read_text()
    assert "D-FINE" in card
    assert "Faster R-CNN" not in card
    loaded = PartStateModel.from_pretrained(tmp_path).eval()
    expected, found = outputs(trainer.model.eval()), outputs(loaded)
    assert torch.equal(expected.scores, found.scores)
    for name in ("up", "reg_scale"):  # constants among the parameters
        value = dict(loaded.detector.named_parameters())[f"model.decoder.{name}"]
        assert float(value) == float(getattr(loaded.detector.config, name))
    photo = next((bikes / "train").glob("*.jpg"))
    assert loaded.predict(photo)[0].width == 96
    assert loaded.evaluate(bikes)["loss"] > 0


def test_as_many_other_classes_begin_anew_and_the_same_go_on(tmp_path):
    """Layers of classes were taken wherever their number was the same, and called a part by another's name."""
    model = build_query_model("rt_detr_v2")
    folder = _saved(model, tmp_path / "ours")
    others = {number: f"other {name}" for number, name in PARTS.items()}
    theirs = model.detector.state_dict()
    for names, same in ((PARTS, True), (others, False)):
        again = PartStateModel.from_detector(folder, id2label=names, id2state=STATES).detector.state_dict()
        alike = {torch.equal(again[key], theirs[key]) for key in theirs if "class_embed.0.weight" in key}
        assert alike == {same}
        assert torch.equal(
            again["model.enc_bbox_head.layers.0.weight"], theirs["model.enc_bbox_head.layers.0.weight"]
        )


def test_the_head_of_the_same_states_goes_on(tmp_path):
    """It began anew without a word, though that of Faster R-CNN goes on."""
    model = build_query_model("rt_detr_v2")
    folder, own = _saved(model, tmp_path / "ours"), model.state_head.state_dict()
    others = {number: f"other {name}" for number, name in STATES.items()}
    wider = {"state_hidden_size": 2 * model.config.state_hidden_size}
    fields = {"state_hidden_size": model.config.state_hidden_size}
    for states, changed, same in (
        (STATES, {}, True),
        (others, {}, False),
        (STATES, wider, False),
        (STATES, {"state_per_part": not model.config.state_per_part}, False),
    ):
        names = {"id2label": PARTS, "id2state": states, "absent_state": None}
        again = PartStateModel.from_detector(folder, **names | fields | changed).state_head.state_dict()
        assert all(torch.equal(again[key], own[key]) for key in own) == same
