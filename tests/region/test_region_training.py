"""Training: it learns, each expert by itself, and nothing else changes."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.region_models import arguments_of, build_model, options_of, small_run, table_of, tensors
from PIL import Image
from transformers import TrainerCallback

from geohf.data.tables import points_of
from geohf.data.task_data import TaskData
from geohf.errors import DataError
from geohf.geo.scalers import fit_scaler
from geohf.region import GeoRegionModel
from geohf.region.data import load
from geohf.region.phase import RegionPhaseTrainer, cosine_warm_restarts
from geohf.region.processing import RegionCollator, region_augmentation
from geohf.region.sample import write_sample
from geohf.region.selection import of_regions
from geohf.region.trainer import GeoRegionTrainer


@pytest.fixture(scope="module")
def data(samples):
    return load(options_of(samples("wgs84")))


def retrain(model, data, args, regions, **options):
    """The Trainer of a model of which these regions' experts were retrained."""
    rows = {"train_dataset": data.train, "eval_dataset": data.validation}
    trainer = GeoRegionTrainer(model, args, **rows, regions=regions)
    trainer.train(**options)
    return trainer


def own_tensors(model, region):
    number = model.region_number(region)
    return {f"experts.{number}.{name}" for name in model.experts[number].state_dict()}


# --- learning ---


def test_training_beats_the_centers_of_the_regions(tmp_path):
    sample = write_sample(tmp_path / "sample", seed=0, size=80)
    _, result = small_run(
        tmp_path, sample, experts="shared", num_train_epochs=20, t_0=20, augment="none", min_rows=20
    )
    every = table_of(result)[-1]
    assert every["given_mean_m"] < 0.5 * every["center_mean_m"]
    assert every["routed_mean_m"] < 0.4 * result.evaluated.baseline["routed_mean_m"]
    assert every["router_accuracy"] > 0.8


def test_bfloat16_trains_and_keeps_the_coordinates(samples, tmp_path):
    """Autocast for the towers; points stay float64, where bfloat16 would put them half a degree off."""
    _, result = small_run(tmp_path, samples("wgs84"), experts="shared", bf16=True)
    assert all(
        tensor.dtype == torch.float32
        for tensor in tensors(result.model).values()
        if tensor.is_floating_point()
    )
    assert table_of(result)[-1]["given_mean_m"] < 3 * table_of(result)[-1]["center_mean_m"]


@pytest.mark.parametrize(("frame", "loss"), [("wgs84", "haversine"), ("planar", "euclidean")])
def test_the_distance_can_be_the_loss(samples, tmp_path, frame, loss):
    _, result = small_run(
        tmp_path, samples(frame), frame=frame, point_loss=loss, experts="shared", num_train_epochs=1
    )
    assert result.model.config.point_loss == loss
    assert np.isfinite(table_of(result)[-1][f"given_mean_{result.model.config.unit}"])


# --- one region alone ---


@pytest.mark.parametrize("experts", ["separate", "shared"])
def test_retraining_one_region_leaves_all_others_as_they_are(experts, data, tmp_path, caplog):
    model = build_model(experts)
    before, scalers = tensors(model), [dict(scaler) for scaler in model.config.scalers]
    args = arguments_of(tmp_path, num_train_epochs=1, cache_dir=str(tmp_path / "cache"))
    fitted = fit_scaler(points_of(of_regions(data.train, ["3"])), "robust")
    model.set_scaler("3", fitted)
    trainer = retrain(model, data, args, ["3"])
    assert trainer.model is model
    assert list(trainer.histories) == ["region 3"]
    assert ("heads alone learn for 1 epochs (num_train_epochs" in caplog.text) == (experts == "shared")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= own_tensors(model, "3")
    assert [model.config.scalers[i] for i in (0, 2)] == [scalers[i] for i in (0, 2)]
    assert model.config.scalers[1] == fitted.to_dict() != scalers[1]


