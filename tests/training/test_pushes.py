"""Every door to the Hub: no pickle, no token, the task's card, and no numbers of other weights."""

import io
import json
import pickletools
import zipfile
import zlib
from contextlib import suppress

import pytest
import torch
from helpers.five_tasks import TASKS, trainer_of
from helpers.local_hub import LocalHub
from huggingface_hub import ModelCard
from transformers import AutoModel, pipeline

from geohf import DataError
from geohf.hub.card import write_card
from geohf.hub.files import MEASURED_WEIGHTS, push_folder
from geohf.training.checkpoints import is_complete
from geohf.training.report import write_metrics
from geohf.vision.weights import weights_fingerprint

TOKEN = "hf_secretSECRETsecretSECRET0123456789"
PIPELINES = {name: task.pipeline for name, task in TASKS.items()}


def unpacked(content: bytes):
    """The bytes, and what is packed in them."""
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from unpacked(archive.read(name))
    for start in (b"\x78\x9c", b"\x78\xda", b"\x78\x01", b"\x1f\x8b"):
        position = content.find(start)
        while position >= 0:
            with suppress(zlib.error):
                yield zlib.decompressobj(47).decompress(content[position:])  # zlib or gzip, whichever it is
            position = content.find(start, position + 1)


def is_pickle(content: bytes) -> bool:
    if not content.startswith(b"\x80"):
        return False
    try:
        return sum(1 for _ in pickletools.genops(content)) > 2
    except Exception:  # no pickle
        return False


def assert_clean(files: dict[str, bytes]) -> None:
    assert files
    for name, content in files.items():
        assert name.rpartition(".")[2] in (
            "json", "safetensors", "md", "csv", "png", "html", "geojson", "gitattributes",
        ), name  # fmt: skip
        for part in unpacked(content):
            assert TOKEN.encode() not in part, name
            assert not is_pickle(part), name


def pushed(hub: LocalHub, repo: str = "me/x") -> dict[str, bytes]:
    """All that was ever uploaded, whatever of it is left."""
    files = {}
    for sha in hub.commits(repo):
        files |= {f"{sha}/{name}": content for name, content in hub.files(repo, sha).items()}
    return files


def local(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_card(name: str, files: dict[str, bytes], numbers: bool = False) -> None:
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == PIPELINES[name]
    assert card.data.library_name == "geohf"
    assert bool(card.data.eval_results) == numbers
    assert 'from_pretrained("me/x")' in card.content or 'model="me/x"' in card.content


@pytest.fixture
def hub(hub):
    """Takes the token that must not be seen again, and no other."""
    hub.token = TOKEN
    yield hub
    del hub.token


@pytest.mark.case("use-S9", "first-doors")
@pytest.mark.parametrize("name", TASKS)
def test_train_and_push_of_every_task(name, hub, tmp_path):
    trainer = trainer_of(
        name, tmp_path, push_to_hub=True, hub_model_id="me/x", hub_token=TOKEN, hub_strategy="every_save"
    )
    trainer.train()
    first = hub.files("me/x")
    assert_card(name, first)
    trainer.push_to_hub(tags=["mine"], commit_description="after\na while")
    assert_clean(pushed(hub))
    found = hub.files("me/x")
    assert_card(name, found)
    assert "mine" in ModelCard(found["README.md"].decode()).data.tags
    assert str(tmp_path).encode() not in b"".join(found.values())
    assert not [path for path, content in local(tmp_path).items() if TOKEN.encode() in content]
    task = TASKS[name]
    loaded = AutoModel.from_pretrained("me/x")
    assert loaded.predict([task.sample])
    assert pipeline(task.pipeline, model="me/x")([task.sample])


@pytest.mark.case("use-S9", "first-doors")
@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_strategy(strategy, hub, tmp_path):
    trainer = trainer_of(
        "tiles", tmp_path, push_to_hub=True, hub_model_id="me/x", hub_token=TOKEN, hub_strategy=strategy,
        num_train_epochs=2, save_total_limit=1, hub_always_push=True, report_to="tensorboard",
    )  # fmt: skip
    trainer.train()
    files = hub.files("me/x")
    if strategy == "end":
        assert "config.json" not in files
    else:
        assert_clean(pushed(hub))
        assert_card("tiles", files)
        assert "optimizer.safetensors" not in files
    folders = {name.partition("/")[0] for name in files if "/" in name}
    expected = {
        "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-1", "checkpoint-2"},
    }
    assert folders == expected.get(strategy, set())
    for folder in folders:  # a run can go on from it
        copy = tmp_path / "copy" / folder
        copy.mkdir(parents=True)
        for name, content in files.items():
            if name.startswith(folder + "/"):
                (copy / name.rpartition("/")[2]).write_bytes(content)
        assert is_complete(copy)
    trainer.save_model()  # with push_to_hub it pushes, too
    assert_clean(pushed(hub))
    assert_card("tiles", hub.files("me/x"))
    assert not [path for path, content in local(tmp_path).items() if TOKEN.encode() in content]


