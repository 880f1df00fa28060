import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from geohf.parts.boxes import upright_boxes, xywh_to_xyxy, xyxy_to_xywh

numbers = st.floats(0, 5000, width=32)
boxes = st.lists(
    st.tuples(numbers, numbers, st.floats(0.5, 5000, width=32), st.floats(0.5, 5000, width=32)), max_size=8
)


@given(boxes)
def test_corners_and_sizes_are_each_others_way_back(given_boxes):
    there = xywh_to_xyxy(given_boxes)
    assert there.shape == (len(given_boxes), 4)
    np.testing.assert_allclose(xyxy_to_xywh(there), np.reshape(given_boxes, (-1, 4)), rtol=0, atol=1e-9)
    assert (there[:, 2:] > there[:, :2]).all()


@given(boxes, st.integers(1, 8))
def test_turning_keeps_sizes_and_turning_back_undoes_it(given_boxes, orientation):
    width, height = 12_000, 11_000
    there = xywh_to_xyxy(given_boxes)
    turned = upright_boxes(there, orientation, width, height)
    sides = xyxy_to_xywh(there)[:, 2:]
    np.testing.assert_allclose(
        xyxy_to_xywh(turned)[:, 2:], sides[:, ::-1] if orientation >= 5 else sides, atol=1e-9
    )
    back = {6: 8, 8: 6}.get(orientation, orientation)
    size = (height, width) if orientation >= 5 else (width, height)
    np.testing.assert_allclose(upright_boxes(turned, back, *size), there, atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(6, 20), st.integers(6, 20), st.data())
def test_upright_boxes_move_as_pillow_moves_the_pixels(orientation, width, height, data):
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    pixels = np.zeros((height, width), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        turned = np.asarray(ImageOps.exif_transpose(image))
    rows, columns = np.nonzero(turned)
    wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert upright_boxes([[x0, y0, x1, y1]], orientation, width, height).tolist() == [wanted]
