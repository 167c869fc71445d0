"""Services that say what a photo shows and where: the part of a labels document that comes from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict


class BoundingBox(TypedDict):
    """A box in shares of the upright photo's width and height, wholly inside it."""

    Left: float
    Top: float
    Width: float
    Height: float


class Instance(TypedDict):
    """One place where a label was seen; ``Confidence`` in percent."""

    BoundingBox: BoundingBox
    Confidence: float


class Parent(TypedDict):
    """A more general label."""

    Name: str


class Label(TypedDict):
    """A thing or an idea that the photo shows; only common things have places."""

    Name: str
    Confidence: float
    Instances: list[Instance]
    Parents: list[Parent]


class Labels(TypedDict):
    """What a labeler adds to a labels document."""

    Model: str
    Labels: list[Label]


@dataclass(frozen=True)
class Limits:
    """What a service takes as bytes: a JPEG or PNG of at most ``max_bytes``, each side within the sides."""

    max_bytes: int
    min_side: int
    max_side: int


def box(given: Mapping[str, Any]) -> BoundingBox | None:
    """The service's box cut to the photo, which it may leave a little; None when nothing of it remains."""
    left, top = max(0.0, given["Left"]), max(0.0, given["Top"])
    right = min(1.0, given["Left"] + given["Width"])
    bottom = min(1.0, given["Top"] + given["Height"])
    if right <= left or bottom <= top:
        return None
    return {
        "Left": round(left, 6),
        "Top": round(top, 6),
        "Width": round(right - left, 6),
        "Height": round(bottom - top, 6),
    }


def instance(given: Mapping[str, Any], confidence: float) -> Instance | None:
    """The place of a box; None as `box`."""
    inside = box(given)
    return {"BoundingBox": inside, "Confidence": round(confidence, 3)} if inside else None
