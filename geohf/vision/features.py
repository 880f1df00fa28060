"""The frozen-feature cache: a backbone that does not learn sees every image once, ever.

It computes exactly, compiled, or with its linear layers in 8-bit integers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Subset

from geohf.errors import DataError, require_choice
from geohf.io import atomic_path, cache_folder
from geohf.vision.contents import content_key, digest_of
from geohf.vision.pooling import pooled
from geohf.vision.weights import in_eval_mode, weights_fingerprint

logger = logging.getLogger(__name__)

# one file per shard: large enough to be few, small enough that a killed run loses little
SHARD_IMAGES = 2048


class Preparing(Protocol):
    """What turns images into the pixels that a backbone sees, and says how."""

    def pixel_values(self, images: list[Any]) -> torch.Tensor:
        """(n, channels, height, width) of images."""

    def to_dict(self) -> dict[str, Any]:
        """Its settings, which are part of the features' key."""


def cached_features(
    tower: nn.Module,
    processor: Preparing,
    images: Sequence[Any],
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    autocast: torch.dtype | None = None,
    pool: str = "tower",
    mode: str = "eager",
) -> torch.Tensor:
    """The pooled features of images, computed where they are not cached yet.

    Every image is cached by itself, under its path, size and time of change (its bytes, where it is no file), the
    backbone's weights, the processor's settings, the number format and mode: a change of any computes anew. Finished
    shards survive a kill. Under `torchrun` or `accelerate launch` the missing images are shared out.

    Args:
        images: paths, or anything that `open_image` takes; one that is there twice is computed once.
        cache_dir: where the safetensors shards lie; `cache_folder("features")` where None.
        autocast: compute in this type (e.g. bfloat16 on a GPU that has it); features are float32 all the same.
        pool: what is taken of the backbone's output, see `geohf.vision.pooling.pooled`.
        mode: `eager`, `compile` or `int8`, see `geohf.vision.features.feature_function`.

    Returns:
        (images, features) float32 on the CPU, (images, channels, rows, columns) for the pool `map`.

    Raises:
        DataError: there is no image, or one cannot be opened; the message names it. The backbone or the machine
            cannot compute in this mode.
    """
    from tqdm.auto import tqdm

    if not len(images):
        raise DataError("there are no images to compute features of")
    folder = Path(cache_dir) if cache_dir is not None else cache_folder("features")
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps([processor.to_dict(), str(autocast), pool, mode], sort_keys=True, default=str)
    store = _Store(folder, digest_of([weights_fingerprint(tower).encode(), settings.encode()]).hex())
    keys = [_image_key(image) for image in images]

    rank, world = _rank_and_world()

    def compute(chosen: list[int]) -> None:
        run = feature_function(in_eval_mode(tower), pool, mode, batch_size)
        how = batch_size, num_workers, next(tower.parameters()).device, autocast
        with tqdm(total=len(chosen), desc="features", unit="image", disable=rank != 0) as bar:
            for start in range(0, len(chosen), SHARD_IMAGES):
                part = chosen[start : start + SHARD_IMAGES]
                rows: Any = images  # which need not be a Dataset of torch
                features = _run(run, processor, Subset(rows, part), *how, bar)
                store.add([keys[position] for position in part], features)

    missing = store.missing(keys)
    if world > 1:
        torch.distributed.barrier()  # all processes share out the same list, before the first adds a shard
    if missing[rank::world]:
        compute(missing[rank::world])
    if world > 1:
        torch.distributed.barrier()
    while missing := store.missing(keys):  # another run added or removed shards while these looked
        compute(missing)
    return store.read(keys)


