import json
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest

from geohf.report.map_png import draw_world
from geohf.report.world import coasts, encoded_world, world


def inside(point, ring):
    """Whether a point (latitude, longitude) lies in a ring, by the even-odd rule."""
    (y, x), (lat, lon) = point, ring.T
    lat_2, lon_2 = np.roll(lat, -1), np.roll(lon, -1)
    crossed = (lat > y) != (lat_2 > y)
    return bool((x < lon + (y - lat) * (lon_2 - lon) / np.where(crossed, lat_2 - lat, 1))[crossed].sum() % 2)


def is_land(point):
    return any(sum(inside(point, ring) for ring in rings) % 2 for rings in world()["land"])


def test_land_is_where_it_is():
    land = {
        "Kansas": (38.5, -98.0),
        "Lund": (55.7, 13.2),
        "Chukotka": (67.0, -175.0),
        "the pole": (-89.0, 40.0),
    }
    sea = {"Atlantic": (30.0, -40.0), "Caspian": (42.0, 50.5), "Arctic": (89.0, 0.0), "Pacific": (0.0, 180.0)}
    assert [name for name, point in land.items() if not is_land(point)] == []
    assert [name for name, point in sea.items() if is_land(point)] == []


def test_all_lines_stay_on_the_globe_and_the_file_is_small():
    for layer, outlines in world().items():
        lines = [line for outline in outlines for line in outline]
        assert len(outlines) > 150, layer
        assert all(len(line) > 1 and (np.abs(line) <= [90, 180]).all() for line in lines)
        if layer in ("land", "lakes"):
            assert all((line[0] == line[-1]).all() for line in lines)
    assert (resources.files("geohf.report") / "world.json").stat().st_size < 500_000


def test_a_cut_is_no_coast():
    ring = np.array([[60.0, 180.0], [70.0, 180.0], [70.0, 170.0], [60.0, 170.0], [60.0, 180.0]])
    assert [part.tolist() for part in coasts(ring)] == [ring[1:].tolist()]
    antarctica = max((rings[0] for rings in world()["land"]), key=lambda ring: -ring[:, 0].min())
    assert min(part[:, 0].min() for part in coasts(antarctica)) > -86


def test_narrow_maps_show_no_outline():
    from matplotlib.figure import Figure

    def drawn(west, east):
        axes = Figure().add_subplot()
        draw_world(axes, [], west, east)
        return sum(len(collection.get_paths()) for collection in axes.collections)

    assert drawn(13.0, 13.5) == 0
    assert drawn(10.0, 20.0) > 100


@pytest.mark.skipif(
    not shutil.which("node"), reason="runs the page's script in Node.js, which is not installed"
)
def test_the_page_reads_the_same_lines():
    script = (resources.files("geohf.report") / "map_geometry.js").read_text("utf-8")
    texts = [rings[0] for rings in encoded_world()["land"]][:40]
    script += f"console.log(JSON.stringify({json.dumps(texts)}.map((t) => coasts(decodeLine(t)))));"
    answer = subprocess.run(["node"], input=script, capture_output=True, text=True, check=True).stdout
    expected = [[part.tolist() for part in coasts(rings[0])] for rings in world()["land"][:40]]
    assert json.loads(answer) == expected
