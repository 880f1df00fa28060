"""What a report of a bug needs to tell of a machine: versions, devices and caches, and no secret.

geohf env
geohf env --json
"""

import argparse
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

import geohf
from geohf.hub.provenance import version_of
from geohf.io import cache_folder
from geohf.recipes.parsing import command_parser

PACKAGES = (
    *("torch", "torchvision", "transformers", "datasets", "accelerate", "huggingface_hub", "timm", "peft"),
    *("numpy", "pandas", "pillow", "rasterio"),
    *("tensorboard", "trackio", "wandb", "pillow-heif", "onnx", "onnxruntime", "gradio", "ray"),
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--json", action="store_true", help="One JSON object instead of lines.")
    return parser


def facts() -> dict[str, Any]:
    """Names to values: text, or None for a package that is not installed."""
    values: dict[str, Any] = {
        "geohf": geohf.__version__,
        "installed in": str(Path(geohf.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": f"{os.cpu_count()}, {torch.get_num_threads()} threads of torch",
    }
    values |= {name: version_of(name) for name in PACKAGES}
    values |= {f"device {name}": what for name, what in devices().items()}
    for name, folder in (("hub", Path(constants.HF_HUB_CACHE)), ("geohf", cache_folder(""))):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        values[f"cache of {name}"] = f"{folder} ({shutil.disk_usage(existing).free / 1e9:.1f} GB free)"
    return values | {"offline": str(constants.HF_HUB_OFFLINE)}


def devices() -> dict[str, str]:
    """What torch can compute on."""
    names = {"cpu": platform.processor() or platform.machine()}
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        names[f"cuda:{number}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        names["mps"] = "Apple's GPU"
    return names


def main() -> None:
    """Run the command with the arguments of the command line."""
    args, values = make_parser().parse_args(), facts()
    if args.json:
        print(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        print(f"{name:<16} {'not installed' if value is None else value}")


if __name__ == "__main__":
    main()
