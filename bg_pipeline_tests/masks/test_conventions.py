"""A mask means the same thing inside, in files and for every model."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bg_pipeline.masks import Mask, conventions
from bg_pipeline.masks.conventions import MaskConvention

BLACK, WHITE = 0, 255

# What each reader must find at a kept pixel and at a replaced one.
MEANINGS = [
    (conventions.STORED, BLACK, WHITE),
    (conventions.TITAN_OUTPAINTING, BLACK, WHITE),
    (conventions.TITAN_INPAINTING, WHITE, BLACK),
    (conventions.NOVA_OUTPAINTING, BLACK, WHITE),
    (conventions.NOVA_INPAINTING, WHITE, BLACK),
    (conventions.STABILITY_INPAINT, BLACK, WHITE),
    (conventions.STABILITY_ERASE, BLACK, WHITE),
]
FORMS = [form for form, _, _ in MEANINGS]
HARD = [form for form in FORMS if form.hard]
SOFT = [form for form in FORMS if not form.hard]


def masks() -> st.SearchStrategy[Image.Image]:
    sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
    return sizes.flatmap(
        lambda size: st.binary(min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
            lambda data: Image.frombytes("L", size, data)
        )
    )


def half_kept() -> Image.Image:
    """Left half kept, right half replaced."""
    mask = Image.new("L", (4, 2), 0)
    mask.paste(255, (0, 0, 2, 2))
    return mask


@pytest.mark.parametrize(("form", "kept", "replaced"), MEANINGS)
def test_kept_and_replaced_pixels_have_the_colour_each_model_documents(
    form: MaskConvention, kept: int, replaced: int
) -> None:
    written = form.write(half_kept()).convert("L")
    assert written.getpixel((0, 0)) == kept
    assert written.getpixel((3, 1)) == replaced


@pytest.mark.parametrize("form", FORMS)
def test_no_form_has_an_alpha_channel(form: MaskConvention) -> None:
    assert form.write(half_kept()).mode in {"L", "RGB"}


@pytest.mark.parametrize("form", [form for form in FORMS if form.mode == "RGB"])
def test_titan_and_nova_get_rgb(form: MaskConvention) -> None:
    with Image.open(io.BytesIO(form.write_png(half_kept()))) as picture:
        assert picture.mode == "RGB"
        assert picture.format == "PNG"


@pytest.mark.parametrize("form", HARD)
@given(mask=masks())
def test_hard_forms_hold_nothing_but_black_and_white(form: MaskConvention, mask: Image.Image) -> None:
    assert set(np.unique(np.asarray(form.write(mask)))) <= {0, 255}


@pytest.mark.parametrize("form", SOFT)
@given(mask=masks())
def test_soft_forms_come_back_as_they_were(form: MaskConvention, mask: Image.Image) -> None:
    assert form.read_png(form.write_png(mask)).tobytes() == mask.tobytes()


@pytest.mark.parametrize("form", HARD)
@given(mask=masks())
def test_hard_forms_come_back_split_at_one_half(form: MaskConvention, mask: Image.Image) -> None:
    assert form.read_png(form.write_png(mask)).tobytes() == conventions.harden(mask).tobytes()


@pytest.mark.parametrize("form", FORMS)
@given(mask=masks())
def test_a_mask_keeps_its_size(form: MaskConvention, mask: Image.Image) -> None:
    assert form.write(mask).size == form.to_mask(form.write(mask)).size == mask.size


def test_opaque_is_subject() -> None:
    cut = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    cut.putpixel((1, 0), (255, 255, 255, 0))
    assert list(conventions.from_alpha(cut).tobytes()) == [255, 0]


def test_a_picture_without_alpha_is_all_subject() -> None:
    assert conventions.from_alpha(Image.new("RGB", (1, 1))).tobytes() == b"\xff"


def test_a_mask_becomes_the_alpha_of_a_cut_out() -> None:
    cut = conventions.to_alpha(Image.new("RGB", (4, 2), (10, 20, 30)), half_kept())
    assert cut.getpixel((0, 0)) == (10, 20, 30, 255)
    assert cut.getpixel((3, 0)) == (10, 20, 30, 0)
    assert conventions.from_alpha(cut).tobytes() == half_kept().tobytes()


def test_a_mask_in_colour_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="mode L"):
        Mask(Image.new("RGB", (1, 1)), "given")
