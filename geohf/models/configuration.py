"""What the configs of all tasks have in common."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from geohf.errors import DataError, require_within


@strict
class GeoConfig(PreTrainedConfig):
    """The base of every task's config. A field with a choice of words is a `Literal`.

    Args:
        image_processor: settings of the image processor.
        backbone_name, backbone_license: where the backbone's first weights came from, None for random ones.
    """

    keys_to_ignore_at_inference: ClassVar = ["loss_parts"]
    ranges: ClassVar[dict[str, tuple[str, ...]]] = {}  # interval -> fields that must lie in it, or be None
    if TYPE_CHECKING:  # once __post_init__ has run
        id2label: dict[int, str]
        label2id: dict[str, int]

    image_processor: dict | None = None
    backbone_name: str | None = None
    backbone_license: str | None = None

    def __post_init__(self, **kwargs: Any):
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(i) for i, name in self.id2label.items()}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Called by transformers: refuse unknown words, and numbers not whole or out of range; a task adds what clashes."""
        for name, hint in _hints(type(self)).items():
            value, allowed = getattr(self, name), get_args(hint)
            if get_origin(hint) is Literal and value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
            if hint is int and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
        for interval, names in self.ranges.items():
            require_within(interval, **{name: getattr(self, name) for name in names})


@cache
def _hints(kind: type[GeoConfig]) -> dict[str, Any]:
    """Field -> its type. `strict` itself reads no annotation that is text, as all are after the import above."""
    kinds = [part for part in kind.__mro__ if issubclass(part, GeoConfig)]
    return {
        name: hint for part in kinds for name, hint in inspect.get_annotations(part, eval_str=True).items()
    }


@contextmanager
def as_data_error() -> Iterator[None]:
    """Raise what a config or a backbone says of settings that do not go together as DataError."""
    try:
        yield
    except StrictDataclassError as error:
        raise DataError(str(error.__cause__ or error)) from None
    except ValueError as error:
        raise DataError(str(error)) from None
