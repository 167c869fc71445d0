"""Labelers, services that detect what a photo shows and where, and the types of their part of a labels document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict


class BoundingBox(TypedDict):
    """A box within the photo, in fractions (0 to 1) of the upright photo's width and height."""

    Left: float
    Top: float
    Width: float
    Height: float


class Instance(TypedDict):
    """One occurrence of a label in the photo; ``Confidence`` in percent."""

    BoundingBox: BoundingBox
    Confidence: float


class Parent(TypedDict):
    """A more general label."""

    Name: str


class Label(TypedDict):
    """An object or concept in the photo; only common objects have ``Instances``. ``Confidence`` in percent."""

    Name: str
    Confidence: float
    Instances: list[Instance]
    Parents: list[Parent]


class Labels(TypedDict):
    """The part of a labels document that comes from a labeler."""

    Model: str
    Labels: list[Label]


@dataclass(frozen=True)
class Limits:
    """The limits for a picture sent as bytes: JPEG or PNG of at most ``max_bytes``, each side within the sides
    (pixels).
    """

    max_bytes: int
    min_side: int
    max_side: int


def box(detected: Mapping[str, Any]) -> BoundingBox | None:
    """A service's box, which may extend beyond the photo, clipped to it; None if nothing remains."""
    left, top = max(0.0, detected["Left"]), max(0.0, detected["Top"])
    right = min(1.0, detected["Left"] + detected["Width"])
    bottom = min(1.0, detected["Top"] + detected["Height"])
    if right <= left or bottom <= top:
        return None
    return {
        "Left": round(left, 6),
        "Top": round(top, 6),
        "Width": round(right - left, 6),
        "Height": round(bottom - top, 6),
    }


def instance(detected: Mapping[str, Any], confidence: float) -> Instance | None:
    """The instance for a service's box; None if the box is outside the photo."""
    clipped = box(detected)
    return {"BoundingBox": clipped, "Confidence": round(confidence, 3)} if clipped else None
