"""What a caption is about, and when two words mean the same label."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.masks.caption_subject import singular, subject_noun

CAPTIONS = [
    ("The image shows a red bicycle leaning against a brick wall.", "bicycle"),
    ("The image features a white cup of coffee on a saucer.", "cup"),
    ("In the image, there is a woman standing in front of a building.", "woman"),
    ("In the center of the image, a bright yellow taxi stands still.", "taxi"),
    ("This is a photo of two dogs playing in the park", "dogs"),
    ("The photo depicts a vintage motorcycle parked on the street", "motorcycle"),
    ("A young smiling woman in a blue dress", "woman"),
    ("The image captures a woman wearing glasses", "woman"),
    ("The image shows a tall building in London", "building"),
    ("The image is a portrait of an astronaut in an orange space suit", "astronaut"),
    ("The image depicts a double-decker bus driving down a city street", "bus"),
    ("This image showcases a sleek, modern chair", "chair"),
    ("The black and white photo shows a man", "man"),
    ("A black and white cat sitting on a sofa", "cat"),
    ("A pair of red sneakers", "sneakers"),
    ("**Image Description:** A red car", "car"),
    ("The image presents a high-angle view of a ceramic mug", "mug"),
    ("An astronaut smiling.", "astronaut"),
    ("The cat is orange", "cat"),
    ("the dog's collar", "collar"),
]


@pytest.mark.parametrize(("caption", "word"), CAPTIONS)
def test_the_main_noun_of_usual_captions(caption: str, word: str) -> None:
    assert subject_noun(caption) == word


@pytest.mark.parametrize("caption", ["", "   ", "The image", "Red", "…", "A photo of 7", "It is"])
def test_a_caption_without_a_noun_has_none(caption: str) -> None:
    assert subject_noun(caption) is None


@given(st.text(max_size=80))
def test_any_text_gives_a_word_or_none(caption: str) -> None:
    word = subject_noun(caption)
    assert word is None or (word and word == word.strip())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Buses", "bus"),
        ("dogs", "Dog"),
        ("Glasses", "glass"),
        ("boxes", "Box"),
        ("People", "person"),
        ("ties", "tie"),
        ("Cherries", "cherry"),
        ("Horses", "horse"),
        ("Faces", "face"),
        ("Sports  Cars", "sports car"),
        ("Potatoes", "potato"),
        ("WATCHES", "watch"),
    ],
)
def test_a_plural_has_the_key_of_its_singular(one: str, other: str) -> None:
    assert singular(one) == singular(other)


@pytest.mark.parametrize(("one", "other"), [("Bus", "bu"), ("cat", "car"), ("Tennis", "tenni"), ("", "s")])
def test_different_words_have_different_keys(one: str, other: str) -> None:
    assert singular(one) != singular(other)
