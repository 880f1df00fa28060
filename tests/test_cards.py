"""Model cards: what others' words can do to them, licenses, commands, and cards that move."""

import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from helpers.pages import ROOT
from huggingface_hub import ModelCard

from geohf import GeoRegionConfig, GeoStreetConfig, PartStateConfig
from geohf.hub import provenance
from geohf.hub.card import PLOTS, data_source, readdressed, write_card
from geohf.hub.files import repo_files
from geohf.vision.backbones import TimmTowerConfig, resolve_backbone
from geohf.vision.licenses import is_noncommercial

EVIL = [
    'a "quoted" name',
    "colon: yes # no",
    "Größe – 東京",
    "one\ntwo\n---\nlicense: apache-2.0\n# Title",
    "`code` ![x](http://e.vil/p.png) <script>alert(1)</script> [link](http://e.vil)",
    "```\n## License\nMIT",
    "{{ config }} {% raw %}",
    "'single' \\ back|slash",
    "- [x] !!python/object:os.system &a *a",
]
FACTS = {
    "rows": "5 train, 5 test places", "split": "at random", "seed": 1, "split_name": "test", "measured": 5,
    "unit": "places", "interval": "95 %", "baseline": "constant", "baseline_words": "one answer",
    "validation": True, "chosen_on_held_out": False, "trained_on_held_out": False,
}  # fmt: skip
REGION = {"id2label": {0: "a", 1: "b"}, "scalers": [
    {"center": [1.0, 2.0], "scale": [1.0, 1.0]}] * 2}  # fmt: skip


def street_config(**fields):
    return GeoStreetConfig(
        vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96,
        **{"class_centroids": [[1.0, 2.0]], "class_extents": [[1.0, 1.0]], "id2label": {0: "x"}} | fields,
    )  # fmt: skip


def card_of(folder, config=None, data=None, template="street.md", **settings) -> ModelCard:
    settings = {
        "metrics": {
            "eval": {"score": 0.25},
            "baseline": {"score": 0.125},
            "intervals": {"score": (0.2, 0.3)},
        },
        "titles": {"score": "Score", "top1": "not measured"},
        "stages": [],
    } | settings
    folder.mkdir(exist_ok=True)
    facts = FACTS | data_source(None) | (data or {})
    return ModelCard.load(write_card(folder, template, config or street_config(), data=facts, **settings))


