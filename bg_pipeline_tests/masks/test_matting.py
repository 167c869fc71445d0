"""Masks drawn to the photo's own edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bg_pipeline.masks.matting import draw_edge
from bg_pipeline_tests.hard_subjects import HardSubject, Kind
from bg_pipeline_tests.rendered import Ground, Rendered

SIZE = (640, 512)


def error(mask: Image.Image, shot: Rendered) -> float:
    """The sum of absolute differences from the true matte, in whole pixels."""
    found, true = (np.asarray(picture, np.float32) for picture in (mask, shot.matte))
    return float(np.abs(found - true).sum()) / 255


@pytest.mark.parametrize("by", [ImageFilter.MaxFilter(7), ImageFilter.MinFilter(7)])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("kind", "ground"),
    [("product", "studio"), ("product", "cloudy"), ("product", "leaves"), ("lace", "studio")],
)
def test_a_mask_some_pixels_too_wide_or_too_tight_is_drawn_to_the_true_edge(
    kind: Kind, ground: Ground, exact: bool, by: ImageFilter.Filter
) -> None:
    shot = HardSubject(kind, 0, ground, 1).render(SIZE)
    wrong = shot.matte.filter(by)
    assert error(draw_edge(wrong, shot.photo, exact=exact), shot) < 0.55 * error(wrong, shot)


@pytest.mark.parametrize("kind", ["product", "hair", "fur", "fence", "spokes", "glass", "person"])
def test_an_exact_mask_stays_as_it_is(kind: Kind) -> None:
    shot = HardSubject(kind, 1, "studio", 1).render(SIZE)
    assert draw_edge(shot.matte, shot.photo, exact=True).tobytes() == shot.matte.tobytes()


@pytest.mark.parametrize("kind", ["white on white", "black on black"])
def test_where_there_is_no_contrast_the_mask_is_trusted(kind: Kind) -> None:
    shot = HardSubject(kind, 3, "studio", 1).render(SIZE)
    blurred = shot.matte.filter(ImageFilter.GaussianBlur(2))
    assert error(draw_edge(blurred, shot.photo), shot) < 1.1 * error(blurred, shot)


def test_deep_inside_and_far_outside_nothing_changes() -> None:
    shot = HardSubject("person", 1, "room", 1).render(SIZE)
    wrong = shot.matte.filter(ImageFilter.MaxFilter(5))
    drawn = np.asarray(draw_edge(wrong, shot.photo))
    deep, far = (
        np.asarray(wrong.filter(near)) for near in (ImageFilter.MinFilter(21), ImageFilter.MaxFilter(21))
    )
    assert (drawn[deep == 255] == 255).all()
    assert (drawn[far == 0] == 0).mean() > 0.97  # hair is looked for further away


def test_the_same_mask_and_photo_give_the_same_edge() -> None:
    shot = HardSubject("fur", 0, "cloudy", 1).render(SIZE)
    one, other = (draw_edge(shot.matte, shot.photo) for _ in range(2))
    assert one.tobytes() == other.tobytes()


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    photo_size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    seed=st.integers(0, 99),
    exact=st.booleans(),
    hard=st.booleans(),
)
def test_any_mask_of_any_photo_gives_a_mask_of_its_size(
    size: tuple[int, int], photo_size: tuple[int, int], seed: int, exact: bool, hard: bool
) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (size[1], size[0]), np.uint8)
    mask = Image.fromarray((values > 127) * np.uint8(255) if hard else values)
    photo = Image.fromarray(random.integers(0, 256, (photo_size[1], photo_size[0], 3), np.uint8))
    drawn = draw_edge(mask, photo, exact=exact)
    assert (drawn.mode, drawn.size) == ("L", size)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_even_mask_stays_even(level: int) -> None:
    shot = HardSubject("product", 0, "studio", 1).render(SIZE)
    even = Image.new("L", SIZE, level)
    assert draw_edge(even, shot.photo).tobytes() == even.tobytes()