def test_the_recipe_retrains_one_region_of_a_saved_model(separate_run, samples, tmp_path):
    folder, first = separate_run
    run, second = small_run(
        tmp_path, samples("wgs84"), start_from=str(folder), regions=["5"], num_train_epochs=1
    )
    old, new = (tensors(GeoRegionModel.from_pretrained(path)) for path in (folder, run))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert changed <= own_tensors(second.model, "5")
    assert second.model.config.temperature == first.model.config.temperature
    assert [row["region"] for row in table_of(second)] == ["1", "3", "5", "all"]


def test_one_region_of_a_repo_is_retrained_and_pushed_alone(separate_run, samples, tmp_path, hub):
    """From the Hub and back, with a table of this region only: one commit, in which it alone has changed."""
    folder, first = separate_run
    GeoRegionModel.from_pretrained(folder).push_to_hub("org/towns")
    sample = samples("wgs84")
    lines = (sample / "labels_train.csv").read_text().splitlines()
    (tmp_path / "five.csv").write_text(
        "\n".join([lines[0], *(line for line in lines if line.endswith(",5"))])
    )
    small_run(
        tmp_path, sample, start_from="org/towns", regions=["5"], train_csv=str(tmp_path / "five.csv"),
        num_train_epochs=1, push_to_hub=True, hub_model_id="org/towns",
    )  # fmt: skip
    model = GeoRegionModel.from_pretrained("org/towns")
    old, new = tensors(first.model), tensors(model)
    changed = {name for name in old if not torch.equal(old[name].cpu(), new[name])}
    assert changed
    assert changed <= own_tensors(model, "5")
    before, after = first.model.config, model.config
    assert before.scalers[:2] == after.scalers[:2]
    assert before.scalers[2] != after.scalers[2]
    assert before.expert_errors[:2] == after.expert_errors[:2]
    assert (before.temperature, before.given_factor) == (after.temperature, after.given_factor)


def test_without_validation_no_radius_is_promised(separate_run, samples, tmp_path):
    _, new = small_run(
        tmp_path / "new", samples("wgs84"), validation_share=0, num_train_epochs=1, experts="shared"
    )
    _, again = small_run(
        tmp_path / "again", samples("wgs84"), validation_share=0, num_train_epochs=1, regions=["3"],
        start_from=str(separate_run[0]),
    )  # fmt: skip
    photo = str(next((samples("wgs84") / "images_val/images_val").iterdir()))
    for result in (new, again):
        assert result.model.predict(photo)[0].radius is None
        assert "given_mean_m" in table_of(result)[-1]


def test_a_start_that_does_not_fit_is_refused(separate_run, samples, tmp_path):
    folder, _ = separate_run
    with pytest.raises(DataError, match="is a wgs84 model, but --frame is planar"):
        small_run(tmp_path, samples("planar"), start_from=str(folder), frame="planar")
    with pytest.raises(DataError, match="knows no region '4'"):
        small_run(tmp_path, samples("wgs84"), start_from=str(folder), regions=["4"])
    with pytest.raises(DataError, match="nowhere: no model can be loaded from there"):
        small_run(tmp_path, samples("wgs84"), start_from=str(tmp_path / "nowhere"))


def test_a_model_of_one_region_needs_no_router(samples, tmp_path):
    run, result = small_run(tmp_path, samples("wgs84"), regions=["3"], num_train_epochs=1)
    assert result.model.config.num_regions == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["region-3"]
    (answer,) = result.model.predict(str(next((samples("wgs84") / "images_val/images_val").iterdir())))
    assert [(region.name, region.probability) for region in answer.regions] == [("3", 1.0)]


def test_a_region_with_one_row_and_equal_coordinates_trains(samples, tmp_path, data):
    """No validation row, MAD 0 and scale 0: the expert learns its one point and nothing becomes NaN."""
    model = build_model("separate")
    one = data.train.select([data.train["region"].index("3")])
    model.set_scaler("3", fit_scaler(points_of(one)))
    args = arguments_of(tmp_path, num_train_epochs=4, per_device_train_batch_size=1)
    retrain(model, TaskData(one), args, ["3"])
    (answer,) = model.predict(one[0]["image"], region="3")
    assert abs(answer.latitude - one[0]["latitude"]) < 1.0


