"""The licence that a model's weights are under: that of the weights they began with."""

from __future__ import annotations

import re
from pathlib import Path

# What the cards of these repos state, for those who hold the weights in a folder: it does not depend on where they lie.
_KNOWN = {
    r"streetclip": "cc-by-nc-4.0",
    r"facebook/(dinov2|convnext|convnextv2|deit)-[\w-]+": "apache-2.0",
    r"google/(vit|siglip)-[\w-]+": "apache-2.0",
    r"microsoft/(resnet|swin|beit)-[\w-]+": "apache-2.0",
}


def published_name(name: str) -> str:
    """The name that a config may tell of weights: of a folder its own, without the machine's path to it."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def published_licence(name: str) -> str | None:
    """The licence that the card of a repo or folder states; what began as non-commercial stays so whatever it states."""
    from huggingface_hub import ModelCard

    card = Path(name, "README.md")
    if Path(name).is_dir() and not card.is_file():  # the path of a folder is not for the Hub to know
        return known_licence(name)
    try:
        stated = ModelCard.load(card if card.is_file() else name).data.to_dict()
    except Exception:  # a card is not needed to build a tower: none, a broken one, or no network
        return known_licence(name)
    bases = stated.get("base_model") or []
    inherited = [known_licence(str(base)) for base in ([bases] if isinstance(bases, str) else bases)]
    licence = stated.get("license_name" if stated.get("license") == "other" else "license")
    stated_or_known = str(licence or "") or known_licence(name)
    return next(filter(is_noncommercial, [known_licence(name), *inherited]), stated_or_known)


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
