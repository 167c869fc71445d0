from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from bg_pipeline import errors
from bg_pipeline.generators import images_at_once, stability
from bg_pipeline.generators.nova_canvas import NovaCanvas
from bg_pipeline.generators.stability import Stability
from bg_pipeline.generators.titan import TitanV2
from bg_pipeline_tests.generators.asks import MASK_ASK, PICTURE, SIZE, WORDS_ASK, Recorded
from bg_pipeline_tests.golden import golden


def test_a_new_background_is_the_documented_inpaint_request_with_the_subject_black():
    assert stability.request(MASK_ASK) == golden("stability/inpaint.request")


def test_the_mask_grows_into_the_subject_only_in_default_mode():
    assert stability.request(MASK_ASK)["grow_mask"] == 0
    assert stability.request(replace(MASK_ASK, mode="DEFAULT"))["grow_mask"] == 5


def test_it_is_called_through_its_us_profile():
    recorded = Recorded("stability/inpaint.answer")
    Stability().replace(MASK_ASK, recorded)
    assert recorded.sent[0][0].invoke_id == "us.stability.stable-image-inpaint-v1:0"


def test_the_seed_is_the_one_in_the_response():
    assert Stability().replace(MASK_ASK, Recorded("stability/inpaint.answer")).seeds == (2130420379,)


def test_a_cut_out_is_requested_in_a_format_with_alpha():
    recorded = Recorded("stability/remove_background.answer")
    cut_out = Stability().remove(PICTURE, SIZE, recorded)
    assert recorded.sent == [(Stability.removes, golden("stability/remove_background.request"))]
    with Image.open(BytesIO(cut_out)) as image:
        assert image.mode == "RGBA"


@pytest.mark.parametrize("part", ["prompt", "input_image", "output_image"])
def test_a_filtered_answer_is_blocked_with_the_services_message(part):
    with pytest.raises(errors.Blocked, match=f"Filter reason: {part.replace('_', ' ')}"):
        Stability().replace(MASK_ASK, Recorded(f"stability/filtered_{part}.answer"))
    with pytest.raises(errors.Blocked):
        Stability().remove(PICTURE, SIZE, Recorded(f"stability/filtered_{part}.answer"))


def test_an_inference_error_is_transient():
    with pytest.raises(errors.Transient, match="Inference error"):
        Stability().replace(MASK_ASK, Recorded("stability/inference_error.answer"))


@pytest.mark.parametrize("body", [{}, {"images": []}, {"images": None, "finish_reasons": [None]}])
def test_an_answer_without_a_picture_is_transient(body):
    with pytest.raises(errors.Transient):
        Stability().replace(MASK_ASK, lambda operation, sent: body)


def test_a_mask_prompt_is_a_value_error():
    with pytest.raises(ValueError, match="needs a mask"):
        stability.request(WORDS_ASK)


def test_no_valid_seed_means_random():
    assert 0 not in Stability.seeds
    assert Stability.seeds[-1] == 4_294_967_294


@pytest.mark.parametrize(
    "photo", [(4032, 3024), (30, 30), (6000, 1000), (1000, 6000), (3072, 3072), (4857, 1943)]
)
def test_canvases_are_within_the_documented_limits(photo):
    width, height = Stability.sizes.canvas(photo).canvas
    assert min(width, height) >= 64
    assert width * height <= 9_437_184
    assert max(width, height) <= 2.5 * min(width, height)


@pytest.mark.parametrize(
    ("size", "form", "cut_out"),
    [
        ((1024, 1024), "png", "png"),
        ((2400, 2000), "png", "webp"),
        ((3072, 3072), "jpeg", "webp"),
    ],
)
def test_a_response_that_may_be_too_large_is_requested_in_a_smaller_format(size, form, cut_out):
    assert stability.request(replace(MASK_ASK, size=size))["output_format"] == form
    assert stability.removal(PICTURE, size)["output_format"] == cut_out


def test_pictures_per_call_are_limited_by_the_size_of_the_response():
    assert images_at_once(NovaCanvas(), (1024, 1024)) == 5
    assert images_at_once(NovaCanvas(), (2048, 2032)) == 1
    assert images_at_once(TitanV2(), (1408, 768)) == 5
    assert images_at_once(Stability(), (3072, 3072)) == 1
