"""Places where nothing can be written, and what an earlier run left there."""

import json
import os
import re
import shutil

import pytest
from helpers.bad_world import Case, World

from geohf.training.checkpoints import last_complete_checkpoint

TRAININGS = {
    "train_region": World.train_region,
    "train_streetclip": World.train_street,
    "train_parts": World.train_parts,
    "train_place": World.train_place,
    "train_tiles": World.train_tiles,
}


def into(entry, place):
    """The command with its output at another place, which a function makes."""

    def build(world):
        command = entry(world)
        flag = next(word for word in command.words if word in ("--output_dir", "--output", "--folder"))
        at = list(command.words).index(flag) + 1
        words = [*command.words[:at], place(world), *command.words[at + 1 :]]
        return type(command)(command.recipe, words, command.table)

    return build


def taken(world):
    """A file in the place of a folder."""
    path = world.folder / "taken"
    path.write_text("mine")
    return path


def below(name):
    return lambda world: taken(world) / name


def a_folder(ending):
    def make(world):
        path = world.folder / f"folder{ending}"
        path.mkdir()
        (path / "mine").write_text("mine")
        return path

    return make


CASES = [
    *(Case(f"{name}: a file for a folder", into(entry, taken), ["taken"]) for name, entry in TRAININGS.items()),
    *(Case(f"{name}: below a file", into(entry, below("out")), ["taken"]) for name, entry in TRAININGS.items()),
    *(
        Case(f"{name}: cache below a file", lambda world, entry=entry: entry(world).plus("--cache_dir", taken(world)), ["taken"])
        for name, entry in TRAININGS.items()
        if name not in ("train_parts", "train_region")  # these cache nothing
    ),
    Case("predict: below a file", into(World.predict, below("a.csv")), ["taken"]),
    Case("predict: a folder", into(World.predict, a_folder(".csv")), ["folder.csv"]),
    Case("predict: no ending", into(World.predict, lambda w: w.folder / "answers"), ["answers", ".csv"]),
    Case("predict: an unknown ending", into(World.predict, lambda w: w.folder / "answers.xlsx"), ["answers.xlsx", ".csv"]),
    Case("evaluate: below a file", into(World.evaluate, below("m.json")), ["taken"]),
    Case("evaluate: a folder", into(World.evaluate, a_folder(".json")), ["folder.json"]),
    Case("index_places: below a file", into(World.index, below("a.parquet")), ["taken"]),
    Case("index_places: a folder", into(World.index, a_folder(".parquet")), ["folder.parquet"]),
    Case("index_places: an unknown ending", into(World.index, lambda w: w.folder / "a.faiss"), ["a.faiss", ".parquet"]),
    Case("convert_parts: a file for a folder", into(World.convert_parts, taken), ["taken"]),
    Case("train: the sample's folder is somebody's", lambda world: _somebodys(world), ["region-sample-wgs84", "not a sample"]),
]  # fmt: skip


def _somebodys(world):
    command = world.train_region()
    (world.folder / "region-sample-wgs84").mkdir()
    (world.folder / "region-sample-wgs84" / "labels_train.csv").write_text("mine")
    return type(command)(command.recipe, command.words[2:])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs(case, world):
    world.refuses(case)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("entry", [World.train_region, World.predict, World.evaluate, World.index])
def test_a_folder_that_may_not_be_written(entry, world):
    def locked(world):
        path = world.folder / "locked"
        path.mkdir(mode=0o500)
        return path / "out.csv"

    world.refuses(Case("locked", into(entry, locked), ["locked"]))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "html"])
def test_former_answers_stay_until_the_new_ones_are_whole(ending, world):
    output = world.folder / f"answers.{ending}"
    command = into(World.predict, lambda world: output)(world)
    assert world.recipe(command.recipe, *command.words).returncode == 0
    former = output.read_bytes()
    (world.folder / "photos" / "3.png").write_bytes(b"")
    assert world.recipe(command.recipe, *command.words).returncode == 2
    assert output.read_bytes() == former


