"""What a mirror makes of names: left and right are exchanged, in the words and short forms that people write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PAIRS = {"left": "right", "l": "r", "lh": "rh", "fl": "fr", "rl": "rr", "bl": "br"}
_PAIRS |= {"links": "rechts", "linker": "rechter", "linke": "rechte", "linkes": "rechtes"}
_PAIRS |= {"gauche": "droite", "izquierda": "derecha", "izquierdo": "derecho", "esquerda": "direita"}
_PAIRS |= {"esquerdo": "direito", "sinistra": "destra", "sinistro": "destro", "sx": "dx"}
_OTHER = _PAIRS | {right: left for left, right in _PAIRS.items()}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")  # also of frontLeftDoor
_SIDE = re.compile("left|right", re.IGNORECASE)  # also within a word, as in frontleft


def mirror_image(name: str) -> str:
    """The name with left and right exchanged, letters in the case that they had.

    >>> mirror_image("Left door"), mirror_image("frontRight"), mirror_image("wheel_FL"), mirror_image("bell")
    ('Right door', 'frontLeft', 'wheel_FR', 'bell')
    """

    def exchange(word: re.Match) -> str:
        if word[0].lower() in _OTHER:
            return _exchanged(word[0])
        return _SIDE.sub(lambda side: _exchanged(side[0]), word[0])

    return _WORD.sub(exchange, name)


def mirrored_labels(names: Mapping[int, str]) -> list[int]:
    """For each number that of the name that a mirror makes of its own, or itself where there is no such name.

    >>> mirrored_labels({0: "left_door", 1: "bell", 2: "right_door", 3: "left_lamp"})
    [2, 1, 0, 3]
    >>> mirrored_labels({0: "Left door", 1: "Right door"})
    [1, 0]
    """
    numbers = {name: number for number, name in names.items()}
    return [numbers.get(mirror_image(names[number]), number) for number in sorted(names)]


def sided(names: Iterable[str], in_pairs: bool = False) -> list[str]:
    """The names that tell left from right: those that say so, and those whose mirror image is another of the names.

    Args:
        in_pairs: the latter alone: `right` may be what is not wrong.

    >>> sided(["hood", "LeftDoor", "wheel_l", "wheel_r", "size_l"]), sided(["right", "wrong"], in_pairs=True)
    (['LeftDoor', 'wheel_l', 'wheel_r'], [])
    """
    names = list(names)
    telling = []
    for name in names:
        said = not in_pairs and any(word.lower() in ("left", "right") for word in _WORD.findall(name))
        other = mirror_image(name)
        if said or (other != name and other in names):
            telling.append(name)
    return telling


def _exchanged(word: str) -> str:
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
