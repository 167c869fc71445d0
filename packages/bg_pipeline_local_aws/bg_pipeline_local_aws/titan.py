"""The Titan request family on Bedrock: Titan Image Generator v1 and v2, and Nova Canvas with its differences."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bg_pipeline_local_aws import work
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.pictures import canned, from_base64, header, sha256, to_base64
from bg_pipeline_local_aws.rules import Switches
from bg_pipeline_local_aws.studio import Studio, decoded
from bg_pipeline_local_aws.wire import Call, invalid, malformed, unfit

TITAN_PAIRS = frozenset({
    (1024, 1024), (768, 1152), (1152, 768), (768, 1280), (1280, 768), (896, 1152), (1152, 896), (768, 1408),
    (1408, 768), (640, 1408), (1408, 640), (1152, 640), (1173, 640), (768, 768), (512, 512), (384, 576), (576, 384),
    (384, 640), (640, 384), (448, 576), (576, 448), (384, 704), (704, 384), (320, 704), (704, 320),
})  # fmt: skip
MOST_BYTES = 5 * 1024 * 1024

_BLOCKED = (
    "This request has been blocked by our content filters. Please adjust your {} to submit a new request."
)
_NO_MASK = "Unable to auto-generate mask image with given input image and mask prompt."

Words = Annotated[str, Field(min_length=1)]


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
    text: Words = ""
    negative_text: Words = ""
    mask_prompt: Words = ""
    mask_image: Words = ""
    return_mask: bool = False


class _Outpaint(_Edit):
    text: Words
    out_painting_mode: Literal["DEFAULT", "PRECISE"] = "DEFAULT"


class _Remove(_Body):
    image: str


class OutpaintRequest(_Body):
    """``taskType`` OUTPAINTING: black of the mask is kept, white is painted anew."""

    task_type: Literal["OUTPAINTING"]
    params: Annotated[_Outpaint, Field(alias="outPaintingParams")]
    image_generation_config: _Config = _Config()


class InpaintRequest(_Body):
    """``taskType`` INPAINTING: black of the mask is painted anew, white is kept."""

    task_type: Literal["INPAINTING"]
    params: Annotated[_Edit, Field(alias="inPaintingParams")]
    image_generation_config: _Config = _Config()


class RemoveRequest(_Body):
    """``taskType`` BACKGROUND_REMOVAL: the subject on transparency. It takes no generation config."""

    task_type: Literal["BACKGROUND_REMOVAL"]
    params: Annotated[_Remove, Field(alias="backgroundRemovalParams")]


@dataclass(frozen=True, slots=True)
class Family:
    """What one model of the family takes.

    ``fixed_sizes``: Titan's list of width × height, sent along; otherwise the answer has the image's own size.
    """

    tasks: tuple[str, ...]
    prompt_limit: int
    fixed_sizes: bool


_V1 = ("OUTPAINTING", "INPAINTING")
_V2 = (*_V1, "BACKGROUND_REMOVAL")
FAMILIES = {
    "amazon.titan-image-generator-v1": Family(_V1, 512, fixed_sizes=True),
    "amazon.titan-image-generator-v2:0": Family(_V2, 512, fixed_sizes=True),
    "amazon.nova-canvas-v1:0": Family(_V2, 1024, fixed_sizes=False),
}
_REQUESTS: dict[str, type[OutpaintRequest | InpaintRequest | RemoveRequest]] = {
    "OUTPAINTING": OutpaintRequest,
    "INPAINTING": InpaintRequest,
    "BACKGROUND_REMOVAL": RemoveRequest,
}
_NOT_OFFERED = ("TEXT_IMAGE", "IMAGE_VARIATION", "COLOR_GUIDED_GENERATION", "VIRTUAL_TRY_ON")


async def invoke(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The answer of InvokeModel: ``images``, ``error`` and, where asked for, ``maskImage``."""
    family = FAMILIES[call.model]
    request = _request(call, family)
    image = from_base64(request.params.image, "image")
    call.task, call.image = request.task_type, sha256(image)
    if isinstance(request, RemoveRequest):
        control.admit(call)
        size = _size(image, family, "input image")
        count, error = _passed(call, 1)
        images = [await _removed(image, size, control.switches, studio)] if count else []
        return {"images": images, "error": error}
    call.prompt = request.params.text
    control.admit(call)
    return await _edited(call, request, image, family, control.switches, studio)


def _request(call: Call, family: Family) -> OutpaintRequest | InpaintRequest | RemoveRequest:
    body = call.json()
    task = body.get("taskType")
    if task in _NOT_OFFERED:
        raise invalid(f"The stand-in offers no {task}: it edits images.")
    if task not in family.tasks:
        raise unfit(f"#/taskType: {task} is not a valid enum value")
    try:
        request = _REQUESTS[task].model_validate(body)
    except ValidationError as error:
        raise malformed(error) from error
    if isinstance(request, RemoveRequest):
        return request
    params, config = request.params, request.image_generation_config
    for name, words in (("text", params.text), ("negativeText", params.negative_text)):
        if len(words) > family.prompt_limit:
            raise unfit(f"#/{name}: expected maxLength: {family.prompt_limit}, actual: {len(words)}")
    if bool(params.mask_prompt) == bool(params.mask_image):
        raise invalid("Exactly one of maskPrompt and maskImage must be given.")
    if not family.fixed_sizes and (config.width is not None or config.height is not None):
        raise invalid(f"width and height are not allowed for {task}.")
    if not family.fixed_sizes and "return_mask" in params.model_fields_set:
        raise unfit("extraneous key [returnMask] is not permitted")
    return request


