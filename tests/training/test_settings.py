"""What cannot be honored is refused before the work, and every form of arguments and models is taken."""

import subprocess

import pytest
import torch
from helpers import parts_models, place_models, region_models, street_models
from helpers.training_run import make_table, make_trainer
from transformers import TrainingArguments

from geohf.errors import DataError
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.phase import PartPhaseTrainer
from geohf.place.arguments import PlaceTrainingArguments
from geohf.place.phase import PlacePhaseTrainer
from geohf.region.arguments import RegionTrainingArguments
from geohf.region.phase import RegionPhaseTrainer
from geohf.street.arguments import StreetArguments, StreetTrainingArguments
from geohf.street.phase import StreetPhaseTrainer
from geohf.tiles.arguments import TileTrainingArguments
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.parser import GeoArgumentParser
from geohf.training.settings import rehearse

ARGUMENTS = [
    StreetTrainingArguments,
    RegionTrainingArguments,
    PartTrainingArguments,
    PlaceTrainingArguments,
    TileTrainingArguments,
]
TRAINERS = {
    StreetPhaseTrainer: (street_models.build_model, StreetTrainingArguments),
    RegionPhaseTrainer: (region_models.build_model, RegionTrainingArguments),
    PartPhaseTrainer: (parts_models.build_model, PartTrainingArguments),
    PlacePhaseTrainer: (place_models.build_model, PlaceTrainingArguments),
}

# flags that do nothing here, or that this machine and these libraries cannot do
REFUSED = [
    ("--label_smoothing_factor", "0.3"),
    ("--neftune_noise_alpha", "5"),
    ("--bf16_full_eval", "true"),
    ("--fp16_full_eval", "true"),
    ("--use_liger_kernel", "true"),
    ("--train_sampling_strategy", "group_by_length"),
    ("--include_num_input_tokens_seen", "true"),
    ("--prediction_loss_only", "true"),
    ("--optim", "adamw_bnb_8bit"),
    ("--optim", "lomo"),
    ("--optim", "galore_adamw"),
    ("--lr_scheduler_type", "cosine_with_min_lr"),
    ("--eval_do_concat_batches", "false"),
    ("--eval_use_gather_object", "true"),
    ("--do_train", "false"),
    ("--fsdp", "full_shard"),
    ("--remove_unused_columns", "true"),
    ("--debug", "underflow_overflow"),
    ("--label_names", "labels"),
    ("--metric_for_best_model", "beauty"),
    ("--metric_for_best_model", "loss", "--greater_is_better", "true"),
    ("--greater_is_better", "true"),
    ("--resume_from_checkpoint", "outputs/checkpoint-5"),
]


@pytest.mark.case("use-S12", "use-B15")
@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_a_flag_that_cannot_be_honored_is_refused_by_every_parser(flags, tmp_path):
    for kind in ARGUMENTS:
        if flags[0] == "--greater_is_better" and kind is PartTrainingArguments:  # it has a metric by default
            continue
        with pytest.raises(DataError) as error:
            GeoArgumentParser(kind).parse(["--use_cpu", "true", "--output_dir", str(tmp_path), *flags])
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.case("use-S12")
def test_the_schedule_of_a_region_is_one_or_the_other(tmp_path):
    with pytest.raises(DataError, match=r"lr_scheduler_type .*--t_0 0"):
        RegionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="linear")
    RegionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="linear", t_0=0)


@pytest.mark.case("use-B15")
def test_flags_that_need_something_are_taken_with_it(tmp_path):
    words = ["--use_cpu", "true", "--output_dir", str(tmp_path / "new")]
    for flags in (
        ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr": 1e-7}'],
        ["--lr_scheduler_type", "reduce_lr_on_plateau"],
        ["--optim", "adafactor"],
        ["--optim", "sgd"],
        ["--metric_for_best_model", "eval_mean_km"],
        ["--resume_from_checkpoint", "false"],
        ["--train_sampling_strategy", "sequential"],
    ):
        (args,) = GeoArgumentParser(StreetTrainingArguments).parse([*words, *flags])
        assert not (tmp_path / "new").exists()
    assert (
        GeoArgumentParser(StreetTrainingArguments).parse([*words, *flags])[0].resume_from_checkpoint is None
    )
    (args,) = GeoArgumentParser(StreetTrainingArguments).parse([*words, "--resume_from_checkpoint", "false"])
    assert args.resume_from_checkpoint is False


def test_the_rehearsal_leaves_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    rehearse(GeoTrainingArguments(output_dir=str(tmp_path / "x"), use_cpu=True, seed=9))
    assert torch.rand(2).tolist() == expected
    assert not (tmp_path / "x").exists()


