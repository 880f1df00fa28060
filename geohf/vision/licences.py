"""The licence that a model's weights are under: that of the weights they began with."""

from __future__ import annotations

import re

# What the cards of these repos state, for those who hold the weights in a folder: it does not depend on where they lie.
_KNOWN = {
    r"streetclip": "cc-by-nc-4.0",
    r"facebook/(dinov2|convnext|convnextv2|deit)-[\w-]+": "apache-2.0",
    r"google/(vit|siglip)-[\w-]+": "apache-2.0",
    r"microsoft/(resnet|swin|beit)-[\w-]+": "apache-2.0",
}


def known_licence(name: str) -> str | None:
    """The licence of published weights by their repo's name; None where it is not known here.

    >>> known_licence("models/StreetCLIP"), known_licence("somebody/weights")
    ('cc-by-nc-4.0', None)
    """
    for pattern, licence in _KNOWN.items():
        if re.search(pattern, name.lower()):
            return licence
    return None


def is_noncommercial(licence: str | None) -> bool:
    """Whether the licence says in its name that it excludes commercial use.

    >>> [is_noncommercial(name) for name in ("cc-by-nc-4.0", "mit", "fair-noncommercial-research-license", None)]
    [True, False, True, False]
    """
    words = re.split(r"[^a-z]+", (licence or "").lower())
    return "nc" in words or "noncommercial" in "".join(words)
