"""Doors of transformers, torch and peft by which a model of each task is loaded, copied, cast and trained."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from helpers.five_tasks import TASKS, rows_of, trainer_of
from transformers import AutoConfig, AutoModel, AutoProcessor, Trainer, TrainingArguments


@pytest.fixture(scope="module", params=TASKS)
def saved(request, tmp_path_factory):
    """A task's name, the folder of its model, and what the model answers."""
    model = TASKS[request.param].make()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    model.save_pretrained(folder / "inside")
    model.save_pretrained(folder / "shards", max_shard_size="20KB")
    model.save_pretrained(folder / "variant", variant="fp16")
    return request.param, folder, answer_of(model, request.param)


def answer_of(model, name):
    answer = model.predict([TASKS[name].sample])[0]
    return repr(answer.descriptor.tolist() if name == "place" else answer)


@pytest.mark.case("use-O7")
def test_every_way_to_load_gives_the_same_answer(saved):
    name, folder, expected = saved
    config = AutoConfig.from_pretrained(folder)
    weights = AutoModel.from_pretrained(folder).state_dict()
    ways = {
        "device_map": (folder, {"device_map": {"": "cpu"}}),
        "automatic": (folder, {"device_map": "auto", "dtype": "auto"}),
        "memory": (folder, {"low_cpu_mem_usage": True}),
        "subfolder": (folder, {"subfolder": "inside"}),
        "shards": (folder / "shards", {}),
        "variant": (folder / "variant", {"variant": "fp16"}),
        "config": (folder, {"config": config}),
        "state_dict": (None, {"config": config, "state_dict": weights}),
        "attention": (folder, {"attn_implementation": "eager"}),
    }
    for way, (where, options) in ways.items():
        load = AutoModel.from_pretrained if where else type(TASKS[name].make()).from_pretrained
        model = load(where, **options)
        assert not model.training
        assert answer_of(model, name) == expected, way
    assert type(AutoProcessor.from_pretrained(folder)) is type(model.processor)


@pytest.mark.case("use-O7")
def test_copies_answer_alike_and_are_their_own(saved, tmp_path):
    name, folder, expected = saved
    model = AutoModel.from_pretrained(folder)
    torch.save(model, tmp_path / "model.pt")
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    copies.append(torch.load(tmp_path / "model.pt", weights_only=False))
    for one in copies:
        assert answer_of(one, name) == expected
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
    assert answer_of(model, name) == expected


@pytest.mark.case("use-O8")
@pytest.mark.parametrize("name", TASKS)
def test_a_model_that_answered_can_be_trained_and_answers_otherwise(name, tmp_path):
    model = TASKS[name].make()
    before = answer_of(model, name)
    trainer = trainer_of(name, tmp_path, model, learning_rate=0.05, num_train_epochs=3)
    trainer.train()
    assert answer_of(trainer.model, name) != before
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


@pytest.mark.case("use-O9")
@pytest.mark.parametrize("name", TASKS)
def test_threads_in_eval_mode_answer_alike(name):
    model = TASKS[name].make()
    expected, answers = answer_of(model, name), []
    threads = [threading.Thread(target=lambda: answers.append(answer_of(model, name))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 8


@pytest.mark.case("use-O11")
@pytest.mark.parametrize("name", ["street", "region", "place"])
def test_the_plain_trainer_takes_a_model_and_its_collator(name, tmp_path):
    """With an optimizer of one's own, as notebooks have it, for two steps and a loss at the end."""
    own = trainer_of(name, tmp_path / "own")
    model = TASKS[name].make()
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=2, report_to="none", save_strategy="no",
        remove_unused_columns=False, disable_tqdm=True, per_device_train_batch_size=4,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = Trainer(
        model, args, own.data_collator, rows_of(name), rows_of(name), optimizers=(optimizer, None)
    )
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert trainer.optimizer.optimizer is optimizer or trainer.optimizer is optimizer
