"""The stand-in's Titan Image Generator and Nova Canvas."""

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.local_aws.pictures import (
    BALL,
    b64,
    ball,
    ball_mask,
    opened,
    packed,
    refusal,
)

Invoke = Callable[[str, dict[str, Any]], dict[str, Any]]

V1 = "amazon.titan-image-generator-v1"
V2 = "amazon.titan-image-generator-v2:0"
CANVAS = "amazon.nova-canvas-v1:0"
SIZE = (384, 576)

pytestmark = pytest.mark.usefixtures("control")


def outpainting(config: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """A valid body for Titan with changed fields; None removes a field."""
    fields = {
        "text": "a beach",
        "image": b64(ball()),
        "maskImage": b64(ball_mask()),
        "outPaintingMode": "PRECISE",
        **params,
    }
    sizes = {"width": SIZE[0], "height": SIZE[1], "seed": 3, **(config or {})}
    return {
        "taskType": "OUTPAINTING",
        "outPaintingParams": {name: value for name, value in fields.items() if value is not None},
        "imageGenerationConfig": {name: value for name, value in sizes.items() if value is not None},
    }


def canvas(config: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """A valid body for Nova Canvas, which takes no size."""
    return outpainting({"width": None, "height": None, **(config or {})}, **params)


def inside(image: Image.Image) -> Image.Image:
    """The middle of the ball."""
    left, top, right, bottom = BALL
    return image.crop((left + 40, top + 40, right - 40, bottom - 40))


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures' channels, 0–255."""
    return sum(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean) / 3


def test_precise_outpainting_keeps_the_black_of_the_mask_and_repaints_the_white(invoke: Invoke) -> None:
    answer = invoke(V2, outpainting())
    source, result = opened(b64(ball())), opened(answer["images"][0])
    assert answer["error"] is None
    assert (result.size, result.mode, result.format) == (SIZE, "RGB", "PNG")
    assert difference(inside(source), inside(result)) == 0
    assert difference(source.crop((0, 0, 384, 100)), result.crop((0, 0, 384, 100))) > 5


def test_inpainting_repaints_the_black_of_the_mask_and_keeps_the_white(invoke: Invoke) -> None:
    body = outpainting(outPaintingMode=None)
    body["inPaintingParams"] = body.pop("outPaintingParams")
    body["taskType"] = "INPAINTING"
    source, result = opened(b64(ball())), opened(invoke(V1, body)["images"][0])
    assert difference(inside(source), inside(result)) > 5
    assert difference(source.crop((0, 0, 384, 100)), result.crop((0, 0, 384, 100))) == 0


def test_a_mask_prompt_finds_the_subject_and_its_mask_is_returned_black_on_white(invoke: Invoke) -> None:
    answer = invoke(V2, outpainting(maskImage=None, maskPrompt="Ball", returnMask=True))
    mask = opened(answer["maskImage"])
    assert (mask.size, mask.mode) == (SIZE, "RGB")
    assert inside(mask).getextrema() == ((0, 0),) * 3
    assert mask.getpixel((5, 5)) == (255, 255, 255)


def test_a_mask_prompt_without_a_match_is_refused_with_titans_message(invoke: Invoke) -> None:
    code, message, status = refusal(lambda: invoke(V2, outpainting(maskImage=None, maskPrompt="unicorn")))
    assert (code, status) == ("ValidationException", 400)
    assert message == "Unable to auto-generate mask image with given input image and mask prompt."


def test_background_removal_returns_the_subject_on_transparency(invoke: Invoke) -> None:
    body = {"taskType": "BACKGROUND_REMOVAL", "backgroundRemovalParams": {"image": b64(ball())}}
    for model in (V2, CANVAS):
        result = opened(invoke(model, body)["images"][0])
        assert (result.size, result.mode) == (SIZE, "RGBA")
        assert inside(result).getchannel("A").getextrema() == (255, 255)
        assert result.getchannel("A").getpixel((5, 5)) == 0


def test_several_pictures_differ_and_the_same_seed_gives_the_same_picture(invoke: Invoke) -> None:
    first = invoke(V2, outpainting({"numberOfImages": 2}))["images"]
    again = invoke(V2, outpainting({"numberOfImages": 2, "quality": "premium"}))["images"]
    assert len(set(first)) == 2
    assert first == again


def test_a_painted_picture_names_the_stand_in_as_its_software(invoke: Invoke) -> None:
    result = opened(invoke(V2, outpainting())["images"][0])
    result.load()
    assert result.info["Software"] == "the stand-in for AWS"


def test_the_answer_has_the_requested_size(invoke: Invoke) -> None:
    assert opened(invoke(V2, outpainting({"width": 512, "height": 512}))["images"][0]).size == (512, 512)


def test_canvas_answers_in_the_size_of_its_input(invoke: Invoke) -> None:
    picture, mask = ball((500, 330)), ball_mask((500, 330))
    assert opened(invoke(CANVAS, canvas(image=b64(picture), maskImage=b64(mask)))["images"][0]).size == (
        500,
        330,
    )


@pytest.mark.parametrize(
    ("body", "message_part"),
    [
        (outpainting(text=None), "#/outPaintingParams: required key [text] not found"),
        (outpainting(text=""), "#/outPaintingParams/text"),
        (outpainting(text="x" * 513), "expected maxLength: 512, actual: 513"),
        (outpainting(negativeText="x" * 513), "expected maxLength: 512, actual: 513"),
        (outpainting(style="bold"), "#/outPaintingParams: extraneous key [style] is not permitted"),
        (outpainting(maskPrompt="Ball"), "Exactly one of maskPrompt and maskImage"),
        (outpainting(maskImage=None), "Exactly one of maskPrompt and maskImage"),
        (outpainting(maskImage=None, maskPrompt=""), "#/outPaintingParams/maskPrompt"),
        (outpainting(outPaintingMode="precise"), "#/outPaintingParams/outPaintingMode"),
        (outpainting({"width": 1000, "height": 1000}), "1000 x 1000 is not an allowed pair"),
        (outpainting({"cfgScale": 1.0}), "#/imageGenerationConfig/cfgScale"),
        (outpainting({"seed": 2_147_483_647}), "#/imageGenerationConfig/seed"),
        (outpainting({"seed": "3"}), "#/imageGenerationConfig/seed"),
        (outpainting({"numberOfImages": 6}), "#/imageGenerationConfig/numberOfImages"),
        (outpainting({"quality": "best"}), "#/imageGenerationConfig/quality"),
        (outpainting(image="data:image/png;base64," + b64(ball())), "#/image: not a base64 string"),
        (outpainting(image=b64(b"no picture")), "must be a PNG or JPEG file"),
        (outpainting(image=b64(ball(media="JPEG")[:2000])), "not a readable image"),
        (outpainting(image=b64(ball(media="WEBP"))), "must be a PNG or JPEG file"),
        (outpainting(image=b64(ball((1409, 640)))), "its longer side must be at most 1408"),
        (outpainting(image=b64(ball(media="JPEG", mode="CMYK"))), "8 bits per channel in RGB"),
        (outpainting(maskImage=b64(ball_mask((576, 384)))), "same size as the input image"),
        (outpainting(maskImage=b64(ball_mask(mode="RGBA"))), "without an alpha channel"),
        (outpainting(maskImage=b64(ball_mask(subject="#010101"))), "pure black and pure white"),
        ({"taskType": "TEXT_IMAGE", "textToImageParams": {"text": "a beach"}}, "offers no TEXT_IMAGE"),
        ({"taskType": "PAINT"}, "#/taskType: PAINT is not a valid enum value"),
    ],
)  # fmt: skip
def test_titan_refuses_invalid_bodies(invoke: Invoke, body: dict[str, Any], message_part: str) -> None:
    code, message, status = refusal(lambda: invoke(V2, body))
    assert (code, status) == ("ValidationException", 400)
    assert message_part in message


@pytest.mark.parametrize(
    ("body", "message_part"),
    [
        (canvas({"width": 384, "height": 576}), "width and height are not allowed"),
        (canvas(text="x" * 1025), "expected maxLength: 1024"),
        (canvas(returnMask=True), "extraneous key [returnMask]"),
        (canvas(image=b64(ball((300, 400))), maskImage=b64(ball_mask((300, 400)))), "each side must be 320"),
        (canvas(image=b64(packed(Image.new("RGBA", SIZE, (9, 9, 9, 254))))), "transparent or translucent"),
    ],
)
def test_canvas_refuses_invalid_bodies(invoke: Invoke, body: dict[str, Any], message_part: str) -> None:
    code, message, _ = refusal(lambda: invoke(CANVAS, body))
    assert code == "ValidationException"
    assert message_part in message


def test_version_1_cannot_remove_a_background(invoke: Invoke) -> None:
    body = {"taskType": "BACKGROUND_REMOVAL", "backgroundRemovalParams": {"image": b64(ball())}}
    assert "BACKGROUND_REMOVAL" in refusal(lambda: invoke(V1, body))[1]


def test_an_opaque_alpha_channel_is_accepted(invoke: Invoke) -> None:
    assert invoke(CANVAS, canvas(image=b64(ball(mode="RGBA"))))["error"] is None


@pytest.mark.parametrize(("word", "named"), [("blockme", "text prompt"), ("blockimage", "input image")])
def test_blocked_input_is_a_validation_error_that_is_not_billed(
    invoke: Invoke, control: ControlClient, word: str, named: str
) -> None:
    code, message, _ = refusal(lambda: invoke(V2, outpainting(text=f"a {word} beach")))
    assert code == "ValidationException"
    assert message.startswith("This request has been blocked by our content filters.")
    assert named in message
    assert [call["outcome"] for call in control.calls()] == ["blocked"]
    assert control.paid() == []


def test_blocked_output_is_an_answer_without_pictures(invoke: Invoke) -> None:
    answer = invoke(V2, outpainting(text="blockoutput"))
    assert answer == {
        "images": [],
        "error": "All of the generated images have been blocked by our content filters.",
    }


def test_a_removal_can_be_blocked_too(invoke: Invoke, control: ControlClient) -> None:
    body = {"taskType": "BACKGROUND_REMOVAL", "backgroundRemovalParams": {"image": b64(ball())}}
    control.fault(action="block", where="output")
    assert invoke(V2, body)["images"] == []
    control.fault(action="block", where="image")
    assert "input image" in refusal(lambda: invoke(V2, body))[1]


def test_some_blocked_outputs_are_an_answer_with_fewer_pictures(invoke: Invoke) -> None:
    answer = invoke(V2, outpainting({"numberOfImages": 3}, text="blocksome"))
    assert len(answer["images"]) == 2
    assert answer["error"].startswith("Some of the generated images")
