"""The pages keep their word: every command parses, every link leads somewhere, every table names what there is."""

from __future__ import annotations

import contextlib
import functools
import itertools
import pkgutil
import re
import runpy
import shlex

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from helpers.pages import PAGES, RECIPES, ROOT, TASKS, commands, name_of, spans, table_after
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

import geohf
from geohf.hub.card import PIPELINE_TAGS

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = {task: f"recipes/train_{task}.py" for task in TASKS} | {"street": "recipes/train_streetclip.py"}
MODELS = {
    row[0].split("]")[0][1:]: re.findall(r"`([^`]+)`", row[-1]) for row in table_after(README, "| task |")
}
COMMANDS = [(name_of(path), line) for path in [*PAGES, *RECIPES] for line in commands(path)]


@functools.cache
def parser_of(script: str, task: str | None = None):
    """A recipe's own parser; those of predict.py and evaluate.py have a task's options, too."""
    parser = runpy.run_path(str(ROOT / script))["make_parser"]()
    if task is not None:
        options = getattr(getattr(geohf, MODELS[task][0]), f"{script[8:-3]}_options")
        for option, described in options.items():
            parser.add_argument(f"--{option}", **described)
    return parser


def parse(script: str, words: list[str]):
    """What the recipe would run with; SystemExit or DataError where it would not."""
    if script in ("recipes/predict.py", "recipes/evaluate.py"):
        task = next(task for task in TASKS if task in words[0])
        return parser_of(script, task).parse_args(words)
    parser = parser_of(script)
    if not hasattr(parser, "parse"):
        return parser.parse_args(words)
    check_choices(parser, words)
    return parser.parse([*words, "--use_cpu"])


def check_choices(parser, words: list[str]) -> None:
    """Where the help of a flag names its default, it names every word that the flag takes."""
    known = parser._option_string_actions
    for flag, value in itertools.pairwise(words):
        action = known.get(flag)
        if action and isinstance(action.default, str) and not value.startswith("--"):
            choices = set(re.findall(r"[\w-]+", action.help))
            assert action.default not in choices or value in choices, (flag, value, action.help)


def script_and_words(line: str) -> tuple[str, list[str]]:
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        return words[1], words[2:]
    launched = launch_command_parser().parse_args(words[2:])
    assert launched.config_file is None or (ROOT / launched.config_file).is_file()
    return launched.training_script, launched.training_script_args


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_parse(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)  # for --config
    script, words = script_and_words(line)
    with pytest.raises(SystemExit, match=r"^0$") if "--help" in words else contextlib.nullcontext():
        parse(script, words)


def test_commands_of_every_recipe_were_found():
    assert {script_and_words(line)[0] for page, line in COMMANDS if page == "README.md"} >= {
        *SCRIPTS.values(), "recipes/predict.py", "recipes/evaluate.py", "recipes/push.py", "recipes/index_places.py",
    }  # fmt: skip
    assert {page for page, _ in COMMANDS} >= {*(f"docs/{task}.md" for task in TASKS)}


def test_a_wrong_command_would_be_seen(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for words, error in (
        (["--sampel_size", "3"], geohf.DataError),
        (["--config", "recipes/configs/nothing.yaml"], geohf.DataError),
        (["--fusion", "sum"], AssertionError),
    ):
        with pytest.raises(error):
            parse(SCRIPTS["street"], words)
    with pytest.raises(SystemExit):
        parse("recipes/predict.py", ["outputs/street", "photos/", "--index", "area.parquet"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link
    for span in (span for span in spans(text) if "<" not in span):
        for word in re.findall(
            r"(?<![\w/])(?:recipes|tests|benchmarks|docs|model_cards|geohf)/[\w./-]+", span
        ):
            assert (ROOT / word).exists(), word
        for word in re.findall(r"(?<![\w.])geohf(?:\.\w+)+", span):
            assert attribute(word), word


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def attribute(dotted: str):
    """The module, or what a module has, of that name."""
    try:
        return pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return None


def test_the_table_of_tasks():
    rows = table_after(README, "| task |")
    assert [row[0] for row in rows] == [f"[{task}](#{task})" for task in TASKS]
    for task, row in zip(TASKS, rows, strict=True):
        model, pipeline = MODELS[task]
        assert row[-2] == f"`{SCRIPTS[task]}`"
        assert (ROOT / SCRIPTS[task]).is_file()
        model = getattr(geohf, model)
        assert AutoModel._model_mapping[model.config_class] is model
        assert model.card_template == f"{task}.md"
        assert PIPELINE_TAGS[task] == pipeline
        assert pipeline in PIPELINE_REGISTRY.get_supported_tasks()


@pytest.mark.parametrize("task", TASKS)
def test_seed_tables_name_flags_and_the_values_of_the_shipped_config(task, monkeypatch):
    monkeypatch.chdir(ROOT)
    elsewhere = {
        ("tiles", "task"),
        ("place", "models"),
        ("place", "methods"),
    }  # the tables say more than one run
    parser, compared = parser_of(SCRIPTS[task]), 0
    shipped = f"recipes/configs/{task}.yaml"
    given = re.findall(r"^(\w+):", (ROOT / shipped).read_text(), re.M)
    config = merged(parser.parse(["--config", shipped]))
    page = (ROOT / "docs" / f"{task}.md").read_text(encoding="utf-8")
    for row in table_after(page, "## From the "):
        for span in spans(row[1]):
            flags = re.findall(r"--(\w+)", span)
            if span.startswith("accelerate"):
                continue
            assert {f"--{flag}" for flag in flags} <= {*parser._option_string_actions}, span
            words = shlex.split(span)
            if not flags or len(words) == len(flags) or "report_to" in flags:  # which need not be installed
                continue
            check_choices(parser, words)
            said = merged(parser.parse([*words, "--use_cpu"]))
            if (
                span in spans(re.sub(r"\(.*?\)", "", row[1])) and "config" not in flags
            ):  # in brackets are others
                for flag in flags:
                    if flag in given and (task, flag) not in elsewhere and "X" not in words:
                        compared += 1
                        assert same(said[flag], config[flag]), (flag, said[flag], config[flag])
    assert compared >= 5


def merged(parsed) -> dict:
    return {name: value for part in parsed for name, value in vars(part).items()}


def same(said, held) -> bool:
    """Equal, or a list whose middle is left out."""
    if isinstance(said, list) and "..." in said:
        return (said[0], said[-1]) == (held[0], held[-1])
    return said == held


def test_the_place_config_holds_what_the_seed_trained_with():
    config = merged(parser_of(SCRIPTS["place"]).parse(["--config", str(ROOT / "recipes/configs/place.yaml")]))
    names = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "weight_decay", "seed")
    assert [config[name] for name in names] == [15, 1e-4, 32, 1e-4, 42]


def test_configs_of_accelerate_load():
    kinds = {}
    for path in (ROOT / "recipes" / "accelerate").glob("*.yaml"):
        config = load_config_from_file(str(path))
        kinds[path.name] = config.distributed_type.value
        for line in re.findall(r"# (accelerate launch .*)", path.read_text()):
            launched = launch_command_parser().parse_args(shlex.split(line)[2:])
            assert launched.config_file == name_of(path)
            assert (ROOT / launched.training_script).is_file()
    assert kinds == {"ddp.yaml": "MULTI_GPU", "fsdp.yaml": "FSDP"}
    assert load_config_from_file(str(ROOT / "recipes/accelerate/fsdp.yaml")).fsdp_config["fsdp_version"] == 2
