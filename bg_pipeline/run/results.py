"""From a model's picture to stored results: original pixels put back, measured, written, and read back once."""

import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image, ImageFilter

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.file_names import file_name, result_name
from bg_pipeline.domain.requests import ImageSettings, Rendition
from bg_pipeline.errors import ImageError, NotDelivered
from bg_pipeline.imaging import (
    Fidelity,
    Photo,
    composite,
    cut_out,
    measure,
    open_photo,
    read_header,
    restore_subject,
)
from bg_pipeline.imaging.fidelity import MAX_EDGE_HALO, failed_background_checks, failed_checks
from bg_pipeline.masks import FROM_USER, Mask
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.masks.refine import enlarge
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.masks.validation import validate_mask
from bg_pipeline.run.batch_locations import BatchLocations
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.generation import GeneratedPicture
from bg_pipeline.run.renditions import render
from bg_pipeline.run.source_image import MAX_STORED_DECODES, SourceImage, read_source
from bg_pipeline.state import thumbnails
from bg_pipeline.state.answers import Answer
from bg_pipeline.state.leased_writes import LeasedWriter

VERSION = 1
"""Raised when the same answer would be finished into other bytes, so that results are made anew, without a call."""

REQUEST_METADATA = "request"
"""The metadata of a stored result that has the fingerprint of its request, by which a later run knows it again."""

BLEND = 4.0
"""How much wider the edge is in Mode DEFAULT, which may blend, than in PRECISE."""

AI_NOTE = "Background replaced with generative AI; the subject is a photograph."
CUT_NOTE = "Background removed; the subject is a photograph."

SUBJECT_NOT_RESTORED = (
    "the model found the subject from words and nothing tells where it is, so the photo's own pixels "
    "were not put back: compare the subject with the source"
)

MAYBE_BILLED = "MaybeBilled: an earlier call for it did not answer and may have been billed as well"


MASK_SIDE = 2048
"""A stored mask is at most so large: as a PNG of 12 megapixels it would take as long as the result itself."""


MASK_TIGHTENING = (1, 2, 3)
"""Pixels, of a copy with a longer side of 1,024, by which a mask is drawn tighter to be rid of a halo."""


@dataclass(frozen=True)
class StoredResult:
    """A stored result; ``reasons`` says what in it did not pass, and is empty where all did.

    ``repaint`` is set where another seed may do better; ``subject_changed`` is None where it was not measured;
    ``notes`` tell what is no fault of the result. ``key`` is empty where it was not stored, because an earlier result
    of the same wish passed.
    """

    name: str
    key: str
    etag: str
    reasons: tuple[str, ...] = ()
    repaint: bool = False
    model: str = ""
    region: str = ""
    seed: int | None = None
    cost_usd: float | None = 0.0
    subject_changed: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PendingResult:
    """A result that is made and not stored yet, or a mask; ``small`` is a small picture of it."""

    data: bytes
    format: str = "png"
    mask: bool = False
    number: int = 0
    rendition: Rendition | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repaint: bool = False
    source_format: str = ""
    small: Image.Image | None = None


@dataclass(frozen=True)
class MadeBy:
    """Who made what a result is made of, and what of it was paid for this image."""

    model: str = ""
    region: str = ""
    cost_usd: float | None = 0.0
    maybe_billed: int = 0

    @classmethod
    def of(cls, answer: Answer, made_for: str) -> "MadeBy":
        """The model of an answer that is used for the image with the digest ``made_for``."""
        paid = answer.cost_usd if answer.made_for == made_for else 0.0
        return cls(answer.model, answer.region, paid, answer.maybe_billed)


