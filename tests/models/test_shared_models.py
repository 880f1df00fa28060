"""A model that several threads share, that was cast, or whose weights were edited behind torch's back."""

import threading
import time

import pytest
import torch
from helpers.five_tasks import TASKS
from helpers.place_models import build_model
from torch import nn

from geohf.errors import DataError
from geohf.place import PlaceIndex
from geohf.vision.weights import in_eval_mode, weights_checksum

POINTS = [[48.0 + i / 10, 2.0] for i in range(5)]


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.case("use-S14")
@pytest.mark.parametrize("name", TASKS)
def test_predict_leaves_the_mode_alone_while_it_computes(name):
    task = TASKS[name]
    model = task.make()
    expected = repr(model.predict([task.sample]))
    model.train()
    before, seen, done = modes(model), [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(modes(model))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    found = []
    while len(found) < 3 or (
        len(seen) < 4 and len(found) < 100
    ):  # a tiny model may be faster than the watcher
        found.append(repr(model.predict([task.sample])))
    done.set()
    watcher.join()
    assert len(seen) > 3
    assert all(mode == before for mode in [*seen, modes(model)])
    assert set(found) == {expected}


@pytest.mark.case("use-S14", "use-O9")
def test_threads_with_dropout_in_training_mode_answer_alike():
    model = build_model(dropout=0.5)
    expected = model.encode([TASKS["place"].sample])
    model.train()
    answers = []

    def ask():
        answers.extend(model.encode([TASKS["place"].sample]) for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert all((answer == expected).all() for answer in answers)
    assert model.training
    assert model.head.training


@pytest.mark.case("use-S14")
def test_heads_alone_leave_their_mode_alone():
    from geohf.place.phase import head_descriptors

    head = build_model(dropout=0.5).head
    features = torch.randn(4, 96)
    expected = head_descriptors(head.eval(), features)
    head.train()
    seen = []
    head.register_forward_hook(lambda *_: seen.append(modes(head)))  # a copy takes the hook along
    assert torch.equal(head_descriptors(head, features), expected)
    assert seen == [modes(head)]
    assert head.training


@pytest.mark.case("use-S14")
def test_the_copy_in_eval_mode_has_the_same_weights():
    model = build_model(dropout=0.5)
    assert in_eval_mode(model) is model
    copy = in_eval_mode(model.train())
    assert copy is not model
    assert all(mine is theirs for mine, theirs in zip(copy.parameters(), model.parameters(), strict=True))
    assert all(mine is theirs for mine, theirs in zip(copy.buffers(), model.buffers(), strict=True))
    assert not any(modes(copy))


@pytest.mark.case("use-S16")
@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.data.add_(torch.randn_like(p) * 0.1),
        lambda p: p.data.copy_(p.data.flip(0).clone()),
        lambda p: p.data.view(-1)[7:8].mul_(1.5),
        lambda p: p.detach().numpy().__imul__(1.01),
    ],
    ids=["ema", "rows change places", "one number", "numpy"],
)
def test_an_index_is_stale_when_weights_were_edited_through_data(edit):
    model = build_model()
    index = PlaceIndex.build(model, [TASKS["place"].sample] * 5, POINTS)
    model.predict([TASKS["place"].sample], index=index)
    parameter = max(model.head.parameters(), key=torch.Tensor.numel)
    version = parameter._version
    edit(parameter)
    assert parameter._version == version  # torch has seen nothing
    with pytest.raises(DataError, match="before this one was trained further"):
        model.predict([TASKS["place"].sample], index=index)


@pytest.mark.case("use-S16")
def test_a_checksum_reads_every_type_and_size():
    module = nn.Module()
    for i, dtype in enumerate(
        (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64)
    ):
        module.register_buffer(f"b{i}", torch.ones(5, dtype=dtype))
    module.register_buffer("empty", torch.zeros(0))
    module.register_buffer("number", torch.tensor(3.0))
    module.register_buffer("inside", torch.arange(9.0)[1:])
    before = weights_checksum(module)
    assert weights_checksum(module) == before
    for name in [name for name, buffer in module.named_buffers() if buffer.numel()]:
        buffer = module.get_buffer(name)
        buffer.data.view(-1)[-1:] = 0 if buffer.dtype == torch.bool else 9
        after = weights_checksum(module)
        assert after != before, name
        before = after


CASTS = {"half": torch.float16, "double": torch.float64, "bfloat16": torch.bfloat16}


@pytest.mark.case("use-B10")
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", TASKS)
def test_a_cast_model_answers_nearly_alike(name, cast):
    task = TASKS[name]
    model = task.make()
    expected = model.predict([task.sample])[0]
    model = getattr(model, cast)()
    assert model.dtype == CASTS[cast]
    found = model.predict([task.sample])[0]
    if name == "place":
        assert found.descriptor @ expected.descriptor > 0.99
    elif name != "parts":  # whose boxes may come in another order
        numbers = [model.rows_of(answer)[0] for answer in (found, expected)]
        for key in ("latitude", "longitude", "target"):
            if key in numbers[1]:
                tolerance = 1e-4 if cast == "double" else 0.5
                assert numbers[0][key] == pytest.approx(numbers[1][key], abs=tolerance)


@pytest.mark.case("use-B10")
@pytest.mark.parametrize("fields", [{}, {"whitening_dim": 4}, {"projection_dim": None}, {"pooling": "gem"}])
def test_every_place_head_can_be_cast(fields):
    model = build_model(**fields)
    expected = model.encode([TASKS["place"].sample])[0]
    for cast in (model.half, model.double, model.bfloat16, model.float):
        assert cast().encode([TASKS["place"].sample])[0] @ expected > 0.98


@pytest.mark.case("use-B10")
def test_what_from_pretrained_keeps_in_float32_stays_so_when_cast(tmp_path):
    model = build_model(whitening_dim=4)
    model.head.standardize.mean.fill_(1 / 3)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float16)
    model.half()
    types = [
        {name: t.dtype for name, t in m.state_dict().items() if "batches" not in name}
        for m in (model, loaded)
    ]
    assert types[0] == types[1]
    assert model.head.standardize.mean[0].item() == torch.tensor(1 / 3).item()
    assert model.to("meta").head.standardize.mean.device.type == "meta"


@pytest.mark.case("use-U8")
@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_an_index_of_another_type_names_both(ending, tmp_path):
    model = build_model()
    model.save_pretrained(tmp_path)
    path = tmp_path / f"index.{ending}"
    PlaceIndex.build(model, [TASKS["place"].sample] * 5, POINTS).save(path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(
        DataError, match=r"built in float32 and this model is in bfloat16: .*dtype=torch.float32"
    ):
        half.predict([TASKS["place"].sample], index=path)
    assert type(model).from_pretrained(tmp_path).predict([TASKS["place"].sample], index=path)


@pytest.mark.case("use-U8")
def test_an_index_of_an_older_version_is_still_answered():
    model = build_model()
    index = PlaceIndex.build(model, [TASKS["place"].sample] * 5, POINTS)
    index.model = index.model.partition(" ")[0]
    assert model.predict([TASKS["place"].sample], index=index)
