"""Settings of a model that do not go together, in the words of the config that refused them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError

from geohf.errors import DataError


@contextmanager
def settings_refused() -> Iterator[None]:
    """Raise what a config or a backbone says of settings that do not go together as DataError."""
    try:
        yield
    except StrictDataclassError as error:
        raise DataError(str(error.__cause__ or error)) from None
    except ValueError as error:
        raise DataError(str(error)) from None
