"""Finds the part of a photo that is kept: tries the mask sources in order, the free ones before the paid ones.

A source without a usable mask leads to the next; when none is left the image is NeedsReview with the reasons of all
sources. A cut-out call that the model's policy refused, or that failed, ends the search: the image is Blocked or
Failed.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.errors import CallError, ImageError, NeedsReview, NotTried, SettingsError, SubjectNotFound
from bg_pipeline.imaging.parcels import StoredPhoto, StoredPixels
from bg_pipeline.imaging.workers import Limit, PictureWorkers, header_of, run_on_file, shared_workers
from bg_pipeline.labelers.faces import glasses
from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.caption_subject import subject_noun
from bg_pipeline.masks.faces import portrait, with_glasses
from bg_pipeline.masks.label_boxes import chosen_boxes, parts, usable_labels
from bg_pipeline.masks.local_cutout import (
    cut_persons,
    cut_plain_background,
    cut_with_network,
    cut_with_onnx,
    examine,
    has_opencv,
)
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.masks.validation import (
    LEAST_OF_BOX,
    LEAST_OF_FACE,
    SURE_NETWORK,
    disagreement,
    keeps_nothing_or_everything,
    validate_mask,
)
from bg_pipeline.settings import Settings

NETWORK_SECONDS = 300.0
"""Additional seconds for a network, which each worker process loads in its first call."""

_NO_BOXES: Sequence[Box] = ()


@dataclass(frozen=True)
class Subject:
    """What is kept of a photo: a mask, or words from which the model makes one itself."""

    mask: Mask | None = None
    words: str = ""


class NetworkMasks:
    """The masks that networks made or examined of one photo, by a name, with their pixels in files. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._masks: dict[str, tuple[Mask, StoredPixels]] = {}

    def get(self, source: str, workers: PictureWorkers, make: Callable[[], Mask]) -> Mask:
        """The mask of the name ``source``; ``make`` is called if there is none yet."""
        with self._lock:
            if source not in self._masks:
                mask = make()
                picture = mask.picture
                pixels = StoredPixels(picture.mode, picture.size, workers.blob(picture.tobytes()))
                self._masks[source] = replace(mask, picture=Image.new("L", (1, 1))), pixels
                return mask
            facts, pixels = self._masks[source]
            return replace(facts, picture=pixels.load())

    def doubtful(self, cause: str) -> Mask | None:
        """The mask whose doubt is part of ``cause``; None if there is no such mask."""
        with self._lock:
            return next(
                (
                    replace(mask, picture=pixels.load())
                    for mask, pixels in self._masks.values()
                    if mask.doubt and mask.doubt in cause
                ),
                None,
            )


@dataclass(frozen=True)
class SubjectHints:
    """What the search may use of one photo; each callable computes or pays for its result on first use.

    ``cut_out`` is the subject as a model cuts it out; ``stored_cut_out`` the same if it was paid for before, else it
    raises `CallError`. ``note`` writes a sentence to the run's log, each sentence once. ``workers`` process the
    photo's pixels within ``limit``; ``network_masks`` keeps what networks found, for the next search.
    """

    photo: Callable[[], StoredPhoto]
    labels: Callable[[], Mapping[str, Any]]
    caption: Callable[[], str]
    faces: Callable[[], Sequence[Box]]
    sam: Callable[[Sequence[Box]], Mask] | None
    cut_out: Callable[[], Mask]
    stored_cut_out: Callable[[], Mask]
    given: Callable[[str], bytes]
    note: Callable[[str], None] = lambda sentence: None
    workers: PictureWorkers = field(default_factory=shared_workers)
    limit: Callable[[], Limit] = Limit
    network_masks: NetworkMasks = field(default_factory=NetworkMasks)


@dataclass(frozen=True)
class _Candidate:
    """A subject that one source found and how it is validated.

    ``compared`` says that the network gives a second opinion on the mask; of its mask the parts in ``part_boxes`` are
    compared, or all of it where there are none. ``examined`` is false for shapes that are no cut-out.
    """

    subject: Subject
    boxes: Sequence[Box] = _NO_BOXES
    least_of_box: float = LEAST_OF_BOX
    compared: bool = False
    part_boxes: Sequence[Box] = _NO_BOXES
    examined: bool = True


def find_subject(
    asked: ImageSettings,
    hints: SubjectHints,
    settings: Settings,
    *,
    takes_words: bool,
    not_words: Sequence[str] = (),
) -> Subject:
    """The photo's subject as ``asked``, from the first source whose mask passes `validate_mask`.

    A mask that the network contradicts has a ``doubt``: nothing may be paid for around it, and a result made with it
    is for review. ``takes_words`` says that the image model can find the subject from words, ``not_words`` which
    words it did not find. Raises `NeedsReview` with the reasons of all sources if none has a usable mask.
    """
    search = _Search(asked, hints, settings, takes_words=takes_words, not_words=not_words)
    return search.result()


