"""The stand-in's image analysis: subjects, faces, labels, colours and captions."""

import io
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import bg_pipeline
from bg_pipeline_local_aws.subject_detection import (
    Box,
    ImageAnalysis,
    analyze,
    describe,
    subject_mask,
)

PHOTOS = Path(bg_pipeline.__file__).parent / "demo_photos"


def packed(image: Image.Image, media: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    image.save(file, media, **options)
    return file.getvalue()


def studio_shot(
    shape: str, wall: str, *, size: tuple[int, int] = (640, 480)
) -> tuple[bytes, NDArray[np.bool_]]:
    """A JPEG of a rendered subject on a shaded wall with a soft shadow and noise, and the subject's mask."""
    width, height = size
    truth = Image.new("L", size)
    pen = ImageDraw.Draw(truth)
    if shape == "bottle":
        pen.rounded_rectangle((270, 150, 370, 420), 30, fill=255)
        pen.rectangle((300, 70, 340, 160), fill=255)
    elif shape == "shoe":
        pen.polygon(
            [(150, 350), (170, 230), (260, 220), (330, 290), (480, 320), (500, 370), (150, 380)], fill=255
        )
    else:
        pen.ellipse((180, 110, 460, 390), fill=255)
    random = np.random.default_rng(7)
    slope = np.linspace(0.92, 1.04, height)[:, None, None]
    backdrop = np.asarray(Image.new("RGB", size, wall), float) * slope
    shadow = Image.new("L", size)
    shadow.paste(truth.resize((width, height // 8)), (0, height * 3 // 4))
    backdrop *= 1 - 0.25 * np.asarray(shadow.filter(ImageFilter.GaussianBlur(14)), float)[..., None] / 255
    skin = np.asarray(Image.new("RGB", size, "#8c3220"), float)
    skin *= np.linspace(0.7, 1.3, width)[None, :, None]
    inside = np.asarray(truth, float)[..., None] / 255
    shot = skin * inside + backdrop * (1 - inside) + random.normal(0, 3, (height, width, 3))
    picture = Image.fromarray(np.clip(shot, 0, 255).astype(np.uint8))
    return packed(picture, "JPEG", quality=85), np.asarray(truth) > 127


@cache
def analysis_of(name: str) -> ImageAnalysis:
    """The analysis of a demo photo."""
    return analyze((PHOTOS / name).read_bytes())


def pixels(mask: bytes | None) -> NDArray[np.uint8]:
    """A mask's values."""
    assert mask is not None
    return np.asarray(Image.open(io.BytesIO(mask)))


@pytest.mark.parametrize("wall", ["#f4f4f4", "#b8c0c8", "#40464e", "#c9d8c0"])
@pytest.mark.parametrize("shape", ["bottle", "shoe", "ball"])
def test_a_studio_shot_is_cut_out_to_95_percent(shape: str, wall: str) -> None:
    data, truth = studio_shot(shape, wall)

    found = pixels(subject_mask(data, None)) > 127

    assert (found & truth).sum() / (found | truth).sum() >= 0.95


def test_the_mask_has_the_pictures_size_and_is_grey_only_near_its_edge() -> None:
    data, truth = studio_shot("ball", "#f4f4f4")

    mask = pixels(subject_mask(data, "Ball"))

    assert mask.shape == truth.shape
    assert ((mask > 0) & (mask < 255)).mean() < 0.03
    assert mask[250, 320] == 255
    assert mask[20, 20] == 0


def test_the_analysis_is_deterministic() -> None:
    data, _ = studio_shot("shoe", "#b8c0c8")

    assert analyze(data) == analyze(data)
    assert subject_mask(data, "Shoe") == subject_mask(data, "boot, Laces")


@pytest.mark.parametrize(
    "words", ["Bus", "Bus, Person", "dog", "a red bicycle", "Chaise longue", "犬", "Cups"]
)
def test_a_word_for_an_object_selects_the_salient_subject(words: str) -> None:
    assert subject_mask(studio_shot("ball", "#f4f4f4")[0], words) is not None


@pytest.mark.parametrize(
    "words", ["unicorn", "Sky", "the sky and clouds", "Unicorns, dragon", "nothing", "", "  "]
)
def test_words_for_scenery_or_fantasy_match_nothing(words: str) -> None:
    assert subject_mask(studio_shot("ball", "#f4f4f4")[0], words) is None


def test_an_even_picture_has_no_subject() -> None:
    even = packed(Image.new("RGB", (300, 200), "#6080a0"))

    analysis = analyze(even)

    assert analysis.subject is None
    assert not any(label.boxes for label in analysis.labels)
    assert subject_mask(even, None) is None
    assert "without a clear subject" in describe(analysis)


def test_a_box_selects_one_of_two_subjects() -> None:
    image = Image.new("RGB", (600, 300), "#f0f0f0")
    pen = ImageDraw.Draw(image)
    pen.ellipse((60, 80, 220, 240), fill="#a02020")
    pen.rectangle((380, 90, 520, 230), fill="#2040a0")

    mask = pixels(subject_mask(packed(image), None, Box(0.6, 0.25, 0.3, 0.55)))

    assert mask[160, 450] == 255
    assert mask[160, 140] == 0


def test_a_portrait_has_a_person_with_a_face_and_landmarks_in_it() -> None:
    analysis = analysis_of("astronaut.jpg")
    labels = {label.name: label for label in analysis.labels}
    face = analysis.faces[0]

    assert len(analysis.faces) == 1
    assert labels["Person"].boxes
    assert labels["Face"].parents == ("Head", "Person")
    assert {point.name for point in face.landmarks} == {
        "eyeLeft",
        "eyeRight",
        "mouthLeft",
        "mouthRight",
        "nose",
    }
    assert all(face.box.left < point.x < face.box.right for point in face.landmarks)
    assert describe(analysis).startswith("The image shows a person ")


@pytest.mark.parametrize("name", ["dog.png", "coffee.jpg", "bus.png", "racehorse.jpg"])
def test_no_person_is_detected_without_a_face(name: str) -> None:
    analysis = analysis_of(name)

    assert not analysis.faces
    assert [label.name for label in analysis.labels if label.boxes] == ["Object"]
    assert " object" in describe(analysis)


@pytest.mark.parametrize("path", sorted(PHOTOS.glob("*.[jp][pn]g")), ids=lambda path: path.name)
def test_every_demo_photo_has_a_clear_subject(path: Path) -> None:
    analysis = analysis_of(path.name)
    mask = pixels(subject_mask(path.read_bytes(), None)) > 127

    assert analysis.confidence > 0.7
    assert analysis.subject is not None
    assert 0.1 < mask.mean() < 0.7


def test_a_rotated_photo_is_analyzed_upright() -> None:
    analysis = analysis_of("IMG_4312.jpg")

    with Image.open(PHOTOS / "IMG_4312.jpg") as stored:
        assert stored.size == (analysis.height, analysis.width)
    assert (analysis.width, analysis.height) == (640, 962)


def test_captions_differ_with_the_picture() -> None:
    captions = {describe(analysis_of(path.name)) for path in PHOTOS.glob("*.[jp][pn]g")}

    assert len(captions) == 6
    assert all(text.count(".") >= 3 for text in captions)


def test_colours_are_named_and_their_shares_add_up_to_one() -> None:
    image = Image.new("RGB", (300, 100), "#2858c0")
    image.paste("#fafafa", (200, 0, 300, 100))

    colours = analyze(packed(image)).colours

    assert [colour.name for colour in colours[:2]] == ["blue", "white"]
    assert colours[0].share == pytest.approx(2 / 3, abs=0.05)
    assert sum(colour.share for colour in colours) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_pixel_mode_is_read(mode: str) -> None:
    image = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(image).ellipse((30, 20, 90, 70), fill="black")
    data = packed(image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode), "TIFF")

    assert analyze(data).width == 120


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["white", "black", "#8090a0"]))
@settings(max_examples=25)
def test_tiny_pictures_have_no_subject(width: int, height: int, colour: str) -> None:
    data = packed(Image.new("RGB", (width, height), colour))

    assert analyze(data).subject is None
    assert subject_mask(data, None) is None


@pytest.mark.parametrize("data", [b"", b"not a picture", (PHOTOS / "coffee.jpg").read_bytes()[:3000]])
def test_unreadable_data_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable image"):
        analyze(data)


def test_an_analysis_can_be_pickled() -> None:
    analysis = analysis_of("astronaut.jpg")

    assert pickle.loads(pickle.dumps(analysis)) == analysis  # noqa: S301
