"""Stability AI's image services on Bedrock: Remove Background and Inpaint."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline_local_aws import work
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.pictures import canned, from_base64, header, sha256, to_base64
from bg_pipeline_local_aws.studio import Studio, decoded
from bg_pipeline_local_aws.wire import Call, invalid, malformed

REMOVE = "stability.stable-image-remove-background-v1:0"
INPAINT = "stability.stable-image-inpaint-v1:0"
MOST_PIXELS = 9_437_184

_REASONS = {
    "prompt": "Filter reason: prompt",
    "image": "Filter reason: input image",
    "output": "Filter reason: output image",
    "some": "Filter reason: output image",
}
_STYLES = Literal[
    "3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art",
    "isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic", "pixel-art",
    "tile-texture",
]  # fmt: skip


class RemoveRequest(BaseModel):
    """Remove Background's body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str
    output_format: Literal["jpeg", "png", "webp"] = "png"


class InpaintRequest(RemoveRequest):
    """Inpaint's body: white of the mask is painted anew, black stays, grey in part; no mask: the alpha tells."""

    prompt: Annotated[str, Field(max_length=10_000)]
    negative_prompt: Annotated[str, Field(max_length=10_000)] = ""
    mask: str | None = None
    seed: Annotated[int, Field(ge=0, le=4_294_967_294)] = 0
    style_preset: _STYLES | None = None
    grow_mask: Annotated[int, Field(ge=0, le=20)] = 5


async def invoke(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The answer of InvokeModel: ``seeds``, ``finish_reasons``, ``images``; content policy speaks in the reasons."""
    kind = InpaintRequest if call.model == INPAINT else RemoveRequest
    try:
        request = kind.model_validate(call.json())
    except ValidationError as error:
        raise malformed(error) from error
    image = from_base64(request.image, "image")
    call.image = sha256(image)
    call.prompt = request.prompt if isinstance(request, InpaintRequest) else ""
    control.admit(call)
    size = _size(image)
    inpaint = request if isinstance(request, InpaintRequest) else None
    seed = (inpaint.seed if inpaint else 0) or 1 + secrets.randbelow(4_294_967_294)
    switches = control.switches
    if call.block:
        call.outcome = "blocked"
        return {"seeds": [seed], "finish_reasons": [_REASONS[call.block]], "images": []}
    if switches.canned:
        made = canned("picture" if inpaint else "cut-out", *size, switches.canned_bytes)
    else:
        picture = (
            await _inpainted(inpaint, image, seed, size, switches.note, studio)
            if inpaint
            else await _removed(image, studio)
        )
        made = to_base64(await studio.do(work.encoded, picture, request.output_format))
    return {"seeds": [seed], "finish_reasons": [None], "images": [made]}


def _size(image: bytes) -> tuple[int, int]:
    found = header(image)
    if found is None or found.format not in ("jpeg", "png", "webp"):
        raise invalid("image must be a jpeg, png or webp file.")
    if min(found.width, found.height) < 64:
        raise invalid(f"image is {found.width} x {found.height}; every side must be at least 64 pixels.")
    if found.pixels > MOST_PIXELS:
        raise invalid(f"image has {found.pixels} pixels; at most {MOST_PIXELS} are allowed.")
    if found.aspect > 2.5:
        raise invalid(
            f"image is {found.width} x {found.height}; its aspect ratio must lie between 1:2.5 and 2.5:1."
        )
    return found.width, found.height


async def _removed(image: bytes, studio: Studio) -> bytes:
    mask = await decoded(studio.do(work.subject, image))
    if mask is None:
        raise invalid("No subject was found in the image.")
    return await studio.do(work.cut_out, image, mask)


async def _inpainted(
    request: InpaintRequest, image: bytes, seed: int, size: tuple[int, int], note: bool, studio: Studio
) -> bytes:
    mask = from_base64(request.mask, "mask") if request.mask is not None else None
    if mask is not None and header(mask) is None:
        raise invalid("mask must be a jpeg, png or webp file.")
    strength = await decoded(studio.do(work.strength, image, mask, request.grow_mask))
    if strength is None:
        raise invalid("Either mask or an image with transparency must be given.")
    prompt = f"{request.prompt} {request.style_preset or ''}".strip()
    return await decoded(studio.do(work.inpaint, image, strength, prompt, seed, note, size))
