"""Titan Image Generator v1 and v2, and Nova Canvas, which takes the same requests with some differences."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bg_pipeline_local_aws import image_operations
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.image_files import (
    canned_image,
    decode_base64,
    encode_base64,
    read_header,
    sha256,
)
from bg_pipeline_local_aws.protocol import Call, malformed_request, schema_error, validation_error
from bg_pipeline_local_aws.render_pool import RenderPool, or_validation_error
from bg_pipeline_local_aws.rules import Switches

TITAN_SIZES = frozenset({
    (1024, 1024), (768, 1152), (1152, 768), (768, 1280), (1280, 768), (896, 1152), (1152, 896), (768, 1408),
    (1408, 768), (640, 1408), (1408, 640), (1152, 640), (1173, 640), (768, 768), (512, 512), (384, 576), (576, 384),
    (384, 640), (640, 384), (448, 576), (576, 448), (384, 704), (704, 384), (320, 704), (704, 320),
})  # fmt: skip
MAX_BYTES = 5 * 1024 * 1024

_BLOCKED = (
    "This request has been blocked by our content filters. Please adjust your {} to submit a new request."
)
_NO_MASK = "Unable to auto-generate mask image with given input image and mask prompt."

NonEmptyText = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Config(_Body):
    quality: Literal["standard", "premium"] = "standard"
    number_of_images: Annotated[int, Field(ge=1, le=5)] = 1
    height: int | None = None
    width: int | None = None
    cfg_scale: Annotated[float, Field(ge=1.1, le=10)] = 8.0
    seed: Annotated[int, Field(ge=0, le=2_147_483_646)] = 42


class _Edit(_Body):
    image: str
    text: NonEmptyText = ""
    negative_text: NonEmptyText = ""
    mask_prompt: NonEmptyText = ""
    mask_image: NonEmptyText = ""
    return_mask: bool = False


class _Outpaint(_Edit):
    text: NonEmptyText
    out_painting_mode: Literal["DEFAULT", "PRECISE"] = "DEFAULT"


class _Remove(_Body):
    image: str


class OutpaintRequest(_Body):
    """``taskType`` OUTPAINTING: keeps what is black in the mask and repaints what is white."""

    task_type: Literal["OUTPAINTING"]
    params: Annotated[_Outpaint, Field(alias="outPaintingParams")]
    image_generation_config: _Config = _Config()


class InpaintRequest(_Body):
    """``taskType`` INPAINTING: repaints what is black in the mask and keeps what is white."""

    task_type: Literal["INPAINTING"]
    params: Annotated[_Edit, Field(alias="inPaintingParams")]
    image_generation_config: _Config = _Config()


class RemoveRequest(_Body):
    """``taskType`` BACKGROUND_REMOVAL: returns the subject on transparency; has no generation config."""

    task_type: Literal["BACKGROUND_REMOVAL"]
    params: Annotated[_Remove, Field(alias="backgroundRemovalParams")]


@dataclass(frozen=True, slots=True)
class Family:
    """Capabilities and limits of a model.

    ``fixed_sizes``: the answer's size is sent with the request and must be one of `TITAN_SIZES`; otherwise it is the
    input image's size.
    """

    tasks: tuple[str, ...]
    prompt_limit: int
    fixed_sizes: bool


_V1_TASKS = ("OUTPAINTING", "INPAINTING")
_V2_TASKS = (*_V1_TASKS, "BACKGROUND_REMOVAL")
FAMILIES = {
    "amazon.titan-image-generator-v1": Family(_V1_TASKS, 512, fixed_sizes=True),
    "amazon.titan-image-generator-v2:0": Family(_V2_TASKS, 512, fixed_sizes=True),
    "amazon.nova-canvas-v1:0": Family(_V2_TASKS, 1024, fixed_sizes=False),
}
_REQUESTS: dict[str, type[OutpaintRequest | InpaintRequest | RemoveRequest]] = {
    "OUTPAINTING": OutpaintRequest,
    "INPAINTING": InpaintRequest,
    "BACKGROUND_REMOVAL": RemoveRequest,
}
_UNSUPPORTED_TASKS = ("TEXT_IMAGE", "IMAGE_VARIATION", "COLOR_GUIDED_GENERATION", "VIRTUAL_TRY_ON")


async def invoke(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """InvokeModel's answer: ``images``, ``error`` and, if requested, ``maskImage``."""
    family = FAMILIES[call.model]
    request = _parse_request(call, family)
    image = decode_base64(request.params.image, "image")
    call.task, call.image = request.task_type, sha256(image)
    if isinstance(request, RemoveRequest):
        control.admit(call)
        size = _input_size(image, family, "input image")
        count, error = _apply_content_policy(call, 1)
        images = [await _remove_background(image, size, control.switches, pool)] if count else []
        return {"images": images, "error": error}
    call.prompt = request.params.text
    control.admit(call)
    return await _edit(call, request, image, family, control.switches, pool)


