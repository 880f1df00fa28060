"""The notebooks run from their first cell to the push, smaller than a reader runs them."""

from __future__ import annotations

import json
import re

import pytest
from helpers.pages import ROOT, TASKS
from transformers import AutoModel

SIZES = {"region": 24, "street": 2, "parts": 24, "place": 240, "tiles": 6}


def cells_of(task: str) -> list[str]:
    notebook = json.loads((ROOT / f"notebooks/{task}.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # a reader makes them
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_notebook_runs_and_pushes(task, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    parameters, *cells = cells_of(task)
    parameters = re.sub(
        r"^sample_size, epochs = .*$", f"sample_size, epochs = {SIZES[task]}, 1", parameters, flags=re.M
    )
    parameters = parameters.replace("None  #", f'"me/geo-{task}"  #')
    scope: dict = {}
    for code in (parameters, *cells):
        exec(compile(code, f"notebooks/{task}.ipynb", "exec"), scope)
    assert {"config.json", "model.safetensors", "README.md"} <= hub.files(f"me/geo-{task}").keys()
    assert AutoModel.from_pretrained(f"me/geo-{task}").config.model_type == f"geohf_{task}"
