"""A mask means the same inside the pipeline, in files and for every model."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bg_pipeline.masks import Mask, conventions
from bg_pipeline.masks.conventions import MaskConvention

BLACK, WHITE = 0, 255

FORMS = [conventions.STORED, conventions.FOR_MODELS]


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


@pytest.mark.parametrize("form", FORMS)
def test_kept_pixels_are_black_and_replaced_ones_white(form: MaskConvention) -> None:
    written = form.write(half_kept()).convert("L")
    assert (written.getpixel((0, 0)), written.getpixel((3, 1))) == (BLACK, WHITE)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_has_an_alpha_channel(form: MaskConvention) -> None:
    assert form.write(half_kept()).mode in {"L", "RGB"}


def test_models_get_rgb() -> None:
    with Image.open(io.BytesIO(conventions.FOR_MODELS.write_png(half_kept()))) as picture:
        assert (picture.mode, picture.format) == ("RGB", "PNG")


@given(mask=masks())
def test_models_get_only_black_and_white_split_at_one_half(mask: Image.Image) -> None:
    form = conventions.FOR_MODELS
    assert set(np.unique(np.asarray(form.write(mask)))) <= {BLACK, WHITE}
    assert form.read_png(form.write_png(mask)).tobytes() == conventions.harden(mask).tobytes()


@given(mask=masks())
def test_a_stored_mask_is_read_back_unchanged(mask: Image.Image) -> None:
    form = conventions.STORED
    assert form.read_png(form.write_png(mask)).tobytes() == mask.tobytes()


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


def test_a_mask_in_colour_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="mode L"):
        Mask(Image.new("RGB", (1, 1)), "given")
