"""The benchmarks' table: what a row says, and that one that fails costs no other its rows."""

import ast
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_goals_of_speeds_are_floors_and_goals_of_costs_are_ceilings():
    from measure import Row

    assert Row("a", "b", 2.0, goal=1.5).met
    assert not Row("a", "b", 1.4, goal=1.5).met
    assert Row("a", "b", 1.4, goal=1.5, cost=True).met
    assert not Row("a", "b", 2.0, goal=1.5, cost=True).met
    assert Row("a", "b", 2.0).met is None


def test_rows_show_their_unit_and_a_missing_peer():
    from measure import Row

    assert Row("a", "b", 41.234, 20).shown() | {"what": "", "against": ""} == {
        "what": "",
        "against": "",
        "ratio": "41.2 × as fast",
        "goal": "at least 20",
        "met": True,
    }
    assert Row("a", "b", 1.05, 1.1, cost=True).shown()["ratio"] == "1.05 × the time"
    assert Row("a", "b", 188.4, 1024, cost=True, unit="MiB").shown()["ratio"] == "188 MiB"
    missing = Row("a", "b", None, 5).shown()
    assert (missing["ratio"], missing["goal"], missing["met"]) == ("not installed", "at least 5", "")


def test_ways_take_turns_and_slow_ones_run_once():
    from measure import medians

    calls = []
    medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, slow=("b",))
    assert calls == ["a", "a", "b", "a"]


def test_memory_is_measured_in_a_fresh_process():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("measured on Linux only")
    import memory

    assert 60 < memory.alone(memory.peak_added, bytes_of_64_mib) < 80


def bytes_of_64_mib():
    bytearray(64 * 2**20)


def test_a_benchmark_that_fails_is_named_and_the_others_keep_their_rows(tmp_path, monkeypatch, capsys):
    import run

    row = {"what": "w", "against": "x", "value": 3.0, "goal": 2.0, "cost": False, "unit": ""}
    good = f"import sys; open(sys.argv[2], 'w').write({json.dumps(json.dumps([row]))})"
    bad = "import sys; sys.exit('results differ: here')"
    (tmp_path / "bench_geo.py").write_text(good)
    (tmp_path / "bench_tiles.py").write_text(bad)
    monkeypatch.setattr(run, "HERE", tmp_path)
    output = tmp_path / "made" / "table"
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "tiles", "geo", "--output", str(output)])
    with pytest.raises(SystemExit, match=r"failed: tiles \(results differ: here\)"):
        run.main()
    printed = capsys.readouterr().out
    assert printed == output.with_suffix(".md").read_text()
    line = next(line for line in printed.splitlines() if "| w " in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][3:] == ["3 × as fast", "at least 2", "yes"]
    found = json.loads(output.with_suffix(".json").read_text())
    assert found["rows"]["geo"] == [row | {"met": True}]
    assert found["failed"] == {"tiles": "results differ: here"}
    assert found["machine"]["threads"] == 1


def test_every_benchmark_belongs_to_a_task():
    import run

    assert sorted(run.NAMES) == sorted(path.stem[6:] for path in BENCHMARKS.glob("bench_*.py"))


def test_a_benchmark_runs_on_small_tables(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "bench_geo.py"), "--points", "60", "--rounds", "1"]
    subprocess.run([*command, "--json", str(tmp_path / "rows.json")], check=True, capture_output=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert 0 < rows[2]["value"] < 5  # meters that float32 is off


@pytest.mark.slow
def test_the_benchmark_of_gpus_compares_every_task_on_a_cpu(tmp_path):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory on a CPU is measured on Linux only")
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu.py"),
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--ways",
        "bf16",
    ]
    done = subprocess.run([*command, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    for task in ("region", "street", "parts", "place", "tiles"):
        for what in ("training step", "prediction"):
            speed, memory = (
                row for row in rows if f"{what} of {task}, " in row["what"] and "bf16" in row["what"]
            )
            assert speed["value"] > 0
            assert memory["unit"] == "× the memory"
    for peer in ("torchvision", "sentence-transformers"):  # one that is not installed has a row, too
        assert any(peer in row["against"] for row in rows)


def test_the_benchmark_of_gpus_stops_where_answers_differ():
    import gpu
    import torch

    exact = torch.tensor([3.0, 4.0])
    gpu.require_close("here", exact + torch.tensor([0.0, 0.4]), exact, 0.1)
    with pytest.raises(SystemExit, match=r"results differ: here: 0\.12 of the norm apart, 0\.1 is allowed"):
        gpu.require_close("here", exact + torch.tensor([0.0, 0.6]), exact, 0.1)


@pytest.mark.parametrize("task", ["region", "street", "place", "tiles"])
def test_the_batch_of_the_benchmark_of_gpus_has_a_gradient_in_every_way(task):
    import gpu
    import gpu_models
    import torch

    backbone, side, batch = gpu_models.SIZES["tiny"][task]
    inputs = gpu_models.make_batch(task, side, batch)
    ways = gpu.Ways(gpu_models.make_model(task, backbone, side), inputs, ["float32", "bf16"])
    losses = [float(ways.step(name)) for name in ("float32", "bf16")]
    assert all(0 < loss < 100 for loss in losses)
    assert all(torch.isfinite(p).all() for p in ways.model.parameters())


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_what_a_benchmark_takes_of_geohf_is_there(script):
    """Nobody runs them all after a move, and an import that fails would be seen by the next who measures."""
    tree = ast.parse((BENCHMARKS / script).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    for node in imports:
        if (node.module or "").partition(".")[0] == "geohf":
            module = importlib.import_module(node.module or "")
            missing = [
                name.name
                for name in node.names
                if not hasattr(module, name.name) and find_spec(f"{node.module}.{name.name}") is None
            ]
            assert not missing, f"{node.module} has no {missing}"
