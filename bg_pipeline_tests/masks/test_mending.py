"""Whether a painted picture serves for a mended mask: where it keeps more, and not where it keeps less."""

import io

import pytest
from PIL import Image, ImageDraw

from bg_pipeline.errors import ImageError
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.masks.mending import check_mended

SIZE = (1200, 900)
BOX = (300, 200, 900, 800)


def file(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE, without: object = None) -> bytes:
    mask = Image.new("L", SIZE)
    for box in boxes:
        ImageDraw.Draw(mask).ellipse(box, fill=255)
    if without:
        ImageDraw.Draw(mask).ellipse(without, fill=0)  # type: ignore[arg-type]
    return STORED.write_png(mask.resize(size))


def test_what_is_kept_besides_needs_no_other_picture() -> None:
    assert check_mended(file(BOX, (50, 50, 200, 200)), SIZE, file(BOX))


def test_the_same_mask_through_a_smaller_file_and_back_needs_none() -> None:
    small = file(BOX, size=(600, 450))
    with Image.open(io.BytesIO(small)) as picture:
        enlarged = io.BytesIO()
        picture.resize(SIZE, Image.Resampling.BILINEAR).save(enlarged, "PNG")
    assert check_mended(enlarged.getvalue(), SIZE, small)
    assert check_mended(small, SIZE, file(BOX))


@pytest.mark.parametrize("without", [(550, 450, 562, 462), (295, 450, 320, 480), (*BOX[:2], 600, 800)])
def test_a_place_that_is_not_kept_any_more_needs_another_picture(without: tuple[int, int, int, int]) -> None:
    assert not check_mended(file(BOX, (50, 50, 200, 200), without=without), SIZE, file(BOX))


def test_nothing_is_missing_where_no_mask_is_known() -> None:
    assert check_mended(file(BOX), SIZE, None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (file(BOX, size=(900, 900)), "MaskShapeDiffers"),
        (file(), "MaskKeepsNothing"),
        (file((-900, -900, 2400, 2400)), "MaskKeepsEverything"),
        (b"no picture", "NotAnImage"),
    ],
)
def test_a_file_that_is_no_mask_for_the_photo_is_refused_in_a_sentence(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as refused:
        check_mended(data, SIZE, file(BOX))
    assert refused.value.code == code