def prose(card: ModelCard) -> str:
    """The card's text without code blocks and code spans."""
    return re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$|`[^`\n]*`", "", card.text)


@pytest.mark.parametrize("words", EVIL)
def test_words_of_others_stay_words(tmp_path, words):
    config = street_config(id2label={0: words}, backbone_name=words, backbone_license=words)
    card = card_of(tmp_path / "run", config, {"name": words}, repo_id=f"org/{words}")
    head = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert set(head) == {"library_name", "license", "pipeline_tag", "tags", "model-index"}
    assert head["license"] == words
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value, result.metric_type) == (words, 0.25, "score")
    assert re.fullmatch(r"[\w.-]+", result.dataset_type)
    titles = re.findall(r"(?m)^(#+) (.*)$", prose(card))
    assert [level for level, _ in titles].count("#") == 1
    assert [title for level, title in titles if level == "##"] == [
        "Use", "Numbers", "How it was made", "Intended use", "Out of scope", "Limits", "Ethics", "License", "Citation",
    ]  # fmt: skip
    for markup in ("<script", "](http://e.vil"):
        assert re.search(r"(?<!\\)" + re.escape(markup), prose(card)) is None
    block = re.search(r"(?ms)^```python\n(.*?)^```$", card.text)[1]
    called = []
    asked = SimpleNamespace(predict=lambda *args, **kwargs: [])
    auto = SimpleNamespace(from_pretrained=lambda name: called.append(name) or asked)
    fake = SimpleNamespace(
        AutoModel=auto, pipeline=lambda task, model: called.append(model) or (lambda inputs: [])
    )
    lines = [line for line in block.splitlines() if "import" not in line]
    exec("\n".join(lines), vars(fake).copy())
    assert called == [f"org/{words}"] * 2


def test_a_class_name_cannot_leave_the_code(tmp_path):
    words = '"); raise SystemExit("x") #\n```\n'
    config = GeoRegionConfig(
        vision_config=TimmTowerConfig(architecture="test_resnet"), feature_size=96,
        **REGION | {"id2label": {0: words, 1: "b"}},
    )  # fmt: skip
    card = card_of(tmp_path / "run", config, template="region.md", metrics=None)
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```$", card.text)
    regions = []
    model = SimpleNamespace(predict=lambda photos, region=None: regions.append(region) or [])
    lines = [line for line in block.splitlines() if "import" not in line and "pipeline" not in line]
    exec("\n".join(lines), {"AutoModel": SimpleNamespace(from_pretrained=lambda name: model)})
    assert regions == [None, words]


# ---- licenses


@pytest.mark.parametrize(
    ("name", "license", "stated"),
    [
        (None, None, "mit"),
        ("resnet50.a1_in1k", "apache-2.0", "apache-2.0"),
        ("somebody/weights", None, "unknown"),
        ("geolocal/StreetCLIP", "cc-by-nc-4.0", "cc-by-nc-4.0"),
    ],
)
def test_a_model_stays_under_the_license_it_began_with(tmp_path, name, license, stated):
    card = card_of(tmp_path / "run", street_config(backbone_name=name, backbone_license=license))
    assert card.data.license == stated
    assert card.data.base_model == (name if name and "/" in name else None)
    noncommercial = stated == "cc-by-nc-4.0"
    assert ("Not for commercial use" in card.text.partition("## Use")[0]) == noncommercial
    assert ("That license excludes commercial use" in card.text) == noncommercial
    assert ("[its card](https://huggingface.co/somebody/weights)" in card.text) == (stated == "unknown")
    assert ("haas2023learning" in card.text) == noncommercial  # StreetCLIP's own paper


def test_noncommercial_weights_stay_so_in_what_others_made_of_them(hub, tmp_path):
    from helpers.street_models import tiny_clip

    clip = tiny_clip(tmp_path / "clip")
    files = {path.name: path.read_bytes() for path in clip.iterdir()}
    cards = {
        "geolocal/StreetCLIP": "---\nlicense: cc-by-nc-4.0\n---\n",
        "someone/tuned": "---\nlicense: mit\nbase_model: geolocal/StreetCLIP\n---\n",
        "someone/own": "---\nlicense: other\nlicense_name: my-license\n---\n",
        "someone/silent": "---\ntags: [x]\n---\n",
    }
    for name, card in cards.items():
        hub.add(name, files | {"README.md": card.encode()})
    found = {name: resolve_backbone(name).license for name in cards}
    assert list(found.values()) == ["cc-by-nc-4.0", "cc-by-nc-4.0", "my-license", None]
    (clip / "README.md").write_text(cards["someone/own"])
    assert resolve_backbone(str(clip)).license == "my-license"
    assert resolve_backbone(str(clip.rename(tmp_path / "StreetCLIP"))).license == "cc-by-nc-4.0"
    assert is_noncommercial(found["someone/tuned"])


# ---- the command and the versions


def command_of(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/home/anna/geohf/recipes/train_parts.py", *map(str, words)])
    return provenance.shell_command()


def test_the_command_tells_no_secret_and_no_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = command_of(
        monkeypatch,
        *("--hub_token", "hf_aaaaaaaaaaaa", "--hub-token=hf_bbbbbbbbbbbb", "--push_to_hub_token", "secret"),
        *("--data", "/home/anna/my photos/bikes", f"--output_dir={tmp_path / 'out'}", "--seed", 3),
        *(
            "--config",
            "recipes/configs/parts.yaml",
            "--run_name",
            "it's $HOME",
            "--note",
            "x hf_cccccccccccc",
        ),
    )
    assert command == (
        "accelerate launch recipes/train_parts.py --data path/to/bikes --output_dir=out --seed 3 "
        "--config recipes/configs/parts.yaml --run_name 'it'\"'\"'s $HOME' --note 'x hf_...'"
    )
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert command_of(monkeypatch) == "accelerate launch --num_processes 4 recipes/train_parts.py"
    monkeypatch.setattr(sys, "argv", [str(provenance.PACKAGE / "recipes" / "train_parts.py"), "--seed", "3"])
    assert provenance.shell_command() == "geohf train --num_processes 4 parts --seed 3"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "tests"])
    assert provenance.shell_command() == ""


def test_a_card_gives_no_access_to_the_data(monkeypatch):
    address = "https://anna:secret@host/labels.csv?X-Amz-Signature=secret"
    command = command_of(monkeypatch, "--data", address, f"--train_csv={address}", "s3://bucket/a?.csv")
    assert command.partition("parts.py ")[2] == (
        "--data https://host/labels.csv --train_csv=https://host/labels.csv 's3://bucket/a?.csv'"
    )
    assert data_source(address)["name"] == "labels.csv"


def test_a_command_cannot_leave_its_block(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["recipes/train_streetclip.py", "--run_name", "a\n```\n# Title"])
    card = card_of(tmp_path / "run")
    assert "# Title" not in prose(card)
    assert "a\n```\n# Title" in card.text


