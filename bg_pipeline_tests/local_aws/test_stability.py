"""The stand-in's Stability AI models."""

import io
import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from PIL import Image, ImageChops

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

REMOVE = "us.stability.stable-image-remove-background-v1:0"
INPAINT = "us.stability.stable-image-inpaint-v1:0"
SIZE = (384, 576)
MIDDLE = (190, 200)

pytestmark = pytest.mark.usefixtures("control")


def inpainting(**changes: Any) -> dict[str, Any]:
    """A valid body of Inpaint with changed fields; None removes a field."""
    body = {
        "image": b64(ball()),
        "mask": b64(ball_mask()),
        "prompt": "a beach",
        "seed": 5,
        "grow_mask": 0,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def test_inpaint_repaints_the_white_of_the_mask_and_keeps_the_black(invoke: Invoke) -> None:
    answer = invoke(INPAINT, inpainting())
    source, result = opened(b64(ball())), opened(answer["images"][0])
    assert (answer["seeds"], answer["finish_reasons"]) == ([5], [None])
    assert (result.size, result.format) == (SIZE, "PNG")
    inside = (BALL[0] + 40, BALL[1] + 40, BALL[2] - 40, BALL[3] - 40)
    assert ImageChops.difference(source.crop(inside), result.crop(inside)).getbbox() is None
    assert source.getpixel((5, 5)) != result.getpixel((5, 5))


def test_a_grown_mask_eats_into_the_subjects_edge(invoke: Invoke) -> None:
    exact, grown = (
        opened(invoke(INPAINT, inpainting(grow_mask=pixels))["images"][0]).convert("RGB")
        for pixels in (0, 20)
    )
    just_inside = (BALL[0] + 8, (BALL[1] + BALL[3]) // 2)
    assert exact.getpixel(just_inside) == opened(b64(ball())).getpixel(just_inside)
    assert grown.getpixel(just_inside) != exact.getpixel(just_inside)


def test_a_mask_of_another_size_is_resized(invoke: Invoke) -> None:
    mask = packed(Image.open(io.BytesIO(ball_mask())).resize((96, 144)))
    result = opened(invoke(INPAINT, inpainting(mask=b64(mask)))["images"][0])
    assert result.getpixel(MIDDLE) == opened(b64(ball())).getpixel(MIDDLE)


def test_without_a_mask_the_transparent_part_is_repainted(invoke: Invoke) -> None:
    cut = Image.open(io.BytesIO(ball(mode="RGBA")))
    cut.putalpha(ImageChops.invert(opened(b64(ball_mask())).convert("L")))
    result = opened(invoke(INPAINT, inpainting(image=b64(packed(cut)), mask=None))["images"][0]).convert(
        "RGB"
    )
    assert result.getpixel(MIDDLE) == (0xA0, 0x18, 0x18)
    assert result.getpixel((5, 5)) != (255, 255, 255)


def test_without_mask_and_transparency_it_is_refused(invoke: Invoke) -> None:
    assert "mask" in refusal(lambda: invoke(INPAINT, inpainting(mask=None)))[1]


def test_remove_background_returns_the_subject_on_transparency(invoke: Invoke) -> None:
    answer = invoke(REMOVE, {"image": b64(ball()), "output_format": "webp"})
    result = opened(answer["images"][0])
    assert (result.size, result.mode, result.format) == (SIZE, "RGBA", "WEBP")
    alpha = result.getchannel("A")
    assert (alpha.getpixel(MIDDLE), alpha.getpixel((5, 5))) == (255, 0)


def test_seed_zero_is_replaced_by_a_random_seed_that_is_returned(
    invoke: Invoke, control: ControlClient
) -> None:
    control.switch(canned=True)
    seeds = {invoke(INPAINT, inpainting(seed=0))["seeds"][0] for _ in range(5)}
    assert len(seeds) == 5
    assert 0 not in seeds


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("blockme", "Filter reason: prompt"),
        ("blockimage", "Filter reason: input image"),
        ("blockoutput", "Filter reason: output image"),
    ],
)
def test_content_policy_refuses_in_the_finish_reasons_of_a_success(
    invoke: Invoke, control: ControlClient, word: str, reason: str
) -> None:
    answer = invoke(INPAINT, inpainting(prompt=word))
    assert (answer["finish_reasons"], answer["images"]) == ([reason], [])
    assert control.paid() == []


@pytest.mark.parametrize(
    ("body", "message_part"),
    [
        (inpainting(prompt=None), "#: required key [prompt] not found"),
        (inpainting(prompt="x" * 10_001), "expected maxLength: 10000, actual: 10001"),
        (inpainting(width=384), "#: extraneous key [width] is not permitted"),
        (inpainting(seed=4_294_967_295), "#/seed"),
        (inpainting(grow_mask=21), "#/grow_mask"),
        (inpainting(style_preset="baroque"), "#/style_preset"),
        (inpainting(output_format="PNG"), "#/output_format"),
        (inpainting(image=b64(ball((63, 100)))), "at least 64 pixels"),
        (inpainting(image=b64(ball((1001, 400)))), "aspect ratio"),
        (inpainting(image=b64(packed(Image.new("1", (3073, 3072))))), "at most 9437184"),
        (inpainting(image=b64(packed(Image.new("RGB", SIZE), "GIF"))), "must be a jpeg, png or webp file"),
    ],
)  # fmt: skip
def test_inpaint_refuses_invalid_bodies(invoke: Invoke, body: dict[str, Any], message_part: str) -> None:
    code, message, status = refusal(lambda: invoke(INPAINT, body))
    assert (code, status) == ("ValidationException", 400)
    assert message_part in message


def test_remove_background_takes_no_prompt(invoke: Invoke) -> None:
    assert (
        "extraneous key [prompt]" in refusal(lambda: invoke(REMOVE, {"image": b64(ball()), "prompt": "x"}))[1]
    )


def text_to_image(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """A call in the only Region that has these models."""
    client = boto3.client("bedrock-runtime", region_name="us-west-2")
    answer = client.invoke_model(modelId=model, body=json.dumps(body))
    fields: dict[str, Any] = json.loads(answer["body"].read())
    return fields


@pytest.mark.parametrize(
    "model",
    ["stability.stable-image-core-v1:1", "stability.stable-image-ultra-v1:1", "stability.sd3-5-large-v1:0"],
)
def test_text_to_image_paints_a_scene_of_the_aspect(model: str) -> None:
    body = {"prompt": "a wooden table", "aspect_ratio": "2:3", "seed": 4}
    first, again, other = (
        text_to_image(model, sent)
        for sent in (body, body, {**body, "prompt": "a beach", "output_format": "jpeg"})
    )
    picture = opened(first["images"][0])
    assert (picture.size, picture.format, first["seeds"]) == ((1024, 1536), "PNG", [4])
    assert first["images"] == again["images"]
    assert opened(other["images"][0]).format == "JPEG"


@pytest.mark.parametrize(
    "changes",
    [{"aspect_ratio": "4:3"}, {"prompt": ""}, {"image": "x"}, {"output_format": "gif"}, {"seed": -1}],
)
def test_text_to_image_refuses_what_the_models_refuse(changes: dict[str, Any]) -> None:
    code, _, _ = refusal(
        lambda: text_to_image("stability.stable-image-core-v1:1", {"prompt": "a table", **changes})
    )
    assert code == "ValidationException"