class ResultWriter:
    """Makes the files of one photo, and stores them while the batch's lease is held.

    ``passed`` are the numbers of results that passed their checks for the same wish: one that does not pass is not
    stored in their place. ``stored_etags`` has the ETags of all results that were stored, by key, read back or not.
    ``wish`` is the request fingerprint; a result without faults has it in its metadata.
    """

    def __init__(
        self,
        context: RunContext,
        place: BatchLocations,
        asked: ImageSettings,
        photo: SourceImage,
        writer: LeasedWriter,
        *,
        made_for: str,
        wish: str,
        passed: Collection[int] = (),
    ) -> None:
        self._context = context
        self._place = place
        self._asked = asked
        self._photo = photo
        self._writer = writer
        self._made_for = made_for
        self._wish = wish
        self._passed = passed
        self.stored_etags: dict[str, str] = {}

    def given(self, key: str) -> bytes:
        """The mask or backdrop that the request names. Raises `ImageError` if it cannot be read."""
        content = read_source(self._place.data, key)
        if content is None:
            raise ImageError("NotFound", f"the request names {key}, and there is no such object")
        return content.data

    def finish(self, painted: GeneratedPicture, prompt: str, position: int) -> list[StoredResult]:
        """The stored files of a model's picture."""
        return self._stored(lambda photo: self._put_together(photo, painted, prompt, position))

    def without_model(self, mask: Mask, made_by: MadeBy) -> list[StoredResult]:
        """The stored files of a cut-out, or of the subject on a given backdrop; ``made_by`` made the mask."""
        return self._stored(lambda photo: self._put_on_backdrop(photo, mask, made_by))

    def _stored(self, make: Callable[[Photo], Iterator[PendingResult]]) -> list[StoredResult]:
        """Stores what ``make`` makes of the decoded photo, whose place is given back before."""
        files: list[StoredResult] = []
        with ExitStack() as on_the_way:
            for draft in self._made(make, files, on_the_way):
                files += self._store(draft)
        return files

    def _made(
        self,
        make: Callable[[Photo], Iterator[PendingResult]],
        files: list[StoredResult],
        on_the_way: ExitStack,
    ) -> list[PendingResult]:
        """What is left to be stored once nothing of the photo is decoded any more."""
        drafts: list[PendingResult] = []
        with self._photo.full() as photo:
            for draft in make(photo):
                drafts.append(draft)
                if sum(len(each.data) for each in drafts) > MAX_STORED_DECODES:
                    for each in drafts:
                        files += self._store(each)
                    drafts.clear()
            on_the_way.enter_context(
                self._context.decode_limiter.to_be_stored(sum(len(draft.data) for draft in drafts))
            )
        return drafts

    def _put_together(
        self, photo: Photo, painted: GeneratedPicture, prompt: str, position: int
    ) -> Iterator[PendingResult]:
        image = painted.resized(photo.size)
        mask, fidelity = None, None
        reasons: tuple[str, ...] = (SUBJECT_NOT_RESTORED,)
        repaint = False
        notes: tuple[str, ...] = ()
        if painted.mask is not None:
            full = self._full_mask(painted.mask, photo)
            notes = full.notes
            image, mask, fidelity = self._put_back(
                photo, image, full.picture, found=painted.mask.source not in FROM_USER
            )
            reasons = failed_checks(fidelity, prompt)
            # What the model itself took for the subject could not be judged before, and stays with another seed.
            wrong = (
                validate_mask(painted.mask).reasons if painted.mask.source in ("words", "difference") else ()
            )
            wrong = (*wrong, *_doubts(painted.mask))
            # Another picture has the same mask: only a fault of the painted background is mended by one.
            repaint = bool(failed_background_checks(fidelity, prompt)) and not wrong
            reasons = (*wrong, *reasons)
            yield _mask_draft(mask)
        made_by = MadeBy.of(painted.answer, self._made_for)
        facts = {
            "Model": made_by.model,
            "Region": made_by.region,
            "Seed": painted.answer.seed,
            "CostUSD": made_by.cost_usd,
            "MaybeBilled": made_by.maybe_billed,
            "Prompt": prompt,
            "NegativePrompt": self._asked.negative_prompt,
            "Mask": painted.mask.source if painted.mask else None,
            "Fidelity": asdict(fidelity) if fidelity else None,
        }
        yield from self._rendered(
            image, photo, mask, position, facts, reasons, AI_NOTE, repaint=repaint, mask_notes=notes
        )

    def _put_back(
        self, photo: Photo, painted: Image.Image, mask: Image.Image, *, found: bool
    ) -> tuple[Image.Image, Image.Image, Fidelity]:
        """The photo's subject on what was painted, with the mask and what was measured.

        Where the old background shows along the edge of a mask that was ``found``, the mask is drawn tighter until it
        does not, which costs nothing; a person's own mask is used as it is.
        """
        feather = self._context.settings.feather * (BLEND if self._asked.mode == "DEFAULT" else 1.0)
        image = restore_subject(photo, painted, mask, feather=feather)
        fidelity = measure(photo, image, mask)
        step = max(1, round(max(photo.size) / 1024))
        for pixels in MASK_TIGHTENING if found and fidelity.edge_halo > MAX_EDGE_HALO else ():
            tight = mask.filter(ImageFilter.MinFilter(2 * pixels * step + 1))
            if tight.getbbox() is None:
                break
            again = restore_subject(photo, painted, tight, feather=feather)
            measured = measure(photo, again, tight)
            if measured.edge_halo < fidelity.edge_halo:
                image, mask, fidelity = again, tight, measured
            if fidelity.edge_halo <= MAX_EDGE_HALO:
                break
        return image, mask, fidelity

    def _put_on_backdrop(self, photo: Photo, mask: Mask, made_by: MadeBy) -> Iterator[PendingResult]:
        asked = self._asked
        mask = self._full_mask(mask, photo)
        full = mask.picture
        yield _mask_draft(full)
        facts: dict[str, Any] = {
            "Model": made_by.model,
            "Region": made_by.region,
            "Seed": None,
            "CostUSD": made_by.cost_usd,
            "MaybeBilled": made_by.maybe_billed,
            "Mask": mask.source,
        }
        feather = self._context.settings.feather
        if asked.backdrop is None:
            cut = cut_out(photo, full, feather=feather)
            yield from self._rendered(
                cut, photo, full, 1, facts, _doubts(mask), CUT_NOTE, mask_notes=mask.notes
            )
            return
        backdrop: Image.Image | str = asked.backdrop
        if not asked.backdrop.startswith("#"):
            backdrop = open_photo(self.given(asked.backdrop)).flattened()
        facts["Backdrop"] = asked.backdrop
        image = composite(photo, full, backdrop, shadow=asked.shadow == "soft", feather=feather)
        fidelity = measure(photo, image, full)
        facts["Fidelity"] = asdict(fidelity)
        # A plain colour that was asked for is no fault.
        plain = isinstance(backdrop, str)
        reasons = failed_checks(
            replace(fidelity, uniform=False, background_changed=1.0) if plain else fidelity
        )
        reasons = (*_doubts(mask), *reasons)
        yield from self._rendered(image, photo, full, 1, facts, reasons, "", mask_notes=mask.notes)

    def _full_mask(self, mask: Mask, photo: Photo) -> Mask:
        """The mask at the photo's size, its edge following the photo's own."""
        if mask.source == "alpha" and photo.alpha is not None:
            return replace(mask, picture=photo.alpha)
        if mask.source == "given" and self._asked.mask_key:
            name = self._asked.mask_key
            full = read_user_mask(self.given(name), photo.size, name=name)
            return replace(full, notes=(*full.notes, *mask.notes))
        return replace(mask, picture=enlarge(mask.picture, photo.image))

    def _rendered(
        self,
        image: Image.Image,
        photo: Photo,
        mask: Image.Image | None,
        position: int,
        facts: Mapping[str, Any],
        reasons: tuple[str, ...],
        note: str,
        *,
        repaint: bool = False,
        mask_notes: tuple[str, ...] = (),
    ) -> Iterator[PendingResult]:
        feather = self._context.settings.feather
        renditions: Sequence[Rendition | None] = self._asked.renditions or (None,)
        facts = {**facts, "Notes": [*photo.notes, *mask_notes]}
        for index, rendition in enumerate(renditions):
            number = (position - 1) * len(renditions) + index + 1
            # Without a mask nothing can be framed around the subject: the whole picture counts as it.
            subject = mask or Image.new("L", photo.size, 255)
            made = render(image, photo, subject, rendition, feather=feather, ai_note=note or None)
            yield PendingResult(
                made.data,
                made.format,
                number=number,
                rendition=rendition,
                facts=facts,
                faults=(*reasons, *made.complaints),
                notes=mask_notes,
                repaint=repaint,
                source_format=photo.format,
                small=_opened(made.data),
            )

    def _store(self, draft: PendingResult) -> list[StoredResult]:
        if draft.mask:
            key = self._place.batch.mask_key(self._asked.image)
            self._writer.write(self._context.store, key, draft.data, media_type="image/png")
            return []
        if draft.faults and draft.number in self._passed:
            return [self._file(draft, "", "", "")]
        name = self._name(draft)
        key = s3_keys.result_key(self._place.output_prefix, name)
        data = self._place.data
        metadata = {} if draft.faults else {REQUEST_METADATA: self._wish}
        etag = self._writer.write(
            data, key, draft.data, media_type=f"image/{draft.format}", metadata=metadata
        )
        self.stored_etags[key] = etag
        facts = draft.facts
        document = {
            "Id": self._place.request_id,
            "ImageName": self._asked.image,
            "Ref": self._asked.ref,
            "Source": self._photo.key,
            "SourceETag": self._photo.etag,
            "SourceSHA256": self._photo.sha256,
            **facts,
            "Task": self._asked.task,
            "Mode": self._asked.mode,
            "Rendition": draft.rendition.Preset if draft.rendition else None,
            "Faults": list(draft.faults),
            "CreatedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The result is stored by now, so its provenance must be too, whether it can be read back or not.
        self._writer.write_json(data, s3_keys.provenance_key(key), document)
        self._read_back(key, draft)
        if draft.small is not None and draft.number <= thumbnails.RESULTS:
            small = draft.small
            self._place.thumbnails.add(key, etag, lambda: small)
        return [self._file(draft, name, key, etag)]

    def _file(self, draft: PendingResult, name: str, key: str, etag: str) -> StoredResult:
        facts = draft.facts
        return StoredResult(
            name=name,
            key=key,
            etag=etag,
            reasons=draft.faults,
            repaint=draft.repaint,
            model=facts["Model"],
            region=facts["Region"],
            seed=facts["Seed"],
            cost_usd=facts["CostUSD"],
            subject_changed=(facts.get("Fidelity") or {}).get("subject_changed"),
            notes=(*draft.notes, *((MAYBE_BILLED,) if facts.get("MaybeBilled") else ())),
        )

    def _name(self, draft: PendingResult) -> str:
        asked, rendition = self._asked, draft.rendition
        of = len(asked.outputs) * (len(asked.renditions) or 1)
        if rendition is not None and rendition.FileName:
            candidate = file_name(
                rendition.FileName,
                image=asked.image,
                number=draft.number,
                ref=asked.ref,
                preset=rendition.Preset or "",
                format=draft.format,
            )
        else:
            candidate = result_name(
                asked.image,
                number=draft.number,
                of=of,
                format=draft.format,
                source_format=draft.source_format,
            )
        return self._place.names.assign(asked.image, draft.number, candidate, draft.format)

    def _read_back(self, key: str, draft: PendingResult) -> None:
        """Reads a stored result back; only then does it count. That it opens was checked before."""
        try:
            stored = self._place.data.read(key)
        except (ClientError, BotoCoreError) as error:
            raise NotDelivered(
                "NotStored", f"{key} was stored and could not be read back: {error}"
            ) from error
        if stored is None or stored.data != draft.data:
            raise NotDelivered("NotStored", f"{key} was stored and did not come back as it was")


def _doubts(mask: Mask) -> tuple[str, ...]:
    return (mask.doubt,) if mask.doubt else ()


def _mask_draft(mask: Image.Image) -> PendingResult:
    """The mask in use for inspection: black is the subject, white what was replaced."""
    step = math.ceil(max(mask.size) / MASK_SIDE)
    return PendingResult(STORED.write_png(mask.reduce(step) if step > 1 else mask), mask=True)


def _opened(data: bytes) -> Image.Image:
    """The picture, made small once all of it was decoded. Raises `ImageError` for a file that is no whole picture."""
    read_header(data)
    picture = Image.open(io.BytesIO(data))
    # Decoding a JPEG at an eighth of its size still walks through all of its data.
    picture.draft(None, (thumbnails.SIDE, thumbnails.SIDE))
    try:
        picture.load()
    except (OSError, SyntaxError) as error:
        raise ImageError("BadResult", f"the result does not open ({error})") from error
    step = min(picture.size) // (2 * thumbnails.SIDE)
    return (
        picture.reduce(step) if step > 1 and picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK") else picture
    )