def examined(
    mask: Mask, hints: SubjectHints, settings: Settings, boxes: Sequence[Box] = (), *, whole: bool = False
) -> Mask:
    """The mask with its edge redrawn and a second opinion on it (`examine`), once for each mask of a photo.

    Without ``network`` in BG_MASK_SOURCES there is none. Where it takes too long or too much memory the mask stays as
    it is, which is noted: it may have been paid for.
    """
    network = "network" in settings.mask_sources
    if not network:
        return mask
    photo, limit = hints.photo(), hints.limit()
    limit = replace(limit, seconds=limit.seconds + NETWORK_SECONDS)

    def make() -> Mask:
        return hints.workers.run(limit, examine, photo.pixels, mask, boxes, whole=whole, network=network)

    try:
        return hints.network_masks.get(
            f"examined {mask.digest()} {network} {mask.doubt}", hints.workers, make
        )
    except ImageError as error:
        hints.note(f"no second opinion on a mask ({mask.source}): {error}")
        return mask


class _Search:
    """One search; ``reasons`` collects why the sources tried so far have no usable mask."""

    def __init__(
        self,
        asked: ImageSettings,
        hints: SubjectHints,
        settings: Settings,
        *,
        takes_words: bool,
        not_words: Sequence[str],
    ) -> None:
        self._asked = asked
        self._hints = hints
        self._settings = settings
        self._takes_words = takes_words
        self._not_words = not_words
        self._reasons: list[str] = []
        self._network_mask: Mask | None = None
        self._network_tried = False

    def result(self) -> Subject:
        faces = self._asked.subject == "FACES"
        for candidate in self._candidates():
            mask = candidate.subject.mask
            if mask is None:
                return candidate.subject
            verdict = validate_mask(
                mask, boxes=candidate.boxes, beyond=faces, least_of_box=candidate.least_of_box
            )
            # A given mask is an order. Alpha that leaves nothing to replace is not meant as a mask.
            if mask.source == "given" or (mask.source == "alpha" and not keeps_nothing_or_everything(mask)):
                odd = tuple(
                    f"the {mask.source} mask is used as it is, though {why}" for why in verdict.reasons
                )
                return Subject(replace(mask, notes=(*mask.notes, *odd)))
            if verdict.ok:
                doubt = self._doubt(candidate, mask)
                mask = replace(mask, doubt=doubt) if doubt else mask
                if not candidate.examined:
                    return Subject(mask)
                faces = self._asked.subject == "FACES"
                return Subject(examined(mask, self._hints, self._settings, candidate.part_boxes, whole=faces))
            self._reasons.append(f"{mask.source}: {', '.join(verdict.reasons)}")
        raise NeedsReview(
            "NoSubject",
            "no usable mask of the subject: " + ("; ".join(self._reasons) or "nothing was found"),
        )

    def _candidates(self) -> Iterator[_Candidate]:
        asked, hints = self._asked, self._hints
        if asked.subject == "MASK":
            name = asked.mask_key or "the mask"
            file, size = hints.given(name), hints.photo().size
            try:
                header_of(hints.workers, file)
            except ImageError as error:
                raise error.of(name) from None
            mask = run_on_file(hints.workers, read_user_mask, file, size, name=name)
            # Its notes are about this small copy; the mask is read again at the photo's size.
            yield _Candidate(Subject(replace(mask, notes=())))
            return
        if asked.subject == "FACES":
            yield from self._of_faces()
            return
        words, boxes = self._words() if asked.subject == "LABELS" else ("", _NO_BOXES)
        for mask in self._free_masks():
            yield from self._parts_in(mask, boxes, words)
        if words and self._takes_words:
            yield _Candidate(Subject(words=words))
        if "cut-out" in self._settings.mask_sources:
            try:
                cut = hints.cut_out()
            except SubjectNotFound as error:
                self._reasons.append(f"cut-out: {error}")
                return
            yield from self._parts_in(cut, boxes, words)

    def _parts_in(self, mask: Mask, boxes: Sequence[Box], words: str) -> Iterator[_Candidate]:
        """The mask, or its parts in the boxes of the chosen labels, whose names are ``words``."""
        compared = mask.source in ("studio", "cut-out")
        if not boxes:
            yield _Candidate(Subject(mask), compared=compared)
            return
        chosen = parts(mask, boxes)
        if chosen is None:
            self._reasons.append(f"{mask.source}: no part of it lies where {words} is")
            return
        yield _Candidate(Subject(chosen), boxes, compared=compared, part_boxes=boxes)

    def _words(self) -> tuple[str, Sequence[Box]]:
        """The subject's names and boxes: the request's, else the labels that have boxes, else the caption's noun."""
        document = self._hints.labels()
        names = list(self._asked.labels) or usable_labels(document)
        words = ", ".join(names)
        if words and words not in self._not_words:
            return words, chosen_boxes(document, names)
        noun = subject_noun(self._caption()) if self._settings.caption_models else ""
        return (noun, ()) if noun and noun not in self._not_words else ("", ())

    def _caption(self) -> str:
        """The caption; empty if there is none: its noun is only one of several ways to the subject."""
        try:
            return self._hints.caption()
        except (CallError, NotTried):
            return ""

    def _free_masks(self) -> Iterator[Mask]:
        """The masks that cost nothing now, best first; a paid cut-out that is stored comes before the network."""
        hints, sources = self._hints, self._settings.mask_sources
        photo = hints.photo()
        if "alpha" in sources and photo.mode == "RGBA":
            yield Mask(photo.pixels.load().getchannel("A"), "alpha")
        if "studio" in sources and has_opencv():
            cut = hints.workers.run(hints.limit(), cut_plain_background, hints.photo().pixels)
            if cut is not None:
                yield cut
        if "onnx" in sources and self._settings.onnx_model is not None:
            own = self._network_mask_of("onnx", self._settings.onnx_model)
            if own is not None:
                yield own
        if "network" not in sources:
            return
        if "cut-out" in sources and self._asked.subject != "FACES":
            with suppress(CallError):
                yield hints.stored_cut_out()
        network = self._network()
        if network is not None:
            yield network

    def _network(self) -> Mask | None:
        """The network's mask of the photo; None if it is not sure of it or cannot be used."""
        if not self._network_tried:
            self._network_tried = True
            mask = self._network_mask_of("network")
            if mask is None:
                return None
            confidence = mask.confidence or 0.0
            if confidence >= SURE_NETWORK:
                self._network_mask = mask
            else:
                self._reasons.append(
                    f"network: its confidence is {confidence:.2f}, and {SURE_NETWORK} is needed"
                )
        return self._network_mask

    def _network_mask_of(self, source: str, path: Path | None = None) -> Mask | None:
        """The mask by the user's network at ``path``, else by the package's; None if it cannot be used.

        The user's network may take any amount of memory: its size does not depend on what people upload.
        """
        hints, pixels = self._hints, self._hints.photo().pixels
        limit = hints.limit()
        limit = replace(limit, seconds=limit.seconds + NETWORK_SECONDS)

        def make() -> Mask:
            if path is None:
                return hints.workers.run(limit, cut_with_network, pixels)
            return hints.workers.run(replace(limit, memory=0), cut_with_onnx, pixels, path)

        try:
            return hints.network_masks.get(source, hints.workers, make)
        except (SettingsError, ImageError) as error:
            self._reasons.append(f"{source}: {error}")
            hints.note(f"the mask source `{source}` is left out: {error}")
            return None

    def _doubt(self, candidate: _Candidate, mask: Mask) -> str:
        """Why the network contradicts the mask; empty where it agrees, is not sure, or is switched off."""
        if not candidate.compared or "network" not in self._settings.mask_sources:
            return ""
        network = self._network()
        if network is None:
            return ""
        faces = self._asked.subject == "FACES"
        if candidate.part_boxes:
            network = parts(network, candidate.part_boxes, whole=faces)
        if network is None or not validate_mask(network, boxes=candidate.boxes, beyond=faces).ok:
            return ""
        return disagreement(mask, network)

    def _of_faces(self) -> Iterator[_Candidate]:
        hints = self._hints
        faces = hints.faces()
        if not faces:
            self._reasons.append("faces: no face was found")
            return
        if hints.sam is not None:
            try:
                yield _Candidate(Subject(hints.sam(faces)), faces)
            except (CallError, ImageError) as error:
                self._reasons.append(f"SAM endpoint: {error}")
        for mask in self._free_masks():
            people = parts(mask, faces, source="faces", whole=True)
            if people is None:
                continue
            if mask.source == "network":
                # It may see one person of several as the subject, and must not lose the others.
                yield _Candidate(Subject(people), faces, LEAST_OF_FACE, part_boxes=faces)
            else:
                yield _Candidate(Subject(people), compared=mask.source == "studio", part_boxes=faces)
        worn = [Box.read(box, "glasses") for box in glasses(hints.labels()["Labels"])]
        if "persons" in self._settings.mask_sources and has_opencv():
            people = hints.workers.run(hints.limit(), cut_persons, hints.photo().pixels, faces)
            if people is not None:
                yield _Candidate(Subject(with_glasses(people, worn)), faces, compared=True, part_boxes=faces)
        shape = portrait(faces, hints.photo().size, glasses=worn)
        yield _Candidate(Subject(shape), examined=False)
