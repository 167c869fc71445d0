"""Stability AI Image Services on Bedrock: Inpaint and Remove Background.

Source: Bedrock user guide, "Stability AI Image Services". Third-party models, called through ``us.`` inference
profiles and processed in the US; one picture for each call. The service Outpaint only extends a picture, so a new
background is an Inpaint call with the background as its mask.
"""

from collections.abc import Mapping
from typing import Any

from bg_pipeline import errors
from bg_pipeline.generators import Ask, Invoke, Made, Operation, Size, fits_as_png
from bg_pipeline.generators.pictures import from_base64, to_base64_png
from bg_pipeline.imaging import Bounds

GROW_MASK = {"PRECISE": 0, "DEFAULT": 5}
"""Pixels by which the mask is grown, with blur, into the subject, by mode; the service's default is 5."""


class Stability:
    """Stability's services: replace backgrounds, with the subject given as a mask only, and cut out subjects."""

    name = "stability"
    replaces = Operation("STABILITY_INPAINT", "stability.stable-image-inpaint-v1:0", profile="us.")
    removes = Operation(
        "STABILITY_REMOVE_BACKGROUND", "stability.stable-image-remove-background-v1:0", profile="us."
    )
    # The maximum side follows from the maximum pixels and aspect ratio.
    sizes = Bounds(min_side=64, max_side=4857, max_pixels=9_437_184, max_aspect=2.5, multiple_of=1)
    # Picture and mask share a body of 25,000,000 bytes, and base64 adds a third to both.
    max_picture_bytes = 16_000_000
    prompt_limit = 10_000
    takes_words = False
    returns_mask = False
    images_per_call = 1
    seeds = range(1, 4_294_967_295)  # 0 requests a random seed, which could not be repeated

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """One Inpaint call."""
        return answer(invoke(self.replaces, request(ask)), ask, self.name)

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """One Remove Background call."""
        return picture_of(invoke(self.removes, removal(picture, size)), self.name)


def request(ask: Ask) -> dict[str, Any]:
    """The body of an Inpaint call: white is repainted, black stays. It has no quality and no cfg scale."""
    if not ask.mask:
        raise ValueError("Stability's Inpaint needs a mask: it cannot find the subject from words")
    body = {
        "image": to_base64_png(ask.picture),
        "mask": to_base64_png(ask.mask),
        "prompt": ask.prompt,
        "seed": ask.seed,
        "grow_mask": GROW_MASK[ask.mode],
        # A PNG of more than 6 megapixels may exceed the size limit of a response, and would be billed nevertheless.
        "output_format": "png" if fits_as_png(ask.size) else "jpeg",
    }
    if ask.negative_prompt:
        body["negative_prompt"] = ask.negative_prompt
    return body


def removal(picture: bytes, size: Size) -> dict[str, Any]:
    """The body of a Remove Background call. The result is a PNG, or a WebP if a PNG may be too large; JPEG has no
    alpha.
    """
    form = "png" if fits_as_png(size, channels=4) else "webp"
    return {"image": to_base64_png(picture), "output_format": form}


def answer(body: Mapping[str, Any], ask: Ask, model: str) -> Made:
    """The picture in an Inpaint response, with the seed that the service returned."""
    seeds = body.get("seeds") or [ask.seed]
    return Made(images=(picture_of(body, model),), seeds=(int(seeds[0]),))


def picture_of(body: Mapping[str, Any], model: str) -> bytes:
    """The picture in a response.

    A refusal arrives as a success with a reason in ``finish_reasons``, with or without ``images``. Raises `Blocked`
    for a content filter, `Transient` for another reason, `OutcomeUnknown` if there is no valid picture.
    """
    reason = next((reason for reason in body.get("finish_reasons") or () if reason), None)
    if reason and "filter" in reason.lower():
        raise errors.Blocked("ContentFiltered", reason)
    if reason:
        raise errors.Transient("InferenceError", f"{model} could not finish the picture: {reason}")
    images = body.get("images") or [None]
    return from_base64(images[0], model)
