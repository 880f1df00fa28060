"""Forward and loss with all tensors on a GPU that is only pretended: a tensor left on the CPU is an error.

Under `FakeTensorMode` shapes and devices are computed, and no numbers, so no GPU is needed; backward does not work there.
"""

import inspect

import pytest
import torch
import torchvision  # noqa: F401  # registers nms
from helpers import place_models, region_models, street_models
from helpers.five_tasks import TASKS, rows_of, tile_model, trainer_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from geohf import TileSequenceConfig, TileSequenceModel

aten = torch.ops.aten
GPU = torch.device("cuda", 0)


class PretendedGPU(FakeTensorMode):
    """Numbers that Python asks for are 1 or True, and masks and suppression choose all rows: what is asked about is the devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is aten.nonzero.default:
            with self:
                return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.long, device=args[0].device)
        if func is torch.ops.torchvision.nms.default:
            with self:
                return torch.arange(len(args[0]), device=args[0].device)
        return super().__torch_dispatch__(func, types, args, kwargs)


def tiles(**fields):
    config = tile_model().config.to_diff_dict() | fields
    torch.manual_seed(0)
    return TileSequenceModel(TileSequenceConfig(**config))


CASES = {
    **{name: (name, task.make) for name, task in TASKS.items()},
    **{
        f"street-{value}": (
            "street",
            lambda field=field, value=value: street_models.build_model(**{field: value}),
        )
        for field, values in {
            "fusion": ("mean", "concat", "attention", "weighted"),
            "gps_head": ("offset", "bounded"),
            "gps_loss": ("smooth_l1", "mse", "mae", "haversine"),
            "smoothing": ("cell", "point", "none"),
        }.items()
        for value in values
    },
    **{
        f"region-{value}": ("region", lambda value=value: region_models.build_model(experts=value))
        for value in ("separate", "shared")
    },
    **{
        f"place-{value}": ("place", lambda value=value: place_models.build_model(pooling=value))
        for value in ("tower", "gem", "gem_linear", "mixvpr", "netvlad", "boq")
    },
    **{
        f"tiles-{value}": ("tiles", lambda field=field, value=value: tiles(**{field: value}))
        for field, values in {
            "encoder": ("convlstm", "convgru"),
            "loss": ("mse", "mae", "huber", "quantile", "gaussian"),
        }.items()
        for value in values
    },
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_loss_mix_in_no_tensor_of_the_cpu(case, tmp_path):
    task, make = CASES[case]
    trainer = trainer_of(task, tmp_path, make())
    model = trainer.model.train()
    known = inspect.signature(model.forward).parameters
    batch = {name: value for name, value in trainer.data_collator(rows_of(task)).items() if name in known}
    mode = PretendedGPU(allow_non_fake_inputs=True)  # torchvision keeps anchors in a list

    def on_gpu(value):
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            return torch.empty(value.shape, dtype=value.dtype, device=GPU)

    state = {name: on_gpu(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
    with mode, torch.no_grad():
        found = torch.func.functional_call(model, state, kwargs=tree_map(on_gpu, batch))
    assert found.loss.device == GPU
    assert found.loss.shape == ()


def test_a_tensor_of_the_cpu_is_found():
    real, mode = torch.ones(3), PretendedGPU(allow_non_fake_inputs=True)
    with mode:
        on_gpu = torch.empty(3, device=GPU)
        with pytest.raises(Exception, match="device"):
            on_gpu + torch.zeros(3)
    with mode, pytest.raises(Exception, match="device"):
        on_gpu * real
