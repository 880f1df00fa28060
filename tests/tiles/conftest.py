"""Small worlds of tiles, written as real TIFFs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from geohf.tiles.cutting import build_cache
from geohf.tiles.table import load_tiles


def write_tiff(path: Path, pixels: np.ndarray, **profile) -> Path:
    """(height, width, bands) to a TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype, **profile}
    with rasterio.open(path, "w", height=height, width=width, count=bands, **profile) as raster:
        raster.write(pixels.transpose(2, 0, 1))
    return path


@pytest.fixture
def tiff():
    return write_tiff


GEO = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}
LABELS = ["2019", "2020", "2021"]


class World:
    """Two regions of 24 x 20 pixels over three years, four tiles each, two sizes."""

    boxes = ((0, 0, 12, 10), (12, 0, 24, 10), (0, 10, 12, 20), (12, 10, 23, 20))
    labels = LABELS
    geo = GEO

    def __init__(self, folder: Path):
        self.folder, self.images, self.csv = folder, folder / "Images", folder / "tiles.csv"
        rng = np.random.default_rng(0)
        self.pixels = {}
        for label in LABELS:
            for region in ("7", "8"):
                self.pixels[label, region] = rng.integers(1, 255, (20, 24, 3), np.uint8)
                write_tiff(self.path(label, region), self.pixels[label, region], **GEO)
        self.frame = pd.DataFrame(
            [
                {
                    "tile_id": 100 + 4 * r + i,
                    "region_id": region,
                    "label_id": label,
                    "target": round(0.1 * t + 0.01 * i + 0.05 * r, 3),
                    "region_coordinates": str(box),
                }
                for r, region in enumerate(("7", "8"))
                for i, box in enumerate(self.boxes)
                for t, label in enumerate(LABELS)
            ]
        )
        self.save()

    def path(self, label: str, region: str) -> Path:
        return self.images / label / f"{region}.tif"

    def save(self) -> None:
        self.frame.to_csv(self.csv, index=False)

    def crop(self, row: int, label: str) -> np.ndarray:
        """The pixels of the row-th tile in a year."""
        x0, y0, x1, y1 = self.boxes[row % 4]
        return self.pixels[label, "7" if row < 4 else "8"][y0:y1, x0:x1]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


@pytest.fixture
def tiles(world, tmp_path):
    """The world's table and its cache."""
    table = load_tiles(world.csv, world.images, world.labels)
    return table, build_cache(table, tmp_path / "cache", 1)
