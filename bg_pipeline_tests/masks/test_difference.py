"""The subject found from the pixels that a model left unchanged."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bg_pipeline.masks import conventions
from bg_pipeline.masks.difference import mask_from_difference
from bg_pipeline_tests.masks.scenes import Scene, overlap, scene

SIZE = (900, 600)


@pytest.fixture(name="shot", scope="module")
def _shot() -> Scene:
    return scene("shoe", "busy", SIZE)


@pytest.fixture(name="painted", scope="module")
def _painted() -> Image.Image:
    """What a model paints."""
    return scene("bottle", "cloudy", SIZE, seed=5, colour=(20, 90, 200)).photo


def answer(shot: Scene, painted: Image.Image) -> Image.Image:
    return Image.composite(shot.photo, painted, conventions.harden(shot.mask))


def test_unchanged_pixels_are_the_subject(shot: Scene, painted: Image.Image) -> None:
    found = mask_from_difference(shot.photo, answer(shot, painted))
    assert found is not None
    assert found.source == "difference"
    assert overlap(found.picture, shot.mask) > 0.98


def test_the_noise_of_encoding_does_not_matter(shot: Scene, painted: Image.Image) -> None:
    with BytesIO() as file:
        answer(shot, painted).save(file, "JPEG", quality=92)
        encoded = Image.open(BytesIO(file.getvalue())).convert("RGB")
    found = mask_from_difference(shot.photo, encoded)
    assert found is not None
    assert overlap(found.picture, shot.mask) > 0.96


def test_what_the_model_painted_alike_by_chance_is_no_subject(shot: Scene, painted: Image.Image) -> None:
    answered = answer(shot, painted)
    for x in range(0, 900, 150):
        answered.paste(shot.photo.crop((x, 20, x + 12, 32)), (x, 20))
    found = mask_from_difference(shot.photo, answered)
    assert found is not None
    assert np.asarray(found.picture)[:50].max() == 0


def test_an_answer_that_changed_everything_or_nothing_shows_no_subject(
    shot: Scene, painted: Image.Image
) -> None:
    assert mask_from_difference(shot.photo, painted) is None
    assert mask_from_difference(shot.photo, shot.photo) is None


def test_an_answer_that_retouched_everything_a_little_is_ambiguous(shot: Scene) -> None:
    retouched = shot.photo.filter(ImageFilter.GaussianBlur(1)).point(
        [min(255, v + 9) for v in range(256)] * 3
    )
    assert mask_from_difference(shot.photo, retouched) is None


def test_scattered_likeness_is_ambiguous(shot: Scene, painted: Image.Image) -> None:
    answered = painted.copy()
    for x in range(0, 900, 100):
        for y in range(0, 600, 100):
            answered.paste(shot.photo.crop((x, y, x + 45, y + 45)), (x, y))
    assert mask_from_difference(shot.photo, answered) is None


def test_an_answer_of_another_size_is_compared_at_the_sent_size(shot: Scene, painted: Image.Image) -> None:
    larger = answer(shot, painted).resize((1000, 667), Image.Resampling.BICUBIC)
    found = mask_from_difference(shot.photo, larger)
    assert found is None or (found.picture.size == SIZE and overlap(found.picture, shot.mask) > 0.9)