def _parse_request(call: Call, family: Family) -> OutpaintRequest | InpaintRequest | RemoveRequest:
    body = call.json()
    task = body.get("taskType")
    if task in _UNSUPPORTED_TASKS:
        raise validation_error(f"The stand-in offers no {task}: it edits images.")
    if task not in family.tasks:
        raise malformed_request(f"#/taskType: {task} is not a valid enum value")
    try:
        request = _REQUESTS[task].model_validate(body)
    except ValidationError as error:
        raise schema_error(error) from error
    if isinstance(request, RemoveRequest):
        return request
    params, config = request.params, request.image_generation_config
    for name, text in (("text", params.text), ("negativeText", params.negative_text)):
        if len(text) > family.prompt_limit:
            raise malformed_request(
                f"#/{name}: expected maxLength: {family.prompt_limit}, actual: {len(text)}"
            )
    if bool(params.mask_prompt) == bool(params.mask_image):
        raise validation_error("Exactly one of maskPrompt and maskImage must be given.")
    if not family.fixed_sizes and (config.width is not None or config.height is not None):
        raise validation_error(f"width and height are not allowed for {task}.")
    if not family.fixed_sizes and "return_mask" in params.model_fields_set:
        raise malformed_request("extraneous key [returnMask] is not permitted")
    return request


def _input_size(image: bytes, family: Family, what: str) -> tuple[int, int]:
    """Width and height of an image; ValidationException if the model does not accept it."""
    header = read_header(image)
    if header is None or header.format not in ("png", "jpeg"):
        raise validation_error(f"The {what} must be a PNG or JPEG file.")
    if header.mode not in ("RGB", "RGBA", "L", "P"):
        raise validation_error(f"The {what} must have 8 bits per channel in RGB, not {header.mode}.")
    width, height = size = header.width, header.height
    if family.fixed_sizes and len(image) > MAX_BYTES:
        raise validation_error(f"The {what} is larger than {MAX_BYTES} bytes.")
    if family.fixed_sizes and max(size) > 1408:
        raise validation_error(
            f"The {what} is {width} x {height}; its longer side must be at most 1408 pixels."
        )
    if not family.fixed_sizes and not (
        320 <= min(size) <= max(size) <= 4096 and header.aspect <= 4 and header.pixels < 4_194_304
    ):
        raise validation_error(
            f"The {what} is {width} x {height}; each side must be 320 to 4096 pixels, the aspect ratio 1:4 to 4:1 "
            "and the total less than 4,194,304 pixels."
        )
    return size


def _output_size(config: _Config, size: tuple[int, int], family: Family) -> tuple[int, int]:
    """The requested size of the answer, by default the image's; for Titan it must be in `TITAN_SIZES`."""
    output = (config.width or size[0], config.height or size[1])
    if family.fixed_sizes and output not in TITAN_SIZES:
        raise validation_error(f"{output[0]} x {output[1]} is not an allowed pair of width and height.")
    return output


