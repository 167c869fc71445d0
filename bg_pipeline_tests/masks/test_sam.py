"""SAM endpoints with every request and answer format."""

import base64
import json
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from PIL import Image, ImageChops

from bg_pipeline.errors import CallError, ImageError, SettingsError
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.sam import MAX_BODY, SamForm, decode, encode, endpoint, sam_mask
from bg_pipeline_tests.masks.scenes import outline, overlap

SIZE = (400, 200)
FACES = [Box(0.1, 0.2, 0.3, 0.6), Box(0.6, 0.25, 0.7, 0.45)]
SHAPE = outline("shoe", SIZE)


def form(**fields: Any) -> SamForm:
    return SamForm.read(json.dumps(fields))


def png(picture: Image.Image) -> bytes:
    with BytesIO() as file:
        picture.save(file, "PNG")
        return file.getvalue()


def text(picture: Image.Image) -> str:
    return base64.b64encode(png(picture)).decode()


def sent(asked: SamForm, boxes: list[Box] = FACES) -> list[Any]:
    return [json.loads(body) for body in encode(asked, b"picture", SIZE, boxes)]


def answered(asked: SamForm, answer: Any) -> Image.Image:
    ((mask, _),) = decode(asked, json.dumps(answer).encode(), "application/json")
    return mask


def test_the_default_form_sends_the_picture_and_all_boxes_in_pixels() -> None:
    assert sent(SamForm.read("")) == [
        {"image": base64.b64encode(b"picture").decode(), "boxes": [[40, 40, 120, 120], [240, 50, 280, 90]]}
    ]


def test_one_box_in_the_request_makes_one_call_for_each() -> None:
    asked = form(request={"inputs": ["{image}", {"bbox": "{box}", "point": "{point}"}], "w": "{width}"})
    first, second = sent(asked)
    assert first["inputs"][1] == {"bbox": [40, 40, 120, 120], "point": [80, 80]}
    assert second["inputs"][1] == {"bbox": [240, 50, 280, 90], "point": [260, 70]}
    assert first["w"] == 400


def test_boxes_may_be_ratios_sides_and_text() -> None:
    asked = form(request="{boxes}", unit="ratio", box="sides")
    assert sent(asked) == [[[0.1, 0.2, 0.2, 0.4], [0.6, 0.25, 0.1, 0.2]]]
    assert sent(form(request="{boxes}", box_as_text=True)) == [["[40, 40, 120, 120]", "[240, 50, 280, 90]"]]
    assert sent(form(request="{points}", unit="ratio")) == [[[0.2, 0.4], [0.65, 0.35]]]


def test_other_values_of_the_request_go_as_they_are() -> None:
    asked = form(
        request={"body": "{image}", "task": "AutomaticMaskGenerator", "points_per_side": 32, "x": None}
    )
    assert sent(asked)[0] | {"body": ""} == {
        "body": "",
        "task": "AutomaticMaskGenerator",
        "points_per_side": 32,
        "x": None,
    }


def test_a_raw_picture_goes_as_it_is() -> None:
    assert encode(form(content_type="image/jpeg"), b"picture", SIZE, FACES) == [b"picture"]


def test_a_picture_too_large_for_the_endpoint_is_refused() -> None:
    with pytest.raises(ImageError, match="6,291,456") as refused:
        encode(SamForm(), bytes(MAX_BODY * 3 // 4), SIZE, FACES)
    assert refused.value.code == "SamRequestTooLarge"


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, {"masks": text(SHAPE)}),
        ({}, {"masks": [text(SHAPE)]}),
        ({}, {"masks": ["data:image/png;base64," + text(SHAPE)]}),
        ({"masks": "result.masks"}, {"result": {"masks": [text(SHAPE)]}}),
        ({"masks": "0.out", "mask": "segmentation"}, [{"out": [{"segmentation": text(SHAPE)}]}]),
        ({"masks": ""}, text(SHAPE)),
        ({"subject": "black"}, {"masks": text(ImageChops.invert(SHAPE))}),
    ],
)
def test_masks_are_found_where_the_form_says(fields: dict[str, Any], answer: Any) -> None:
    assert answered(form(**fields), answer).tobytes() == SHAPE.tobytes()


@pytest.mark.parametrize(
    "rows",
    [
        [[True, False], [False, False]],
        [[1, 0], [0, 0]],
        [[255, 0], [0, 0]],
        [[[[1.0, 0.0], [0.0, 0.0]]]],
    ],
)
def test_masks_may_be_rows_of_numbers(rows: Any) -> None:
    assert list(answered(SamForm(), {"masks": rows}).tobytes()) == [255, 0, 0, 0]
    assert list(answered(SamForm(), {"masks": [rows]}).tobytes()) == [255, 0, 0, 0]


