"""Weights as their authors published them, into a geohf model: every tensor used, every parameter filled."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from geohf.errors import DataError, listed


def fill_published(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    our_name: Callable[[str], str],
    their_name: Callable[[str], str],
    file: str | os.PathLike,
) -> None:
    """Give every parameter and buffer of a model its published value.

    Args:
        tensors: published name -> tensor.
        our_name: of a published name, the model's; the name as it is where the model has none.
        their_name, file: the other way round, and where the tensors come from, for messages.

    Raises:
        DataError: a tensor is missing, left over or misshapen.
    """
    wanted = model.state_dict()
    given = {our_name(name): (name, tensor) for name, tensor in tensors.items()}
    # files of old versions of torch have no counters
    missing = [their_name(n) for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    left = [old for new, (old, _) in given.items() if new not in wanted]
    misshapen = [
        f"{old} {tuple(t.shape)}, not {tuple(wanted[new].shape)}"
        for new, (old, t) in given.items()
        if new in wanted and t.shape != wanted[new].shape
    ]
    for names, problem in (
        (misshapen, "these weights have another shape"),
        (missing, "lacks these weights of the model"),
        (left, "the model has no place for these weights"),
    ):
        if names:
            raise DataError(f"{file}: {problem}: {listed(names)}")
    model.load_state_dict({name: given[name][1] if name in given else t for name, t in wanted.items()})
