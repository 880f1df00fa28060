"""GeoCLIP's real location encoder: how long its gallery takes, once and afterwards, and what it finds.

    pip install --no-deps geoclip==1.3.0
    python benchmarks/street_gallery.py --positions places.csv

Images cannot be asked without CLIP, so positions ask: the embedding of a position looks for it in the gallery.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from geohf.data.tables import LATITUDE_COLUMNS, LONGITUDE_COLUMNS, find_column, read_table
from geohf.geo import great_circle_m
from geohf.street import GeoStreetConfig
from geohf.street.gallery import gallery_points
from geohf.street.location import LocationEncoder
from geohf.street.matching import MatchHead
from geohf.street.published import GALLERY, _our_name
from geohf.vision.repos import read_tensors

QUESTIONS = 8


def real_head(folder: Path) -> MatchHead:
    """A head with the published location encoder and scale; what looks at images stays random."""
    config = GeoStreetConfig(gps_head="gallery", location_encoder="equal_earth", feature_size=8, queue_size=0)
    head = MatchHead(config).eval()
    tensors = read_tensors(folder / "weights/location_encoder_weights.pth")
    head.location.load_state_dict(
        {_our_name(f"location_encoder.{name}").removeprefix("location."): t for name, t in tensors.items()}
    )
    (scale,) = read_tensors(folder / "weights/logit_scale_weights.pth").values()
    head.logit_scale.data.copy_(scale)
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=Path, help="a table of real positions that are to be found")
    options = parser.parse_args()
    found = importlib.util.find_spec("geoclip")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps geoclip==1.3.0")
    folder = Path(found.origin).parent / "model"
    head, gallery = real_head(folder), gallery_points(folder / GALLERY, repeats=True)
    print(f"{torch.get_num_threads()} threads, {len(gallery)} positions, scale {head.scale().item():.2f}")
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        os.environ["GEOHF_CACHE"] = cache
        questions = head.encode(torch.from_numpy(gallery[:QUESTIONS]))
        seconds = {}
        for name in ("first", "again"):
            start = time.perf_counter()
            head.matches(questions, gallery, keep=True)
            seconds[name] = time.perf_counter() - start
        head._encoded.held = None  # as in another process
        start = time.perf_counter()
        head.matches(questions, gallery, keep=True)
        seconds["from disk"] = time.perf_counter() - start
    told = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    print(f"{QUESTIONS} questions: {told} ({seconds['first'] / seconds['again']:.0f} times as fast)")
    if options.positions is not None:
        table = read_table(options.positions, numbers=(*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS))
        names = [
            find_column(table.columns, n, options.positions) for n in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)
        ]
        points = table[names].to_numpy(np.float64)
        points = points[np.random.default_rng(0).permutation(len(points))[:300]]
        with torch.inference_mode():
            answers = head.matches(head.encode(torch.from_numpy(points)), gallery).points[:, 0].numpy()
        away = great_circle_m(answers, points)
        nearest = np.array([great_circle_m(point, gallery).min() for point in points])
        print(
            f"{len(points)} positions: median {np.median(away):.0f} m, the nearest of the gallery {np.median(nearest):.0f} m"
        )
    for frame in ("equal_earth", "sphere", "spherical_harmonics"):
        torch.manual_seed(0)
        encoder = head.location if frame == "equal_earth" else LocationEncoder(frame)
        with torch.inference_mode():
            a, b = encoder(torch.tensor([[10.0, 180.0], [10.0, -180.0]]))
        print(f"(10, 180) and (10, -180) in {frame}: cosine {torch.cosine_similarity(a, b, dim=0):.4f}")


if __name__ == "__main__":
    main()
