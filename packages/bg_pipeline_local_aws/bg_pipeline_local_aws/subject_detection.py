"""The eyes of the stand-in: what can honestly be found in a picture without a trained model.

Colours, lightness, faces seen from the front and one subject that stands out; no classes of things.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from bg_pipeline_local_aws import subject
from bg_pipeline_local_aws.subject import Box, Cut, Pixels, Plane

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
    """A label in Rekognition's terms: confidence 0–100, a box an instance (scenes have none), parent labels."""

    name: str
    confidence: float
    boxes: tuple[Box, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen. Size and boxes are the upright picture's; lightness is 0–1; confidence is the subject's, 0–1."""

    width: int
    height: int
    format: str
    lightness: float
    colours: tuple[Colour, ...]
    faces: tuple[Face, ...]
    subject: Box | None
    subject_colour: str | None
    labels: tuple[SeenLabel, ...]
    confidence: float


def see(data: bytes) -> Sight:
    """Everything the stand-in can tell about an image file; the same bytes give the same answer.

    ValueError when the data is not a readable image.
    """
    picture, file_format = opened(data)
    height, width = picture.shape[:2]
    faces = _faces(picture)
    cut = subject.find(picture, [face.box for face in faces])
    labels = (*_subject_labels(faces, cut), *_scene_labels(picture))
    return Sight(
        width=width,
        height=height,
        format=file_format,
        lightness=float(_lab(subject.reduced(picture, 64))[..., 0].mean()) / 100,
        colours=_colours(subject.reduced(picture, 64).reshape(-1, 3)),
        faces=faces,
        subject=cut.box if cut else None,
        subject_colour=_colours(_seen_through(picture, cut))[0].name if cut else None,
        labels=tuple(sorted(labels, key=lambda label: -label.confidence)),
        confidence=cut.confidence if cut else 0.0,
    )


def subject_mask(data: bytes, words: str | None, box: Box | None = None) -> bytes | None:
    """A PNG (mode L, the upright picture's size, 255 = subject) of what the words name; None if they match nothing.

    The stand-in knows faces, not classes: a word for people means those whose faces it sees, a word for any other
    thing means what stands out, and words for scenery or for what does not exist (`NOTHING`) mean nothing. Without
    words it is what stands out, people first; with `box`, what lies in it. ValueError when the data is no image.
    """
    picture, _ = opened(data)
    named = (
        None
        if words is None
        else {word.removesuffix("s") for word in re.findall(r"[^\W\d_]+", words.lower())}
    )
    if named is not None and not named - NOTHING:
        return None
    people = named is None or named & PEOPLE
    faces = [face.box for face in _faces(picture)] if people else []
    cut = subject.find(picture, faces, box)
    return png(cut.mask) if cut else None


def opened(data: bytes) -> tuple[Pixels, str]:
    """The upright picture as BGR pixels, transparent parts on white, and the file's format in lower case.

    ValueError when the data is not a readable image. Colour profiles are ignored.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            file_format = (file.format or "").lower()
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            pixels = np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from error
    return np.ascontiguousarray(pixels[..., ::-1]), file_format


def png(pixels: Pixels) -> bytes:
    """PNG bytes of L, BGR or BGRA pixels, packed fast rather than small."""
    return cv2.imencode(".png", pixels)[1].tobytes()


# --- faces ---


@cache
def _face_cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data/haarcascade_frontalface_alt2.xml"))


def _faces(picture: Pixels) -> tuple[Face, ...]:
    """Frontal faces, largest first. What few windows agree on counts only if it has the colours of skin."""
    subject.repeatable()
    small = subject.reduced(picture, FACE_SIDE)
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    height, width = grey.shape
    least = max(24, min(height, width) // 14)
    found, votes = _face_cascade().detectMultiScale2(
        grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least)
    )
    faces = []
    for (left, top, wide, high), vote in zip(np.reshape(found, (-1, 4)).tolist(), votes, strict=True):
        centre = small[top + high // 5 : top + high * 9 // 10, left + wide // 4 : left + wide * 3 // 4]
        if vote > 10 or _skin(centre) > 0.6:
            box = Box(left / width, top / height, wide / width, high / height)
            faces.append(Face(box, min(99.9, 92 + vote / 4), _landmarks(box)))
    return tuple(sorted(faces, key=lambda face: -face.box.width * face.box.height))


def _skin(patch: Pixels) -> float:
    """The share of pixels with the chroma that skin of every shade has."""
    chroma = cv2.cvtColor(patch, cv2.COLOR_BGR2YCrCb)[..., 1:]
    return float(np.mean(((chroma > (135, 80)) & (chroma < (180, 135))).all(axis=2)))


def _landmarks(face: Box) -> tuple[Landmark, ...]:
    # Usual places in the cascade's square; they are not measured.
    places = (
        ("eyeLeft", 0.31, 0.39),
        ("eyeRight", 0.69, 0.39),
        ("mouthLeft", 0.36, 0.76),
        ("mouthRight", 0.64, 0.76),
        ("nose", 0.5, 0.58),
    )
    return tuple(
        Landmark(name, face.left + x * face.width, face.top + y * face.height) for name, x, y in places
    )


# --- labels ---


def _subject_labels(faces: tuple[Face, ...], cut: Cut | None) -> Iterator[SeenLabel]:
    if faces:
        sure = faces[0].confidence
        bodies = (
            (cut.box,) if cut and len(faces) == 1 else tuple(_around(face.box, 1, 0.35, 5) for face in faces)
        )
        heads = tuple(_around(face.box, 0.15, 0.35, 0.15) for face in faces)
        yield SeenLabel("Person", sure, bodies, ())
        yield SeenLabel("Face", sure - 0.1, tuple(face.box for face in faces), ("Head", "Person"))
        yield SeenLabel("Head", sure - 0.2, heads, ("Person",))
    elif cut:
        yield SeenLabel("Object", 100 * cut.confidence, (cut.box,), ())


def _around(face: Box, beside: float, above: float, below: float) -> Box:
    """The face's box widened by multiples of its own size, within the picture."""
    left, right = max(face.left - beside * face.width, 0), min(face.right + beside * face.width, 1)
    top, bottom = max(face.top - above * face.height, 0), min(face.bottom + below * face.height, 1)
    return Box(left, top, right - left, bottom - top)


def _scene_labels(picture: Pixels) -> Iterator[SeenLabel]:
    """Scenes by the colours of the whole and of the upper third; they have no boxes."""
    hsv = cv2.cvtColor(subject.reduced(picture, 64), cv2.COLOR_BGR2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    blue = (hue > 90) & (hue < 130) & (saturation > 40) & (value > 90)
    sky = float(np.mean(blue[: max(1, len(hsv) // 3)]))
    green = float(np.mean((hue > 30) & (hue < 85) & (saturation > 50) & (value > 40)))
    night = float(np.mean(value < 70))
    if sky > 0.4:
        yield SeenLabel("Sky", 58 + 40 * sky, (), ("Nature", "Outdoors"))
    if green > 0.35:
        yield SeenLabel("Grass", 55 + 35 * green, (), ("Plant",))
    if night > 0.65:
        yield SeenLabel("Night", 55 + 40 * night, (), ("Nature", "Outdoors"))
    if max(sky, green) > 0.35:
        yield SeenLabel("Outdoors", 60 + 38 * max(sky, green), (), ())


# --- colours ---

_NAMED_COLOURS = {
    "black": "#101010", "dark grey": "#484848", "grey": "#808080", "light grey": "#c0c0c0", "white": "#fafafa",
    "red": "#c8201c", "dark red": "#701414", "orange": "#e8801c", "brown": "#7a4a24", "beige": "#dcc8a4",
    "yellow": "#ecd030", "olive": "#78782c", "green": "#3c9838", "dark green": "#1c5028", "teal": "#208080",
    "light blue": "#90c4e8", "blue": "#2858c0", "navy": "#182850", "purple": "#70389c", "pink": "#ec98b0",
}  # fmt: skip


def _lab(pixels: Pixels) -> Plane:
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_BGR2LAB), np.float32)


@cache
def _named_lab() -> Plane:
    codes = [bytes.fromhex(code[1:])[::-1] for code in _NAMED_COLOURS.values()]
    return _lab(np.frombuffer(b"".join(codes), np.uint8).reshape(1, -1, 3)).reshape(-1, 3)


def _seen_through(picture: Pixels, cut: Cut) -> Pixels:
    """The subject's pixels, a few thousand of them, one a row."""
    mask = subject.reduced(cut.mask, 96) > 200
    pixels = subject.reduced(picture, 96)[mask]
    return pixels if len(pixels) else subject.reduced(picture, 96).reshape(-1, 3)


def _colours(pixels: Pixels) -> tuple[Colour, ...]:
    """Up to six groups of like colours, largest first; `pixels` is BGR, one a row."""
    subject.repeatable()
    lab = _lab(pixels[None])[0]
    count = 6
    if len(lab) < count:  # fewer points than groups are refused
        lab = np.tile(lab, (count, 1))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    _, members, centres = cv2.kmeans(lab, count, np.empty(0, np.int32), stop, 2, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(np.ravel(members).astype(np.int64), minlength=count) / len(lab)
    found: dict[str, Colour] = {}
    for index in np.argsort(-shares):
        nearest = int(np.linalg.norm(_named_lab() - centres[index], axis=1).argmin())
        name, share = list(_NAMED_COLOURS)[nearest], float(shares[index])
        if name in found:
            found[name] = Colour(name, found[name].hex, found[name].share + share)
        else:
            rgb = cv2.cvtColor(np.reshape(centres[index], (1, 1, 3)), cv2.COLOR_LAB2RGB)
            code = np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8).tobytes().hex()
            found[name] = Colour(name, f"#{code}", share)
    return tuple(sorted(found.values(), key=lambda colour: -colour.share))


# --- words ---

_PEOPLE = """
person people human child children boy girl baby kid adult man men woman women lady gentleman guy face head portrait
bride groom family crowd friend player worker officer model astronaut
"""
_NOTHING = """
nothing none unicorn dragon ghost mermaid fairy sky cloud sun sunset sunrise moon star night day weather rain fog
background backdrop foreground scenery scene landscape horizon outdoor indoor nature air light shadow
a an the of on in at by to with without and or not no my your its it
"""
PEOPLE = frozenset(_PEOPLE.split())
"""Words, without a plural's s, that mean the people whose faces are seen."""

NOTHING = frozenset(_NOTHING.split())
"""Words, without a plural's s, that match nothing seen."""


# --- caption ---


def caption(sight: Sight) -> str:
    """A few sentences about the picture that was looked at; the first one names its subject.

    They tell its shape, the subject's place and size, the colours, how light it is, and faces and scenes if any.
    """
    colours = [colour.name for colour in sight.colours[:3] if colour.share > 0.1]
    sentences = [f"The image shows {_subject_in_words(sight)}."]
    if sight.subject:
        sentences.append(_place_in_words(sight.subject))
    if sight.faces and sight.subject_colour:
        sentences.append(f"Its main colour is {sight.subject_colour}.")
    shape = (
        "square"
        if 0.95 < sight.width / sight.height < 1.05
        else "wide"
        if sight.width > sight.height
        else "tall"
    )
    sentences.append(
        f"It is a {shape} picture of {sight.width}×{sight.height} pixels, {_tone(sight.lightness)}, mostly "
        f"{_listed(colours)}."
    )
    scenes = [label.name.lower() for label in sight.labels if not label.boxes]
    if scenes:
        sentences.append(f"Its colours suggest {_listed(scenes)}.")
    return " ".join(sentences)


def _subject_in_words(sight: Sight) -> str:
    if len(sight.faces) == 1:
        return "a person looking towards the camera"
    if sight.faces:
        return f"{len(sight.faces)} people looking towards the camera"
    if sight.subject:
        article = "an" if str(sight.subject_colour)[0] in "aeio" else "a"
        certainty = "" if sight.confidence > 0.7 else ", though it does not stand out clearly"
        return f"{article} {sight.subject_colour} object{certainty}"
    surface = sight.colours[0].name
    return f"{'an' if surface[0] in 'aeio' else 'a'} {surface} surface without a clear subject"


def _place_in_words(box: Box) -> str:
    x, y = box.left + box.width / 2, box.top + box.height / 2
    across = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    half = "upper half" if y < 0.36 else "lower half" if y > 0.64 else "frame"
    size = box.width * box.height
    extent = "fills most of it" if size > 0.6 else "takes up much of it" if size > 0.25 else "is small"
    return (
        f"The subject stands {across} of the {half} and {extent}: its box covers {size:.0%} of the picture."
    )


def _tone(lightness: float) -> str:
    return "dark" if lightness < 0.35 else "bright" if lightness > 0.7 else "evenly lit"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
