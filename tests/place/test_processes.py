"""Two processes give the loss, the gradient, the batches and the recall of one."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

# one step of the head on a batch that the processes share
STEP = """
import sys, torch
from safetensors.torch import save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from geohf.place.configuration import GeoPlaceConfig
from geohf.place.head import PlaceHead

out, mining, clustered = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
head = PlaceHead(GeoPlaceConfig(feature_size=12, projection_dim=8, dropout=0.0, mining=mining)).train()
features = torch.randn(16, 12)
points = torch.stack([torch.zeros(16), torch.arange(16) // 4 * 0.01 + torch.rand(16) * 1e-4], 1).double()
head.fit_features(features)
clusters = torch.arange(16) // 3
torch.manual_seed(100 + rank)  # the lot is drawn once, not once a process
shared = DistributedDataParallel(head)
own = slice(rank * 16 // world, (rank + 1) * 16 // world)
output = shared(features[own], coordinates=points[own], clusters=clusters[own] if clustered else None)
output.loss.backward()
if rank == 0:
    tensors = {name: p.grad for name, p in head.named_parameters()}
    tensors |= {name: b.float() for name, b in head.named_buffers() if "running" in name}
    save_file(tensors | {"loss": output.loss.detach()}, out)
distributed.destroy_process_group()
"""

# a whole run
RUN = """
import json, sys
from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
from geohf.place.run import run_place

folder, drives, cache, batch = sys.argv[1:]
options = PlaceArguments(
    train_csv=[f"{drives}/noon/poses.csv", f"{drives}/dusk/poses.csv"], models=["test_resnet"], pretrained=False,
    image_size=96, pooling="mixvpr", mix_depth=1, mix_channels=32, block_m=120.0, validation_share=0.2,
    test_share=0.2, negative_m=60.0, methods=["ours"],
)
args = PlaceTrainingArguments(
    output_dir=folder, num_train_epochs=2, per_device_train_batch_size=int(batch), disable_tqdm=True, use_cpu=True,
    cache_dir=cache,
)
run_place(options, args)
"""


@pytest.fixture
def processes(tmp_path):
    """`processes(count, code, *arguments)` runs the code in so many processes that share a group."""

    def run(count, code, *arguments):
        script = tmp_path / "script.py"
        script.write_text(code)
        launch = [
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={count}",
            "--master_port=0",
            "--standalone",
        ]
        done = subprocess.run(
            [sys.executable, *launch, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.mark.parametrize(("mining", "clustered"), [("half_hard", False), ("semi_hard", True)])
def test_the_gradient_of_two_processes_is_that_of_one(processes, tmp_path, mining, clustered):
    found = []
    for count in (1, 2):
        path = tmp_path / f"{count}.safetensors"
        processes(count, STEP, path, mining, clustered)
        found.append(load_file(path))
    one, two = found
    assert one.keys() == two.keys()
    assert one["loss"] > 0.1
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-6), name
    assert max(one["project.0.weight"].abs().max(), one["descriptor_norm.weight"].abs().max()) > 1e-3


def test_a_run_on_two_processes_is_the_run_on_one(processes, tmp_path, drives, cache):
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        processes(count, RUN, folder, drives, cache, 32 // count)
        metrics = json.loads((folder / "metrics.json").read_text())
        found.append((load_file(folder / "model.safetensors"), metrics))
    (one, first), (two, second) = found
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-5), name
    assert first["eval"] == pytest.approx(second["eval"], abs=0.02)
    assert first["rows"] == second["rows"]
