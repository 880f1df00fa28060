"""Opening images: anything that is one opens upright as RGB, anything else is an error that names it."""

import contextlib
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from geohf.data.samples import without_decoding
from geohf.errors import warn_once
from geohf.vision.checks import check_images
from geohf.vision.files import image_files
from geohf.vision.images import ImageError, _bytes_at, open_image


def photo(width=96, height=64, seed=0):
    """Smooth colors, as photographs have them."""
    y, x = np.mgrid[0:height, 0:width] / 16
    phase = np.arange(3) + seed
    return Image.fromarray(
        (127 + 60 * np.sin(x[..., None] + phase) + 60 * np.cos(y[..., None] * 1.3 - phase)).astype(np.uint8)
    )


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb():
    """A PNG of a few hundred bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def psnr(a, b):
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-12))


# What is not an image

BROKEN = {
    "empty.jpg": b"",
    "cut.jpg": encoded(photo(400, 300), "JPEG")[:-400],
    "header only.jpg": encoded(photo(), "JPEG")[:100],
    "cut.png": encoded(photo())[:-2000],
    "text.jpg": b"not an image\n",
    "bomb.png": bomb(),
}


@pytest.mark.case("use-O4")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    for size in (None, 32):
        with pytest.raises(ImageError, match=name):
            open_image(path, size=size)
    with pytest.raises(ImageError, match=name):
        open_image({"bytes": BROKEN[name], "path": name})


@pytest.mark.case("use-O4")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "0 bytes"),
        ("cut.jpg", "truncated"),
        ("text.jpg", "not an image that Pillow can read"),
        ("bomb.png", "decompression bomb"),
    ],
)
def test_the_error_says_what_is_wrong(name, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(BROKEN[name])


def test_missing_files_folders_and_impossible_names_are_errors(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.jpg: cannot be read \(No such file"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(str(tmp_path))
    with pytest.raises(ImageError, match="cannot be read"):
        open_image("a\0b.jpg")


def test_a_picture_over_pillows_limit_is_refused_not_only_warned_about(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="more than 1,000 pixels"):
            open_image(encoded(photo(40, 30)))  # 1,200: between the limit and twice the limit


def test_a_pil_image_of_a_cut_file_is_an_error_too(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(BROKEN["cut.jpg"])
    with Image.open(path) as lazy, pytest.raises(ImageError, match=r"cut\.jpg.*truncated"):
        open_image(lazy)


@pytest.mark.case("use-O2")
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else():
    generator = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in (
        ("JPEG", {"exif": exif}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
    ):
        whole = encoded(photo(24, 16), kind, **options)
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(generator.choice([1, 3, 10])):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            damaged = damaged[: generator.randrange(1, len(damaged) + 1)]
            with contextlib.suppress(ImageError):
                assert open_image(bytes(damaged)).mode == "RGB"


@pytest.mark.case("use-O4")
@pytest.mark.parametrize(
    "source",
    [
        None,
        5,
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf, np.float32),
        np.zeros((5, 6, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((2, 4, 5, 3), np.uint8),
        np.full((4, 4), -1.0),
        np.full((4, 4), 1e6),
        np.zeros((4, 4), complex),
        np.array([["a", "b"]]),
        [[1, 2], [3]],
        {"bytes": None, "path": None},
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'shape', '')}-{getattr(s, 'dtype', '')}",
)
def test_values_that_are_no_image_are_errors(source):
    with pytest.raises(ImageError):
        open_image(source)


# What is one


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    upright = photo(48, 32)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(upright))
    with Image.open(io.BytesIO(encoded(stored, "JPEG", quality=95, exif=exif))) as lazy:
        assert psnr(open_image(lazy), upright) > 35


def pixel(source, **options):
    opened = open_image(source, **options)
    assert opened.mode == "RGB"
    return opened.getpixel((0, 0))


def test_gray_and_bilevel_become_three_equal_channels():
    assert pixel(Image.new("L", (3, 2), 77)) == (77, 77, 77)
    assert pixel(Image.new("1", (3, 2), 1)) == (255, 255, 255)


def test_transparency_is_laid_over_white():
    assert pixel(Image.new("RGBA", (3, 2), (255, 0, 0, 0))) == (255, 255, 255)
    assert pixel(Image.new("RGBA", (3, 2), (0, 0, 0, 51))) == (204, 204, 204)
    assert pixel(Image.new("LA", (3, 2), (0, 0))) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (3, 2), (10, 20, 30, 255)))) == (10, 20, 30)


def test_a_file_of_rgb_with_a_transparent_color_is_laid_over_white():
    red = Image.new("RGB", (4, 4), "red")
    stored = encoded(red, "PNG", transparency=(255, 0, 0))
    for picture in (stored, Image.open(io.BytesIO(stored))):
        assert open_image(picture).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(Image.open(io.BytesIO(stored)).convert("RGB")).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.case("use-O4")
def test_a_palette_with_a_transparent_color_is_laid_over_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 10, 10, 20, 30, 40])
    palette.putdata([0, 1])
    opened = open_image(encoded(palette, "PNG", transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (20, 30, 40)]
    assert open_image(encoded(palette)).getpixel((0, 0)) == (200, 10, 10)


@pytest.mark.case("use-O4")
def test_cmyk_becomes_rgb():
    red = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    r, g, b = pixel(red)
    assert r > 240
    assert max(g, b) < 15


@pytest.mark.case("use-O4")
@pytest.mark.parametrize(
    ("value", "gray"), [(0, 0), (100, 0), (257, 1), (5000, 19), (32768, 128), (65535, 255)]
)
def test_sixteen_bit_gray_is_scaled_over_its_whole_range_however_dark_it_is(value, gray):
    array = np.full((3, 4), value, np.uint16)
    for source in (array, Image.fromarray(array), encoded(Image.fromarray(array)), torch.from_numpy(array)):
        assert pixel(source) == (gray, gray, gray)


def test_twelve_bits_in_a_picture_of_sixteen_get_a_word_once(caplog):
    array = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
    open_image(array)
    assert not caplog.text
    warn_once.cache_clear()  # another test may have heard it
    for dark in (array // 16, Image.fromarray(array // 16), (array // 16).astype(np.int32)):
        open_image(dark)
    assert caplog.text.count("holds nothing above 4095, and is seen as nearly black") == 1


def test_arrays_and_tensors_in_either_layout_are_the_same_picture():
    rgb = np.asarray(photo(20, 10))
    chw = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    sources = [
        rgb,
        chw,
        rgb[:, ::-1][:, ::-1],  # strided
        rgb / 255.0,
        (rgb / 255.0).astype(np.float32),
        rgb.astype(np.int64),
        rgb.astype(np.float64) * 1.0,  # floats from 0 to 255
        torch.from_numpy(chw),
        torch.from_numpy(chw).float().div(255).requires_grad_(),
        rgb.tolist(),
    ]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(open_image(source)), rgb)


def test_floats_a_little_beyond_0_and_1_are_clipped_and_no_nearly_black_picture():
    assert pixel(np.array([[[-1e-7, 0.5, 1 + 1e-6]]])) == (0, 128, 255)
    for high in (1.02, 1.9):  # as bicubic resizing leaves them
        with pytest.raises(ImageError, match=rf"array values from 0 to {high:g}: clip them to 0 to 1"):
            open_image(np.array([[[0.0, 0.5, high]]]))
    assert pixel(np.array([[[0.0, 0.5, 2.0]]])) == (0, 0, 2)


def test_low_precision_tensors_open():
    assert pixel(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)) == (128, 128, 128)
    assert pixel(torch.full((2, 2), 1.0, dtype=torch.float16)) == (255, 255, 255)


def test_gray_boolean_and_four_channel_arrays_open():
    assert pixel(np.full((5, 4), 9, np.uint8)) == (9, 9, 9)
    assert pixel(np.full((5, 4, 1), 9, np.uint8)) == (9, 9, 9)
    assert pixel(np.full((1, 5, 6), 9, np.uint8)) == (9, 9, 9)
    assert pixel(np.ones((5, 4), bool)) == (255, 255, 255)
    assert pixel(np.zeros((4, 5, 6), np.uint8)) == (255, 255, 255)  # CHW, transparent
    assert open_image(np.zeros((5, 1), np.uint8)).size == (1, 5)


def test_bytes_paths_and_rows_of_datasets_are_the_same_picture(tmp_path):
    data = encoded(photo())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    rows = [{"bytes": data, "path": "gone.png"}, {"bytes": None, "path": str(path)}, {"path": path}]
    for source in [data, bytearray(data), memoryview(data), path, str(path), *rows]:
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(photo()))


def test_a_pil_image_is_left_as_it_was():
    image = photo()
    opened = open_image(image)
    opened.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) != (1, 2, 3)


# Decoding at a smaller scale


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_decoding_for_a_size_is_smaller_and_hardly_differs_after_the_resize(options):
    data = encoded(photo(1024, 768), "JPEG", quality=92, **options)
    exact, drafted = open_image(data), open_image(data, size=224)
    assert exact.size == (1024, 768)
    assert drafted.size == (512, 384)  # still twice the side
    small = [image.resize((149, 112), Image.Resampling.BICUBIC) for image in (exact, drafted)]
    assert psnr(*small) > 45


def test_an_image_that_is_no_jpeg_or_is_small_is_decoded_in_full():
    assert open_image(encoded(photo(400, 300)), size=50).size == (400, 300)
    assert open_image(encoded(photo(96, 64), "JPEG"), size=100).size == (96, 64)


# Folders and data sets


def test_check_images_finds_exactly_the_broken_files(tmp_path):
    for name, data in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    for i in range(5):
        photo(seed=i).save(tmp_path / f"good{i}.jpg")
    files = [*sorted(tmp_path.iterdir()), tmp_path / "absent.jpg"]
    found = check_images(iter(files))
    assert {path.name for path in found} == {*BROKEN, "absent.jpg"}
    assert found[tmp_path / "empty.jpg"] == "the file is empty (0 bytes)"


def test_image_files_are_sorted_and_hidden_ones_left_out(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/.hidden.png", ".cache/x.png", "notes.txt", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    assert [str(p.relative_to(tmp_path)) for p in image_files(tmp_path)] == ["a/z.png", "b.JPG", "c.webp"]


def test_a_folder_below_a_hidden_one_may_be_listed(tmp_path):
    folder = tmp_path / ".data" / "images"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    assert [p.name for p in image_files(folder)] == ["a.png"]


def test_a_folder_without_images_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(ImageError, match="holds no image"):
        image_files(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        image_files(tmp_path / "absent")


def test_undecoded_data_sets_give_what_open_image_opens(tmp_path):
    from datasets import Dataset, Features, Image, List, Value

    path = tmp_path / "a.png"
    photo().save(path)
    features = Features({"image": Image(), "views": List(Image()), "name": Value("string")})
    rows = {"image": [str(path)], "views": [[str(path), str(path)]], "name": ["x"]}
    dataset = Dataset.from_dict(rows, features=features)
    row = without_decoding(dataset)[0]
    assert isinstance(row["image"], dict)
    assert row["name"] == "x"
    for image in (row["image"], *row["views"]):
        np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(photo()))
    assert not isinstance(dataset[0]["image"], dict)  # the data set itself still decodes


def test_masked_pixels_are_no_measurement():
    array = np.full((4, 4, 3), 7, np.uint8)
    with pytest.raises(ImageError, match="masked pixels"):
        open_image(np.ma.masked_where(np.eye(4)[..., None].repeat(3, 2) > 0, array))
    assert open_image(np.ma.masked_equal(array, 0)).getpixel((0, 0)) == (7, 7, 7)


def test_an_address_that_is_not_reached_says_why(monkeypatch):
    def unreached(address, mode):
        raise FileNotFoundError(address) from OSError("Name or service not known")

    monkeypatch.setattr("fsspec.open", unreached)
    with pytest.raises(ImageError, match="cannot be read \\(Name or service not known"):
        _bytes_at("https://example.org/a.jpg")
