"""A model of any task by its name, for programs that learn the task from the config."""

from __future__ import annotations

import os

import torch
from transformers import MODEL_MAPPING, AutoConfig

from geohf.errors import DataError
from geohf.hub.modeling import GeoPreTrainedModel


def model_class(name: str | os.PathLike) -> type[GeoPreTrainedModel]:
    """The class of the model in a folder or a repo of the Hub.

    Raises:
        DataError: there is no such model, or it is none of geohf's.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{name}: no model can be loaded from there ({str(error).partition(chr(10))[0]})"
        ) from None
    found = MODEL_MAPPING.get(type(config), None)
    if not isinstance(found, type) or not issubclass(found, GeoPreTrainedModel):
        raise DataError(f"{name}: is a {config.model_type} model, none of geohf's")
    return found


def load_model(name: str | os.PathLike, device: str | torch.device | None = None) -> GeoPreTrainedModel:
    """The model in a folder or a repo, on `device`: by default a GPU where there is one.

    Raises:
        DataError: see `model_class`, and weights that are missing, damaged, or do not fit the config.
    """
    kind = model_class(name)
    try:
        model = kind.from_pretrained(name)
    except OSError as error:
        raise DataError(f"{name}: {str(error).partition(chr(10))[0]}") from None
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
