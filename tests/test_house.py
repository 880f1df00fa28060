"""The house's own rules: arrows that run one way, tasks that do not know each other, imports that stay light."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TASKS = ("region", "street", "parts", "place", "tiles")
# what every room has; who knows one room finds it in the other four
MODULES = (
    "answers",
    "arguments",
    "card",
    "configuration",
    "data",
    "metrics",
    "modeling",
    "outputs",
    "phase",
    "pipeline",
    "processing",
    "sample",
    "streaming",
    "trainer",
)
HEAVY = ("timm", "datasets", "matplotlib", "sklearn", "pandas", "peft", "evaluate", "rasterio")


def test_arrows_run_one_way(run_python):
    # in a process of its own: import-linter sets up logging anew
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = run_python(code, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_geohf_brings_in_nothing_heavy(run_python):
    """What `from transformers import AutoModel, PreTrainedModel` does not import, geohf does not add."""
    found = run_python(
        f"""
        import json, sys
        from transformers import AutoModel, PreTrainedModel
        before = [name for name in {HEAVY} if name in sys.modules]
        import geohf
        print(json.dumps([name for name in {HEAVY} if name in sys.modules and name not in before]))
        """
    )
    assert json.loads(found.splitlines()[-1]) == []


def test_docstrings_have_one_markup():
    """Markdown's, as the pages of the documentation are made from it; what begins with three ticks is a block."""
    odd = re.compile(r"(?<!`)``(?!`)|:(func|class|meth|mod|attr):`")
    files = sorted((ROOT / "geohf").rglob("*.py"))
    assert [str(file) for file in files if odd.search(file.read_text())] == []


def test_rooms_name_the_files_that_they_have():
    rooms = {file.parent: file.read_text() for file in (ROOT / "geohf").rglob("__init__.py")}
    pattern = re.compile(r"^ {4}(\w+\.py) ", re.MULTILINE)
    named = [room / name for room, text in rooms.items() for name in pattern.findall(text)]
    assert len(named) > 10
    assert [str(path) for path in named if not path.is_file()] == []


@pytest.mark.parametrize("task", TASKS)
def test_rooms_have_the_same_files_with_the_same_signatures(task):
    room = {name: importlib.import_module(f"geohf.{task}.{name}") for name in MODULES}
    options, training = _classes(room["arguments"], "Arguments")
    (model,) = _classes(room["modeling"], "Model")
    phase, trainer = _classes(room["phase"], "PhaseTrainer")[0], _classes(room["trainer"], "Trainer")[0]

    load = inspect.signature(room["data"].load)
    assert [(p.name, p.annotation) for p in load.parameters.values()] == [
        ("options", options.__name__),
        ("args", f"{training.__name__} | None"),
    ]
    assert load.return_annotation.endswith("Data")
    make_model = inspect.signature(room["modeling"].make_model)
    assert list(make_model.parameters) == ["options", "data"]
    assert make_model.return_annotation == model.__name__
    measure = inspect.signature(room["metrics"].measure)
    assert measure.return_annotation == "list[Metric]"
    assert "intervals" in measure.parameters
    assert set(room["metrics"].METRICS) <= set(training.metrics)
    write_outputs = inspect.signature(room["outputs"].write_outputs)
    assert [p.annotation for p in write_outputs.parameters.values()][:3] == [
        trainer.__name__,
        "Path",
        "Evaluation",
    ]
    assert list(write_outputs.parameters)[:3] == ["trainer", "folder", "evaluation"]
    assert write_outputs.return_annotation == "Mapping[str, Any]"
    card_data = inspect.signature(room["card"].card_data)
    assert {name: p.annotation for name, p in card_data.parameters.items()} == {
        "trainer": trainer.__name__,
        "evaluation": "Evaluation",
    }
    assert card_data.return_annotation == "CardData"
    write_sample = inspect.signature(room["sample"].write_sample)
    assert list(write_sample.parameters)[:3] == ["folder", "seed", "size"]
    assert write_sample.parameters["folder"].annotation == "str | Path"
    assert issubclass(trainer, phase)


@pytest.mark.parametrize("task", TASKS)
def test_rooms_have_the_same_classes(task):
    from geohf.metrics.records import Evaluation
    from geohf.models.modeling import GeoPreTrainedModel
    from geohf.models.pipelines import GeoPipeline
    from geohf.training.options import BackboneArguments, DataArguments
    from geohf.training.trainer import GeoTrainer
    from geohf.vision.processing import SampleProcessor

    room = {name: importlib.import_module(f"geohf.{task}.{name}") for name in MODULES}
    options, _ = _classes(room["arguments"], "Arguments")
    assert issubclass(options, DataArguments)
    assert issubclass(options, BackboneArguments)
    (model,) = _classes(room["modeling"], "Model")
    assert issubclass(model, GeoPreTrainedModel)
    assert model.config_class.model_type == f"geohf_{task}"
    assert model.config_class in _classes(room["configuration"], "Config")
    processors = _classes(room["processing"], "Processor")
    assert sum(issubclass(one, SampleProcessor) for one in processors) == 1
    assert len(_classes(room["processing"], "Collator")) == 1
    assert all(issubclass(one, GeoPipeline) for one in _classes(room["pipeline"], "Pipeline"))
    (trainer,) = (one for one in _classes(room["trainer"], "Trainer") if issubclass(one, GeoTrainer))
    assert trainer.write_outputs is room["outputs"].write_outputs
    assert trainer.card_data is room["card"].card_data
    for hook in ("run_phases", "outputs", "measure"):
        assert hook in vars(trainer), f"{trainer.__name__}.{hook}"
        ours, base = (inspect.signature(getattr(one, hook)) for one in (trainer, GeoTrainer))
        assert list(ours.parameters) == list(base.parameters), hook
    assert inspect.signature(trainer.measure).return_annotation == Evaluation.__name__


@pytest.mark.parametrize("task", TASKS)
def test_recipes_show_the_same_flow(task):
    recipe = importlib.import_module(f"geohf.recipes.train_{task}")
    assert list(inspect.signature(recipe.run).parameters) == ["options", "args"]
    steps = ["load(", "make_model(", "Trainer(", ".train()", ".evaluate(", "write_report(", ".push_to_hub()"]
    code = inspect.getsource(recipe.run)
    places = [code.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert not inspect.signature(recipe.main).parameters


def _classes(module, end: str) -> list[type]:
    """Classes that a module defines, by the end of their names."""
    return [
        one
        for name, one in vars(module).items()
        if inspect.isclass(one) and name.endswith(end) and one.__module__ == module.__name__
    ]