def _size(image: bytes, family: Family, what: str) -> tuple[int, int]:
    """Width and height of a picture that the model takes; refuses any other."""
    found = header(image)
    if found is None or found.format not in ("png", "jpeg"):
        raise invalid(f"The {what} must be a PNG or JPEG file.")
    if found.mode not in ("RGB", "RGBA", "L", "P"):
        raise invalid(f"The {what} must have 8 bits per channel in RGB, not {found.mode}.")
    width, height = size = found.width, found.height
    if family.fixed_sizes and len(image) > MOST_BYTES:
        raise invalid(f"The {what} is larger than {MOST_BYTES} bytes.")
    if family.fixed_sizes and max(size) > 1408:
        raise invalid(f"The {what} is {width} x {height}; its longer side must be at most 1408 pixels.")
    if not family.fixed_sizes and not (
        320 <= min(size) <= max(size) <= 4096 and found.aspect <= 4 and found.pixels < 4_194_304
    ):
        raise invalid(
            f"The {what} is {width} x {height}; each side must be 320 to 4096 pixels, the aspect ratio 1:4 to 4:1 "
            "and the total less than 4,194,304 pixels."
        )
    return size


def _asked_size(config: _Config, size: tuple[int, int], family: Family) -> tuple[int, int]:
    """The size of the answer: the one asked for, else the image's own; Titan's must be on its list."""
    asked = (config.width or size[0], config.height or size[1])
    if family.fixed_sizes and asked not in TITAN_PAIRS:
        raise invalid(f"{asked[0]} x {asked[1]} is not an allowed pair of width and height.")
    return asked


def _given_mask(text: str, size: tuple[int, int], family: Family) -> bytes:
    mask = from_base64(text, "maskImage")
    if _size(mask, family, "mask image") != size:
        raise invalid("The mask image must have the same size as the input image.")
    found = header(mask)
    if found is None or found.mode != "RGB" or found.transparency:
        raise invalid("The mask image must be an RGB image without an alpha channel.")
    return mask


def _passed(call: Call, asked: int) -> tuple[int, str | None]:
    """How many of the pictures asked for content policy lets pass, and its words for the others."""
    if not call.block:
        return asked, None
    passed = asked - 1 if call.block == "some" else 0
    call.outcome = "ok" if passed else "blocked"
    if call.block in ("prompt", "image"):
        raise invalid(_BLOCKED.format("text prompt" if call.block == "prompt" else "input image"))
    part = "Some" if passed else "All"
    return passed, f"{part} of the generated images have been blocked by our content filters."


async def _removed(image: bytes, size: tuple[int, int], switches: Switches, studio: Studio) -> str:
    if switches.canned:
        return canned("cut-out", *size, switches.canned_bytes)
    await _check_opaque(image, studio)
    mask = await decoded(studio.do(work.subject, image))
    if mask is None:
        raise invalid("No subject was found in the input image.")
    return to_base64(await studio.do(work.cut_out, image, mask))


async def _edited(
    call: Call,
    request: OutpaintRequest | InpaintRequest,
    image: bytes,
    family: Family,
    switches: Switches,
    studio: Studio,
) -> dict[str, Any]:
    params, config = request.params, request.image_generation_config
    size = _size(image, family, "input image")
    asked = _asked_size(config, size, family)
    given = _given_mask(params.mask_image, size, family) if params.mask_image else None
    count, error = _passed(call, config.number_of_images)
    if switches.canned:
        images = [canned("picture", *asked, switches.canned_bytes)] * count
        mask = canned("mask", *size)
    else:
        await _check_opaque(image, studio)
        black = await _black(params.mask_prompt, given, image, studio)
        # What the mask paints black is kept in outpainting, and painted anew in inpainting.
        outside = request.params if isinstance(request, OutpaintRequest) else None
        kept = black if outside else await studio.do(work.inverted, black)
        exact = outside is None or outside.out_painting_mode == "PRECISE"
        words = (params.text, params.negative_text)
        seeds = range(config.seed, config.seed + count)
        painted = [
            studio.do(work.outpaint, image, kept, *words, seed, exact, switches.note, asked) for seed in seeds
        ]
        images = [to_base64(picture) for picture in await decoded(asyncio.gather(*painted))]
        mask = to_base64(await studio.do(work.wire_mask, black)) if params.return_mask else ""
    return {"images": images, "error": error, **({"maskImage": mask} if params.return_mask else {})}


async def _black(words: str, given: bytes | None, image: bytes, studio: Studio) -> bytes:
    """What the mask, given or described by words, paints black, as the painters take it: 255 there."""
    if given is not None:
        return await decoded(studio.do(work.given_subject, given))
    mask = await decoded(studio.do(work.subject, image, words))
    if mask is None:
        raise invalid(_NO_MASK)
    return mask


async def _check_opaque(image: bytes, studio: Studio) -> None:
    found = header(image)
    if found and found.transparency and await decoded(studio.do(work.translucent, image)):
        raise invalid("The input image must not have transparent or translucent pixels.")
