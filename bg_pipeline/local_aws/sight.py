"""The eyes of the stand-in: what can honestly be found in a picture without a trained model."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bg_pipeline.local_aws import subject as subjects
from bg_pipeline.local_aws.subject import Box, Pixels

__all__ = ["Box", "Colour", "Face", "Landmark", "SeenLabel", "Sight", "caption", "see", "subject_mask"]

FACE_SIDE = 480


@dataclass(frozen=True, slots=True)
class Colour:
    """A dominant colour: its name, `#rrggbb`, and its share (0–1) of the picture."""

    name: str
    hex: str
    share: float


@dataclass(frozen=True, slots=True)
class Landmark:
    """A point of a face under Rekognition's name (`eyeLeft` …), as shares (0–1) of the picture's sides."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Face:
    """A face seen from the front: its box, 0–100 how sure, and Rekognition's five default landmarks."""

    box: Box
    confidence: float
    landmarks: tuple[Landmark, ...]


@dataclass(frozen=True, slots=True)
class SeenLabel:
    """A label as Rekognition shapes it: confidence 0–100, a box per instance (none for scenes), parent labels."""

    name: str
    confidence: float
    boxes: tuple[Box, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen in a picture. Size and boxes are those of the upright picture; `confidence` is the subject's."""

    width: int
    height: int
    format: str
    colours: tuple[Colour, ...]
    lightness: float
    faces: tuple[Face, ...]
    subject: Box | None
    labels: tuple[SeenLabel, ...]
    confidence: float


def see(data: bytes) -> Sight:
    """Everything the stand-in can tell about an image file; ValueError when it is none."""
    picture, name = opened(data)
    height, width = picture.shape[:2]
    faces = _faces(picture)
    cut = subjects.find(picture, [face.box for face in faces])
    labels = (*_subject_labels(faces, cut), *_scene_labels(picture, faces))
    return Sight(
        width=width,
        height=height,
        format=name,
        colours=_colours(picture),
        lightness=float(cv2.cvtColor(subjects.reduced(picture, 64), cv2.COLOR_BGR2LAB)[..., 0].mean()) / 255,
        faces=faces,
        subject=cut.box if cut else None,
        labels=tuple(sorted(labels, key=lambda label: -label.confidence)),
        confidence=cut.confidence if cut else 0.0,
    )


def subject_mask(data: bytes, words: str | None, box: Box | None = None) -> bytes | None:
    """A PNG (mode L, the upright picture's size, 255 = subject) of what `words` name, or None when nothing matches.

    The stand-in knows faces, not classes: a word for people means the faces seen, any other word for a thing means
    what stands out, a word for scenery or for what does not exist means nothing. Without words it is what stands
    out; with `box`, what lies in it.
    """
    picture, _ = opened(data)
    if words is not None and not _names_a_thing(words):
        return None
    faces = _faces(picture)
    cut = subjects.find(picture, [face.box for face in faces], box)
    return png(cut.mask) if cut else None


def opened(data: bytes) -> tuple[Pixels, str]:
    """The upright picture as BGR pixels, transparent parts on white, and the file's format in lower case."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            name = (file.format or "").lower()
            image = ImageOps.exif_transpose(file)
    except OSError as error:
        raise ValueError(f"not a readable image: {error}") from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"), np.uint8)[..., ::-1].copy(), name


def png(pixels: Pixels) -> bytes:
    """PNG bytes of L, BGR or BGRA pixels, packed fast rather than small."""
    _, packed = cv2.imencode(".png", pixels)
    return packed.tobytes()


# --- faces -------------------------------------------------------------------------------------------------------


@cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml")


def _faces(picture: Pixels) -> tuple[Face, ...]:
    """Frontal faces, largest first. Dogs and cats that the cascade takes for people are told by their colours."""
    subjects.repeatable()
    small = subjects.reduced(picture, FACE_SIDE)
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    height, width = grey.shape
    least = max(24, min(height, width) // 14)
    found, votes = _cascade("frontalface_alt2").detectMultiScale2(
        grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least)
    )
    faces = []
    for (left, top, wide, high), vote in zip(found, votes, strict=True):
        centre = small[top + high // 5 : top + high * 9 // 10, left + wide // 4 : left + wide * 3 // 4]
        if vote > 10 or _skin(centre) > 0.6:
            box = Box(left / width, top / height, wide / width, high / height)
            faces.append(Face(box, float(min(99.9, 92 + vote / 4)), _landmarks(box)))
    return tuple(sorted(faces, key=lambda face: -face.box.width * face.box.height))


def _skin(patch: Pixels) -> float:
    """The share of pixels with the chroma that skin of every shade has."""
    chroma = cv2.cvtColor(patch, cv2.COLOR_BGR2YCrCb)[..., 1:]
    return float(np.mean(((chroma > (135, 80)) & (chroma < (180, 135))).all(axis=2)))


def _landmarks(face: Box) -> tuple[Landmark, ...]:
    # The proportions of a frontal face in the cascade's square.
    places = {
        "eyeLeft": (0.31, 0.39),
        "eyeRight": (0.69, 0.39),
        "mouthLeft": (0.36, 0.76),
        "mouthRight": (0.64, 0.76),
        "nose": (0.5, 0.58),
    }
    return tuple(
        Landmark(name, face.left + x * face.width, face.top + y * face.height) for name, (x, y) in places.items()
    )


# --- labels ------------------------------------------------------------------------------------------------------


def _subject_labels(faces: tuple[Face, ...], cut: subjects.Cut | None) -> Iterable[SeenLabel]:
    if faces:
        confidence = faces[0].confidence
        people = (cut.box,) if cut and len(faces) == 1 else tuple(_body(face.box) for face in faces)
        heads = tuple(_head(face.box) for face in faces)
        yield SeenLabel("Person", confidence, people, ())
        yield SeenLabel("Face", confidence - 0.1, tuple(face.box for face in faces), ("Head", "Person"))
        yield SeenLabel("Head", confidence - 0.2, heads, ("Person",))
    elif cut:
        yield SeenLabel("Object", 100 * cut.confidence, (cut.box,), ())


def _clipped(left: float, top: float, right: float, bottom: float) -> Box:
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, 1), min(bottom, 1)
    return Box(left, top, right - left, bottom - top)


def _head(face: Box) -> Box:
    return _clipped(face.left - 0.15 * face.width, face.top - 0.35 * face.height,
                    face.right + 0.15 * face.width, face.bottom + 0.15 * face.height)  # fmt: skip


def _body(face: Box) -> Box:
    return _clipped(face.left - face.width, face.top - 0.35 * face.height,
                    face.right + face.width, face.bottom + 5 * face.height)  # fmt: skip


def _scene_labels(picture: Pixels, faces: tuple[Face, ...]) -> Iterable[SeenLabel]:
    hsv = cv2.cvtColor(subjects.reduced(picture, 64), cv2.COLOR_BGR2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    top = slice(0, len(hsv) // 3)
    blue = (hue > 90) & (hue < 130) & (saturation > 50)
    sky = float(np.mean((blue & (value > 60))[top]))
    night = float(np.mean(value < 70))
    green = float(np.mean((hue > 30) & (hue < 85) & (saturation > 50) & (value > 40)))
    if sky > 0.5:
        yield SeenLabel("Sky", 60 + 39 * sky, (), ("Nature", "Outdoors"))
    if green > 0.35:
        yield SeenLabel("Vegetation", 60 + 39 * green, (), ("Nature", "Plant"))
    if night > 0.6:
        yield SeenLabel("Night", 55 + 40 * night, (), ("Nature", "Outdoors"))
    if max(sky, green) > 0.4:
        yield SeenLabel("Outdoors", 60 + 35 * max(sky, green), (), ())


# --- colours -----------------------------------------------------------------------------------------------------

_NAMES = {
    "black": "#101010", "dark grey": "#484848", "grey": "#808080", "light grey": "#c0c0c0", "white": "#fafafa",
    "red": "#c8201c", "dark red": "#701414", "orange": "#e8801c", "brown": "#7a4a24", "beige": "#dcc8a4",
    "yellow": "#ecd030", "olive": "#78782c", "green": "#3c9838", "dark green": "#1c5028", "teal": "#208080",
    "light blue": "#90c4e8", "blue": "#2858c0", "navy": "#182850", "purple": "#70389c", "pink": "#ec98b0",
}  # fmt: skip


@cache
def _named_lab() -> tuple[tuple[str, ...], NDArray[np.float32]]:
    rgb = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in _NAMES.values()], np.uint8)
    lab = cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return tuple(_NAMES), np.asarray(lab, np.float32)


def _colours(picture: Pixels) -> tuple[Colour, ...]:
    subjects.repeatable()
    small = subjects.reduced(picture, 64).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).reshape(-1, 3)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    count = min(6, len(lab))
    _, members, centres = cv2.kmeans(lab, count, np.empty((0, 0), np.int32), stop, 2, cv2.KMEANS_PP_CENTERS)
    names, known = _named_lab()
    shares = np.bincount(members.ravel(), minlength=count) / len(lab)
    found: dict[str, Colour] = {}
    for index in np.argsort(-shares):
        name = names[int(np.argmin(np.linalg.norm(known - centres[index], axis=1)))]
        rgb = cv2.cvtColor(centres[index][None, None], cv2.COLOR_LAB2RGB)[0, 0]
        code = "#" + "".join(f"{round(float(np.clip(part, 0, 1)) * 255):02x}" for part in rgb)
        share = float(shares[index])
        if name in found:
            share += found[name].share
            code = found[name].hex
        found[name] = Colour(name, code, share)
    return tuple(sorted(found.values(), key=lambda colour: -colour.share))


# --- words -------------------------------------------------------------------------------------------------------

_NOTHING = frozenset(
    "nothing none unicorn dragon ghost mermaid sky cloud clouds sun sunset sunrise moon night day weather background "
    "backdrop scenery scene landscape horizon outdoors indoors nature air light shadow".split()
)


def _names_a_thing(words: str) -> bool:
    named = re.findall(r"[^\W\d_]+", words.lower())
    return any(word not in _NOTHING and len(word) > 2 for word in named)


# --- caption -----------------------------------------------------------------------------------------------------


def caption(sight: Sight) -> str:
    """A few sentences about the picture that was looked at; the first one names its subject."""
    first = sight.colours[0].name if sight.colours else "grey"
    if sight.faces:
        count = len(sight.faces)
        noun = "a person" if count == 1 else f"{count} people"
    else:
        noun = "an object" if sight.subject else f"a {first} surface"
    shape = "square" if abs(sight.width / sight.height - 1) < 0.05 else (
        "landscape" if sight.width > sight.height else "portrait"
    )
    sentences = [f"The image shows {noun} in a {shape} picture of {sight.width} × {sight.height} pixels."]
    if sight.subject:
        share = round(100 * sight.subject.width * sight.subject.height)
        sentences.append(f"The subject lies {_place(sight.subject)} and its frame covers {share} % of the picture.")
    named = [colour.name for colour in sight.colours[:3] if colour.share > 0.08]
    sentences.append(f"The main colours are {', '.join(named)}.")
    return " ".join(sentences)


def _place(box: Box) -> str:
    x, y = box.left + box.width / 2, box.top + box.height / 2
    across = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    upright = " of the upper half" if y < 0.35 else " of the lower half" if y > 0.65 else ""
    return across + upright