@pytest.mark.case("use-S9", "first-doors")
def test_a_push_in_the_background_and_one_that_fails(hub, tmp_path, caplog):
    trainer = trainer_of("tiles", tmp_path, hub_model_id="me/x", hub_token=TOKEN)
    assert "me/x" in trainer.push_to_hub(blocking=False).result()
    assert_clean(pushed(hub))
    again = trainer_of(
        "tiles", tmp_path, push_to_hub=True, hub_model_id="me/x", hub_token=TOKEN, warmup_steps=0,
        hub_strategy="every_save",
    )  # fmt: skip
    hub.fail("/commit/", 403, times=9)
    again.train()
    assert "was not pushed" in caplog.text


@pytest.mark.case("use-M6")
def test_a_trainer_pushes_in_shards(hub, tmp_path):
    trainer = trainer_of("tiles", tmp_path, hub_model_id="me/x", hub_token=TOKEN)
    trainer.push_to_hub(max_shard_size="10KB")
    files = hub.files("me/x")
    assert sum(name.endswith(".safetensors") for name in files) > 1
    assert "model.safetensors" not in files
    AutoModel.from_pretrained("me/x")


@pytest.mark.case("first-doors", "use-M6")
@pytest.mark.parametrize("name", TASKS)
def test_a_model_is_pushed_as_in_transformers(name, hub, tmp_path):
    model = TASKS[name].make()
    options = {"tags": ["mine"], "max_shard_size": "5KB", "commit_description": "why", "token": TOKEN}
    model.push_to_hub("me/x", **options)
    model.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id="me/y", **options)
    for repo in ("me/x", "me/y"):
        files = hub.files(repo)
        assert_clean(pushed(hub, repo))
        assert "model.safetensors.index.json" in files
        assert "mine" in ModelCard(files["README.md"].decode()).data.tags
        assert hub.repo(repo).at("main").message == "why"
    assert AutoModel.from_pretrained("me/x").predict([TASKS[name].sample])


@pytest.mark.case("use-S10", "first-doors")
@pytest.mark.parametrize("name", TASKS)
def test_a_pipeline_leaves_no_code(name, hub, tmp_path):
    task = TASKS[name]
    task.make().save_pretrained(tmp_path / "model")
    pipe = pipeline(task.pipeline, model=str(tmp_path / "model"))
    expected = repr(pipe([task.sample]))
    pipe.save_pretrained(tmp_path / "pipe")
    pipe.push_to_hub("me/x", token=TOKEN)
    pipe.model.save_pretrained(tmp_path / "again")
    assert_clean(local(tmp_path) | pushed(hub))
    assert_card(name, hub.files("me/x"))
    for source in (tmp_path / "pipe", tmp_path / "again", "me/x"):
        assert repr(pipeline(task.pipeline, model=str(source))([task.sample])) == expected
    for config in (tmp_path / "pipe" / "config.json", tmp_path / "again" / "config.json"):
        assert not {"custom_pipelines", "auto_map"} & set(json.loads(config.read_text()))


@pytest.mark.case("use-S10")
def test_a_config_that_was_marked_is_saved_without_the_mark(tmp_path):
    model = TASKS["tiles"].make()
    model.config.custom_pipelines = {"tile-sequence-regression": {"impl": "pipeline.TileSequencePipeline"}}
    model.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.case("first-doors")
def test_processors_and_configs_are_pushed_alone(hub, tmp_path):
    model = TASKS["street"].make()
    model.processor.push_to_hub("me/x", token=TOKEN)
    model.config.push_to_hub("me/x", token=TOKEN)
    model.processor.save_pretrained(str(tmp_path / "x"), push_to_hub=True, repo_id="me/x", token=TOKEN)
    assert_clean(pushed(hub) | local(tmp_path))


@pytest.mark.case("first-doors")
def test_the_part_of_a_model_is_not_pushed(hub, tmp_path):
    from geohf import RegionTrainingArguments
    from geohf.region.phase import RegionPhaseTrainer

    model = TASKS["region"].make()
    args = RegionTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", load_best_model_at_end=False
    )
    trainer = RegionPhaseTrainer(model.router_module(), args, train_dataset=[], whole=model)
    with pytest.raises(DataError, match="RegionRouter, a part of a model"):
        trainer.push_to_hub()


# ---- numbers


