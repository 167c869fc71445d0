"""The request's ``Shadow``: a word, optionally followed by how the shadow falls."""

import re
from dataclasses import dataclass
from typing import Final

NONE: Final = "none"
SOFT: Final = "soft"
"""Without values: the shadow of earlier versions on a given backdrop, the scene's own light on a painted scene."""

_VALUE = re.compile(r"(direction|softness|strength)\s*=\s*(\S+)")
_RANGES: Final = {"direction": (0.0, 360.0), "softness": (0.0, 1.0), "strength": (0.0, 1.0)}
_HINT: Final = (
    "must be 'none', 'soft', or 'soft' with some of direction=0…360 softness=0…1 strength=0…1, "
    "such as 'soft direction=120 strength=0.7'"
)


@dataclass(frozen=True)
class Shadow:
    """How a shadow falls.

    ``direction`` is where it falls, in degrees clockwise as on a clock: 0 behind the subject, 90 to the right, 180
    towards the viewer, 270 to the left; None: only under the subject. ``softness`` and ``strength`` are 0 to 1.
    """

    direction: float | None = None
    softness: float = 0.5
    strength: float = 0.5


def normalized(text: str) -> str:
    """The text in its one form, such as ``soft direction=120``. Raises `ValueError` with what is valid."""
    word, values = _parsed(text)
    parts = [f"{name}={values[name]:g}" for name in _RANGES if name in values]
    return " ".join([word, *parts])


def read(text: str) -> Shadow | None:
    """The shadow that a valid text describes; None for ``none``."""
    word, values = _parsed(text)
    return Shadow(**values) if word == SOFT else None


def values_in(text: str) -> frozenset[str]:
    """The names of the values that a valid text has: some of ``direction``, ``softness``, ``strength``."""
    return frozenset(_parsed(text)[1])


def _parsed(text: str) -> tuple[str, dict[str, float]]:
    word, _, rest = " ".join(text.lower().replace(",", " ").split()).partition(" ")
    if word not in (NONE, SOFT) or (word == NONE and rest):
        raise ValueError(_HINT)
    values: dict[str, float] = {}
    for match in _VALUE.finditer(rest):
        name, number = match[1], match[2]
        lowest, highest = _RANGES[name]
        if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", number) or not lowest <= float(number) <= highest:
            raise ValueError(f"has {name}={number[:20]}; {_HINT}")
        if name in values:
            raise ValueError(f"has {name} twice; {_HINT}")
        values[name] = float(number)
    if _VALUE.sub("", rest).strip():
        raise ValueError(_HINT)
    return word, values
