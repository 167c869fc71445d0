"""What speaks against a mask: holes, translucency, lost strands, another subject."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bg_pipeline import demo_photos
from bg_pipeline.masks.local_cutout import cut_with_network, examine
from bg_pipeline.masks.second_opinion import DOUBTFUL, Opinion, Seen, second_opinion
from bg_pipeline_tests.hard_subjects import HardSubject, Kind
from bg_pipeline_tests.rendered import Ground, Rendered


def shot(kind: Kind, variant: int, ground: Ground) -> Rendered:
    return HardSubject(kind, variant, ground, 1).render()


def filled(mask: Image.Image) -> Image.Image:
    """The mask with its holes closed, as a network sees a fence or a wheel."""
    wide = mask.filter(ImageFilter.MaxFilter(3)).reduce(4)
    for step in (ImageFilter.MaxFilter, ImageFilter.MinFilter):
        for _ in range(8):
            wide = wide.filter(step(5))
    return wide.point(lambda level: 255 * (level > 20)).resize(mask.size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("variant", [0, 1, 3])
@pytest.mark.parametrize("ground", ["studio", "dark", "cloudy"])
@pytest.mark.parametrize("kind", ["product", "several"])
def test_a_right_mask_of_an_ordinary_subject_is_not_doubted(kind: Kind, ground: Ground, variant: int) -> None:
    seen = shot(kind, variant, ground)
    opinion = second_opinion(seen.photo, seen.matte, Seen(seen.matte, seen.matte))
    assert opinion.confidence >= DOUBTFUL, opinion.signs
    assert (opinion.doubt, opinion.where) == ("", None)


@pytest.mark.parametrize("ground", ["studio", "dark"])
@pytest.mark.parametrize("kind", ["fence", "spokes"])
def test_ground_that_shows_through_holes_is_seen_even_if_the_network_agrees(
    kind: Kind, ground: Ground
) -> None:
    seen = shot(kind, 2, ground)
    wrong = filled(seen.matte)
    opinion = second_opinion(seen.photo, wrong, Seen(wrong, wrong))
    assert opinion.signs["ground inside"] > 0.5
    assert opinion.confidence < DOUBTFUL
    assert "show through holes" in opinion.doubt


@pytest.mark.parametrize("kind", ["fence", "spokes"])
def test_the_right_mask_of_a_mesh_is_not_doubted_for_its_holes(kind: Kind) -> None:
    seen = shot(kind, 3, "studio")
    assert second_opinion(seen.photo, seen.matte).signs["ground inside"] < 0.2


@pytest.mark.parametrize(("variant", "ground"), [(0, "dark"), (1, "studio"), (2, "cloudy"), (3, "dark")])
def test_glass_that_was_cut_out_as_solid_is_seen(variant: int, ground: Ground) -> None:
    seen = shot("glass", variant, ground)
    solid = seen.matte.point(lambda level: 255 * (level > 20))
    opinion = second_opinion(seen.photo, solid, Seen(solid, solid))
    assert opinion.signs["translucent"] > 0.5
    assert opinion.confidence < DOUBTFUL


@pytest.mark.parametrize("ground", ["studio", "dark", "cloudy"])
def test_lost_hair_is_seen_and_shown(ground: Ground) -> None:
    seen = shot("hair", 3, ground)
    bald = seen.matte.filter(ImageFilter.MinFilter(15)).filter(ImageFilter.MaxFilter(15))
    opinion = second_opinion(seen.photo, bald, Seen(bald, bald))
    assert opinion.confidence < DOUBTFUL
    assert opinion.where is not None
    lost = np.asarray(seen.matte.resize(opinion.where.size)) > np.asarray(bald.resize(opinion.where.size))
    where = np.asarray(opinion.where) > 0
    assert where[lost].mean() > 3 * where[~lost].mean()


def test_a_mask_of_something_else_than_the_network_sees_loses_confidence() -> None:
    seen = shot("several", 1, "studio")
    half = seen.matte.copy()
    half.paste(0, (0, 0, half.width // 2, half.height))
    agreed = second_opinion(seen.photo, half, Seen(half, half)).confidence
    assert second_opinion(seen.photo, half, Seen(seen.matte, half)).confidence < agreed - 0.2
    assert second_opinion(seen.photo, half, Seen(half, seen.matte)).confidence < agreed - 0.2


def test_other_things_in_the_photo_are_no_background() -> None:
    """Of two things one was asked for."""
    seen = shot("several", 0, "studio")
    half = seen.matte.copy()
    half.paste(0, (0, 0, half.width // 2, half.height))
    opinion = second_opinion(seen.photo, half, Seen(half, half, seen.matte))
    assert opinion.confidence >= DOUBTFUL


@pytest.mark.parametrize("photo", ["astronaut.jpg", "bus.png", "coffee.jpg", "dog.png", "IMG_4312.jpg"])
def test_the_networks_masks_of_real_photos_before_real_rooms_are_not_doubted(photo: str) -> None:
    path = Path(demo_photos.__path__[0]) / photo
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((900, 900))
    examined = examine(picture, cut_with_network(picture))
    assert (examined.doubt, examined.where) == ("", None), examined.confidence


def test_without_a_network_the_photo_alone_speaks() -> None:
    seen = shot("fence", 2, "studio")
    assert second_opinion(seen.photo, filled(seen.matte)).confidence < DOUBTFUL


@pytest.mark.parametrize("level", [0, 255])
def test_a_mask_that_keeps_nothing_or_everything_is_certainly_wrong(level: int) -> None:
    seen = shot("product", 0, "studio")
    opinion = second_opinion(seen.photo, Image.new("L", seen.photo.size, level))
    assert opinion == Opinion(0.0, doubt="the mask keeps nothing, or everything")


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_any_photo_and_masks_give_a_confidence(sizes: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    photo, mask, network = (
        Image.fromarray(random.integers(0, 256, (*size[::-1], *depth), np.uint8))
        for size, depth in zip(sizes, ((3,), (), ()), strict=True)
    )
    opinion = second_opinion(photo, mask, Seen(network, network))
    assert 0 <= opinion.confidence <= 1
    assert (opinion.doubt == "") == (opinion.confidence >= DOUBTFUL)
