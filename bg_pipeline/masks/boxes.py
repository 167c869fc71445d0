"""Boxes as Rekognition gives them: ratios of the upright picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Box:
    """A rectangle inside the picture: ``left <= right`` and ``top <= bottom``, each 0..1 of its side.

    ``name`` is the label it belongs to, for sentences; it may be empty.
    """

    left: float
    top: float
    right: float
    bottom: float
    name: str = ""

    @classmethod
    def read(cls, bounding_box: Mapping[str, Any], name: str = "") -> Self:
        """From Rekognition's ``BoundingBox`` {Left, Top, Width, Height}, clamped to the picture."""
        left, top = float(bounding_box["Left"]), float(bounding_box["Top"])
        right, bottom = left + float(bounding_box["Width"]), top + float(bounding_box["Height"])
        left, top = _within(left), _within(top)
        return cls(left, top, max(left, _within(right)), max(top, _within(bottom)), name)

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def grown(self, share: float) -> Self:
        """This box with ``share`` of its own sides added on every side, clamped to the picture."""
        x, y = self.width * share, self.height * share
        return type(self)(
            _within(self.left - x),
            _within(self.top - y),
            _within(self.right + x),
            _within(self.bottom + y),
            self.name,
        )

    def pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels of a picture of ``size``; right and bottom excluded, never empty."""
        width, height = size
        left = min(int(self.left * width), width - 1)
        top = min(int(self.top * height), height - 1)
        right = max(left + 1, min(width, round(self.right * width)))
        bottom = max(top + 1, min(height, round(self.bottom * height)))
        return left, top, right, bottom


def _within(ratio: float) -> float:
    return min(1.0, max(0.0, ratio))
