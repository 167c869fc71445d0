"""Analyses pictures without a trained model: colours, lightness, frontal faces and one salient subject.

It does not recognize classes of objects.
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

from bg_pipeline_local_aws import segmentation
from bg_pipeline_local_aws.segmentation import Box, Pixels, Plane, SubjectMask

__all__ = [
    "Box",
    "DetectedLabel",
    "DominantColour",
    "Face",
    "ImageAnalysis",
    "Landmark",
    "analyze",
    "describe",
    "subject_mask",
]

FACE_DETECTION_SIDE = 480


@dataclass(frozen=True, slots=True)
class DominantColour:
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
    """A frontal face: its box, a confidence of 0–100, and Rekognition's five default landmarks."""

    box: Box
    confidence: float
    landmarks: tuple[Landmark, ...]


@dataclass(frozen=True, slots=True)
class DetectedLabel:
    """A label as Rekognition returns it: confidence 0–100, one box per instance (none for scenes), parent labels."""

    name: str
    confidence: float
    boxes: tuple[Box, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Result of `analyze`: size and boxes of the upright picture, lightness 0–1, the subject's confidence 0–1."""

    width: int
    height: int
    format: str
    lightness: float
    colours: tuple[DominantColour, ...]
    faces: tuple[Face, ...]
    subject: Box | None
    subject_colour: str | None
    labels: tuple[DetectedLabel, ...]
    confidence: float


def analyze(data: bytes) -> ImageAnalysis:
    """Everything the stand-in detects in an image file; the same bytes give the same result.

    ValueError if the data is not a readable image.
    """
    picture, file_format = read_bgr(data)
    height, width = picture.shape[:2]
    faces = _detect_faces(picture)
    subject = segmentation.find_subject(picture, [face.box for face in faces])
    labels = (*_subject_labels(faces, subject), *_scene_labels(picture))
    return ImageAnalysis(
        width=width,
        height=height,
        format=file_format,
        lightness=float(_lab(segmentation.downscale(picture, 64))[..., 0].mean()) / 100,
        colours=_dominant_colours(segmentation.downscale(picture, 64).reshape(-1, 3)),
        faces=faces,
        subject=subject.box if subject else None,
        subject_colour=_dominant_colours(_subject_pixels(picture, subject))[0].name if subject else None,
        labels=tuple(sorted(labels, key=lambda label: -label.confidence)),
        confidence=subject.confidence if subject else 0.0,
    )


def subject_mask(data: bytes, words: str | None, box: Box | None = None) -> bytes | None:
    """A mask PNG (mode L, the upright picture's size, 255 = subject) of the named subject; None if there is none.

    Only faces are recognized, not classes of objects. `PEOPLE_WORDS` select people with a visible face; words that
    are all in `SCENERY_WORDS` match nothing; any other word selects the salient subject. Without words the result is
    the salient subject, preferably people; with ``box``, the subject inside the box. ValueError if the data is not a
    readable image.
    """
    picture, _ = read_bgr(data)
    names = (
        None
        if words is None
        else {word.removesuffix("s") for word in re.findall(r"[^\W\d_]+", words.lower())}
    )
    if names is not None and not names - SCENERY_WORDS:
        return None
    people = names is None or names & PEOPLE_WORDS
    faces = [face.box for face in _detect_faces(picture)] if people else []
    subject = segmentation.find_subject(picture, faces, box)
    return encode_png(subject.mask) if subject else None


def read_bgr(data: bytes) -> tuple[Pixels, str]:
    """The upright picture as BGR pixels, composited on white, and the file's format in lower case.

    Colour profiles are ignored. ValueError if the data is not a readable image.
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


def encode_png(pixels: Pixels) -> bytes:
    """PNG bytes of L, BGR or BGRA pixels, compressed for speed."""
    return cv2.imencode(".png", pixels)[1].tobytes()


# --- faces ---


@cache
def _face_cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data/haarcascade_frontalface_alt2.xml"))


def _detect_faces(picture: Pixels) -> tuple[Face, ...]:
    """Frontal faces, largest first. A detection with few votes counts only if it has skin colours."""
    segmentation.make_deterministic()
    small = segmentation.downscale(picture, FACE_DETECTION_SIDE)
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    height, width = grey.shape
    least = max(24, min(height, width) // 14)
    found, votes = _face_cascade().detectMultiScale2(
        grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least)
    )
    faces = []
    for (left, top, wide, high), vote in zip(np.reshape(found, (-1, 4)).tolist(), votes, strict=True):
        centre = small[top + high // 5 : top + high * 9 // 10, left + wide // 4 : left + wide * 3 // 4]
        if vote > 10 or _skin_share(centre) > 0.6:
            box = Box(left / width, top / height, wide / width, high / height)
            faces.append(Face(box, min(99.9, 92 + vote / 4), _landmarks(box)))
    return tuple(sorted(faces, key=lambda face: -face.box.width * face.box.height))


def _skin_share(patch: Pixels) -> float:
    """The share of pixels within the chroma range of human skin (all shades)."""
    chroma = cv2.cvtColor(patch, cv2.COLOR_BGR2YCrCb)[..., 1:]
    return float(np.mean(((chroma > (135, 80)) & (chroma < (180, 135))).all(axis=2)))


def _landmarks(face: Box) -> tuple[Landmark, ...]:
    # Typical positions within the cascade's square; they are not measured.
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


def _subject_labels(faces: tuple[Face, ...], subject: SubjectMask | None) -> Iterator[DetectedLabel]:
    if faces:
        confidence = faces[0].confidence
        bodies = (
            (subject.box,)
            if subject and len(faces) == 1
            else tuple(_expand_box(face.box, 1, 0.35, 5) for face in faces)
        )
        heads = tuple(_expand_box(face.box, 0.15, 0.35, 0.15) for face in faces)
        yield DetectedLabel("Person", confidence, bodies, ())
        yield DetectedLabel("Face", confidence - 0.1, tuple(face.box for face in faces), ("Head", "Person"))
        yield DetectedLabel("Head", confidence - 0.2, heads, ("Person",))
    elif subject:
        yield DetectedLabel("Object", 100 * subject.confidence, (subject.box,), ())


def _expand_box(face: Box, beside: float, above: float, below: float) -> Box:
    """The face's box enlarged by multiples of its own size, clipped to the picture."""
    left, right = max(face.left - beside * face.width, 0), min(face.right + beside * face.width, 1)
    top, bottom = max(face.top - above * face.height, 0), min(face.bottom + below * face.height, 1)
    return Box(left, top, right - left, bottom - top)


def _scene_labels(picture: Pixels) -> Iterator[DetectedLabel]:
    """Scene labels, derived from the colours of the picture and of its upper third; they have no boxes."""
    hsv = cv2.cvtColor(segmentation.downscale(picture, 64), cv2.COLOR_BGR2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    blue = (hue > 90) & (hue < 130) & (saturation > 40) & (value > 90)
    sky = float(np.mean(blue[: max(1, len(hsv) // 3)]))
    green = float(np.mean((hue > 30) & (hue < 85) & (saturation > 50) & (value > 40)))
    night = float(np.mean(value < 70))
    if sky > 0.4:
        yield DetectedLabel("Sky", 58 + 40 * sky, (), ("Nature", "Outdoors"))
    if green > 0.35:
        yield DetectedLabel("Grass", 55 + 35 * green, (), ("Plant",))
    if night > 0.65:
        yield DetectedLabel("Night", 55 + 40 * night, (), ("Nature", "Outdoors"))
    if max(sky, green) > 0.35:
        yield DetectedLabel("Outdoors", 60 + 38 * max(sky, green), (), ())


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


def _subject_pixels(picture: Pixels, subject: SubjectMask) -> Pixels:
    """A sample of a few thousand of the subject's pixels, shape (pixels, 3)."""
    mask = segmentation.downscale(subject.mask, 96) > 200
    pixels = segmentation.downscale(picture, 96)[mask]
    return pixels if len(pixels) else segmentation.downscale(picture, 96).reshape(-1, 3)


def _dominant_colours(pixels: Pixels) -> tuple[DominantColour, ...]:
    """Up to six clusters of similar colours, largest first; ``pixels`` is BGR, shape (pixels, 3)."""
    segmentation.make_deterministic()
    lab = _lab(pixels[None])[0]
    count = 6
    if len(lab) < count:  # k-means needs at least as many points as clusters
        lab = np.tile(lab, (count, 1))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    _, members, centres = cv2.kmeans(lab, count, np.empty(0, np.int32), stop, 2, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(np.ravel(members).astype(np.int64), minlength=count) / len(lab)
    by_name: dict[str, DominantColour] = {}
    for index in np.argsort(-shares):
        nearest = int(np.linalg.norm(_named_lab() - centres[index], axis=1).argmin())
        name, share = list(_NAMED_COLOURS)[nearest], float(shares[index])
        if name in by_name:
            by_name[name] = DominantColour(name, by_name[name].hex, by_name[name].share + share)
        else:
            rgb = cv2.cvtColor(np.reshape(centres[index], (1, 1, 3)), cv2.COLOR_LAB2RGB)
            code = np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8).tobytes().hex()
            by_name[name] = DominantColour(name, f"#{code}", share)
    return tuple(sorted(by_name.values(), key=lambda colour: -colour.share))


# --- words ---

_PEOPLE = """
person people human child children boy girl baby kid adult man men woman women lady gentleman guy face head portrait
bride groom family crowd friend player worker officer model astronaut
"""
_SCENERY = """
nothing none unicorn dragon ghost mermaid fairy sky cloud sun sunset sunrise moon star night day weather rain fog
background backdrop foreground scenery scene landscape horizon outdoor indoor nature air light shadow
a an the of on in at by to with without and or not no my your its it
"""
PEOPLE_WORDS = frozenset(_PEOPLE.split())
"""Words (singular) that select people with a visible face."""

SCENERY_WORDS = frozenset(_SCENERY.split())
"""Words (singular) that never select a subject."""


# --- caption ---


def describe(analysis: ImageAnalysis) -> str:
    """A caption of a few sentences; the first names the subject.

    The others cover position and size of the subject, main colours, shape, lightness, and scenes if any.
    """
    colours = [colour.name for colour in analysis.colours[:3] if colour.share > 0.1]
    sentences = [f"The image shows {_describe_subject(analysis)}."]
    if analysis.subject:
        sentences.append(_describe_position(analysis.subject))
    if analysis.faces and analysis.subject_colour:
        sentences.append(f"Its main colour is {analysis.subject_colour}.")
    shape = (
        "square"
        if 0.95 < analysis.width / analysis.height < 1.05
        else "wide"
        if analysis.width > analysis.height
        else "tall"
    )
    lightness = _describe_lightness(analysis.lightness)
    sentences.append(
        f"It is a {shape} picture of {analysis.width}×{analysis.height} pixels, {lightness}, mostly "
        f"{_join_words(colours)}."
    )
    scenes = [label.name.lower() for label in analysis.labels if not label.boxes]
    if scenes:
        sentences.append(f"Its colours suggest {_join_words(scenes)}.")
    return " ".join(sentences)


def _describe_subject(analysis: ImageAnalysis) -> str:
    if len(analysis.faces) == 1:
        return "a person looking towards the camera"
    if analysis.faces:
        return f"{len(analysis.faces)} people looking towards the camera"
    if analysis.subject:
        article = "an" if str(analysis.subject_colour)[0] in "aeio" else "a"
        certainty = "" if analysis.confidence > 0.7 else ", though it does not stand out clearly"
        return f"{article} {analysis.subject_colour} object{certainty}"
    surface = analysis.colours[0].name
    return f"{'an' if surface[0] in 'aeio' else 'a'} {surface} surface without a clear subject"


def _describe_position(box: Box) -> str:
    x, y = box.left + box.width / 2, box.top + box.height / 2
    across = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    half = "upper half" if y < 0.36 else "lower half" if y > 0.64 else "frame"
    size = box.width * box.height
    extent = "fills most of it" if size > 0.6 else "takes up much of it" if size > 0.25 else "is small"
    return (
        f"The subject stands {across} of the {half} and {extent}: its box covers {size:.0%} of the picture."
    )


def _describe_lightness(lightness: float) -> str:
    return "dark" if lightness < 0.35 else "bright" if lightness > 0.7 else "evenly lit"


def _join_words(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
