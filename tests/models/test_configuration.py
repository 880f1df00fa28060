"""What all tasks' configs share."""

from __future__ import annotations

import inspect
import json
from typing import Literal, get_args, get_origin

import pytest
from huggingface_hub.errors import StrictDataclassError

from geohf import GeoPlaceConfig, GeoRegionConfig, GeoStreetConfig, PartStateConfig, TileSequenceConfig
from geohf.models.configuration import GeoConfig

CONFIGS = {
    GeoPlaceConfig: {},
    GeoRegionConfig: {"id2label": {0: "a", 1: "b"}},
    GeoStreetConfig: {"class_centroids": [[1.0, 2.0], [3.0, 4.0]]},
    PartStateConfig: {"id2label": {0: "bell"}, "id2state": {0: "intact"}},
    TileSequenceConfig: {},
}


def words(kind: type[GeoConfig]) -> dict[str, tuple[str, ...]]:
    hints = inspect.get_annotations(kind, eval_str=True)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_word_that_a_field_does_not_know_is_refused_with_those_it_knows(kind):
    assert len(words(kind)) >= 2
    for name, known in words(kind).items():
        with pytest.raises(
            StrictDataclassError, match=f"{name} must be one of {', '.join(known)}; got 'nothing of these'"
        ):
            kind(**CONFIGS[kind], **{name: "nothing of these"})


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("value", [1.5, "2", True, None])
def test_a_count_that_is_no_whole_number_is_refused(kind, value):
    counts = [name for name, hint in inspect.get_annotations(kind, eval_str=True).items() if hint is int]
    for name in counts:
        with pytest.raises(StrictDataclassError, match=f"{name} must be a whole number, got {value!r}"):
            kind(**CONFIGS[kind], **{name: value})


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_comes_back_from_disk_as_it_was(kind, tmp_path):
    config = kind(**CONFIGS[kind], backbone_name="somebody/tower", backbone_license="mit")
    config.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.backbone_license == "mit"
    assert again.label2id == {name: number for number, name in (config.id2label or {}).items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_without_the_shared_fields_loads_with_their_defaults(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind.model_type}))
    config = kind.from_pretrained(tmp_path)
    assert (config.image_processor, config.backbone_name, config.backbone_license) == (None, None, None)


def test_names_of_classes_are_numbered_the_other_way_round_too():
    assert GeoRegionConfig(id2label={0: "a", 1: "b"}).label2id == {"a": 0, "b": 1}
    assert GeoRegionConfig(id2label={0: "a", 1: "b"}, label2id={"b": 1, "a": 0}).label2id == {"b": 1, "a": 0}
