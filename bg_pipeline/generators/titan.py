"""Amazon Titan Image Generator G1, versions 1 and 2 (Bedrock user guide, "Amazon Titan Image Generator G1 models").

AWS has retired it, but private arrangements, recorded responses and Nova Canvas still use its format. The task
``OUTPAINTING`` keeps what is black in the mask and repaints what is white; ``BACKGROUND_REMOVAL`` (version 2) returns
the subject.
"""

from collections.abc import Mapping
from typing import Any

from bg_pipeline import errors
from bg_pipeline.generators import Ask, Invoke, Made, Operation, Size
from bg_pipeline.generators.pictures import from_base64, rgb_mask, to_base64_png
from bg_pipeline.generators.refusals import refusal
from bg_pipeline.imaging import AllowedSizes

SIZES = (
    # Billed as 1024 x 1024.
    *((1024, 1024), (768, 1152), (1152, 768), (768, 1280), (1280, 768), (896, 1152), (1152, 896)),
    *((768, 1408), (1408, 768), (640, 1408), (1408, 640), (1152, 640), (1173, 640)),
    # Billed as 512 x 512.
    *((768, 768), (512, 512), (384, 576), (576, 384), (384, 640), (640, 384), (448, 576), (576, 448)),
    *((384, 704), (704, 384), (320, 704), (704, 320)),
)
"""The (width, height) pairs that the model accepts."""


class TitanV2:
    """Titan Image Generator G1 v2: replaces backgrounds, with the subject in words or as a mask, and cuts out
    subjects.
    """

    name = "titan-v2"
    replaces = Operation("TITAN_V2", "amazon.titan-image-generator-v2:0")
    removes: Operation | None = replaces
    sizes = AllowedSizes(SIZES)
    max_picture_bytes = 5_000_000
    prompt_limit = 512
    takes_words = True
    returns_mask = True
    images_per_call = 5
    seeds = range(2_147_483_647)

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """One ``OUTPAINTING`` call."""
        return answer(invoke(self.replaces, request(ask)), ask, self.name)

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """One ``BACKGROUND_REMOVAL`` call."""
        if self.removes is None:
            raise errors.UsageError(f"{self.name} cannot remove a background; use titan-v2 or stability")
        return pictures(invoke(self.removes, removal(picture)), self.name)[0]


class TitanV1(TitanV2):
    """Titan Image Generator G1 v1: as version 2, but without background removal."""

    name = "titan-v1"
    replaces = Operation("TITAN_V1", "amazon.titan-image-generator-v1")
    removes = None


def request(ask: Ask) -> dict[str, Any]:
    """The body of an ``OUTPAINTING`` call."""
    params: dict[str, Any] = {
        "text": ask.prompt,
        "image": to_base64_png(ask.picture),
        "outPaintingMode": ask.mode,
    }
    if ask.negative_prompt:
        params["negativeText"] = ask.negative_prompt
    if ask.mask:
        params["maskImage"] = to_base64_png(rgb_mask(ask.mask))
    else:
        params["maskPrompt"] = ask.mask_prompt
        params["returnMask"] = True
    width, height = ask.size
    config: dict[str, Any] = {
        "quality": ask.quality,
        "numberOfImages": ask.images,
        # The result always has the picture's size, but the documented default values are not an allowed pair.
        "width": width,
        "height": height,
        "seed": ask.seed,
    }
    if ask.cfg_scale is not None:
        config["cfgScale"] = ask.cfg_scale
    return {"taskType": "OUTPAINTING", "outPaintingParams": params, "imageGenerationConfig": config}


def removal(picture: bytes) -> dict[str, Any]:
    """The body of a ``BACKGROUND_REMOVAL`` call, which has no other parameters."""
    return {"taskType": "BACKGROUND_REMOVAL", "backgroundRemovalParams": {"image": to_base64_png(picture)}}


def answer(body: Mapping[str, Any], ask: Ask, model: str) -> Made:
    """The result in an ``OUTPAINTING`` response; it has fewer pictures than requested if the filter removed some."""
    images = pictures(body, model)
    # AWS documents the field of the mask for Nova Canvas only, not for Titan.
    mask = body.get("maskImage") or body.get("mask")
    return Made(
        images=images,
        seeds=(ask.seed,) * len(images),
        mask=from_base64(mask, model) if mask else None,
        note=body.get("error") or None,
    )


def pictures(body: Mapping[str, Any], model: str) -> tuple[bytes, ...]:
    """The picture files in a response, at least one.

    If ``error`` is set, ``images`` may be missing, empty or incomplete. Without pictures that is a content refusal
    (`Blocked`), unless its message means another error; without ``error`` it is `OutcomeUnknown`.
    """
    images = body.get("images") or ()
    if not images:
        words = body.get("error")
        if words:
            raise refusal("ContentFiltered", str(words)) or errors.Blocked("ContentFiltered", str(words))
        raise errors.OutcomeUnknown("BadAnswer", f"{model} answered without a picture and without a reason")
    return tuple(from_base64(image, model) for image in images)