def test_positions_that_cannot_be_are_named_wherever_rows_come_in(data, tmp_path):
    """Rows of one's own, and datasets with all columns, which no loader has judged."""
    model, args = build_model("shared"), arguments_of(tmp_path, num_train_epochs=1)
    whole = {
        "filename": "b.jpg",
        "image": Image.new("RGB", (48, 48)),
        "region": "3",
        "latitude": 136.3,
        "longitude": 127.3,
    }
    own = {name: value for name, value in whole.items() if name != "filename"}
    for rows, name in (([own], "0"), (Dataset.from_list([whole]), "b.jpg")):
        with pytest.raises(DataError, match=f"row {name}: .*136.3"):
            GeoRegionTrainer(model, args, train_dataset=data.train).evaluate(rows)
        with pytest.raises(DataError, match=f"row {name}: .*136.3"):
            GeoRegionTrainer(model, args, train_dataset=rows).train()


def test_measuring_on_places_of_training_is_told(data, tmp_path, caplog):
    trainer = GeoRegionTrainer(build_model("shared"), arguments_of(tmp_path), train_dataset=data.train)
    trainer.evaluate(data.test)
    assert "training shows, too" not in caplog.text
    trainer.evaluate(data.train)
    assert f"{len(data.train)} of the {len(data.train)} rows to measure on show a place" in caplog.text


# --- resuming, accumulating ---


def test_finished_regions_are_not_trained_again(data, tmp_path):
    """A run that was stopped between two regions goes on with the next one."""
    args = arguments_of(tmp_path, num_train_epochs=1)
    whole, stopped = build_model(seed=1), build_model(seed=1)
    torch.manual_seed(0)
    retrain(whole, data, args, ["1"])
    stamp = (tmp_path / "checkpoints/region-1/finished.safetensors").stat().st_mtime_ns
    history = retrain(stopped, data, args, ["1", "3"], resume_from_checkpoint=True).histories
    assert (tmp_path / "checkpoints/region-1/finished.safetensors").stat().st_mtime_ns == stamp
    assert list(history) == ["region 1", "region 3"]
    mine = own_tensors(whole, "1")
    assert all(torch.equal(whole.state_dict()[name], stopped.state_dict()[name]) for name in mine)


