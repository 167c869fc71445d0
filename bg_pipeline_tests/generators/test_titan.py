from dataclasses import replace
from io import BytesIO

import pybase64
import pytest
from PIL import Image

from bg_pipeline import errors
from bg_pipeline.generators import titan
from bg_pipeline.generators.titan import TitanV1, TitanV2
from bg_pipeline_tests.generators.asks import MASK, MASK_ASK, PICTURE, SIZE, WORDS_ASK, Recorded
from bg_pipeline_tests.golden import golden


def test_a_mask_prompt_makes_the_documented_outpainting_request():
    assert titan.request(WORDS_ASK) == golden("titan/outpainting_words.request")


def test_a_mask_makes_the_documented_outpainting_request_for_several_images():
    ask = replace(MASK_ASK, mode="DEFAULT", quality="standard", images=3)
    assert titan.request(ask) == golden("titan/outpainting_mask.request")


def test_background_removal_sends_the_picture_and_nothing_else():
    recorded = Recorded("titan/background_removal.answer")
    cut_out = TitanV2().remove(PICTURE, SIZE, recorded)
    assert recorded.sent == [(TitanV2.removes, golden("titan/background_removal.request"))]
    with Image.open(BytesIO(cut_out)) as image:
        assert image.mode == "RGBA"


def test_default_parameters_are_not_sent():
    body = titan.request(replace(WORDS_ASK, negative_prompt="", cfg_scale=None))
    assert "negativeText" not in body["outPaintingParams"]
    assert "cfgScale" not in body["imageGenerationConfig"]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_a_mask_in_another_mode_is_sent_with_three_channels_and_no_alpha(mode):
    out = BytesIO()
    with Image.open(BytesIO(MASK)) as mask:
        mask.convert("L").convert(mode).save(out, "PNG")
        expected = mask.tobytes()
    sent = titan.request(replace(MASK_ASK, mask=out.getvalue()))["outPaintingParams"]["maskImage"]
    with Image.open(BytesIO(pybase64.b64decode(sent))) as image:
        assert (image.mode, image.tobytes()) == ("RGB", expected)


@pytest.mark.parametrize(("words", "mask"), [(None, None), ("", b""), ("Dog", MASK)])
def test_an_ask_has_exactly_one_kind_of_mask(words, mask):
    with pytest.raises(ValueError, match="either a mask"):
        replace(WORDS_ASK, mask_prompt=words, mask=mask)


def test_an_answer_has_its_picture_and_the_requested_seed():
    recorded = Recorded("titan/one_image.answer")
    made = TitanV2().replace(MASK_ASK, recorded)
    assert [operation.invoke_id for operation, _ in recorded.sent] == ["amazon.titan-image-generator-v2:0"]
    assert (len(made.images), made.seeds, made.mask, made.note) == (1, (42,), None, None)


@pytest.mark.parametrize("answer", ["titan/with_mask.answer", "titan/with_mask_named_mask.answer"])
def test_a_returned_mask_is_read_under_either_name(answer):
    assert TitanV2().replace(WORDS_ASK, Recorded(answer)).mask == MASK


def test_unfiltered_pictures_are_kept_with_the_filters_message():
    made = TitanV2().replace(replace(MASK_ASK, images=3), Recorded("titan/some_blocked.answer"))
    assert len(made.images) == len(made.seeds) == 2
    assert made.note == "Some of the generated images have been blocked by our content filters."


@pytest.mark.parametrize("answer", ["titan/all_blocked.answer", "titan/all_blocked_without_images.answer"])
def test_an_answer_without_unfiltered_pictures_is_blocked_with_the_models_message(answer):
    with pytest.raises(errors.Blocked, match="All of the generated images have been blocked") as caught:
        TitanV2().replace(MASK_ASK, Recorded(answer))
    assert caught.value.code == "ContentFiltered"


def test_a_mask_prompt_without_match_is_not_a_content_refusal():
    with pytest.raises(errors.SubjectNotFound):
        TitanV2().replace(WORDS_ASK, Recorded("titan/no_subject.answer"))


@pytest.mark.parametrize(
    "body", [{}, {"images": []}, {"images": [None]}, {"images": ["%"]}, {"images": ["AAAA"]}, {"images": [7]}]
)
def test_an_answer_without_a_picture_is_transient(body):
    with pytest.raises(errors.Transient) as caught:
        TitanV2().replace(MASK_ASK, lambda operation, sent: body)
    assert caught.value.code == "BadAnswer"


def test_version_1_is_called_by_its_own_name_and_removes_nothing():
    recorded = Recorded("titan/one_image.answer")
    TitanV1().replace(MASK_ASK, recorded)
    assert recorded.sent[0][0].name == "TITAN_V1"
    assert TitanV1().removes is None
    with pytest.raises(errors.UsageError, match="titan-v2"):
        TitanV1().remove(PICTURE, SIZE, recorded)


def test_every_allowed_size_is_within_the_longest_side_and_listed_once():
    assert len(set(titan.SIZES)) == len(titan.SIZES) == 25
    assert max(max(size) for size in titan.SIZES) == 1408
