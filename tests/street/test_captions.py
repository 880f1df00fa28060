"""Zero-shot answers by the text model of a CLIP."""

import pytest
import torch
from helpers.street_models import CLASSES, STATES, build_model, close, flat, patches
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from geohf.errors import DataError
from geohf.street import GeoStreetModel
from geohf.street.pipeline import StreetGeolocationPipeline
from geohf.street.ranker import Ranker

LETTERS = [chr(code) for code in range(97, 123)]
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
CAPTIONS = ["a b", "sun", "rain c"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    ends = {"bos_token_id": len(WORDS) - 2, "eos_token_id": len(WORDS) - 1, "pad_token_id": len(WORDS) - 1}
    config = CLIPConfig(
        vision_config=layers | {"image_size": 32, "patch_size": 16},
        text_config=layers | ends | {"vocab_size": len(WORDS), "max_position_embeddings": 20},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(clip):
    torch.manual_seed(1)
    return GeoStreetModel.from_backbone(str(clip), **CLASSES, hidden_size=24)


def clips_own(model, clip, views, captions):
    """Probabilities by transformers' CLIP, of the mean of the views' similarities."""
    whole, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    pixels = model.processor([views])["pixel_values"][0]
    with torch.inference_mode():
        logits = whole(**tokenizer(captions, padding=True, return_tensors="pt"), pixel_values=pixels)
    return logits.logits_per_image.mean(0).softmax(-1)


def test_captions_are_those_of_the_whole_clip(model, clip, caplog):
    views = patches(3, 2)
    (answer,) = model.predict([views], captions=CAPTIONS, text_model=str(clip))
    expected = dict(zip(CAPTIONS, clips_own(model, clip, views, CAPTIONS).tolist(), strict=True))
    assert answer.captions == pytest.approx(expected, abs=1e-5)
    assert list(answer.captions) == sorted(expected, key=expected.get, reverse=True)
    (plain,) = model.predict([views])
    assert (answer.latitude, answer.states) == (plain.latitude, plain.states)
    assert model.rows_of(answer)[0]["captions"] == answer.captions
    assert not caplog.records


def test_a_pipeline_keeps_the_text_model_for_other_captions_and_captions_for_another_text_model(
    model, clip, tmp_path
):
    other = tmp_path / "other"
    torch.manual_seed(5)
    CLIPModel(CLIPConfig.from_pretrained(clip)).save_pretrained(other)
    CLIPTokenizer.from_pretrained(clip).save_pretrained(other)
    photo = patches(3, 1)[0]
    kinds = {"model": model, "image_processor": model.processor}
    expected = model.predict([photo], captions=("sun", "a b"), text_model=str(other))[0].captions
    locate = StreetGeolocationPipeline(**kinds, captions=CAPTIONS, text_model=str(other))
    assert locate(photo, captions=iter(["sun", "a b"]))["captions"] == pytest.approx(expected)
    locate = StreetGeolocationPipeline(**kinds, text_model=str(other))
    assert locate(photo, captions=["sun", "a b"])["captions"] == pytest.approx(expected)
    locate = StreetGeolocationPipeline(**kinds, captions=["sun", "a b"])
    assert locate(photo, text_model=str(other))["captions"] == pytest.approx(expected)
    with pytest.raises(DataError, match="captions are texts, got 5"):
        locate(photo, captions=5)


def test_one_caption_for_all_classes_names_the_state(model, clip):
    views, options = patches(4, 1), {"captions": "sun in {}", "text_model": str(clip)}
    (answer,) = model.predict([views], **options)
    shares = clips_own(model, clip, views, [f"sun in {state}".lower() for state in STATES])
    assert answer.states[0].name == list(STATES)[int(shares.argmax())]
    assert answer.states[0].probability == pytest.approx(float(shares.max()), abs=1e-5)
    assert answer.radius_m is None
    (restricted,) = model.predict([views], **options, states=["Maine", "Texas"])
    assert {state.name for state in restricted.states} == {"Maine", "Texas"}


def test_a_backbone_that_was_trained_further_is_told_of(clip, model, caplog):
    other = GeoStreetModel.from_backbone(str(clip), **CLASSES, hidden_size=24)
    with torch.no_grad():
        other.tower.visual_projection.weight.mul_(1.1)
    other.predict(patches(3, 1), captions=CAPTIONS, text_model=str(clip))
    assert "the backbone's weights are not those of" in caplog.text


def test_the_ranker_does_not_order_by_probabilities_of_captions(clip):
    """It learned from those of the trained classes."""
    torch.manual_seed(1)
    model = GeoStreetModel.from_backbone(
        str(clip), **CLASSES, hidden_size=24, rank=4, point_estimate="top"
    ).eval()
    photos, options = patches(4, 6), {"captions": "sun in {}", "text_model": str(clip)}
    plain, usual = model.predict(photos, **options), model.predict(photos)
    model.head.ranker, model.config.ranked = Ranker(model.config.feature_size), True
    with torch.no_grad():
        model.head.ranker.change[1].weight.normal_(std=9)
    assert model.predict(photos, **options) == plain
    assert model.predict(photos) != usual


def test_the_pipeline_reads_captions_too(model, clip):
    locate = StreetGeolocationPipeline(model=model, image_processor=model.processor)
    places = [patches(3, 2), patches(4, 1)[0], patches(5, 1)[0]]
    for captions in (CAPTIONS, "sun in {}"):
        options = {"captions": captions, "text_model": str(clip), "test_time": "flip"}
        expected = flat(model.predict(places, **options))
        found = locate(places, batch_size=2, **options)
        close(found, expected)
        for one, other in zip(found, expected, strict=True):
            assert one["captions"] == pytest.approx(other["captions"], abs=1e-5)
            assert one["radius_m"] is None
    read = locate._read
    locate(places[1], captions="sun in {}", text_model=str(clip))
    assert locate._read is read  # the text model is read once for the same captions
    assert locate(places[1])["captions"] == {}
    with pytest.raises(DataError, match="text_model reads captions, and there are none"):
        locate(places[1], text_model=str(clip))
    with pytest.raises(DataError, match="regions were calibrated for the model's own classes"):
        locate(places[1], captions="sun in {}", text_model=str(clip), regions=True)
    fixed = StreetGeolocationPipeline(
        model=model, image_processor=model.processor, captions=CAPTIONS, text_model=str(clip)
    )
    assert set(fixed(places[1])["captions"]) == set(CAPTIONS)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["sun"], "give two or more"),
        (["sun", "sun"], "a caption is there twice"),
        (5, "captions are texts, got 5"),
        (b"sun", "captions are texts, got b'sun'"),
        (["sun", " "], "a caption is empty"),
        (["sun", "a very long caption indeed"], r"has 24 tokens, and .* reads 20"),
    ],
)
def test_captions_that_say_nothing_are_refused(model, clip, captions, message):
    with pytest.raises(DataError, match=message):
        model.predict(patches(3, 1), captions=captions, text_model=str(clip))


