"""The license that a model's weights are under: that of the weights they began with."""

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
    """The name that a config may tell of weights: of a folder or file its own, without the machine's path to it."""
    return Path(name).resolve().name if Path(name).exists() else name


def published_license(name: str, folder: str | Path | None = None) -> str | None:
    """The license that a backbone's card states; what began as non-commercial stays so whatever it states.

    Args:
        name: a folder, or a repo of the Hub.
        folder: where the card of a repo was fetched to.
    """
    from huggingface_hub import ModelCard

    try:
        stated = ModelCard.load(Path(folder or name, "README.md")).data.to_dict()
    except Exception:  # a card is not needed to build a backbone: none, or a broken one
        return known_license(name)
    bases = stated.get("base_model") or []
    inherited = [known_license(str(base)) for base in ([bases] if isinstance(bases, str) else bases)]
    license = stated.get("license_name" if stated.get("license") == "other" else "license")
    stated_or_known = str(license or "") or known_license(name)
    return next(filter(is_noncommercial, [known_license(name), *inherited]), stated_or_known)


def known_license(name: str) -> str | None:
    """The license of published weights by their repo's name; None where it is not known here.

    >>> known_license("models/StreetCLIP"), known_license("somebody/weights")
    ('cc-by-nc-4.0', None)
    """
    return next((license for pattern, license in _KNOWN.items() if re.search(pattern, name.lower())), None)


def is_noncommercial(license: str | None) -> bool:
    """Whether the license says in its name that it excludes commercial use.

    >>> [is_noncommercial(name) for name in ("cc-by-nc-4.0", "mit", "fair-noncommercial-research-license", None)]
    [True, False, True, False]
    """
    words = re.split(r"[^a-z]+", (license or "").lower())
    return "nc" in words or "noncommercial" in "".join(words)
