"""Two processes under gloo: the loss, its parts and the gradient of one process with the whole batch."""

import pytest
import torch
from helpers.place_models import MET_IN_BOTH, along, build_model, classes_of_places

# the head of a place model, spread over processes as the Trainer spreads it
SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import distributed
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from helpers.place_models import build_model, classes_of_places

folder = Path(sys.argv[1])


def work(rank, world):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    model = build_model(dropout=0.0, heading_deg=90.0)
    head = DistributedDataParallel(model.head.train())
    batch = torch.load(folder / "batch.pt", weights_only=True)
    rows = slice(rank * 6, rank * 6 + 6)
    torch.manual_seed(7 + rank)  # every process has numbers of its own
    output = head(**{name: tensor[rows] for name, tensor in batch.items()})
    output.loss.backward()
    result = {name: p.grad for name, p in head.module.named_parameters()}
    result |= {name: buffer for name, buffer in head.module.named_buffers() if "running" in name}
    result |= {"loss": output.loss.detach(), **{name: part.detach() for name, part in output.loss_parts.items()}}
    result["descriptors"] = output.descriptors.detach()
    result = {name: value.clone() for name, value in result.items()}
    classifier = classes_of_places()
    head(**{name: tensor[rows] for name, tensor in batch.items()}, classifier=classifier).loss.backward()
    result["classes"] = classifier.weight.grad
    result |= {"both " + name: p.grad for name, p in head.module.named_parameters()}
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()


start_processes(work, args=(2,), nprocs=2, start_method="fork")
"""


def test_two_processes_have_the_gradient_of_one(run_python, tmp_path):
    generator = torch.Generator().manual_seed(0)
    batch = {
        "features": torch.randn(12, 96, generator=generator),
        "coordinates": torch.from_numpy(along(MET_IN_BOTH)),
        "headings": torch.tensor([0.0, 10, 20, 30, 40, 200] + [0.0] * 6),
    }
    torch.save(batch, tmp_path / "batch.pt")
    run_python(SCRIPT, tmp_path, cwd=__file__.rpartition("/")[0])
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    head = build_model(dropout=0.0, heading_deg=90.0).head.train()
    torch.manual_seed(7)  # those of the first process count
    output = head(**batch)
    output.loss.backward()
    expected = {name: p.grad for name, p in head.named_parameters()}
    expected |= {name: buffer for name, buffer in head.named_buffers() if "running" in name}
    expected |= {"loss": output.loss.detach(), **{k: part.detach() for k, part in output.loss_parts.items()}}
    expected["descriptors"] = output.descriptors.detach()
    expected = {name: value.clone() for name, value in expected.items()}
    classifier = classes_of_places()
    head(**batch, classifier=classifier).loss.backward()
    expected["classes"] = classifier.weight.grad
    expected |= {"both " + name: p.grad for name, p in head.named_parameters()}
    assert classifier.weight.grad.abs().sum() > 0.1
    assert output.loss_parts["contrastive_loss"] > 0.5
    assert output.loss_parts["triplet_loss"] > 0.1
    for found in ranks:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # the bias before the batch norm has no gradient but what rounding leaves of sums of about 10
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    alone = build_model(dropout=0.0, heading_deg=90.0).head.train()
    half = alone(**{name: tensor[:6] for name, tensor in batch.items()})
    assert half.loss.item() != pytest.approx(
        output.loss.item(), rel=0.1
    )  # without gathering it would be another
