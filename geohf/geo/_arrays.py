"""One code path for numpy arrays and torch tensors: formulas are written once, against `xp`, which is either."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch


def namespace(*arrays) -> ModuleType:
    """Return `torch` when all arrays are tensors and `numpy` when none is; a mixture is a TypeError."""
    tensors = [isinstance(array, torch.Tensor) for array in arrays]
    if all(tensors):
        return torch
    if any(tensors):
        kinds = ", ".join(type(array).__name__ for array in arrays)
        raise TypeError(
            f"numpy arrays and torch tensors cannot be mixed here, got {kinds}; convert one of them"
        )
    return np


def as_floats(array, name: str = "points"):
    """Return `array` as floating point: float32 stays, all else becomes float64.

    Of torch, half precision becomes float32: it cannot hold degrees, nor meters above 65504.
    """
    if isinstance(array, torch.Tensor):
        if array.dtype in (torch.float32, torch.float64):
            return array
        return array.to(torch.float32 if array.is_floating_point() else torch.float64)
    try:
        array = np.asarray(array)
        return array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as numbers: {error}") from None


def as_double(array, name: str = "points"):
    """Return `array` in float64, numpy or torch; in float32 on Apple's GPUs, which have no float64."""
    if isinstance(array, torch.Tensor):
        return array.to(torch.float32 if array.device.type == "mps" else torch.float64)
    return as_floats(array, name).astype(np.float64, copy=False)


def as_numpy(array, name: str = "points") -> np.ndarray:
    """Return `array` as a float64 numpy array; tensors are detached and copied to the host."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    return as_double(array, name)


def cast_like(array, dtype):
    """Return `array` in `dtype`; numpy's 0-d arrays become scalars."""
    if isinstance(array, torch.Tensor):
        return array.to(dtype)
    return np.asarray(array).astype(dtype, copy=False)[()]


def as_pairs(array, name: str = "points", cast=as_floats, wanted: str = "(..., 2)"):
    """Return `cast(array)`, or raise ValueError unless it has the wanted shape, (..., 2) or (n, 2)."""
    array = cast(array, name)
    shape = tuple(array.shape)
    if shape[-1:] != (2,) or (wanted == "(n, 2)" and len(shape) != 2):
        raise ValueError(f"{name} must have shape {wanted}, one (latitude, longitude) a row, got {shape}")
    return array


def as_rows(array, name: str = "points") -> np.ndarray:
    """Return (n, 2) `array` as `as_numpy` does, or raise ValueError for another shape."""
    return as_pairs(array, name, as_numpy, "(n, 2)")


def guarded_sqrt(xp: ModuleType, x):
    """Square root whose gradient is zero, not infinite, where `x` is zero; rounding below zero counts as zero.

    The inner `where` keeps the root's own gradient finite, the outer one cuts it: alone, either lets autograd
    multiply an infinity by zero. NaN stays NaN, so that a bad row cannot pass as distance zero.
    """
    flat = x <= 0
    return xp.where(flat, 0.0, xp.sqrt(xp.where(flat, 1.0, x)))


def wrap_longitude(xp: ModuleType, longitude):
    """Return longitudes wrapped to [-180, 180); those within keep every digit."""
    wrapped = longitude - 360.0 * xp.floor((longitude + 180.0) / 360.0)
    # Sums round: a value a hair below -180 comes out as +180, and one a hair below +180 under -180.
    wrapped = xp.where(wrapped >= 180.0, wrapped - 360.0, wrapped)
    return xp.where(wrapped < -180.0, wrapped + 360.0, wrapped)
