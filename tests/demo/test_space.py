"""The demo as a Space: three files of ours, photos without tags, and nothing of the machine."""

import ast

import pytest
import yaml
from helpers import five_tasks
from PIL import Image

from geohf.errors import DataError

pytest.importorskip("gradio", reason="the demo's extra is not installed")

from geohf.demo.app import example_files, make_app
from geohf.demo.space import push_space, write_space


@pytest.fixture
def repo(hub):
    five_tasks.TASKS["street"].make().push_to_hub("org/geo-street")
    return "org/geo-street"


@pytest.fixture
def photos(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret"
    (tmp_path / "photos").mkdir()
    five_tasks.PHOTO.save(tmp_path / "photos" / "a.jpg", exif=exif)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


def test_a_space_holds_the_page_and_its_card(repo, photos, hub, tmp_path):
    files = write_space(tmp_path / "space", repo, photos)
    names = [str(path.relative_to(tmp_path / "space")) for path in files]
    assert names == ["README.md", "app.py", "examples/a.png", "requirements.txt"]
    code = (tmp_path / "space" / "app.py").read_text()
    ast.parse(code)
    assert 'make_app("org/geo-street", examples="examples")' in code
    head = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["app_file"], head["models"]) == ("gradio", "app.py", [repo])
    assert (tmp_path / "space" / "requirements.txt").read_text().startswith("geohf[demo]==")
    with Image.open(tmp_path / "space" / "examples" / "a.png") as image:
        assert not image.getexif()
    push_space(tmp_path / "space", "org/geo-street-demo")
    assert set(names) <= set(hub.files("org/geo-street-demo", repo_type="space"))
    with pytest.raises(DataError, match="is not empty"):
        write_space(tmp_path / "space", repo)


def test_photos_of_one_name_and_two_endings_are_two_examples(repo, photos, tmp_path):
    five_tasks.PHOTO.save(photos / "a.png")
    write_space(tmp_path / "space", repo, photos)
    assert {path.name for path in (tmp_path / "space/examples").iterdir()} == {"a.jpg.png", "a.png.png"}


def test_what_cannot_be_a_demo_is_said(tmp_path, photos):
    with pytest.raises(DataError, match="push it, and name it org/name"):
        write_space(tmp_path / "space", str(photos))
    with pytest.raises(DataError, match="holds no photo to try"):
        example_files(tmp_path, [".jpg"])
    five_tasks.TASKS["street"].make().save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="an index belongs to a place model"):
        make_app(tmp_path / "model", "cpu", index="area.parquet")
    assert not (tmp_path / "space").exists()