class _Store:
    """The cached features of one tower and its settings: shards that hold each image's key beside its features."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self.seen: set[Path] = set()
        self.rows: dict[bytes, tuple[Path, int]] = {}  # image -> its shard, and its row there

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of images that no shard holds, each image once."""
        for path in sorted(set(self.folder.glob(f"{self.key}-*.safetensors")) - self.seen):
            self.seen.add(path)
            try:
                with safe_open(path, "pt") as file:
                    held = file.get_tensor("keys").numpy()
            except FileNotFoundError:  # removed meanwhile
                continue
            except SafetensorError as error:
                logger.warning(
                    "%s is damaged and can be deleted; its images are computed again: %s", path, error
                )
                continue
            for row, key in enumerate(held):
                self.rows.setdefault(key.tobytes(), (path, row))
        first: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            if key not in self.rows:
                first.setdefault(key, position)
        return list(first.values())

    def add(self, keys: Sequence[bytes], features: torch.Tensor) -> None:
        """Write a shard of images whose keys are all different."""
        names = torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1).copy())
        # the same images of another run that computes at the same time have the same name
        path = self.folder / f"{self.key}-{digest_of(keys).hex()}.safetensors"
        self.seen.discard(path)  # damaged, until now
        with atomic_path(path) as temporary:
            save_file({"features": features, "keys": names}, temporary)

    def read(self, keys: Sequence[bytes]) -> torch.Tensor:
        """(images, ...) features in the order of the keys, all of which must be there; one shard is mapped at a time."""
        places: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            path, row = self.rows[key]
            places.setdefault(path, []).append((position, row))
        features: Any = None  # until the first shard tells how long a feature is
        for path, pairs in places.items():
            positions, rows = torch.tensor(pairs).unbind(1)
            with safe_open(path, "pt") as file:
                held = file.get_tensor("features")
            features = torch.empty(len(keys), *held.shape[1:]) if features is None else features
            features[positions] = held[rows]
        return features


def _image_key(image: Any) -> bytes:
    """What an image is known by, 16 bytes, however it is given: one picture has one key."""
    if isinstance(image, dict) and {"bytes", "path"} & set(image):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    if isinstance(image, (str, os.PathLike)):
        try:
            facts = os.stat(image)
        except (OSError, ValueError):  # a member of an archive, or what nobody can open
            return bytes.fromhex(content_key(os.fspath(image)))
        path = os.path.abspath(image).encode(errors="surrogateescape")
        return digest_of([path, f"{facts.st_size} {facts.st_mtime_ns}".encode()])
    return bytes.fromhex(content_key(image))


@torch.inference_mode()
def _run(compute, processor, images, batch_size, num_workers, device, autocast, bar) -> torch.Tensor:
    collate = processor.pixel_values
    loader = DataLoader(images, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    features = []
    for pixel_values in loader:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            batch = compute(pixel_values.to(device, non_blocking=True))
        features.append(batch.float().cpu())
        bar.update(len(batch))
    return torch.cat(features)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


MODES = ("eager", "compile", "int8")


def feature_function(
    tower: nn.Module, pool: str = "tower", mode: str = "eager", batch_size: int = 32
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images to the features of a backbone that is in eval mode and does not change any more.

    Args:
        pool: what is taken of the backbone's output, see `geohf.vision.pooling.pooled`.
        mode: `eager`; `compile` (`torch.compile` with frozen weights: the same up to rounding, on a CPU with a C++
            compiler); `int8` (dynamic quantization of the linear layers, CPU only: close to the exact features).
        batch_size: the most images in a call. A compiled tower always sees so many, or it would compile again.

    Returns:
        (batch, 3, height, width) to what `pooled` gives. To be called without gradients.

    Raises:
        DataError: an unknown mode, or one in which the backbone or the machine cannot compute.
    """
    require_choice(MODES, mode=mode)
    if mode == "compile":
        return _compiled(tower, pool, batch_size)
    computing = _int8(tower) if mode == "int8" else tower
    return lambda pixel_values: pooled(computing, pixel_values, pool)


def _compiled(tower: nn.Module, pool: str, batch_size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch._dynamo.exc import TorchDynamoException

    run = torch.compile(lambda x: pooled(tower, x, pool), dynamic=False, options={"freezing": True})

    def features(pixel_values: torch.Tensor) -> torch.Tensor:
        short = batch_size - len(pixel_values)
        filled = torch.cat([pixel_values, pixel_values[-1:].expand(short, -1, -1, -1)])
        try:
            return run(filled)[: len(pixel_values)]
        except TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"torch.compile cannot compile the backbone; use the mode eager: {reason}"
            ) from error

    return features


def _int8(tower: nn.Module) -> nn.Module:
    """A copy of the backbone whose linear layers hold 8-bit weights and quantize their inputs as they come."""
    if next(tower.parameters()).device.type != "cpu":
        raise DataError("the mode int8 computes on a CPU only; on a GPU use bf16")
    if not any(type(module) is nn.Linear for module in tower.modules()):
        raise DataError(
            "the mode int8 changes linear layers only, and this backbone has none; use the mode eager"
        )
    try:
        from torch.ao.quantization import quantize_dynamic
    except ImportError:
        raise DataError(f"torch {torch.__version__} no longer has the mode int8; use eager") from None
    # torch warns that it is deprecated: the successor, torchao, is one more package
    return quantize_dynamic(tower, {nn.Linear}, dtype=torch.qint8)
