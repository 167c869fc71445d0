import pytest

from bg_pipeline import errors
from bg_pipeline.generators import nova_canvas
from bg_pipeline.generators.nova_canvas import NovaCanvas
from bg_pipeline_tests.generators.asks import MASK_ASK, PICTURE, SIZE, WORDS_ASK, Recorded
from bg_pipeline_tests.golden import golden


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (WORDS_ASK, "nova_canvas/outpainting_words.request"),
        (MASK_ASK, "nova_canvas/outpainting_mask.request"),
    ],
)
def test_an_edit_is_sent_without_width_height_and_return_mask(ask, name):
    assert nova_canvas.request(ask) == golden(name)


def test_an_answer_without_an_error_field_gives_its_picture():
    recorded = Recorded("nova_canvas/one_image.answer")
    made = NovaCanvas().replace(MASK_ASK, recorded)
    assert recorded.sent[0][0].invoke_id == "amazon.nova-canvas-v1:0"
    assert (len(made.images), made.note) == (1, None)


def test_both_forms_of_blocked_successes_are_distinguished():
    assert NovaCanvas().replace(MASK_ASK, Recorded("nova_canvas/some_blocked.answer")).note
    with pytest.raises(errors.Blocked):
        NovaCanvas().replace(MASK_ASK, Recorded("nova_canvas/all_blocked.answer"))


def test_background_removal_is_titans():
    recorded = Recorded("titan/background_removal.answer")
    NovaCanvas().remove(PICTURE, SIZE, recorded)
    assert recorded.sent == [(NovaCanvas.removes, golden("titan/background_removal.request"))]


@pytest.mark.parametrize("photo", [(4032, 3024), (3024, 4032), (100, 100), (5000, 1000), (2047, 2049)])
def test_canvases_are_within_the_documented_limits(photo):
    width, height = NovaCanvas.sizes.canvas(photo).canvas
    assert min(width, height) >= 320
    assert max(width, height) <= 4096
    assert width * height < 4_194_304
    assert max(width, height) <= 4 * min(width, height)
    assert width % 16 == height % 16 == 0