def test_backbones_without_a_text_model_are_refused(model, clip, tmp_path):
    with pytest.raises(DataError, match="captions need a backbone that is a CLIP"):
        build_model().predict(patches(3, 1), captions=CAPTIONS)
    build_model().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="is no CLIP with a text model"):
        model.predict(patches(3, 1), captions=CAPTIONS, text_model=str(tmp_path))
    with pytest.raises(DataError, match="regions were calibrated for the model's own classes"):
        model.predict(patches(3, 1), captions="in {}", text_model=str(clip), regions=True)


def test_names_of_classes_in_one_of_several_captions_are_refused(model, clip):
    with pytest.raises(DataError, match="in one caption alone"):
        model.predict(patches(3, 1), captions=["sun in {}", "rain in {}"], text_model=str(clip))


def test_a_text_model_without_captions_is_refused(model, clip):
    with pytest.raises(DataError, match="text_model reads captions, and there are none"):
        model.predict(patches(3, 1), text_model=str(clip))


def test_names_of_geocells_in_a_caption_are_told_of(clip, caplog):
    cells = GeoStreetModel.from_backbone(str(clip), **CLASSES, hidden_size=24, cells=True)
    cells.predict(patches(3, 1), captions="sun in {}", text_model=str(clip))
    assert "the classes are geocells, called such as 'California'" in caplog.text
