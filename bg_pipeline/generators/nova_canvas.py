"""Amazon Nova Canvas: Titan's request with some differences (Amazon Nova user guide, image generation).

Retired on 2026-09-30. Differences to Titan: sizes within bounds instead of fixed pairs, longer prompts, no width and
height on edits, and no returned mask. Masks mean the same: white is repainted.
"""

from typing import Any

from bg_pipeline.generators import Ask, Invoke, Made, Operation, Size, titan
from bg_pipeline.imaging import Bounds


class NovaCanvas:
    """Nova Canvas: replaces backgrounds, with the subject given in words or as a mask, and cuts out subjects."""

    name = "nova-canvas"
    replaces = removes = Operation("NOVA_CANVAS", "amazon.nova-canvas-v1:0")
    # The user guide requires fewer than 4,194,304 pixels; returned pictures have sides that are multiples of 16.
    sizes = Bounds(min_side=320, max_side=4096, max_pixels=4_194_303, max_aspect=4.0, multiple_of=16)
    max_picture_bytes = 12_000_000
    prompt_limit = 1024
    takes_words = True
    returns_mask = False
    images_per_call = 5
    seeds = range(2_147_483_647)

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """One ``OUTPAINTING`` call."""
        return titan.answer(invoke(self.replaces, request(ask)), ask, self.name)

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """One ``BACKGROUND_REMOVAL`` call."""
        return titan.pictures(invoke(self.removes, titan.removal(picture)), self.name)[0]


def request(ask: Ask) -> dict[str, Any]:
    """The body of an ``OUTPAINTING`` call: Titan's without the fields that Canvas does not accept on edits."""
    body = titan.request(ask)
    body["outPaintingParams"].pop("returnMask", None)
    for field in ("width", "height"):
        del body["imageGenerationConfig"][field]
    return body
