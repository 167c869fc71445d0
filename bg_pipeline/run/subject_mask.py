"""Which part of a photo is the subject: the ladder from what is free to what is paid, and when to give up.

A step that yields no usable mask leads to the next; when none is left the image is kept for a person, with
every step's reason. A cut-out that was refused, or failed, is no such step: the image is Blocked, or Failed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.errors import CallError, ImageError, NeedsReview, NotTried, SubjectNotFound
from bg_pipeline.imaging.parcels import StoredPhoto
from bg_pipeline.imaging.workers import Limit, PictureWorkers, run_on_file, shared_workers
from bg_pipeline.labelers.faces import glasses
from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.caption_subject import subject_noun
from bg_pipeline.masks.faces import portrait, with_glasses
from bg_pipeline.masks.label_boxes import chosen_boxes, parts, usable_labels
from bg_pipeline.masks.local_cutout import (
    cut_persons,
    cut_plain_background,
    cut_with_onnx,
    has_opencv,
)
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.masks.validation import validate_mask
from bg_pipeline.settings import Settings

_NO_BOXES: Sequence[Box] = ()


@dataclass(frozen=True)
class Subject:
    """What is kept of a photo: a mask, or words from which the model makes one itself."""

    mask: Mask | None = None
    words: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubjectHints:
    """What a ladder may ask about one photo; each answer is found or paid for when it is first wanted.

    ``cut_out`` is the subject as a model cuts it out, at the photo's own size; ``stored_cut_out`` the same where that
    was paid for before, else it raises `CallError`. What needs the photo's pixels is done by ``workers`` within
    ``limit``.
    """

    photo: Callable[[], StoredPhoto]
    labels: Callable[[], Mapping[str, Any]]
    caption: Callable[[], str]
    faces: Callable[[], Sequence[Box]]
    sam: Callable[[Sequence[Box]], Mask] | None
    cut_out: Callable[[], Mask]
    stored_cut_out: Callable[[], Mask]
    given: Callable[[str], bytes]
    workers: PictureWorkers = field(default_factory=shared_workers)
    limit: Callable[[], Limit] = Limit


def find_subject(
    asked: ImageSettings,
    eyes: SubjectHints,
    settings: Settings,
    *,
    takes_words: bool,
    not_words: Sequence[str] = (),
) -> Subject:
    """The photo's subject as ``asked``, from the first step whose mask stands up to `judge`.

    ``takes_words`` says that the model finds a subject from words by itself, ``not_words`` which of them it
    has not found. Raises `NeedsReview` with every step's reason when none is left.
    """
    reasons: list[str] = []
    for subject, boxes in _steps(asked, eyes, settings, takes_words, not_words, reasons):
        if subject.mask is None:
            return subject
        # Faces mean the people they belong to, whose mask lies mostly outside of them.
        verdict = validate_mask(subject.mask, boxes=boxes, beyond=asked.subject == "FACES")
        if verdict.ok:
            return subject
        reasons.append(f"{subject.mask.source}: {', '.join(verdict.reasons)}")
    raise NeedsReview(
        "NoSubject", "no usable mask of the subject: " + ("; ".join(reasons) or "nothing was found")
    )


def _steps(
    asked: ImageSettings,
    eyes: SubjectHints,
    settings: Settings,
    takes_words: bool,
    not_words: Sequence[str],
    reasons: list[str],
) -> Iterator[tuple[Subject, Sequence[Box]]]:
    if asked.subject == "MASK":
        mask = run_on_file(
            eyes.workers,
            read_user_mask,
            eyes.given(asked.mask_key or ""),
            eyes.photo().size,
            name=asked.mask_key or "the mask",
        )
        yield Subject(mask, notes=mask.notes), ()
        return
    if asked.subject == "FACES":
        yield from _faces(eyes, settings, reasons)
        return
    words, boxes = "", _NO_BOXES
    if asked.subject == "LABELS":
        words, boxes = _words(asked, eyes, not_words, captions=bool(settings.caption_models))
    for mask in _free(eyes, settings, reasons):
        chosen = parts(mask, boxes) if boxes else mask
        if chosen is not None:
            yield Subject(chosen), boxes
        else:
            reasons.append(f"{mask.source}: nothing of it lies where {words} was seen")
    if words and takes_words:
        yield Subject(words=words), ()
    if "cut-out" in settings.mask_sources:
        yield from _cut_out(eyes, boxes, words, reasons)


def _words(
    asked: ImageSettings, eyes: SubjectHints, not_words: Sequence[str], *, captions: bool
) -> tuple[str, Sequence[Box]]:
    """The subject's names and where they were seen: the person's own, else labels with boxes, else a noun."""
    document = eyes.labels()
    names = list(asked.labels) or usable_labels(document)
    words = ", ".join(names)
    if words and words not in not_words:
        return words, chosen_boxes(document, names)
    word = subject_noun(_caption(eyes)) if captions else ""
    return (word, ()) if word and word not in not_words else ("", ())


def _caption(eyes: SubjectHints) -> str:
    """The caption; empty where there is none: its noun is only one of the ways to a subject."""
    try:
        return eyes.caption()
    except (CallError, NotTried):
        return ""


def _free(eyes: SubjectHints, settings: Settings, reasons: list[str]) -> Iterator[Mask]:
    sources = settings.mask_sources
    photo = eyes.photo()
    if "alpha" in sources and photo.mode == "RGBA":
        yield Mask(photo.pixels.load().getchannel("A"), "alpha")
    if "studio" in sources and has_opencv():
        cut = eyes.workers.run(eyes.limit(), cut_plain_background, eyes.photo().pixels)
        if cut is not None:
            yield cut
    if "onnx" in sources and settings.onnx_model is not None:
        yield cut_with_onnx(photo.pixels.load(), settings.onnx_model)


def _cut_out(
    eyes: SubjectHints, boxes: Sequence[Box], words: str, reasons: list[str]
) -> Iterator[tuple[Subject, Sequence[Box]]]:
    try:
        cut = eyes.cut_out()
    except SubjectNotFound as error:
        reasons.append(f"cut-out: {error}")
        return
    if boxes:
        chosen = parts(cut, boxes)
        if chosen is None:
            reasons.append(f"cut-out: nothing of it lies where {words} was seen")
            return
        yield Subject(chosen), boxes
        return
    yield Subject(cut), ()


def _faces(
    eyes: SubjectHints, settings: Settings, reasons: list[str]
) -> Iterator[tuple[Subject, Sequence[Box]]]:
    faces = eyes.faces()
    if not faces:
        reasons.append("faces: no face was found")
        return
    if eyes.sam is not None:
        try:
            yield Subject(eyes.sam(faces)), faces
        except (CallError, ImageError) as error:
            reasons.append(f"SAM endpoint: {error}")
    for mask in _free(eyes, settings, reasons):
        chosen = parts(mask, faces, source="faces", whole=True)
        if chosen is not None:
            yield Subject(chosen), ()
    worn = [Box.read(box, "glasses") for box in glasses(eyes.labels()["Labels"])]
    if "persons" in settings.mask_sources and has_opencv():
        cut = eyes.workers.run(eyes.limit(), cut_persons, eyes.photo().pixels, faces)
        if cut is not None:
            yield Subject(with_glasses(cut, worn)), faces
    yield Subject(portrait(faces, eyes.photo().size, glasses=worn)), ()
