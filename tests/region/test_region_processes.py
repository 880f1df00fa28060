"""Two processes take the step that one takes, for the whole model, an expert and the router."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# one optimizer step an argument: 12 rows in one process, or 6 in each of two
STEP = """
import sys
from pathlib import Path

import torch
from helpers.region_models import arguments_of, build_model, options_of
from safetensors.torch import save_file

from geohf.region.selection import of_regions
from geohf.region.data import load
from geohf.region.phase import RegionPhaseTrainer
from geohf.recipes.running import leave_process_group

def take_steps(sample, out, size):
    data = load(options_of(sample), arguments_of(out))
    for part in ("model", "expert", "router"):
        model = build_model("shared" if part == "model" else "separate", seed=2, dropout=0.0)
        for norm in model.modules():  # batch statistics do depend on the batch
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.train = lambda mode=True, norm=norm: norm
        module = {"model": model, "expert": model.experts[1], "router": model.router_module()}[part]
        rows = (of_regions(data.train, ["3"]) if part == "expert" else data.train).select(range(20))
        args = arguments_of(
            out, per_device_train_batch_size=size, max_steps=2, eval_strategy="no", save_strategy="no",
            load_best_model_at_end=False, augment="none", optim="sgd", t_0=0, lr_scheduler_type="constant",
        )
        trainer = RegionPhaseTrainer(module, args, train_dataset=rows, whole=model)
        trainer.train()
        metrics = trainer.evaluate(data.validation if part != "expert" else of_regions(data.validation, ["3"]))
        if trainer.is_world_process_zero():
            metrics = {n: torch.tensor(float(v)) for n, v in metrics.items() if "per_second" not in n and "time" not in n}
            save_file({n: t.contiguous().clone() for n, t in module.state_dict().items()} | metrics, out / f"{part}.safetensors")


take_steps(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
leave_process_group()
assert "pt_gloo_runloop" not in {name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")}
"""


def take_steps(sample, out, processes):
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (out / "step.py").write_text(STEP)
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    words = [out / "step.py", sample, out, 12 // processes]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), *map(str, words)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: load_file(path) for path in out.glob("*.safetensors")}


@pytest.fixture(scope="module")
def results(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return [take_steps(samples("wgs84"), folder / str(n), n) for n in (1, 2)]


@pytest.mark.parametrize("part", ["model", "expert", "router"])
def test_two_processes_take_the_step_of_one(results, part):
    one, two = (result[part] for result in results)
    assert one.keys() == two.keys()
    assert "eval_loss" in one
    for name in one:
        torch.testing.assert_close(
            one[name], two[name], rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
