"""The stand-in's painting: what changes in a picture and what stays."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import bg_pipeline
from bg_pipeline_local_aws.backgrounds import paint_background
from bg_pipeline_local_aws.painting import cut_out, inpaint, outpaint
from bg_pipeline_local_aws.subject_detection import subject_mask

PHOTOS = Path(bg_pipeline.__file__).parent / "demo_photos"
SIZE = (360, 240)


def packed(image: Image.Image) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes) -> NDArray[np.int16]:
    """A picture's values, signed so that they can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(data)), np.int16)


@pytest.fixture(scope="module")
def photo() -> bytes:
    """Noise, so that any changed pixel is noticed."""
    random = np.random.default_rng(3)
    return packed(Image.fromarray(random.integers(0, 255, (*SIZE[::-1], 3), np.uint8)))


@pytest.fixture(scope="module")
def mask() -> bytes:
    """A disc in the lower right corner, the first choice for the note."""
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).ellipse((170, 60, 380, 260), fill=255)
    return packed(image)


def painted(
    photo: bytes,
    mask: bytes,
    prompt: str = "beach",
    seed: int = 1,
    *,
    precise: bool = True,
    note: bool = False,
) -> NDArray[np.int16]:
    """The outpainted picture's values."""
    return pixels(
        outpaint(photo, prompt=prompt, negative="", seed=seed, mask_png=mask, precise=precise, note=note)
    )


def difference(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """The mean difference of two pictures' values, 0–255."""
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("note", [True, False])
def test_precise_keeps_every_pixel_of_the_subject(photo: bytes, mask: bytes, note: bool) -> None:
    result = painted(photo, mask, note=note)
    kept = pixels(mask) == 255

    assert result.shape == pixels(photo).shape
    assert (result[kept] == pixels(photo)[kept]).all()
    assert difference(result[~kept], pixels(photo)[~kept]) > 20


def test_default_blends_the_edge_and_hardly_changes_the_middle(photo: bytes, mask: bytes) -> None:
    result, source = painted(photo, mask, precise=False), pixels(photo)
    kept = pixels(mask) == 255

    assert (result[kept] != source[kept]).any()
    assert np.abs(result[150:180, 250:300] - source[150:180, 250:300]).max() < 16


def test_the_same_prompt_and_seed_give_the_same_bytes(photo: bytes, mask: bytes) -> None:
    def outpainted(seed: int) -> bytes:
        return outpaint(
            photo, prompt="forest", negative="fog", seed=seed, mask_png=mask, precise=True, note=True
        )

    assert outpainted(9) == outpainted(9)
    assert outpainted(9) != outpainted(10)


PROMPTS = [
    "london city background", "city at night", "beach", "snowy mountains", "forest", "desert at sunset", "meadow",
    "galaxy", "underwater", "modern office", "white studio", "marble", "wooden planks", "concrete wall", "pink",
    "cyberpunk alley", "quantum dreams",
]  # fmt: skip


def test_different_prompts_look_different() -> None:
    scenes = [paint_background(prompt, "", 1, SIZE).astype(np.int16) for prompt in PROMPTS]

    for index, one in enumerate(scenes):
        for other in scenes[index + 1 :]:
            assert difference(one, other) > 8


@pytest.mark.parametrize("prompt", PROMPTS)
def test_another_seed_gives_another_layout(prompt: str) -> None:
    one, other = (paint_background(prompt, "", seed, SIZE).astype(np.int16) for seed in (1, 2))

    assert difference(one, other) > 3


def test_words_of_the_negative_prompt_are_ignored() -> None:
    plain, without = (paint_background("beach at night", negative, 1, SIZE) for negative in ("", "night"))

    assert without.mean() > plain.mean() + 40


@given(
    st.text(max_size=60),
    st.text(max_size=20),
    st.integers(0, 2**31 - 1),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
@settings(max_examples=30)
def test_any_prompt_and_size_is_painted(prompt: str, negative: str, seed: int, size: tuple[int, int]) -> None:
    scene = paint_background(prompt, negative, seed, size)

    assert scene.shape == (size[1], size[0], 3)
    assert scene.dtype == np.uint8


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("size", [(40, 300), (300, 40)])
def test_narrow_pictures_are_painted_too(prompt: str, size: tuple[int, int]) -> None:
    assert paint_background(prompt, "", 1, size).shape == (size[1], size[0], 3)


def test_the_note_can_be_switched_off_and_is_written_in_a_corner_away_from_the_subject(
    photo: bytes, mask: bytes
) -> None:
    with_note, without = painted(photo, mask, note=True), painted(photo, mask, note=False)
    rows, columns = np.nonzero((with_note != without).any(axis=2))

    assert len(rows) > 100
    assert rows.max() - rows.min() < 30
    assert (pixels(mask)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 0).all()


def test_the_note_is_written_inside_the_padding_that_callers_crop() -> None:
    inner = np.random.default_rng(1).integers(0, 255, (240, 300, 3), np.uint8)
    padded = packed(Image.fromarray(np.pad(inner, ((0, 0), (60, 60), (0, 0)), "edge")))
    empty_mask = packed(Image.new("L", (420, 240)))

    marks = painted(padded, empty_mask, note=True) != painted(padded, empty_mask, note=False)
    columns = np.nonzero(marks.any(axis=(0, 2)))[0]

    assert columns.min() >= 60
    assert columns.max() < 360


def test_no_rim_of_the_old_background_stays_around_the_subject() -> None:
    image = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(image).ellipse((100, 50, 300, 250), fill="#401010")
    data = packed(image.resize((397, 299), Image.Resampling.BICUBIC))
    mask = subject_mask(data, None)
    assert mask is not None

    result = painted(data, mask, prompt="black studio")

    assert (result.min(axis=2) > 130).mean() < 0.002


def test_inpainting_blends_by_the_masks_strength(photo: bytes) -> None:
    strength = Image.new("L", SIZE)
    strength.paste(255, (0, 0, 120, 240))
    strength.paste(128, (120, 0, 240, 240))

    result = pixels(inpaint(photo, prompt="sea", seed=1, strength_png=packed(strength), note=False))
    scene = paint_background("sea", "", 1, SIZE).astype(np.int16)
    source = pixels(photo)

    assert (result[:, 240:] == source[:, 240:]).all()
    assert (result[:, :120] == scene[:, :120]).all()
    assert np.abs(result[:, 120:240] - (source + scene)[:, 120:240] / 2).max() <= 2


def test_a_cut_out_has_the_mask_as_its_alpha(photo: bytes, mask: bytes) -> None:
    result = pixels(cut_out(photo, mask))

    assert result.shape == (240, 360, 4)
    assert (result[..., 3] == pixels(mask)).all()
    assert (result[..., :3] == pixels(photo)).all()


def test_a_mask_of_another_size_is_refused(photo: bytes) -> None:
    with pytest.raises(ValueError, match="the mask is 100×80 pixels, the picture 360×240"):
        cut_out(photo, packed(Image.new("L", (100, 80))))


def test_a_photo_from_a_phone_comes_back_upright() -> None:
    data = (PHOTOS / "IMG_4312.jpg").read_bytes()
    mask = subject_mask(data, "Person, Dog")
    assert mask is not None

    assert painted(data, mask).shape == (962, 640, 3)
