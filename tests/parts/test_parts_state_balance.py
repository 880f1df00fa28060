"""Losses for states that are rare."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from helpers.parts_models import PARTS, STATES, TINY, build_model, build_query_model, parse, truths
from torch.nn import functional

from geohf.errors import DataError
from geohf.parts import PartStateConfig
from geohf.parts.losses import IGNORED
from geohf.parts.state_balance import count_states, state_misses
from geohf.recipes.train_parts import run

COUNTS = [[90, 9, 0], [10, 30, 0], [0, 1, 0]]


def config(balance, **fields):
    return PartStateConfig(
        id2label=PARTS, id2state=STATES, state_balance=balance, **{"state_counts": COUNTS} | fields
    )


def test_losses_are_what_their_formulas_say():
    logits = torch.tensor([[1.0, 0.5, -1.0], [0.2, 0.3, 0.1], [3.0, 0.0, 0.0]])
    states, parts = torch.tensor([1, 0, IGNORED]), torch.tensor([0, 1, -1])
    plain = functional.cross_entropy(logits, states, reduction="none")
    assert torch.equal(state_misses(logits, states, parts, config("none")), plain)
    shares = torch.tensor([[91, 10, 1], [11, 31, 1]]) / torch.tensor([[102.0], [43.0]])
    adjusted = functional.cross_entropy(logits[:2] + shares.log(), states[:2], reduction="none")
    found = state_misses(logits, states, parts, config("logit_adjust"))
    torch.testing.assert_close(found, torch.cat([adjusted, torch.zeros(1)]))
    weights = torch.tensor([0.001 / (1 - 0.999**100), 0.001 / (1 - 0.999**40)])
    weights = weights / weights.mean()
    found = state_misses(logits, states, parts, config("effective"))
    torch.testing.assert_close(
        found, plain * torch.tensor([weights[1], weights[0], 0.0]), rtol=1e-4, atol=1e-6
    )
    p = logits.softmax(1)[[0, 1], [1, 0]]
    found = state_misses(logits, states, parts, config("focal"))
    torch.testing.assert_close(found[:2], -((1 - p) ** 2) * p.log())


def test_rare_states_are_found_where_the_loss_is_balanced():
    """A state of 6 % that overlaps with the others, told from two numbers: share of it that is found."""
    rng = np.random.default_rng(0)
    centers, shares = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.2]]), [0.6, 0.34, 0.06]

    def draw(count):
        states = rng.choice(3, count, p=shares)
        return torch.tensor(centers[states] + rng.normal(size=(count, 2))).float(), torch.tensor(states)

    (x, y), (test, truth) = draw(3000), draw(20000)
    recall, accuracy = {}, {}
    for balance in ("none", "logit_adjust", "effective", "focal"):
        settings = config(balance, state_counts=[torch.bincount(y, minlength=3).tolist(), [0] * 3, [0] * 3])
        layer = torch.nn.Linear(2, 3)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60)

        def closure(layer=layer, optimizer=optimizer, settings=settings):
            optimizer.zero_grad()
            loss = state_misses(layer(x), y, torch.zeros_like(y), settings).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        found = layer(test).argmax(1)
        recall[balance] = float((found[truth == 2] == 2).float().mean())
        accuracy[balance] = float((found == truth).float().mean())
    assert recall["logit_adjust"] > recall["effective"] > recall["none"] + 0.1
    assert abs(recall["focal"] - recall["none"]) < 0.1
    assert accuracy["logit_adjust"] < accuracy["none"]  # the price


def test_states_are_counted_by_part_without_those_that_no_box_has():
    targets = [
        {"labels": np.array([0, 0, 1]), "states": np.array([0, 2, 1])},
        {"labels": np.array([0, 2]), "states": np.array([0, -1])},
    ]
    assert count_states(targets, config("effective")) == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert count_states(targets, config("effective", absent="detect")) == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_counts_need_no_memory_for_each_photo():
    """A table of parts and states for each photo was kept: with many names that is more than memory holds."""
    names = {i: str(i) for i in range(600)}
    config = PartStateConfig(id2label=names, id2state=STATES)
    rows = [{"labels": np.array([i]), "states": np.array([0])} for i in range(600)]
    tracemalloc.start()
    counts = count_states(rows, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array(counts).sum() == 600
    assert peak < 2e6
    assert count_states([], config) == np.zeros((600, len(STATES)), int).tolist()


@pytest.mark.parametrize("build", [build_model, lambda **fields: build_query_model("lw_detr", **fields)])
def test_both_kinds_of_detectors_learn_by_it(build):
    x = torch.randn(2, 3, *build().config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        losses = {
            b: build(state_balance=b, state_counts=COUNTS)(x, **truths()).losses for b in ("none", "focal")
        }
        with pytest.raises(DataError, match="state_balance effective needs the counts"):
            build(state_balance="effective")(x, **truths())
    assert torch.equal(losses["none"][:, :-1], losses["focal"][:, :-1])
    assert (losses["focal"][:, -1] < losses["none"][:, -1]).all()


def test_the_recipe_counts_the_states(bikes, tmp_path):
    words = ["--data", bikes, "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 64, 96]
    small = {name: value for name, value in TINY.items() if name not in ("norm", "image_size")}
    words += [
        "--config_overrides",
        json.dumps(small),
        "--state_balance",
        "logit_adjust",
        "--output_dir",
        tmp_path,
        "--max_steps",
        2,
        "--overlays",
        0,
    ]
    trainer = run(*parse(*words))
    counts = json.loads((tmp_path / "config.json").read_text())["state_counts"]
    assert np.array(counts).shape == (22, 4)
    train = trainer.train_dataset
    names = {name: i for i, name in trainer.config.id2state.items()}
    assert np.sum(counts) == sum((np.array(row) != names["absent"]).sum() for row in train["states"])
    with pytest.raises(DataError, match="state_balance must be one of none, logit_adjust"):
        parse("--state_balance", "rare")
