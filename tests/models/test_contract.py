"""What transformers' own tests ask of any model and image processor, asked of the five tasks.

What does not apply has a line in `EXCEPTIONS`, which the last test holds to.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.five_tasks import TASKS
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.image_utils import SizeDict

from geohf.errors import DataError
from geohf.vision.processing import GeoImageProcessor

EXCEPTIONS = {
    "input embeddings": "images have no tokens: get_input_embeddings raises NotImplementedError, as in transformers",
    "hidden states, attentions": "outputs are answers; those of a backbone are had from model.tower itself",
    "initialization from scratch": "parts keep the values that timm and torchvision build them with",
    "return_tensors": "torch tensors unless asked otherwise, since forward takes no lists",
    "do_pad, data_format, device, disable_grouping": "refused: a batch is (n, ..., height, width) on the CPU",
    "addresses as images": "nothing is fetched while a batch is made",
}


@pytest.fixture(params=TASKS)
def task(request):
    task = TASKS[request.param]
    # a list is many samples, and the frames of one tile are an array then
    return replace(task, sample=np.stack(task.sample)) if isinstance(task.sample, list) else task


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


OPTIONAL = {"dates"}  # only of samples that have them


def test_a_processor_is_called_or_asked_to_preprocess(task):
    model = task.make()
    batch = model.processor(task.sample)
    same(batch, model.processor.preprocess(task.sample))
    same(batch, model.processor([task.sample], return_tensors="pt"))
    assert set(batch) | OPTIONAL == set(model.processor.model_input_names) | OPTIONAL
    assert batch["pixel_values"].dtype == torch.float32


def test_tensors_come_as_asked(task):
    processor = task.make().processor
    batch = processor(task.sample)
    arrays, lists = (processor([task.sample], return_tensors=kind) for kind in ("np", None))
    for name, part in batch.items():
        assert isinstance(arrays[name], np.ndarray)
        np.testing.assert_array_equal(arrays[name], part.numpy())
        assert isinstance(lists[name], list)
        assert len(lists[name]) == 1
    with pytest.raises(DataError, match="return_tensors must be"):
        processor(task.sample, return_tensors="tf")


def test_a_call_has_its_own_settings_and_leaves_the_processor_alone(task):
    processor = task.make().processor
    before = processor.to_dict()
    settings = {"size": {"height": 24, "width": 20}, "image_mean": [0.1] * 3, "image_std": [0.3] * 3}
    if isinstance(processor, GeoImageProcessor) and processor.do_center_crop:
        settings["do_center_crop"] = False
    found = processor(task.sample, **settings)
    assert found["pixel_values"].shape[-2:] == (24, 20)
    names = before.keys() - {"image_processor_type"}
    same(found, type(processor)(**{name: before[name] for name in names} | settings)(task.sample))
    assert processor.to_dict() == before
    with pytest.raises(DataError, match=r"size_of.*did you mean 'size'"):
        processor(task.sample, size_of=3)
    with pytest.raises(DataError, match="do_pad"):
        processor(task.sample, do_pad=True)
    with pytest.raises(DataError, match="size"):
        processor(task.sample, size="large")
    same(processor(task.sample, size=None), processor(task.sample))


def test_steps_of_a_call_can_be_left_out():
    processor = TASKS["place"].make().processor
    raw = processor(TASKS["place"].sample, do_resize=False, do_center_crop=False, do_normalize=False)
    pixels = torch.from_numpy(np.array(TASKS["place"].sample)).permute(2, 0, 1) / 255
    torch.testing.assert_close(raw["pixel_values"][0], pixels)


def test_a_file_that_is_not_resized_keeps_all_its_pixels(tmp_path):
    from PIL import Image

    picture = Image.effect_mandelbrot((640, 480), (-2, -1, 1, 1), 30).convert("RGB")
    picture.save(tmp_path / "a.jpg", quality=95)
    processor = GeoImageProcessor(size={"height": 32, "width": 32}, crop_size=32)
    opened = Image.open(tmp_path / "a.jpg")
    for settings in ({"do_resize": False}, {"size": 320, "do_center_crop": False}):
        found, exact = (processor._with(settings).pixel_values([x]) for x in (tmp_path / "a.jpg", opened))
        assert torch.equal(found, exact)


def test_processor_and_config_are_found_by_the_auto_classes(task, tmp_path):
    model = task.make()
    model.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is type(model.processor)
    assert processor.to_dict() == model.processor.to_dict()
    same(processor(task.sample), model.processor(task.sample))
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    processor.save_pretrained(tmp_path / "again")
    assert AutoImageProcessor.from_pretrained(tmp_path / "again").to_dict() == processor.to_dict()


def test_a_model_has_one_processor_until_its_settings_change(task):
    model = task.make()
    processor = model.processor
    model.predict([task.sample])
    assert model.processor is processor
    for name, value in (("image_size", [16, 24]), ("image_processor", {"size": {"height": 16, "width": 24}})):
        if hasattr(model.config, name):
            setattr(model.config, name, value)
    assert model.processor is not processor
    assert model.processor.size == SizeDict(height=16, width=24)


def test_dummy_inputs_go_through_forward(task):
    model = task.make()
    with torch.inference_mode():
        output = model(**model.dummy_inputs)
        again = model(**model.dummy_inputs, return_dict=False)
    assert next(iter(inspect.signature(model.forward).parameters)) == model.main_input_name
    assert set(model.dummy_inputs) | OPTIONAL == set(model.processor.model_input_names) | OPTIONAL
    assert isinstance(again, tuple)
    for part, other in zip(output.to_tuple(), again, strict=True):
        if isinstance(part, torch.Tensor):
            torch.testing.assert_close(part, other, equal_nan=True)


def test_a_saved_model_gives_the_same_outputs(task, tmp_path):
    model = task.make()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    inputs = model.processor(task.sample)
    with torch.inference_mode():
        for part, other in zip(model(**inputs).to_tuple(), loaded(**inputs).to_tuple(), strict=True):
            if isinstance(part, torch.Tensor):
                torch.testing.assert_close(part, other, equal_nan=True)


def test_what_does_not_apply_says_so(task):
    model = task.make()
    assert EXCEPTIONS
    with pytest.raises(NotImplementedError):
        model.get_input_embeddings()
    assert model.get_output_embeddings() is None
    assert not model.all_tied_weights_keys
    assert isinstance(model, PreTrainedModel)
    with pytest.raises(TypeError, match="output_hidden_states"):
        model(**model.dummy_inputs, output_hidden_states=True)
