"""Stability AI Image Services on Bedrock: Inpaint and Remove Background (Bedrock user guide, "Stability AI
Image Services").

Third-party models, processed in the US, called through ``us.`` inference profiles, one picture a call. The
service named Outpaint only widens a picture: a new background is Inpaint with the background as its mask.
"""

from collections.abc import Mapping
from typing import Any

from bg_pipeline import errors
from bg_pipeline.generators import Ask, Invoke, Made, Operation, Size, fits_as_png
from bg_pipeline.generators.pictures import from_base64, to_base64_png
from bg_pipeline.imaging import Bounds

GROW_MASK = {"PRECISE": 0, "DEFAULT": 5}
"""Pixels by which the mask is grown, blurred, into the subject; 5 is the service's own default."""


class Stability:
    """Stability's services: need a mask for a new background, and cut subjects out."""

    name = "stability"
    replaces = Operation("STABILITY_INPAINT", "stability.stable-image-inpaint-v1:0", profile="us.")
    removes = Operation(
        "STABILITY_REMOVE_BACKGROUND", "stability.stable-image-remove-background-v1:0", profile="us."
    )
    # The longest side follows from the pixels and the aspect ratio.
    sizes = Bounds(min_side=64, max_side=4857, max_pixels=9_437_184, max_aspect=2.5, multiple_of=1)
    # Picture and mask share a body of 25,000,000 bytes with base64's third on top.
    max_picture_bytes = 16_000_000
    prompt_limit = 10_000
    takes_words = False
    returns_mask = False
    images_per_call = 1
    seeds = range(1, 4_294_967_295)  # 0 asks for a random one, which nobody could repeat

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """One Inpaint call."""
        return answer(invoke(self.replaces, request(ask)), ask, self.name)

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """One Remove Background call."""
        return picture_of(invoke(self.removes, removal(picture, size)), self.name)


def request(ask: Ask) -> dict[str, Any]:
    """The body of an Inpaint call: white is repainted, black stays; it takes no quality and no cfg scale."""
    if not ask.mask:
        raise ValueError("Stability's Inpaint needs a mask: it cannot find the subject from words")
    body = {
        "image": to_base64_png(ask.picture),
        "mask": to_base64_png(ask.mask),
        "prompt": ask.prompt,
        "seed": ask.seed,
        "grow_mask": GROW_MASK[ask.mode],
        # A PNG of more than 6 megapixels may be longer than an answer can be, and would be billed all the same.
        "output_format": "png" if fits_as_png(ask.size) else "jpeg",
    }
    if ask.negative_prompt:
        body["negative_prompt"] = ask.negative_prompt
    return body


def removal(picture: bytes, size: Size) -> dict[str, Any]:
    """The body of a Remove Background call: a PNG, or WebP where that may be too long; JPEG has no alpha."""
    form = "png" if fits_as_png(size, channels=4) else "webp"
    return {"image": to_base64_png(picture), "output_format": form}


def answer(body: Mapping[str, Any], ask: Ask, model: str) -> Made:
    """The picture of an Inpaint answer with the seed the service says it used."""
    seeds = body.get("seeds") or [ask.seed]
    return Made(images=(picture_of(body, model),), seeds=(int(seeds[0]),))


def picture_of(body: Mapping[str, Any], model: str) -> bytes:
    """The one picture of an answer.

    A refusal comes as a success with a reason in ``finish_reasons``, with or without ``images``.
    """
    reason = next((reason for reason in body.get("finish_reasons") or () if reason), None)
    if reason and "filter" in reason.lower():
        raise errors.Blocked("ContentFiltered", reason)
    if reason:
        raise errors.Transient("InferenceError", f"{model} could not finish the picture: {reason}")
    images = body.get("images") or [None]
    return from_base64(images[0], model)
