"""What the Hub answers when it does not give what was asked for."""

import re

import pytest
from helpers.bad_world import Case, Command, World
from transformers import AutoImageProcessor, AutoModel

ID = "org/street"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Clients try again after seconds; here at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def repo(world, hub):
    """A repo of the Hub that holds the street model."""
    folder = world.model("street")
    hub.add(ID, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    return hub


def asking(world) -> Command:
    command = world.predict()
    return Command("predict", [ID, *command.words[1:]])


DENIED = {
    "no such repo": {"status": 404, "X_Error_Code": "RepoNotFound"},
    "401, not logged in": {"status": 401, "X_Error_Code": "RepoNotFound"},
    "403, forbidden": {"status": 403},
    "gated": {
        "status": 403,
        "X_Error_Code": "GatedRepo",
        "X_Error_Message": "Access to model is restricted.",
    },
    "500": {"status": 500},
    "503": {"status": 503},
}
FILES = ("config.json", "model.safetensors")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("answer", DENIED)
def test_an_answer_that_is_no_file(answer, file, repo, world):
    """One message that names the repo, no answers; and asked again of a good Hub, the model comes."""
    answer = dict(DENIED[answer])
    repo.fail(re.escape(f"/{file}"), answer.pop("status"), times=50, **answer)
    world.refuses(Case(file, asking, [ID]))
    repo._faults.clear()
    command = asking(world)
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES)
def test_a_download_cut_off_is_not_taken_for_the_file(file, repo, world):
    repo.cut(re.escape(f"/{file}"), 100, times=50)
    world.refuses(Case(file, asking, [ID]))
    repo._faults.clear()
    command = asking(world)
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 0, done.stderr


def test_auto_model_and_processor_name_the_repo(repo):
    repo.fail("/config.json", 404, times=50, X_Error_Code="RepoNotFound")
    repo.fail("/preprocessor_config.json", 404, times=50, X_Error_Code="RepoNotFound")
    for auto in (AutoModel, AutoImageProcessor):
        with pytest.raises((OSError, ValueError), match=ID):
            auto.from_pretrained(ID)


def test_a_private_repo_without_a_token(repo, world, monkeypatch):
    repo.add("org/private", {"config.json": b"{}"}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    case = Case(
        "private", lambda w: Command("predict", ["org/private", *w.predict().words[1:]]), ["org/private"]
    )
    world.refuses(case)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/repos/create", {"status": 401}),
        ("/api/repos/create", {"status": 403}),
        ("/commit/", {"status": 500}),
        ("/commit/", {"status": 403}),
        ("/preupload/", {"status": 404}),
    ],
)
def test_a_push_that_the_hub_refuses(path, answer, hub, world):
    hub.fail(path, answer["status"], times=50, method="POST")
    case = Case("push", lambda w: Command("push", [w.model("street"), "org/new"]), [str(answer["status"])])
    world.refuses(case)
    assert not any("config.json" in hub.files(name) for _, name in hub.repos)


def test_a_dataset_that_the_hub_refuses(hub, world):
    hub.fail("datasets/org/places", 403, times=50)
    case = Case("dataset", lambda w: _of_dataset(w.train_street()), ["org/places"])
    world.refuses(case)


def test_a_backbone_cut_off(hub, world):
    """A transformers tower of the Hub whose weights never arrive whole."""
    from helpers.street_models import tiny_clip

    folder = tiny_clip(world.folder / "clip")
    hub.add("org/clip", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.cut(r"/model\.safetensors", 100, times=50)

    def build(world: World) -> Command:
        return world.train_street().plus("--backbone", "org/clip", "--pretrained", "true")

    world.refuses(Case("backbone", build, ["org/clip"]))


def _of_dataset(command: Command) -> Command:
    return Command(command.recipe, ["--data", "org/places", *command.words[2:]])