@pytest.mark.case("use-B15")
@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "galore_adamw"},
        {"lr_scheduler_type": "cosine_with_min_lr"},
        {"label_smoothing_factor": 0.1},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 64},
    ],
    ids=str,
)
def test_a_trainer_in_python_refuses_before_it_trains(settings, tmp_path):
    with pytest.raises(DataError) as error:
        make_trainer(tmp_path, **settings)
    assert "\n" not in str(error.value)
    plain = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)
    rows = [{"image": image} for image in street_models.patches(3, 4)]
    with pytest.raises(DataError):
        StreetPhaseTrainer(street_models.build_model(), plain, train_dataset=rows)


@pytest.mark.case("use-B15")
def test_a_tower_that_keeps_its_activations_is_said_before_the_work(tmp_path):
    args = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "eval_strategy": "no",
        "gradient_checkpointing": True,
    }
    for trainer, (build, kind) in TRAINERS.items():
        with pytest.raises(DataError, match="cannot recompute its activations"):
            trainer(build(), kind(**args, load_best_model_at_end=False))
    with pytest.raises(DataError, match="cannot recompute its activations"):
        street_run(tmp_path, gradient_checkpointing=True)


def street_run(folder, **settings):
    from geohf.recipes.train_street import run as run_street
    from geohf.street.sample import write_sample

    sample = write_sample(folder / "sample", seed=0, size=2, image_size=48)
    options = StreetArguments(data=str(sample), backbone="test_resnet", pretrained=False, image_size=32)
    settings = {
        "output_dir": str(folder / "run"),
        "use_cpu": True,
        "cache_dir": str(folder / "cache"),
    } | settings
    return run_street(options, StreetTrainingArguments(**settings))


@pytest.mark.case("use-B9")
@pytest.mark.parametrize("backbone", ["test_resnet", "test_byobnet"])
def test_adapters_that_fit_no_layer_are_refused_before_the_work(backbone, tmp_path):
    from geohf.training.finetuning import require_adapters

    model = street_models.GeoStreetModel.from_backbone(
        backbone, pretrained=False, image_size=32, **street_models.CLASSES
    )
    with pytest.raises(DataError, match=r"finetune lora.*finetune last or all"):
        require_adapters(model)
    if backbone == "test_resnet":
        with pytest.raises(DataError, match="finetune lora"):
            street_run(tmp_path, finetune="lora")
        assert not (tmp_path / "cache").exists()  # no image was encoded


@pytest.mark.case("use-B9")
def test_adapters_fit_transformers(tmp_path):
    from geohf.training.finetuning import require_adapters, with_adapters

    clip = str(street_models.tiny_clip(tmp_path / "clip"))
    for backbone, settings in (
        ("test_vit", {"pretrained": False, "image_size": 160}),
        ("test_convnext", {"pretrained": False, "image_size": 160}),
        (clip, {}),
    ):
        model = street_models.GeoStreetModel.from_backbone(backbone, **settings, **street_models.CLASSES)
        require_adapters(model)
        learns = {name for name, p in with_adapters(model, 2).named_parameters() if p.requires_grad}
        assert any("lora_A" in name and ".tower." in name for name in learns)
        assert all("lora_" in name or ".head." in name for name in learns)


