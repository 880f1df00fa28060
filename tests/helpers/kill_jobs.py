"""What is run, killed and run again: recipes, caches and predictions."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# whatever a run would import late; none of it may start a thread
MODULES = (
    *(
        "datasets",
        "timm",
        "pandas",
        "sklearn.metrics",
        "sklearn.preprocessing",
        "scipy.optimize",
        "scipy.spatial",
    ),
    *(
        "matplotlib.pyplot",
        "rasterio",
        "PIL.Image",
        "jinja2",
        "torchvision.transforms.v2",
        "tqdm.auto",
        "filelock",
    ),
    *(
        "geohf.recipes.train_street",
        "geohf.recipes.train_region",
        "geohf.recipes.train_place",
        "geohf.recipes.train_parts",
        "geohf.recipes.train_tiles",
    ),
    *("geohf.models.loading", "geohf.recipes.running", "accelerate"),
)


def warm_up() -> None:
    for name in MODULES:
        importlib.import_module(name)


def recipe(name: str, *words: str) -> None:
    """recipes/NAME.py with a command line."""
    sys.argv = [str(RECIPES / f"{name}.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def samples(folder: str) -> None:
    """A small sample of every task."""
    from geohf.parts import sample as parts
    from geohf.place import sample as place
    from geohf.region import sample as region
    from geohf.street import sample as street
    from geohf.tiles import sample as tiles

    folder = Path(folder)
    street.write_sample(folder / "street", size=2, image_size=32)
    region.write_sample(folder / "region", size=24)
    place.write_sample(folder / "place", size=160)
    parts.write_sample(folder / "parts", size=24, width=96)
    tiles.write_sample(folder / "tiles", size=4)


def photos_and_model(folder: str) -> None:
    """Twelve photographs in `photos`, an untrained street model in `model`."""
    import numpy as np
    import torch
    from PIL import Image

    from geohf.street import GeoStreetModel

    folder, rng = Path(folder), np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"photos/{i:02}.png")
    torch.manual_seed(0)
    model = GeoStreetModel.from_backbone(
        "test_resnet",
        pretrained=False,
        image_size=32,
        gps_head="bounded",
        gps_box=[18.0, -160.0, 72.0, -66.0],
    )
    model.save_pretrained(folder / "model")


def features(photos: str, model: str, cache: str, output: str) -> None:
    """The features of all photographs, through a cache with two images a shard."""
    from safetensors.torch import save_file

    from geohf.models.loading import load_model
    from geohf.vision import features

    features.SHARD_IMAGES = 2
    loaded, files = load_model(model, "cpu"), sorted(Path(photos).iterdir())
    found = features.cached_features(loaded.tower, loaded.processor, files, cache, batch_size=1)
    save_file({"features": found}, output)


def predict(photos: str, model: str, output: str) -> None:
    """Every photograph's answer, one a batch."""
    from geohf.models.loading import load_model

    load_model(model, "cpu").predict_to_file(photos, output, batch_size=1)


def tiles(table: str, cache: str, output: str) -> None:
    """The cache of all tiles of a table; its arrays as they are read from it."""
    import numpy as np

    from geohf.tiles.cutting import build_cache
    from geohf.tiles.table import load_tiles

    images = Path(table).parent / "Images"
    loaded = load_tiles(table, images, sorted(path.name for path in images.iterdir()))
    built = build_cache(loaded, cache, workers=1)
    np.savez(output, tiles=built.read(range(len(built))), holes=built.holes, sizes=built.sizes)