def test_what_another_run_left_is_not_taken_for_ours(world):
    """A partial file of other questions, one that is broken, and one that is no text."""
    command = world.predict()
    world.out.mkdir()
    partial = world.out / ".answers.jsonl.partial"
    answers = []
    for left in (
        b'{"run":"of another"}\n{"rows":[{"input":"x"}],"skipped":[]}\n',
        b"\x89PNG\xff\n\xff\n",
        b"",
        b"{",
    ):
        partial.write_bytes(left)
        done = world.recipe(command.recipe, *command.words)
        assert done.returncode == 0, done.stderr
        answers.append((world.out / "answers.jsonl").read_text())
        assert not partial.exists()
    assert [json.loads(line)["input"] for line in answers[0].splitlines()] == ["1.png", "2.png", "3.png"]
    assert len(set(answers)) == 1


# ---- resuming


@pytest.fixture
def run(world, models):
    """The command that resumes a short run, and what that left: the folder of its phase, and its checkpoint."""
    command, kept = world.train_street(), models / "run"
    if kept.exists():
        shutil.copytree(kept, world.out)
    else:
        done = world.recipe(command.recipe, *command.words)
        assert done.returncode == 0, done.stderr
        shutil.copytree(world.out, kept)
    phase = world.out / "checkpoints" / "phase1"
    return command.plus("--resume_from_checkpoint", "true"), phase, next(phase.glob("checkpoint-*"))


def numbers(world):
    return json.loads((world.out / "metrics.json").read_text())["eval"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


DAMAGES = {
    "a model that is cut": lambda checkpoint: cut(checkpoint / "model.safetensors"),
    "an optimizer that is cut": lambda checkpoint: cut(checkpoint / "optimizer.safetensors"),
    "no state": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "no mark": lambda checkpoint: (checkpoint / "complete.json").unlink(),
    "a mark that is cut": lambda checkpoint: (checkpoint / "complete.json").write_text("{"),
    "a mark of another kind": lambda checkpoint: (checkpoint / "complete.json").write_text("[]"),
    "a mark that is binary": lambda checkpoint: (checkpoint / "complete.json").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_does_not_count(damage, run):
    _, phase, checkpoint = run
    assert last_complete_checkpoint(phase) == str(checkpoint)
    DAMAGES[damage](checkpoint)
    assert last_complete_checkpoint(phase) is None


@pytest.mark.parametrize("damage", ["a model that is cut", "a mark that is cut"])
def test_without_another_checkpoint_the_phase_begins_anew(damage, run, world):
    """And it ends where it ended before."""
    command, phase, checkpoint = run
    before = numbers(world)
    (phase / "finished.safetensors").unlink()
    DAMAGES[damage](checkpoint)
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 0, done.stderr
    assert numbers(world) == before


def test_resuming_where_nothing_is_begins(world):
    command = world.train_street().plus("--resume_from_checkpoint", "true")
    assert world.recipe(command.recipe, *command.words).returncode == 0
    assert (world.out / "model.safetensors").is_file()


@pytest.mark.parametrize("finished", [True, False], ids=["finished phase", "checkpoint"])
@pytest.mark.parametrize("change", [["--fusion", "concat"], ["--backbone", "test_byobnet"]], ids=" ".join)
def test_a_checkpoint_of_another_model_is_refused(change, finished, run, world):
    command, phase, _ = run
    if not finished:
        (phase / "finished.safetensors").unlink()
    former = (world.out / "model.safetensors").read_bytes()
    done = world.recipe(command.recipe, *command.words, *change)
    assert done.returncode == 2
    assert re.search(r"error: .*phase1.*other settings", done.stderr)
    assert "Traceback" not in done.stderr
    assert (world.out / "model.safetensors").read_bytes() == former


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_finished_weights_that_are_damaged(damage, run, world):
    command, phase, _ = run
    path = phase / "finished.safetensors"
    path.write_bytes(path.read_bytes()[:-50] if damage == "cut" else b"<html>")
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 2
    assert re.search(r"error: .*finished\.safetensors", done.stderr)
