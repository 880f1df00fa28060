"""A model of any task by its name, for programs that learn the task from the config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_MAPPING, AutoConfig
from transformers.utils import cached_file

from geohf.errors import DataError
from geohf.models.modeling import GeoPreTrainedModel

Model = TypeVar("Model", bound=GeoPreTrainedModel)


def model_class(name: str | os.PathLike) -> type[GeoPreTrainedModel]:
    """The class of the model in a folder or a repo of the Hub.

    Raises:
        DataError: there is no such model, or it is none of geohf's.
    """
    try:
        # the Hub is asked once: AutoConfig would ask again about a repo that is not there
        # a repo's own code is never run, and nobody is asked whether it shall be
        config = AutoConfig.from_pretrained(str(cached_file(name, "config.json")), trust_remote_code=False)
    except Exception as error:  # whatever a foreign config.json may lead to
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        reason = str(cause or error).partition(chr(10))[0]
        if any(Path(name).glob("checkpoint-*")) and not (Path(name) / "config.json").exists():
            reason = (
                "the run there has not finished: it has checkpoints, and no config.json yet; go on with the same "
                "training command and --resume_from_checkpoint true"
            )
        if not os.path.exists(name):
            a_repo = os.fspath(name).count("/") == 1
            also = f"on the Hub: {reason}" if a_repo else "a repo of the Hub is called org/name"
            reason = f"there is no such folder; {also}"
        raise DataError(f"{name}: no model can be loaded from there ({reason})") from None
    kind = MODEL_MAPPING.get(type(config), None)
    if not isinstance(kind, type) or not issubclass(kind, GeoPreTrainedModel):
        raise DataError(f"{name}: is a {config.model_type} model, none of geohf's")
    return kind


@overload
def load_model(name: str | os.PathLike, device: str | torch.device | None = None) -> GeoPreTrainedModel: ...
@overload
def load_model(
    name: str | os.PathLike, device: str | torch.device | None, expected: type[Model]
) -> Model: ...
def load_model(
    name: str | os.PathLike,
    device: str | torch.device | None = None,
    expected: type[Any] = GeoPreTrainedModel,
) -> Any:
    """The model in a folder or a repo, on `device`: by default a GPU where there is one.

    Args:
        expected: the class that it must be of.

    Raises:
        DataError: see `model_class`, and weights that are missing, damaged, or do not fit the config; a device that
            is not there.
    """
    kind = model_class(name)
    if not issubclass(kind, expected):
        raise DataError(f"{name}: is a {kind.__name__}, but this takes a {expected.__name__}")
    try:
        model = kind.from_pretrained(name)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {str(error).partition(chr(10))[0]}") from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"device {device}: {str(error).partition(chr(10))[0]}") from None
