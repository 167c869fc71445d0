"""Stability AI on Bedrock: the services Remove Background and Inpaint, and the text-to-image models."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline_local_aws import image_operations
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.image_files import (
    canned_image,
    decode_base64,
    encode_base64,
    read_header,
    sha256,
)
from bg_pipeline_local_aws.protocol import Call, schema_error, validation_error
from bg_pipeline_local_aws.render_pool import RenderPool, or_validation_error

REMOVE = "stability.stable-image-remove-background-v1:0"
INPAINT = "stability.stable-image-inpaint-v1:0"
MAX_PIXELS = 9_437_184

SCENE_MODELS = (
    "stability.stable-image-core-v1:1",
    "stability.stable-image-ultra-v1:1",
    "stability.sd3-5-large-v1:0",
)

_SIZES = {
    "16:9": (1536, 864), "21:9": (1536, 640), "3:2": (1536, 1024), "5:4": (1280, 1024), "1:1": (1024, 1024),
    "4:5": (1024, 1280), "2:3": (1024, 1536), "9:16": (864, 1536), "9:21": (640, 1536),
}  # fmt: skip

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
    """Inpaint's body: the mask is white where to repaint, grey for a blend; without it the alpha channel is used."""

    prompt: Annotated[str, Field(max_length=10_000)]
    negative_prompt: Annotated[str, Field(max_length=10_000)] = ""
    mask: str | None = None
    seed: Annotated[int, Field(ge=0, le=4_294_967_294)] = 0
    style_preset: _STYLES | None = None
    grow_mask: Annotated[int, Field(ge=0, le=20)] = 5


class SceneRequest(BaseModel):
    """The body of a text-to-image model; only Stable Diffusion 3.5 has a mode."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    negative_prompt: Annotated[str, Field(max_length=10_000)] = ""
    aspect_ratio: Literal["16:9", "21:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"] = "1:1"
    seed: Annotated[int, Field(ge=0, le=4_294_967_294)] = 0
    output_format: Literal["jpeg", "png"] = "png"
    mode: Literal["text-to-image"] = "text-to-image"


async def invoke(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """InvokeModel's answer: ``seeds``, ``finish_reasons`` (with content policy's refusals), ``images``."""
    if call.model in SCENE_MODELS:
        return await _paint(call, control, pool)
    kind = InpaintRequest if call.model == INPAINT else RemoveRequest
    try:
        request = kind.model_validate(call.json())
    except ValidationError as error:
        raise schema_error(error) from error
    image = decode_base64(request.image, "image")
    call.image = sha256(image)
    call.prompt = request.prompt if isinstance(request, InpaintRequest) else ""
    control.admit(call)
    size = _input_size(image)
    inpaint = request if isinstance(request, InpaintRequest) else None
    seed = (inpaint.seed if inpaint else 0) or 1 + secrets.randbelow(4_294_967_294)
    switches = control.switches
    if call.block:
        call.outcome = "blocked"
        return {"seeds": [seed], "finish_reasons": [_REASONS[call.block]], "images": []}
    if switches.canned:
        encoded = canned_image("picture" if inpaint else "cut-out", *size, switches.canned_bytes)
    else:
        picture = (
            await _inpaint(inpaint, image, seed, size, switches.note, pool)
            if inpaint
            else await _remove_background(image, pool)
        )
        encoded = encode_base64(await pool.run(image_operations.encode, picture, request.output_format))
    return {"seeds": [seed], "finish_reasons": [None], "images": [encoded]}


async def _paint(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    try:
        request = SceneRequest.model_validate(call.json())
    except ValidationError as error:
        raise schema_error(error) from error
    call.prompt = request.prompt
    control.admit(call)
    seed = request.seed or 1 + secrets.randbelow(4_294_967_294)
    if call.block:
        call.outcome = "blocked"
        return {"seeds": [seed], "finish_reasons": [_REASONS[call.block]], "images": []}
    switches, size = control.switches, _SIZES[request.aspect_ratio]
    if switches.canned:
        encoded = canned_image("picture", *size, switches.canned_bytes)
    else:
        picture = await pool.run(
            image_operations.paint_scene, request.prompt, request.negative_prompt, seed, switches.note, size
        )
        encoded = encode_base64(await pool.run(image_operations.encode, picture, request.output_format))
    return {"seeds": [seed], "finish_reasons": [None], "images": [encoded]}


def _input_size(image: bytes) -> tuple[int, int]:
    header = read_header(image)
    if header is None or header.format not in ("jpeg", "png", "webp"):
        raise validation_error("image must be a jpeg, png or webp file.")
    if min(header.width, header.height) < 64:
        raise validation_error(
            f"image is {header.width} x {header.height}; every side must be at least 64 pixels."
        )
    if header.pixels > MAX_PIXELS:
        raise validation_error(f"image has {header.pixels} pixels; at most {MAX_PIXELS} are allowed.")
    if header.aspect > 2.5:
        raise validation_error(
            f"image is {header.width} x {header.height}; its aspect ratio must lie between 1:2.5 and 2.5:1."
        )
    return header.width, header.height


async def _remove_background(image: bytes, pool: RenderPool) -> bytes:
    mask = await or_validation_error(pool.run(image_operations.subject_mask, image))
    if mask is None:
        raise validation_error("No subject was found in the image.")
    return await pool.run(image_operations.cut_out, image, mask)


async def _inpaint(
    request: InpaintRequest, image: bytes, seed: int, size: tuple[int, int], note: bool, pool: RenderPool
) -> bytes:
    mask = decode_base64(request.mask, "mask") if request.mask is not None else None
    if mask is not None and read_header(mask) is None:
        raise validation_error("mask must be a jpeg, png or webp file.")
    strength = await or_validation_error(
        pool.run(image_operations.inpaint_strength, image, mask, request.grow_mask)
    )
    if strength is None:
        raise validation_error("Either mask or an image with transparency must be given.")
    prompt = f"{request.prompt} {request.style_preset or ''}".strip()
    return await or_validation_error(
        pool.run(image_operations.inpaint, image, strength, prompt, seed, note, size)
    )
