"""State on disk without pickle: what goes in comes out, and only whole checkpoints count."""

import json
import math
import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, ReduceLROnPlateau
from transformers import get_scheduler

from geohf.training.checkpoints import (
    COMPLETE,
    is_complete,
    last_complete_checkpoint,
    load_tree,
    mark_complete,
    random_state,
    save_tree,
    set_random_state,
)


def same(a, b):
    assert type(a) is type(b) or {type(a), type(b)} <= {list, tuple}, (a, b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@pytest.fixture
def trip(tmp_path):
    def trip(tree):
        save_tree(tree, tmp_path / "tree.safetensors")
        return load_tree(tmp_path / "tree.safetensors")

    return trip


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        None,
        3,
        "text",
        {"a": [1, 2.5, None, True, "x"], "b": {"c": (1, (2,))}},
        {1: "integer key", (2, "x"): "tuple key", None: "no key"},
        {"inf": [math.inf, -math.inf, math.nan], "tiny": 1e-300, "third": 1 / 3, "large": 2**70},
        {"tensor": "a name", "dict": [["not", "a", "dict"]], "list": {"tuple": 1}},
        {"t": torch.arange(6).reshape(2, 3).T, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)},
        {"half": torch.ones(3, dtype=torch.bfloat16), "bits": torch.tensor([True, False])},
    ],
)
def test_trees_come_back_as_they_were(trip, tree):
    same(trip(tree), tree)
    assert type(trip((1, [2], (3,)))) is tuple


def test_numpy_values_become_tensors_and_numbers(trip):
    found = trip({"a": np.arange(3), "b": np.float64(0.1), "c": np.int32(4)})
    assert torch.equal(found["a"], torch.arange(3))
    assert (found["b"], found["c"]) == (0.1, 4)


def test_tensors_that_share_memory_come_back_apart_and_equal(trip):
    tensor = torch.arange(4.0)
    found = trip({"a": tensor, "b": tensor, "c": tensor[1:3]})
    found["a"].zero_()
    assert found["b"].tolist() == [0, 1, 2, 3]
    assert found["c"].tolist() == [1, 2]


@pytest.mark.parametrize("leaf", [object(), {1, 2}, print, torch.nn.Linear(1, 1), b"bytes"])
def test_what_only_pickle_could_save_is_refused_and_nothing_is_written(tmp_path, leaf):
    with pytest.raises(TypeError, match="without pickle"):
        save_tree({"a": leaf}, tmp_path / "tree.safetensors")
    assert not list(tmp_path.iterdir())


# Optimizers, schedules and random generators


def trained(optimizer, steps=3):
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weights


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_goes_on_to_the_same_weights(trip, fused):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        groups = [{"params": model[0].parameters(), "lr": 1e-2}, {"params": model[1].parameters()}]
        return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, fused=fused)

    first = make()
    trained(first)
    state = trip(first.state_dict())
    same(state, first.state_dict())
    second = make()
    trained(second)
    second.load_state_dict(state)
    for a, b in zip(trained(first, 5), trained(second, 5), strict=True):
        assert torch.equal(a, b)


SCHEDULES = {
    "lambda": lambda o: LambdaLR(o, lambda step: 0.5**step),
    "partial": lambda o: LambdaLR(o, partial(lambda step, base: base**step, base=0.9)),
    "cosine": lambda o: get_scheduler("cosine", o, num_warmup_steps=3, num_training_steps=20),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2),
    "plateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_at_the_same_rate(trip, name):
    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        return SCHEDULES[name](optimizer)

    def rates(schedule, steps):
        found = []
        for i in range(steps):
            schedule.optimizer.step()
            schedule.step(*([1.0 + i % 2] if name == "plateau" else []))
            found.append(schedule.optimizer.param_groups[0]["lr"])
        return found

    whole = rates(make(), 12)
    first = make()
    rates(first, 5)
    second = make()
    second.load_state_dict(trip(first.state_dict()))
    second.optimizer.load_state_dict(trip(first.optimizer.state_dict()))
    if name != "plateau":
        assert rates(second, 7) == whole[5:]
    else:
        assert second.num_bad_epochs == first.num_bad_epochs
        assert second.best == first.best


def test_every_random_generator_goes_on_where_it_was(trip):
    def draw():
        return [
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),  # noqa: NPY002  the global generator is what is saved
            np.random.randn(3).tolist(),  # noqa: NPY002
            torch.rand(3).tolist(),
        ]

    draw()
    np.random.randn()  # noqa: NPY002  leaves a second number waiting
    state = trip(random_state())
    first = draw()
    draw()
    set_random_state(state)
    assert draw() == first


# Which checkpoint is whole


@pytest.fixture
def checkpoint(tmp_path):
    def make(step, whole=True):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(100))
        (folder / "trainer_state.json").write_text("{}")
        if whole:
            mark_complete(folder, step)
        return folder

    return make


def test_the_newest_whole_checkpoint_counts_by_number(checkpoint, tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "absent") is None
    checkpoint(9)
    newest = checkpoint(100)
    checkpoint(200, whole=False)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(newest)
    assert json.loads((newest / COMPLETE).read_text())["global_step"] == 100


def test_a_checkpoint_that_lost_a_file_or_its_end_does_not_count(checkpoint, tmp_path):
    older, cut, lost = checkpoint(1), checkpoint(2), checkpoint(3)
    os.truncate(cut / "model.safetensors", 50)
    (lost / "trainer_state.json").unlink()
    assert [is_complete(c) for c in (older, cut, lost)] == [True, False, False]
    assert last_complete_checkpoint(tmp_path) == str(older)
