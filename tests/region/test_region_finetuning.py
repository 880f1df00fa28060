"""How much of the backbones learns, and what is kept where that does not help."""

import copy
import math
from types import SimpleNamespace

import pytest
import timm
import torch
from helpers.region_models import arguments_of, build_model, options_of, tensors
from safetensors.torch import save_file

from geohf.errors import DataError
from geohf.region import GeoRegionModel
from geohf.region.data import load
from geohf.region.features import feature_table
from geohf.region.modeling import make_model
from geohf.region.phase import RegionPhaseTrainer
from geohf.region.trainer import GeoRegionTrainer
from geohf.training.finetuning import layer_shares, unfreeze
from geohf.training.report import write_report


@pytest.fixture(scope="module")
def data(samples):
    return load(options_of(samples("wgs84"), dbscan_eps=0.0))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Weights as if they had been published, of a backbone with attention."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "vit.safetensors"
    tower = timm.create_model("test_vit", num_classes=0, img_size=48)
    save_file({name: value.contiguous() for name, value in tower.state_dict().items()}, path)
    return path


@pytest.fixture
def trainer_of(data, published, samples, tmp_path):
    def make(experts, **changes):
        options = options_of(
            samples("wgs84"),
            experts=experts,
            backbone="test_vit",
            pretrained=None,
            backbone_weights=str(published),
            dbscan_eps=0.0,
        )
        settings = {
            "num_train_epochs": 1,
            "head_epochs": 1,
            "t_0": 0,
            "cache_dir": str(tmp_path / "cache"),
            "finetune_blocks": 1,
        }
        model = make_model(options, data)
        args = arguments_of(tmp_path / "run", **(settings | changes))
        rows = {"train_dataset": data.train, "eval_dataset": data.validation}
        return GeoRegionTrainer(model, args, **rows)

    return make


def changed_of(before, model) -> set[str]:
    after = model.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("experts", "finetune"),
    [("shared", "none"), ("shared", "last"), ("separate", "lora")],
)
def test_as_much_of_the_backbones_learns_as_is_asked_for(trainer_of, tmp_path, experts, finetune):
    trainer = trainer_of(experts, finetune=finetune, backbone_learning_rate=1e-4)
    before = tensors(trainer.model)
    trainer.score = lambda *_, **__: -math.inf  # what was trained is kept, better or not
    trainer.train()
    changed = changed_of(before, trainer.model)
    towers = {name for name in changed if "tower." in name}
    assert {name.split(".")[0] for name in changed - towers} == {"router", "experts"}
    learned = {
        "none": lambda name: False,
        "last": lambda name: ".blocks.5." in name or ".norm." in name,
        "lora": lambda name: name.endswith((".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight")),
    }[finetune]
    assert all(learned(name) for name in towers)
    assert bool(towers) == (finetune != "none")
    own = {name.split("tower.")[0] for name in before if "tower." in name}
    assert {name.split("tower.")[0] for name in towers} == (own if towers else set())
    assert trainer.stages.keys() == (set() if finetune == "none" else {"frozen", "fine-tuned"})
    assert trainer.kept == (None if finetune == "none" else "fine-tuned")
    trainer.model.save_pretrained(tmp_path / "model")
    again = GeoRegionModel.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(again[name], value) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("part", ["expert", "router"])
