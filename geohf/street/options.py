"""What `geohf predict` and `geohf evaluate` take for a street model: keyword arguments of argparse's add_argument."""

from __future__ import annotations

from geohf.street.benchmarks import BENCHMARKS
from geohf.vision.augmentation import TEST_TIME_OPTION

PREDICT_OPTIONS: dict[str, dict] = {
    "top_k": {"type": int, "help": "States to name."},
    "states": {"nargs": "+", "help": "Answer within these states only."},
    "area": {"help": "GeoJSON file: answer within its polygons only."},
    "regions": {
        "action": "store_true",
        "default": None,
        "help": "Draw where 50 and 90 %% of places like this lie, as GeoJSON; for a model with --density.",
    },
    "levels": {
        "help": "Table of towns or GeoJSON: name the country, region, sub-region and city of each point, too."
    },
    "test_time": TEST_TIME_OPTION,
    "captions": {
        "nargs": "+",
        "help": "Tell how well each of these captions fits, or name states by one with {} for their names; for a CLIP.",
    },
    "text_model": {"help": "Repo or folder of the CLIP that reads captions; default: the backbone's."},
    "gallery": {
        "help": "Positions to look in: a table, cells or grid:KM; for a model that matches positions."
    },
}
EVALUATE_OPTIONS: dict[str, dict] = {
    "levels": {"help": "Table of towns or GeoJSON: accuracy by country, region, sub-region and city, too."},
    "test_time": TEST_TIME_OPTION,
    "benchmark": {
        "choices": tuple(BENCHMARKS),
        "help": "DATA is the table of this benchmark as published; a warning where it has another number of rows.",
    },
}