class Power(TrainerCallback):
    """The power fails after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch is not None and state.epoch >= self.epochs:
            raise KeyboardInterrupt


@pytest.mark.parametrize("experts", ["separate", "shared"])
def test_a_region_goes_on_where_it_was_cut_off(experts, data, tmp_path, monkeypatch):
    """A run of two regions that is killed within the second one ends with the weights of one that was not."""

    def train(model, folder, **options):
        args = arguments_of(tmp_path / folder, num_train_epochs=3, cache_dir=str(tmp_path / "cache"))
        retrain(model, data, args, ["1", "3"], **options)
        return tensors(model)

    whole = train(build_model(experts, seed=1), "whole")
    begin = RegionPhaseTrainer.__init__

    def with_power(self, module, args, *rest, **kwargs):
        begin(self, module, args, *rest, **kwargs)
        if self.args.output_dir.endswith("region-3"):
            self.add_callback(Power(2))

    with monkeypatch.context() as cut:
        cut.setattr(RegionPhaseTrainer, "__init__", with_power)
        with pytest.raises(KeyboardInterrupt):
            train(build_model(experts, seed=1), "cut")
    resumed = train(build_model(experts, seed=1), "cut", resume_from_checkpoint=True)
    changed = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    assert not changed


def test_weights_of_other_rows_are_not_resumed(data, tmp_path):
    args = arguments_of(tmp_path, num_train_epochs=1)
    retrain(build_model(), data, args, ["1"])
    other = build_model()
    other.set_scaler("1", fit_scaler(points_of(of_regions(data.train, ["1"]))))
    with pytest.raises(
        DataError, match="region-1: this run is finished, after 1 epochs with other settings: scalers was"
    ):
        retrain(other, data, args, ["1"], resume_from_checkpoint=True)


@pytest.mark.parametrize("part", ["model", "expert", "router"])
def test_accumulation_does_not_change_the_gradient(data, tmp_path, part):
    """One batch of 12 rows, and four of 3: the same step, also where regions are unevenly spread."""
    results = []
    for size, steps in ((12, 1), (3, 4)):
        model = build_model("shared" if part == "model" else "separate", seed=2, dropout=0.0)
        for module in model.modules():  # batch statistics do depend on the batch
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module
        module = {"model": model, "expert": model.experts[1], "router": model.router_module()}[part]
        rows = (of_regions(data.train, ["3"]) if part == "expert" else data.train).select(range(12))
        args = arguments_of(
            tmp_path / f"{size}", per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1,
            eval_strategy="no", save_strategy="no", load_best_model_at_end=False, augment="none", optim="sgd",
        )  # fmt: skip
        RegionPhaseTrainer(module, args, train_dataset=rows, whole=model).train()
        results.append(tensors(module))
    one, four = results
    for name in one:
        torch.testing.assert_close(one[name], four[name], rtol=1e-4, atol=1e-6)


# --- its parts ---


@pytest.mark.parametrize(("period", "multiplier"), [(5, 1), (4, 2), (3, 3)])
def test_restarts_follow_pytorchs_curve(period, multiplier):
    floor = 0.01

    def rates(scheduler, optimizer, steps=40):
        found = []
        for _ in range(steps):
            found.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return np.array(found)

    def optimizer(*values):
        return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in values])

    ours = optimizer(1e-3, 1e-5)
    found = rates(cosine_warm_restarts(ours, period, multiplier, floor), ours)
    for column, rate in enumerate((1e-3, 1e-5)):
        theirs = optimizer(rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            theirs, period, multiplier, floor * rate
        )
        np.testing.assert_allclose(found[:, column], rates(schedule, theirs)[:, 0], rtol=1e-9)


def test_the_schedule_counts_epochs(data, tmp_path):
    model = build_model()
    args = arguments_of(
        tmp_path, per_device_train_batch_size=8, num_train_epochs=4, t_0=2, eta_min=0.1, learning_rate=1e-3
    )
    rows = of_regions(data.train, ["1"])
    trainer = RegionPhaseTrainer(model.experts[0], args, train_dataset=rows, eval_dataset=rows, whole=model)
    steps = len(trainer.get_train_dataloader())
    trainer.create_optimizer_and_scheduler(4 * steps)
    rates = [trainer.lr_scheduler.lr_lambdas[0](step) for step in range(4 * steps)]
    assert rates[0] == rates[2 * steps] == 1.0
    assert min(rates) == pytest.approx(rates[2 * steps - 1])
    assert 0.1 < min(rates) < 0.2


@pytest.mark.parametrize("kind", ["light", "full"])
def test_augmentation_varies_and_keeps_bytes(kind):
    image = torch.arange(3 * 40 * 60, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(3, 40, 60)
    torch.manual_seed(0)
    results = [region_augmentation(kind)(image) for _ in range(20)]
    assert all(result.dtype == torch.uint8 and result.shape[0] == 3 for result in results)
    assert all(result.shape[1] * result.shape[2] >= 0.8 * 40 * 60 for result in results)
    assert len({result.float().mean().item() for result in results}) > 10
    assert region_augmentation("none") is None


def test_evaluation_sees_images_as_they_are(data, tmp_path):
    model = build_model()
    rows = of_regions(data.train, ["1"])
    trainer = RegionPhaseTrainer(
        model.experts[0], arguments_of(tmp_path), train_dataset=rows, eval_dataset=rows, whole=model
    )
    first, second = (next(iter(trainer.get_eval_dataloader()))["pixel_values"] for _ in range(2))
    assert torch.equal(first, second)
    plain = RegionCollator(model, ("coordinates",))([rows[i] for i in range(len(first))])
    assert torch.equal(first, plain["pixel_values"])
    torch.manual_seed(0)
    assert not torch.equal(trainer.data_collator([rows[0]])["pixel_values"], plain["pixel_values"][:1])
