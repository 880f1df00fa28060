"""A model that was saved and loaded answers to the bit as it did, wherever the file's tensors come to lie."""

from dataclasses import asdict

import pytest
from helpers.five_tasks import TASKS
from helpers.misaligned.sitecustomize import shift_file
from helpers.place_models import build_model
from transformers import AutoModel, pipeline

from geohf.io import plain
from geohf.models.loading import load_model

pytestmark = pytest.mark.case("first-aligned")


def addresses(model):
    return {tensor.data_ptr() % 64 for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("door", ["class", "auto", "load_model", "shards", "pipeline"])
def test_loaded_weights_are_aligned_and_answers_equal(name, door, tmp_path):
    task = TASKS[name]
    model = task.make()
    model.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if door == "shards" else {}))
    for path in tmp_path.glob("*.safetensors"):
        shift_file(path)
    if door == "pipeline":
        loaded = pipeline(task.pipeline, model=str(tmp_path)).model
    elif door == "load_model":
        loaded = load_model(tmp_path, "cpu")
    else:
        loaded = (AutoModel if door == "auto" else type(model)).from_pretrained(tmp_path)
    assert addresses(loaded) == {0}
    found, expected = (plain(asdict(m.predict([task.sample])[0])) for m in (loaded, model))
    assert found == expected


def test_a_model_with_adapters(tmp_path):
    from peft import PeftModel

    from geohf.training.finetuning import with_adapters

    model = build_model(backbone="test_vit")
    model.save_pretrained(tmp_path / "base")
    adapted = with_adapters(model, 2)
    adapted.save_pretrained(tmp_path / "adapter")
    for path in tmp_path.rglob("*.safetensors"):
        shift_file(path)
    base = type(model).from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert addresses(loaded) == {0}