@pytest.fixture(params=TASKS)
def run(request, tmp_path):
    """(task, folder of a run with numbers)."""
    name, folder = request.param, tmp_path / "run"
    folder.mkdir()
    args = trainer_of(name, folder).args
    (folder / "predictions.csv").write_text("image,score\nsecret_photo.jpg,1\n")
    model = TASKS[name].make()
    metrics = {
        "eval": {"loss": 0.91},
        "baseline": {"loss": 2.0},
        MEASURED_WEIGHTS: weights_fingerprint(model),
    }
    model.save_pretrained(folder)
    write_metrics(folder, metrics)
    (folder / "log_history.csv").write_text("step,loss\n1,0.91\n")
    write_card(args.output_dir, model.card_template, model.config, repo_id=args.hub_model_id, metrics=metrics)
    return name, folder


def changed(model):
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    return model


@pytest.mark.case("use-S8")
@pytest.mark.parametrize(
    ("door", "change", "numbers"),
    [
        ("push_to_hub", None, True),
        ("pipeline", None, True),
        ("trainer", None, True),
        ("push_to_hub", changed, False),
        ("save_pretrained", changed, False),
        ("push_to_hub", torch.nn.Module.half, False),
        ("trainer", changed, False),
    ],
)
def test_numbers_go_with_their_weights_alone(run, door, change, numbers, hub, tmp_path):
    name, folder = run
    model = AutoModel.from_pretrained(folder)
    model = change(model) if change else model
    if door == "push_to_hub":
        model.push_to_hub("me/x", token=TOKEN)
    elif door == "save_pretrained":
        model.save_pretrained(tmp_path / "copy", push_to_hub=True, repo_id="me/x", token=TOKEN)
    elif door == "pipeline":
        pipe = pipeline(TASKS[name].pipeline, model=model, image_processor=model.processor)
        pipe.push_to_hub("me/x", token=TOKEN)
    else:
        trainer = trainer_of(name, folder, model=model, hub_model_id="me/x", hub_token=TOKEN)
        trainer.push_to_hub()
    files = hub.files("me/x")
    assert ("metrics.json" in files) == ("predictions.csv" in files) == numbers
    assert (b"secret_photo" in b"".join(files.values())) == numbers
    assert_clean(pushed(hub))
    assert (files["README.md"] != (folder / "README.md").read_bytes()) or numbers


@pytest.mark.case("use-S8")
def test_weights_that_were_written_over_a_run_have_none_of_its_numbers(run, hub):
    _, folder = run
    changed(AutoModel.from_pretrained(folder)).save_pretrained(folder)
    AutoModel.from_pretrained(folder).push_to_hub("me/x", token=TOKEN)
    assert not {"metrics.json", "predictions.csv"} & set(hub.files("me/x"))


@pytest.mark.case("use-S8")
def test_a_run_that_does_not_say_what_it_measured_measured_what_lies_there(run, hub):
    _, folder = run
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["weights_fingerprint"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    AutoModel.from_pretrained(folder).push_to_hub("me/x", token=TOKEN)
    changed(AutoModel.from_pretrained(folder)).push_to_hub("me/y", token=TOKEN)
    assert "metrics.json" in hub.files("me/x")
    assert "metrics.json" not in hub.files("me/y")


@pytest.mark.case("first-doors")
def test_adapters_are_pushed_without_the_path_of_their_base(hub, tmp_path):
    from helpers.five_tasks import rows_of
    from helpers.place_models import build_model

    from geohf.place.phase import PlacePhaseTrainer
    from geohf.training.finetuning import with_adapters

    model = build_model(backbone="test_vit")
    model.save_pretrained(tmp_path / "base")
    model = with_adapters(type(model).from_pretrained(tmp_path / "base"), 2)
    args = trainer_of("place", tmp_path / "run", hub_model_id="me/x", hub_token=TOKEN).args
    trainer = PlacePhaseTrainer(model, args, train_dataset=rows_of("place"))
    trainer.train()
    trainer.push_to_hub()
    files = hub.files("me/x")
    assert_card("place", files)
    assert "adapter_model.safetensors" in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"
    assert str(tmp_path).encode() not in b"".join(files.values())
    with pytest.raises(DataError, match="holds no model"):
        push_folder(tmp_path, "me/y")


def test_adapters_and_their_base_are_as_private_as_the_model(hub, tmp_path):
    from helpers.place_models import build_model

    model = build_model(backbone="test_vit")
    trainer = trainer_of(
        "place", tmp_path, model, finetune="lora", lora_rank=2, hub_model_id="me/x", hub_token=TOKEN
    )
    trainer.train()
    trainer.push_to_hub(private=True)
    repos = {name: repo.private for (_, name), repo in hub.repos.items()}
    assert repos == {"me/x": True, "me/x-base": True, "me/x-adapter": True}