def test_an_answer_may_be_one_picture() -> None:
    ((mask, score),) = decode(SamForm(), png(SHAPE), "image/png")
    assert mask.tobytes() == SHAPE.tobytes()
    assert score is None


@pytest.mark.parametrize(
    "answer",
    [
        b"not json",
        b"{}",
        b'{"masks": ["%%%"]}',
        b'{"masks": ["AAAA"]}',
        b'{"masks": [3]}',
        b'{"masks": [{"a": 1}]}',
    ],
)
def test_an_answer_in_another_form_is_refused(answer: bytes) -> None:
    with pytest.raises(CallError, match="BG_SAM_FORM") as failed:
        decode(SamForm(), answer, "application/json")
    assert failed.value.code == "SamAnswer"


def left_and_right() -> tuple[Image.Image, Image.Image]:
    left, right = Image.new("L", SIZE), Image.new("L", SIZE)
    left.paste(255, (0, 0, 100, 200))
    right.paste(255, (250, 0, 400, 200))
    return left, right


@pytest.mark.parametrize(
    ("choose", "share"),
    [("all", 250 / 400), ("first", 100 / 400), ("largest", 150 / 400), ("best", 100 / 400)],
)
def test_the_chosen_ones_of_several_masks_are_used(choose: str, share: float) -> None:
    left, right = left_and_right()
    asked = form(choose=choose, mask="png", score="iou")
    body = json.dumps({"masks": [{"png": text(left), "iou": 0.9}, {"png": text(right), "iou": 0.4}]}).encode()
    mask = sam_mask(lambda _: (body, "application/json"), asked, b"picture", SIZE, FACES)
    assert sum(mask.picture.tobytes()) / 255 / (SIZE[0] * SIZE[1]) == pytest.approx(share)
    assert mask.source == "faces"


def test_the_masks_of_all_faces_are_joined() -> None:
    masks = iter(left_and_right())
    asked = form(request={"image": "{image}", "box": "{box}"})

    def ask(body: bytes) -> tuple[bytes, str]:
        return json.dumps({"masks": text(next(masks))}).encode(), "application/json"

    joined = sam_mask(ask, asked, b"picture", SIZE, FACES).picture
    assert joined.tobytes() == ImageChops.lighter(*left_and_right()).tobytes()


def test_a_mask_of_another_scale_is_brought_to_the_pictures() -> None:
    small = SHAPE.resize((100, 50))
    mask = sam_mask(lambda _: (png(small), "image/png"), SamForm(), b"picture", SIZE, FACES).picture
    assert overlap(mask, SHAPE) > 0.95


def test_a_mask_of_another_shape_is_refused_by_its_size() -> None:
    square = png(Image.new("L", (50, 50)))
    with pytest.raises(CallError, match="50×50 for a picture of 400×200"):
        sam_mask(lambda _: (square, "image/png"), SamForm(), b"picture", SIZE, FACES)


@pytest.mark.parametrize(
    ("setting", "why"), [("{", "the whole"), ('{"unit": "inch"}', "unit"), ('{"typo": 1}', "typo")]
)
def test_a_wrong_form_is_refused_by_field(setting: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"BG_SAM_FORM: {why}"):
        SamForm.read(setting)


def test_the_endpoint_is_asked_as_the_form_says() -> None:
    client = boto3.client("sagemaker-runtime", region_name="us-east-1")
    data = png(SHAPE)
    asked = form(content_type="image/jpeg", accept="image/png")
    with Stubber(client) as stub:
        stub.add_response(
            "invoke_endpoint",
            {"Body": StreamingBody(BytesIO(data), len(data)), "ContentType": "image/png"},
            {"EndpointName": "sam", "Body": b"picture", "ContentType": "image/jpeg", "Accept": "image/png"},
        )
        mask = sam_mask(endpoint(client, "sam", asked), asked, b"picture", SIZE, FACES)
    assert mask.picture.tobytes() == SHAPE.tobytes()


def test_errors_of_the_endpoint_pass_through() -> None:
    client = boto3.client("sagemaker-runtime", region_name="us-east-1")
    with Stubber(client) as stub:
        stub.add_client_error("invoke_endpoint", "ModelError", http_status_code=424)
        with pytest.raises(ClientError, match="ModelError"):
            sam_mask(endpoint(client, "sam", SamForm()), SamForm(), b"picture", SIZE, FACES)