def test_versions_name_the_commit_only_of_our_own_checkout(tmp_path):
    assert {"python", "geohf", "torch", "transformers", "datasets"} <= set(provenance.versions())
    assert provenance._commit(tmp_path) is None


# ---- data, and cards that move


def test_data_is_named_without_its_folders(tmp_path):
    assert data_source(None) == {"name": "generated sample", "generated": True, "dataset": None}
    assert data_source(str(tmp_path))["name"] == tmp_path.name
    assert data_source("org/photos") == {"name": "org/photos", "generated": False, "dataset": "org/photos"}


def test_a_dataset_of_the_hub_is_linked(tmp_path):
    card = card_of(tmp_path / "run", data=data_source("org/photos"))
    assert card.data.datasets == ["org/photos"]
    assert "(https://huggingface.co/datasets/org/photos)" in card.text
    assert "Trained on generated" not in card.text
    assert (card.data.eval_results[0].dataset_type, card.data.eval_results[0].dataset_split) == (
        "org/photos",
        "test",
    )


def test_a_folder_that_is_not_pushed_loads_from_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    config = PartStateConfig(id2label={0: "bell"}, id2state={0: "intact", 1: "absent"})
    text = write_card("outputs/mine", "parts.md", config).read_text()
    assert 'from_pretrained("outputs/mine")' in text
    assert "Not measured." in text
    assert str(tmp_path) not in write_card(tmp_path / "outputs" / "mine", "parts.md", config).read_text()


def test_generated_pictures_are_told_in_a_paragraph_of_its_own(tmp_path):
    config = PartStateConfig(id2label={0: "bell"}, id2state={0: "intact", 1: "absent"})
    facts = FACTS | data_source(None)
    text = write_card(tmp_path, "parts.md", config, data=facts).read_text()
    assert "\n\n> **Trained on generated pictures.**" in text


def test_a_moved_card_keeps_its_numbers(tmp_path):
    card = card_of(tmp_path / "run", repo_id='outputs/"mine"')
    moved = ModelCard(readdressed(str(card), "org/new"))
    assert moved.text.count('"org/new"') == 2
    assert "mine" not in moved.content
    assert moved.data.eval_results == card.data.eval_results
    assert moved.text.lstrip().startswith("# new\n")
    own = "---\nlicense: mit\n---\n# Somebody's own words\n"
    assert readdressed(own, "org/new") == own
    assert readdressed("no head at all", "org/new") == "no head at all"


def test_numbers_that_are_none_are_left_out(tmp_path):
    metrics = {"eval": {"score": float("nan"), "top1": 0.5}, "baseline": {}, "intervals": {}}
    card = card_of(
        tmp_path / "run", metrics=metrics, titles={"score": "Score", "top1": "Top-1", "top5": "Top-5"}
    )
    assert [result.metric_type for result in card.data.eval_results] == ["top1"]
    assert re.search(r"(?m)^\| Top-1 +\| +0\.5 \| – +\| +– +\|$", card.text)
    assert ".nan" not in card.content


def test_a_photograph_in_the_folder_of_a_run_is_neither_shown_nor_pushed(tmp_path):
    for name in ("confusion.png", "somebody.png"):
        (tmp_path / name).write_bytes(b"")
    card = write_card(
        tmp_path, "parts.md", PartStateConfig(id2label={0: "bell"}, id2state={0: "intact", 1: "absent"})
    )
    assert "somebody.png" not in card.read_text()
    assert [path.name for path in repo_files(tmp_path)] == ["README.md", "confusion.png"]


def test_every_plot_that_a_run_draws_is_one_that_its_card_shows():
    code = "".join(path.read_text() for path in (ROOT / "geohf").rglob("*.py"))
    assert sorted(set(re.findall(r'\bfolder / "(\w+\.png)"', code))) == list(PLOTS)
