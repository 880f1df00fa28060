"""The frozen-feature cache: a tower that does not learn sees every image once, ever."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from geohf.errors import DataError
from geohf.io import cache_folder
from geohf.vision.contents import content_key
from geohf.vision.inference import feature_function
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.weights import in_eval_mode, load_tensors, weights_fingerprint

logger = logging.getLogger(__name__)

# one file a shard: large enough to be few, small enough that a killed run loses little
SHARD_IMAGES = 2048


def cached_features(
    tower: nn.Module,
    processor: GeoImageProcessor,
    images: Sequence[Any],
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    autocast: torch.dtype | None = None,
    pool: str = "tower",
    mode: str = "eager",
) -> torch.Tensor:
    """The pooled features of images, computed where they are not cached yet.

    The cache's key holds the tower's weights, the processor's settings, the number format and mode, and each image's
    path, size and time of change (its bytes, where it is not a file): a change of any of them computes anew.
    Finished shards survive a kill. Under `torchrun` or `accelerate launch` the shards are shared out.

    Args:
        images: paths, or anything that `open_image` takes.
        cache_dir: where the safetensors shards lie; `cache_folder("features")` where None.
        autocast: compute in this type (e.g. bfloat16 on a GPU that has it); features are float32 all the same.
        pool: what is taken of the tower's output, see `geohf.vision.pooling.pooled`.
        mode: `eager`, `compile` or `int8`, see `geohf.vision.inference.feature_function`.

    Returns:
        (images, features) float32 on the CPU, (images, channels, rows, columns) for the pool `map`.

    Raises:
        DataError: there is no image, or one cannot be opened; the message names it. The tower or the machine
            cannot compute in this mode.
    """
    from tqdm.auto import tqdm

    if not len(images):
        raise DataError("there are no images to compute features of")
    folder = Path(cache_dir) if cache_dir is not None else cache_folder("features")
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps([processor.to_dict(), str(autocast), pool, mode], sort_keys=True, default=str)
    key = _digest(weights_fingerprint(tower), settings)
    shards = []
    for start in range(0, len(images), SHARD_IMAGES):
        part = images[start : start + SHARD_IMAGES]
        shards.append(
            (folder / f"{_digest(key, *(content_key(_opened(image)) for image in part))}.safetensors", part)
        )
    rank, world = _rank_and_world()
    missing = [shard for shard in shards if not shard[0].exists()]
    if world > 1:
        torch.distributed.barrier()  # all processes share out the same list, before the first adds a shard
    missing = missing[rank::world]
    if missing:
        bar = tqdm(
            total=sum(len(part) for _, part in missing), desc="features", unit="image", disable=rank != 0
        )
        compute = feature_function(in_eval_mode(tower), pool, mode, batch_size)
        device = next(tower.parameters()).device
        for path, part in missing:
            features = _run(compute, processor, part, batch_size, num_workers, device, autocast, bar)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            save_file({"features": features}, temporary)
            os.replace(temporary, path)
        bar.close()
    if world > 1:
        torch.distributed.barrier()
    parts = [load_tensors(path)["features"] for path, _ in shards]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _opened(image: Any) -> Any:
    """What is opened of an image, however it is given: one picture has one key."""
    if isinstance(image, dict) and {"bytes", "path"} & set(image):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    return os.fspath(image) if isinstance(image, os.PathLike) else image


@torch.inference_mode()
def _run(compute, processor, images, batch_size, num_workers, device, autocast, bar) -> torch.Tensor:
    loader = DataLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=processor.pixel_values,
        shuffle=False,
    )
    features = []
    for pixel_values in loader:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            batch = compute(pixel_values.to(device, non_blocking=True))
        features.append(batch.float().cpu())
        bar.update(len(batch))
    return torch.cat(features)


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
