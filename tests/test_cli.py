"""The command `geohf`: quick help, one line for a wrong word, and the recipes of this package behind it."""

import importlib.metadata
import os
import runpy
import sys
from pathlib import Path

import pytest
from helpers.pages import ROOT, TASKS
from huggingface_hub import get_session
from test_readme import SCRIPTS

import geohf
import geohf_cli
from geohf.recipes.running import run_recipe


@pytest.mark.parametrize("words", [(), ("--help",), ("train", "--help"), ("train",)])
def test_help_waits_for_no_torch(words, run_python):
    code = (
        "import sys, geohf_cli; status = geohf_cli.main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    )
    printed = run_python(code, *words)
    assert printed.startswith("usage: geohf")
    assert printed.splitlines()[-1] == "0 False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "street"], "unknown command 'trian': did you mean 'train'?"),
        (["--prediction"], "unknown command '--prediction': did you mean 'predict'?"),
        (
            ["xyz"],
            "unknown command 'xyz': there are train, predict, evaluate, push, index, pairs, export, convert, demo, push-demo, env",
        ),
        (["convert", "sald", "a.ckpt", "new"], "unknown kind of weights 'sald': did you mean 'salad'?"),
        (["train", "stret"], "unknown task 'stret': did you mean 'street'?"),
        (["train", "--num_processes", "2", "stret"], "unknown task 'stret': did you mean 'street'?"),
        (
            ["train", "street", "--num_processes=2"],
            "--num_processes=2 is accelerate's and stands before the task: geohf train --num_processes=2 ... street",
        ),
    ],
)
def test_a_wrong_word_gets_one_line(words, message, capsys):
    assert geohf_cli.main(words) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["geohf", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("geohf", run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("geohf")


@pytest.mark.parametrize("words", [["salad", "a.ckpt"], ["salad", "--help"]])
def test_the_name_of_published_weights_is_no_source_of_annotations(words, monkeypatch):
    runs = []
    monkeypatch.setattr(geohf_cli, "run_here", lambda module, *_: runs.append(module) or 0)
    assert geohf_cli.main(["convert", *words]) == 0
    assert runs == ["convert_weights"]


@pytest.fixture
def launched(monkeypatch):
    """What accelerate would launch, instead of launching it."""
    calls = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", calls.append)
    return calls


def test_flags_of_the_launcher_pass_through(launched):
    words = [
        "train",
        "--num_processes",
        "2",
        "--multi_gpu",
        "street",
        "--data",
        "photos",
        "--use_cpu",
        "true",
    ]
    assert geohf_cli.main(words) == 0
    (args,) = launched
    assert (args.num_processes, args.multi_gpu, args.module) == (2, True, True)
    assert args.training_script == "geohf.recipes.train_street"
    assert args.training_script_args == ["--data", "photos", "--use_cpu", "true"]


def test_the_files_that_geohf_brings_are_found_by_name(launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = Path(geohf.__file__).parent / "recipes"
    geohf_cli.main(["train", "--config_file", "ddp.yaml", "street", "--config", "street.yaml"])
    geohf_cli.main(["train", "street", "--config=sub/street.yaml"])
    Path("street.yaml").write_text("seed: 3\n")
    geohf_cli.main(["train", "street", "--config=street.yaml"])
    assert launched[0].config_file == str(recipes / "accelerate" / "ddp.yaml")
    assert launched[0].training_script_args == ["--config", str(recipes / "configs" / "street.yaml")]
    assert launched[1].training_script_args == ["--config=sub/street.yaml"]  # to be said that it is missing
    assert launched[2].training_script_args == ["--config=street.yaml"]  # the user's own


@pytest.mark.slow
def test_a_run_ends_with_the_status_of_its_recipe(capfd):
    assert geohf_cli.main(["train", "street", "--sampel_size", "3"]) == 2
    assert "error: unknown argument '--sampel_size' (did you mean 'sample_size'?)" in capfd.readouterr().err


def test_other_commands_run_here_under_their_own_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["geohf"])
    for words, first in (
        (["evaluate", "--help"], "usage: geohf evaluate [-h]"),
        (["train", "street", "--help"], "usage: geohf train street [-h]"),
    ):
        with pytest.raises(SystemExit, match=r"^0$"):
            geohf_cli.main(words)
        assert capsys.readouterr().out.startswith(first)


def test_env_tells_versions_and_no_secret(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["geohf"])
    monkeypatch.setenv("HF_TOKEN", "hf_aaaaaaaaaaaa")
    geohf_cli.main(["env"])
    printed = capsys.readouterr().out
    assert f"geohf            {geohf.__version__}\n" in printed
    assert "device cpu" in printed
    assert "hf_a" not in printed


def test_every_command_and_task_has_its_module():
    assert geohf_cli.TASKS == TASKS
    moved = [
        task for task, script in SCRIPTS.items() if "geohf.recipes.train_" in (ROOT / script).read_text()
    ]
    assert "street" in moved
    modules = [name for name in geohf_cli.COMMANDS if name != "train"] + [f"train_{task}" for task in moved]
    assert not [
        name
        for name in modules
        if not (ROOT / "geohf" / "recipes" / f"{name.replace('-', '_')}.py").is_file()
    ]


def test_predict_lets_waiting_threads_sleep_and_a_user_s_own_choice_stays(run_python):
    code = (
        "import os, sys, geohf_cli; geohf_cli.run_here = lambda *words: 0; "
        "geohf_cli.main(sys.argv[1:]); print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    assert run_python(code, "predict").split() == ["passive"]
    assert run_python(code, "env").split() == [os.environ.get("OMP_WAIT_POLICY", "None")]
    chosen = f"import os; os.environ['OMP_WAIT_POLICY'] = 'active'; {code}"
    assert run_python(chosen, "predict").split() == ["active"]


def test_no_connection_to_the_hub_ends_in_words(capsys):
    def push():
        get_session().get("http://127.0.0.1:9/")  # nothing listens there

    with pytest.raises(SystemExit) as ended:
        run_recipe(push)
    assert ended.value.code == 2
    assert "error: the Hub cannot be reached (" in capsys.readouterr().err
