"""What `geohf predict` and `geohf evaluate` take for a place model: keyword arguments of argparse's add_argument."""

from __future__ import annotations

from typing import get_args

from geohf.place.index_search import Backend
from geohf.place.metrics import RULES
from geohf.place.protocols import BENCHMARKS
from geohf.place.sequences import Center, Method

_ANSWERS: dict[str, dict] = {
    "verify": {
        "type": int,
        "help": "Answers of a doubtful search to put in the order of their local matches; default: none.",
    },
    "center": {
        "choices": get_args(Center),
        "help": "What is taken from the descriptors of a drive: its own mean (sequence; online: of the frames so far), "
        "the database's, or none.",
    },
    "method": {
        "choices": get_args(Method),
        "help": "The frames of a drive answer together: filter hears the earlier ones, smooth the later ones, too, "
        "diagonal averages along lines; default: each alone.",
    },
}
PREDICT_OPTIONS: dict[str, dict] = {
    "index": {"help": "File of a PlaceIndex to search in; without one the answers are descriptors."},
    "top_k": {"type": int, "help": "Images of the index to name."},
    "near": {
        "nargs": 3,
        "type": float,
        "metavar": ("LATITUDE", "LONGITUDE", "METERS"),
        "help": "Search among the images of the index within so many meters of a position.",
    },
    "backend": {
        "choices": get_args(Backend),
        "help": "How to search: exact (the default), ivf or hnsw of faiss, or usearch.",
    },
    **_ANSWERS,
}
EVALUATE_OPTIONS: dict[str, dict] = {
    "utm": {
        "help": "Zone of UTM coordinates that come without one, like '54 north'; planar: meters that are none of UTM."
    },
    "radius_m": {"type": float, "help": "Meters within which an answer is right; default: the model's own."},
    "recalls": {"type": int, "nargs": "+", "help": "The N of recall at N; default: 1 5 10."},
    "rule": {"choices": RULES, "help": "Queries without a match are left out (has_match) or wrong (all)."},
    "benchmark": {
        "choices": tuple(BENCHMARKS),
        "help": "Measure as published: 25 m, N of 1 5 10 20, rule all, and a warning where the set has another size.",
    },
    **_ANSWERS,
}
