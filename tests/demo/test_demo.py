"""The demo's answers for each task, what it says of unusable uploads, and what it never shows."""

import base64
import io
import re

import numpy as np
import pytest
from helpers import five_tasks
from PIL import Image, TiffImagePlugin

from geohf.demo.answers import answer_page
from geohf.demo.uploads import MAX_BYTES, MAX_FILES, cell_of, pictures_of
from geohf.errors import DataError
from geohf.place.index import PlaceIndex
from geohf.report.tables import format_number


def jpeg(picture=five_tasks.PHOTO, **options):
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def with_position():
    """A photo of Stockholm, as its EXIF says."""
    rational = TiffImagePlugin.IFDRational
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(
        {
            1: "N",
            2: (rational(59), rational(20), rational(0)),
            3: "E",
            4: (rational(18), rational(3), rational(0)),
        }
    )
    return jpeg(exif=exif)


@pytest.fixture(scope="module")
def models():
    return {name: task.make() for name, task in five_tasks.TASKS.items()}


def pictures_in(page):
    found = re.findall(r"data:image/(?:png|jpeg);base64,([\w+/=]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


@pytest.mark.parametrize("name", ["street", "region"])
def test_a_place_is_a_map_and_bars(models, name):
    page = answer_page(models[name], [jpeg(), jpeg()])
    answer = models[name].predict([Image.open(io.BytesIO(jpeg()))])[0]
    assert page.count("<iframe") == (1 if getattr(answer, "unit", "m") == "m" else 0)
    assert f"<b>{answer.latitude:.4f}, {answer.longitude:.4f}</b>" in page
    named = answer.states if name == "street" else answer.regions
    assert f"{named[0].name} <span" in page
    assert f"{100 * named[0].probability:.1f} %" in page
    assert len(pictures_in(page)) == 2 * (1 + page.count("<iframe"))  # the map shows them, too


def test_parts_have_boxes_and_a_missing_list(models):
    page = answer_page(models["parts"], [jpeg()])
    answer = models["parts"].predict([Image.open(io.BytesIO(jpeg()))])[0]
    assert page.count("<tr>") == (len(answer.parts) + 1 if answer.parts else 0)
    assert f"<b>Missing:</b> {', '.join(answer.missing) or 'none'}" in page


def test_photos_are_compared_without_an_index_and_found_with_one(models, tmp_path):
    model = models["place"]
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8))
    page = answer_page(model, [jpeg(), jpeg(noise)])
    assert len(pictures_in(page)) == 1
    assert "two photos or more" in answer_page(model, [jpeg()])
    (tmp_path / "a.jpg").write_bytes(jpeg())
    index = PlaceIndex.build(model, [tmp_path / "a.jpg"], [[59.0, 18.0]], names=["a.jpg"])
    page = answer_page(model, [jpeg()], photos=tmp_path, index=index)
    assert "<b>59.00000, 18.00000</b>" in page
    assert "<td>a.jpg</td><td>59.00000, 18.00000</td><td>1.000</td>" in page


def test_tiles_are_a_filmstrip_with_an_answer(models):
    def png(frame):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        return file.getvalue()

    uploads = [png(frame) for frame in five_tasks.TILES]
    page = answer_page(models["tiles"], uploads)
    answer = models["tiles"].predict([five_tasks.TILES])[0]
    assert len(pictures_in(page)) == 1
    assert f"<td>target</td><td>{format_number(answer.values['target'])}</td>" in page
    assert "want 1 numbers" in answer_page(models["tiles"], uploads, last_values="1, 2")


UNUSABLE = {
    "truncated": (jpeg()[:300], "photo 1: is broken or truncated"),
    "script": (b"<script>alert(1)</script>", "photo 1: is not an image that Pillow can read"),
    "empty": (b"", "photo 1: the file is empty"),
    "large": (jpeg(Image.new("L", (8000, 5000))), "photo 1: has 40 megapixels; this page takes 36"),
    "heavy": (bytes(MAX_BYTES + 1), "photo 1: has 20 MB; this page takes 20 MB a file"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_gets_a_message_and_the_others_an_answer(models, kind):
    content, message = UNUSABLE[kind]
    page = answer_page(models["street"], [content])
    assert message in page
    assert "<script>alert" not in page
    page = answer_page(models["street"], [content, jpeg()])
    assert message in page
    assert "<h3>photo 2</h3>" in page
    assert "role=" in answer_page(models["tiles"], [content])


def test_nothing_and_too_many_are_said(models):
    assert "choose a photo first" in answer_page(models["street"], [])
    assert f"takes {MAX_FILES} at a time" in answer_page(models["street"], [jpeg()] * (MAX_FILES + 1))


def test_positions_are_shown_only_where_asked_for(models):
    upload = with_position()
    page = answer_page(models["street"], [upload])
    assert "59.3333" not in page
    assert "EXIF" not in page
    assert all(not picture.getexif() for picture in pictures_in(page))
    assert "EXIF: 59.3333, 18.0500" in answer_page(models["street"], [upload], show_positions=True)


def test_pictures_carry_no_tag():
    pictures, problems = pictures_of([with_position()])
    assert (problems, pictures[1].info, dict(pictures[1].getexif())) == ([], {}, {})
    assert cell_of(jpeg(), "photo 1")["path"] == "photo 1"
    with pytest.raises(DataError, match="choose a photo"):
        pictures_of([])


def test_a_photo_outside_of_the_folder_is_not_shown(models, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(Image.new("RGB", (64, 48), "red")))
    index = PlaceIndex.build(models["place"], [five_tasks.PHOTO], [[59.0, 18.0]], names=["../secret.jpg"])
    page = answer_page(models["place"], [jpeg()], photos=tmp_path / "photos", index=index)
    strip = np.asarray(pictures_in(page)[0].convert("RGB")).astype(int)
    assert not ((strip[..., 0] > 230) & (strip[..., 1:] < 40).all(-1)).any()