def test_frozen_with_the_cache_is_frozen_without(data, tmp_path, part):
    model = build_model(predict_heading=part == "router")
    args = arguments_of(
        tmp_path / "run", finetune="none", augment="none", t_0=0, cache_dir=str(tmp_path / "cache")
    )
    trainer = GeoRegionTrainer(model, args, train_dataset=data.train, eval_dataset=data.validation)
    learner = trainer._learners()[1 if part == "expert" else -1]
    plain = copy.deepcopy(model)
    module = plain.experts[1] if part == "expert" else plain.router_module()
    before = tensors(module)
    trainer._train_heads(learner, resume=False, first=False)
    losses = [row["eval_loss"] for row in trainer.histories[learner.title] if "eval_loss" in row]
    assert trainer.score(learner.module, learner.checked, "loss", whole=trainer.model) == pytest.approx(
        -min(losses), abs=1e-5
    )
    unfreeze(module, SimpleNamespace(finetune="none"))
    rows = {"train_dataset": learner.rows, "eval_dataset": learner.checked}
    arguments = arguments_of(tmp_path / "plain", augment="none", t_0=0, metric_for_best_model="loss")
    RegionPhaseTrainer(module, arguments, whole=plain, **rows).run()
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())
    cached, found = learner.module.state_dict(), module.state_dict()
    for name, value in found.items():
        torch.testing.assert_close(cached[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("experts", ["shared", "separate"])
def test_what_fine_tuning_made_worse_is_not_kept(trainer_of, data, caplog, experts):
    trainer = trainer_of(experts, backbone_learning_rate=1e-3)
    trainer.score = lambda *_, **__: math.inf  # nothing is as good as what was there
    before = tensors(trainer.model)
    trainer.train()
    assert not any("tower." in name for name in changed_of(before, trainer.model))
    assert trainer.kept == "frozen"
    assert "the frozen backbone is kept" in caplog.text
    outputs = trainer.outputs(data.validation)
    found = trainer.measure(data.validation, outputs, intervals=False).values_by_name
    assert found["given_mean_m"] == pytest.approx(trainer.stages["frozen"]["given_mean_m"], abs=1e-3)
    write_report(trainer, trainer.evaluate(data.test))
    assert "(kept: frozen)" in (trainer.run_folder / "README.md").read_text()


def test_adapters_need_attention_and_say_so_before_the_work(data, tmp_path):
    args = arguments_of(tmp_path / "run", finetune="lora")
    trainer = GeoRegionTrainer(build_model(), args, train_dataset=data.train, eval_dataset=data.validation)
    with pytest.raises(DataError, match="finetune lora adapts the linear layers"):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_features_have_what_each_part_learns_from(data, tmp_path):
    model = build_model("shared", predict_heading=True)
    args = arguments_of(tmp_path, cache_dir=str(tmp_path / "cache"))
    rows = data.train.select(range(5))
    expert, router = (
        feature_table(part, model, rows, args).columns for part in (model.experts[0], model.router_module())
    )
    assert expert.keys() == {"features", "coordinates"}
    assert router.keys() == {"features", "labels", "headings"}
    assert router["headings"].tolist() == rows["heading"][:]
    assert torch.equal(expert["features"], router["features"])
    paths = [image["path"] for image in rows["image"][:]]
    named = feature_table(
        model.experts[0], model, rows.remove_columns("image").add_column("image", paths), args
    )
    assert torch.equal(named.columns["features"], expert["features"])


@pytest.mark.parametrize("evaluated", ["no", "epoch"])
@pytest.mark.parametrize(
    ("scores", "kept"), [((0.0, 1.0), "fine-tuned"), ((1.0, 0.0), "frozen"), ((0.0, math.nan), "frozen")]
)
def test_the_weights_that_are_left_are_compared_where_no_best_ones_are_taken(
    trainer_of, evaluated, scores, kept
):
    changes = {"eval_strategy": evaluated, "load_best_model_at_end": False, "max_steps": 1}
    trainer = trainer_of("shared", finetune="last", backbone_learning_rate=1e-4, **changes)
    found = iter(scores)
    trainer.score = lambda *_, **__: next(found)
    trainer.train()
    assert trainer.kept == kept


def test_adapters_of_a_stream_need_attention_too(data, tmp_path):
    args = arguments_of(tmp_path / "run", finetune="lora", max_steps=1)
    rows = data.train.to_iterable_dataset()
    trainer = GeoRegionTrainer(build_model(), args, train_dataset=rows, eval_dataset=data.validation)
    with pytest.raises(DataError, match="finetune lora adapts the linear layers"):
        trainer.train()


@pytest.mark.parametrize("regions", [["3"], "3", [3], [3.0, "3"]])
def test_regions_to_retrain_are_named_as_people_name_them(data, tmp_path, regions):
    trainer = GeoRegionTrainer(
        build_model(), arguments_of(tmp_path), train_dataset=data.train, regions=regions
    )
    assert [learner.title for learner in trainer._learners()] == ["region 3"]


@pytest.mark.parametrize("regions", [[None], [""], ["33"]])
def test_regions_to_retrain_that_are_none_are_refused(data, tmp_path, regions):
    with pytest.raises(DataError, match=r"regions: an empty name|no region '33'"):
        GeoRegionTrainer(build_model(), arguments_of(tmp_path), train_dataset=data.train, regions=regions)


def test_every_backbone_has_its_shares_of_the_learning_rate():
    model = build_model()
    shares = layer_shares(model, 0.5)
    for tower in (model.tower, *(expert.tower for expert in model.experts)):
        found = {shares[id(parameter)] for parameter in tower.parameters()}
        assert len(found) > 2
        assert found == {shares[id(parameter)] for parameter in model.tower.parameters()}
    assert layer_shares(model, 1.0) == layer_shares(model.router, 0.5) == {}


@pytest.mark.parametrize("empty", ["train_dataset", "eval_dataset"])
def test_no_rows_are_refused_before_the_work(data, tmp_path, empty):
    rows = {"train_dataset": data.train, "eval_dataset": data.validation} | {empty: []}
    trainer = GeoRegionTrainer(build_model(), arguments_of(tmp_path / "run"), **rows)
    with pytest.raises(DataError, match=f"the {empty} holds no row"):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoints").exists()