@pytest.mark.case("use-B8")
@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda kind: kind.__name__)
def test_a_trainer_takes_plain_arguments_and_none(trainer, tmp_path, monkeypatch):
    build, kind = TRAINERS[trainer]
    monkeypatch.chdir(tmp_path)
    assert type(trainer(build()).args) is kind
    plain = TrainingArguments("plain", use_cpu=True, report_to="none", learning_rate=0.5)
    made = trainer(build(), plain)
    assert type(made.args) is kind
    assert made.args.learning_rate == 0.5
    assert made.args.remove_unused_columns is False
    assert made.create_optimizer() is not None
    assert type(plain) is TrainingArguments
    assert not hasattr(plain, "backbone_learning_rate")
    shared = GeoTrainingArguments(
        "shared", use_cpu=True, report_to="none", eval_strategy="no", load_best_model_at_end=False
    )
    assert type(trainer(build(), shared).args) is kind
    own = kind(output_dir="own", use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    assert trainer(build(), own).args is own
    other = next(k for k in ARGUMENTS if k is not kind)(output_dir="o", use_cpu=True)
    with pytest.raises(DataError, match=f"takes {kind.__name__}, got {type(other).__name__}"):
        trainer(build(), other)


@pytest.mark.case("use-B7", "use-S13")
@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda kind: kind.__name__)
def test_a_trainer_takes_a_function_that_makes_the_model(trainer, tmp_path):
    build, kind = TRAINERS[trainer]
    args = kind(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    made = []

    def init():
        made.append(build())
        return made[-1]

    first = trainer(None, args, model_init=init)
    second = trainer(build(), args)
    assert first.counts_items == second.counts_items
    assert first.config.to_dict() == second.config.to_dict()
    before = first.data_collator
    assert first.call_model_init() is made[-1]
    assert type(first.data_collator) is type(second.data_collator)
    assert first.data_collator is not before


def rows():
    centroids = street_models.CLASSES["class_centroids"]
    return [
        {"image": image, "state": None if i % 3 else i % 5, "latitude": point[0], "longitude": point[1]}
        for i, (image, point) in enumerate(zip(street_models.patches(3, 8), 2 * centroids, strict=False))
    ]


@pytest.mark.case("use-B7", "use-S13")
def test_a_model_that_is_made_by_the_trainer_learns_as_one_that_is_given(tmp_path):
    def train(**model):
        args = StreetTrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            save_strategy="no",
            load_best_model_at_end=False,
            disable_tqdm=True,
        )
        trainer = StreetPhaseTrainer(args=args, train_dataset=rows(), eval_dataset=rows(), **model)
        losses = []
        for _ in range(1 if "model" in model else 2):
            trainer.state.log_history = []
            trainer.train()
            losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        return losses, trainer

    def build(trial=None):
        with torch.random.fork_rng():  # the order of the rows is drawn after it
            return street_models.build_model(dropout=0.0)

    (given,), _ = train(model=build())
    made, trainer = train(model_init=build)
    assert made == [given, given]  # each training begins with a new model
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.case("use-B7")
def test_a_search_for_hyperparameters_goes_through_its_trials(tmp_path, monkeypatch):
    from transformers import trainer as theirs
    from transformers.trainer_utils import BestRun, HPSearchBackend

    class Backend:
        """Two trials, as optuna would make them."""

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            found = []
            for rate in (1e-3, 1e-2)[:n_trials]:
                trainer.args.learning_rate = rate
                trainer.train()
                objective = trainer.compute_objective(trainer.evaluate())
                found.append(BestRun(direction, objective, {"learning_rate": rate}))
            return (min if direction == "minimize" else max)(found, key=lambda run: run.objective)

        default_hp_space = None

    monkeypatch.setitem(theirs.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Backend)

    def search(metric, n_trials=1, **given):
        args = StreetTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, num_train_epochs=1, disable_tqdm=True, save_strategy="no",
            load_best_model_at_end=False, metric_for_best_model=metric,
        )  # fmt: skip
        trainer = StreetPhaseTrainer(
            None,
            args,
            train_dataset=rows(),
            eval_dataset=rows(),
            model_init=lambda: street_models.build_model(),
        )
        return trainer.hyperparameter_search(
            backend="optuna", n_trials=n_trials, hp_space=lambda trial: {}, **given
        )

    best = search("eval_score", 2)
    assert best.run_id == "maximize"
    assert 0 <= best.objective <= 1
    with pytest.raises(DataError, match="mean_km is to be minimized: leave direction out"):
        search("mean_km", direction="maximize")
    with pytest.raises(DataError, match="would compare trials by the sum of all metrics"):
        search(None)
    assert search(None, compute_objective=lambda metrics: -1.0, direction="maximize").objective == -1


@pytest.mark.case("use-S14", "use-O11")
def test_training_leaves_the_threads_of_the_process_alone(tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    make_trainer(tmp_path, callbacks=[Look()], dataloader_num_workers=1, num_train_epochs=1).train()
    assert set(seen) == {2}


def test_a_recipe_leaves_cores_to_its_loaders(monkeypatch):
    from geohf.recipes.running import leave_cores

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    args = GeoTrainingArguments(output_dir="x", use_cpu=True, dataloader_num_workers=1)
    with leave_cores(args):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3


@pytest.mark.case("use-B15")
def test_a_recipe_says_it_in_one_line(recipe, tmp_path):
    done: subprocess.CompletedProcess = recipe(
        "train_streetclip", "--use_cpu", "--output_dir", tmp_path / "run", "--optim", "adamw_bnb_8bit"
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "bitsandbytes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_tables_need_no_collator(tmp_path):
    trainer = make_trainer(tmp_path, train_dataset=make_table(8))
    assert next(iter(trainer.get_train_dataloader()))["features"].shape[0] == 8