def _decode_mask(text: str, size: tuple[int, int], family: Family) -> bytes:
    mask = decode_base64(text, "maskImage")
    if _input_size(mask, family, "mask image") != size:
        raise validation_error("The mask image must have the same size as the input image.")
    header = read_header(mask)
    if header is None or header.mode != "RGB" or header.transparency:
        raise validation_error("The mask image must be an RGB image without an alpha channel.")
    return mask


def _apply_content_policy(call: Call, requested: int) -> tuple[int, str | None]:
    """Number of images that pass content policy, and the error for the others; raises if the input is blocked."""
    if not call.block:
        return requested, None
    passed = requested - 1 if call.block == "some" else 0
    call.outcome = "ok" if passed else "blocked"
    if call.block in ("prompt", "image"):
        raise validation_error(_BLOCKED.format("text prompt" if call.block == "prompt" else "input image"))
    part = "Some" if passed else "All"
    return passed, f"{part} of the generated images have been blocked by our content filters."


async def _remove_background(
    image: bytes, size: tuple[int, int], switches: Switches, pool: RenderPool
) -> str:
    if switches.canned:
        return canned_image("cut-out", *size, switches.canned_bytes)
    await _check_opaque(image, pool)
    mask = await or_validation_error(pool.run(image_operations.subject_mask, image))
    if mask is None:
        raise validation_error("No subject was found in the input image.")
    return encode_base64(await pool.run(image_operations.cut_out, image, mask))


async def _edit(
    call: Call,
    request: OutpaintRequest | InpaintRequest,
    image: bytes,
    family: Family,
    switches: Switches,
    pool: RenderPool,
) -> dict[str, Any]:
    params, config = request.params, request.image_generation_config
    size = _input_size(image, family, "input image")
    output = _output_size(config, size, family)
    mask_image = _decode_mask(params.mask_image, size, family) if params.mask_image else None
    count, error = _apply_content_policy(call, config.number_of_images)
    if switches.canned:
        images = [canned_image("picture", *output, switches.canned_bytes)] * count
        mask = canned_image("mask", *size)
    else:
        await _check_opaque(image, pool)
        black = await _black_part(params.mask_prompt, mask_image, image, pool)
        # Outpainting keeps the black part of the mask, inpainting repaints it.
        outpainting = request.params if isinstance(request, OutpaintRequest) else None
        kept = black if outpainting else await pool.run(image_operations.invert, black)
        precise = outpainting is None or outpainting.out_painting_mode == "PRECISE"
        prompts = (params.text, params.negative_text)
        seeds = range(config.seed, config.seed + count)
        painted = [
            pool.run(image_operations.outpaint, image, kept, *prompts, seed, precise, switches.note, output)
            for seed in seeds
        ]
        images = [encode_base64(picture) for picture in await or_validation_error(asyncio.gather(*painted))]
        mask = (
            encode_base64(await pool.run(image_operations.response_mask, black)) if params.return_mask else ""
        )
    return {"images": images, "error": error, **({"maskImage": mask} if params.return_mask else {})}


async def _black_part(mask_prompt: str, mask_image: bytes | None, image: bytes, pool: RenderPool) -> bytes:
    """A mask PNG with 255 where the request's mask, given as an image or a prompt, is black."""
    if mask_image is not None:
        return await or_validation_error(pool.run(image_operations.subject_from_black, mask_image))
    mask = await or_validation_error(pool.run(image_operations.subject_mask, image, mask_prompt))
    if mask is None:
        raise validation_error(_NO_MASK)
    return mask


async def _check_opaque(image: bytes, pool: RenderPool) -> None:
    header = read_header(image)
    if (
        header
        and header.transparency
        and await or_validation_error(pool.run(image_operations.is_translucent, image))
    ):
        raise validation_error("The input image must not have transparent or translucent pixels.")
