"""Checks of a mask before anything is paid for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.validation import validate_mask
from bg_pipeline_tests.masks.scenes import Shape, outline

SIZE = (640, 480)


@pytest.mark.parametrize("shape", ["bottle", "mug", "shoe", "two", "bust", "hair"])
def test_a_right_mask_passes(shape: Shape) -> None:
    verdict = validate_mask(Mask(outline(shape, SIZE), "cut-out"))
    assert verdict.ok
    assert verdict.reasons == ()


def test_an_empty_mask_is_told_alone() -> None:
    verdict = validate_mask(Image.new("L", SIZE, 0), boxes=[Box(0, 0, 1, 1)])
    assert not verdict.ok
    assert verdict.reasons == ("the mask is empty: no subject was found",)


def test_a_speck_is_tiny() -> None:
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, (300, 200, 320, 220))
    assert "tiny: 0.1" in validate_mask(mask).reasons[0]


def test_a_mask_of_everything_leaves_nothing_to_replace() -> None:
    assert "no background left" in validate_mask(Image.new("L", SIZE, 255)).reasons[0]


@pytest.mark.parametrize("shape", ["bottle", "mug", "shoe"])
def test_an_inverted_mask_is_seen_by_its_frame(shape: Shape) -> None:
    verdict = validate_mask(ImageChops.invert(outline(shape, SIZE)))
    assert "100% of the picture's frame" in verdict.reasons[0]


def test_confetti_is_in_pieces() -> None:
    mask = Image.new("L", SIZE, 0)
    for x in range(20, 600, 60):
        for y in range(20, 440, 60):
            mask.paste(255, (x, y, x + 25, y + 25))
    assert "in pieces" in validate_mask(mask).reasons[0]


def test_as_many_pieces_as_expected_are_right() -> None:
    mask = Image.new("L", SIZE, 0)
    for x in range(20, 600, 120):
        for y in range(20, 440, 160):
            mask.paste(255, (x, y, x + 60, y + 60))
    assert not validate_mask(mask).ok
    assert validate_mask(mask, expected=15).ok


def test_specks_beside_a_subject_do_not_matter() -> None:
    mask = outline("shoe", SIZE)
    for x in range(10, 630, 40):
        mask.paste(255, (x, 10, x + 4, 14))
    assert validate_mask(mask).ok


def test_a_matte_that_did_not_decide_is_told() -> None:
    undecided = outline("shoe", SIZE).point([value // 2 for value in range(256)])
    ImageDraw.Draw(undecided).rectangle((250, 250, 350, 330), fill=255)
    assert "half-transparent" in validate_mask(undecided).reasons[0]


def test_a_mask_in_its_label_box_agrees() -> None:
    assert validate_mask(outline("shoe", SIZE), boxes=[Box(0.18, 0.3, 0.82, 0.76, "Shoe")]).ok


def test_a_mask_elsewhere_than_its_label_is_at_odds() -> None:
    reasons = validate_mask(outline("shoe", SIZE), boxes=[Box(0, 0, 0.2, 0.2, "Dog")]).reasons
    assert "misses “Dog”: it covers 0% of its box" in reasons[0]
    assert "lies in the boxes" in reasons[1]


def test_each_missed_box_is_named() -> None:
    boxes = [Box(0.15, 0.3, 0.85, 0.78, "Shoe"), Box(0.9, 0, 1, 0.2, "Dog")]
    assert validate_mask(outline("shoe", SIZE), boxes=boxes).reasons == (
        "the mask misses “Dog” (box 2 of 2): it covers 0% of its box",
    )


def test_people_go_beyond_their_faces() -> None:
    face = [Box(0.42, 0.15, 0.58, 0.5, "Face")]
    assert not validate_mask(outline("bust", SIZE), boxes=face).ok
    assert validate_mask(outline("bust", SIZE), boxes=face, beyond=True).ok


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
    turned=st.booleans(),
)
def test_any_picture_gets_a_verdict(size: tuple[int, int], seed: int, density: float, turned: bool) -> None:
    pixels = np.random.default_rng(seed).random(size[::-1]) < density
    mask = Image.fromarray(pixels.astype(np.uint8) * 255)
    verdict = validate_mask(
        mask.transpose(Image.Transpose.ROTATE_90) if turned else mask, boxes=[Box(0, 0, 0.5, 0.5)]
    )
    assert verdict.ok == (not verdict.reasons)
