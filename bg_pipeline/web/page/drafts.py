"""Drafts on the page: photos are stored, labelled and planned, and the batch is submitted.

Nothing here imports Streamlit. Dropped photos are stored at once, in a folder with a draft: it costs nothing, and no
run works on it. The request is written last and submits the batch.
"""

import hashlib
import posixpath
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import orjson

from bg_pipeline import planning
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.budget.run_budget import OperationTotal
from bg_pipeline.domain.batches import LONGEST_NAME, Batch, name_problem
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.domain.stages import LABELS
from bg_pipeline.domain.text import printable
from bg_pipeline.domain.upload_kinds import Kind, kind_of
from bg_pipeline.errors import BgPipelineError, ImageError, PreconditionFailed, RequestError, UsageError
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import header_of, run_on_file, shared_workers
from bg_pipeline.labelers.rekognition import OPERATION as DETECT_LABELS
from bg_pipeline.masks.label_boxes import usable_labels
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.planning import Plan
from bg_pipeline.run.analysis import PhotoAnalyzer
from bg_pipeline.run.batch_work import open_draft
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import listing, manifest
from bg_pipeline.uploads.closing_drafts import draft_document, is_being_discarded
from bg_pipeline.uploads.listing import find_draft
from bg_pipeline.uploads.sources import DraftSources, ResolvedManifest, S3Sources, resolve_manifest
from bg_pipeline.uploads.submission import etags_of
from bg_pipeline.uploads.submitting import (
    StoredFile,
    Upload,
    check_request,
    compose_request,
    new_batch,
    store_files,
    upload,
)

LABEL_THREADS = 8
"""Photos whose labels are requested at a time."""
READ_THREADS = 8
"""Photos of a resumed draft that are read at a time."""
CARD_SIDE = 400
"""Longer side, in pixels, of the pictures of dropped photos."""
CARD_BYTES = 25_000
KEEP_ATTEMPTS = 3
WISHES = "Wishes"
"""The field of a draft's document with what its visitor wants."""


@dataclass(frozen=True)
class DraftPhoto:
    """A stored photo: its name in the batch, and its thumbnail as JPEG bytes, empty if the file is not an image."""

    name: str
    small: bytes


@dataclass(frozen=True)
class LabelsFound:
    """The labels of a photo: those with a box, which can be cut out (``usable``), and the ``others``.

    If they could not be found, ``problem`` is the reason.
    """

    usable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    problem: str = ""


class DraftService:
    """Prepares and submits batches in one bucket, for all visitors of the page. Thread-safe.

    ``on_change`` is called with each batch that was submitted or discarded.
    """

    def __init__(
        self,
        settings: Settings,
        aws: Aws,
        store: Store,
        on_change: Callable[[Batch], object] = lambda batch: None,
    ) -> None:
        self.settings = settings
        self.store = store
        self._aws = aws
        self._on_change = on_change
        self.acts = Acts(settings, store)
        self._workers = shared_workers(settings.max_decoded_images)

    def start_draft(self, person: Person) -> Batch:
        """Creates a person's batch dated today (UTC) with a draft, so that no run works on it yet."""
        batch = new_batch()
        self.acts.authorization.take(person, batch)
        self.store.write_json(batch.draft_key, {"Id": batch.derived_id(self.store.bucket)})
        return batch

    def rename(self, person: Person, batch: Batch, name: str) -> Batch:
        """Gives a draft a name, the same as `submit --name` takes; returns the batch, all of whose keys are new.

        Raises `UsageError` if there is a batch of this name and date, or if no batch can have it; then nothing has
        changed.
        """
        if problem := name_problem(name):
            raise UsageError(
                f"a batch cannot be named '{printable(name)[:LONGEST_NAME]}': the name {problem}"
            )
        to = Batch(batch.date, name)
        if to == batch:
            return batch

        def document(data: bytes) -> bytes:
            kept = moved(draft_document(data), batch, to)
            return orjson.dumps({**kept, "Id": to.derived_id(self.store.bucket)})

        self.acts.rename_draft(person, batch, to, document)
        self._on_change(batch)
        self._on_change(to)
        return to

    def keep_wishes(self, batch: Batch, wishes: Mapping[str, Any]) -> None:
        """Stores what a visitor wants of a draft beside its photos, so that nothing typed is lost.

        Does nothing if the batch was submitted or discarded meanwhile.
        """
        for _ in range(KEEP_ATTEMPTS):
            stored = self.store.read(batch.draft_key)
            if stored is None or is_being_discarded(stored.data):
                return
            document = {**draft_document(stored.data), WISHES: wishes}
            try:
                self.store.write_json(batch.draft_key, document, if_etag=stored.etag)
                return
            except PreconditionFailed:
                continue  # another tab keeps its wishes, or the draft is being submitted

    def store_photo(self, batch: Batch, name: str, file: BinaryIO) -> DraftPhoto:
        """Stores a dropped file under ``name``, which must be unused and valid: see `unused_name`."""
        small = self._card_picture(file.read())
        file.seek(0)
        upload(self.store, batch.upload_key(name), name, file)
        return DraftPhoto(name, small)

    def thumbnail(self, data: bytes) -> bytes:
        """A small JPEG of an image file; raises `ImageError` if it cannot be opened."""
        return run_on_file(self._workers, thumbnail, data)

    def _card_picture(self, data: bytes) -> bytes:
        """A JPEG of a dropped photo for its card; empty if it cannot be opened, which the run's report explains."""
        try:
            return run_on_file(self._workers, thumbnail, data, CARD_SIDE, max_bytes=CARD_BYTES)
        except ImageError:
            return b""

    def backdrop(self, batch: Batch, data: bytes) -> str:
        """Stores an image to put behind the subjects and returns its key; `UsageError` if it is not an image."""
        try:
            header = header_of(self._workers, data)
        except ImageError as error:
            raise UsageError(f"the backdrop cannot be used: {error}") from None
        return self._store_extra_file(batch, "backdrop", header.format, data)

    def backdrop_picture(self, batch: Batch, key: str) -> bytes | None:
        """The picture that `backdrop` stored under ``key``, as a JPEG for the screen; None if there is none."""
        if not key.startswith(batch.upload_key(".backdrop-")):
            return None
        content = self.store.read(key)
        return (content and self._card_picture(content.data)) or None

    def mask(self, batch: Batch, photo: str, data: bytes) -> str:
        """Stores a mask for one photo and returns its key; `UsageError` if it does not fit that photo."""
        source = self.store.read(batch.upload_key(photo))
        if source is None:
            raise UsageError(f"{photo} is gone; drop it again")
        try:
            run_on_file(self._workers, read_user_mask, data, header_of(self._workers, source.data).size)
            header = header_of(self._workers, data)
        except ImageError as error:
            raise UsageError(f"the mask of {photo} cannot be used: {error}") from None
        return self._store_extra_file(batch, "mask", header.format, data)

    def _store_extra_file(self, batch: Batch, kind: str, format: str, data: bytes) -> str:
        """Stores a file that is not a photo; its name starts with a dot, so that runs ignore it. Returns its key."""
        extension = EXTENSIONS[format][0] if format in EXTENSIONS else "png"
        key = batch.upload_key(f".{kind}-{hashlib.sha256(data).hexdigest()[:16]}.{extension}")
        self.store.write(key, data, media_type=f"image/{format}")
        return key

    def remove_photo(self, batch: Batch, name: str) -> None:
        """Deletes a photo of a draft; `UsageError` if the batch was submitted meanwhile, perhaps in another tab."""
        if self.store.head(batch.request_key) is not None:
            raise UsageError("its batch is submitted already")
        self.store.delete(batch.upload_key(name))

    def resume_draft(self, person: Person, batch: Batch) -> list[DraftPhoto]:
        """The photos of a draft, sorted by name; `UsageError` if it is none that the person may change."""
        self.acts.authorization.require_change(person, batch)
        names = sorted(find_draft(self.store, batch).images)

        def read_photo(name: str) -> DraftPhoto:
            content = self.store.read(batch.upload_key(name))
            return DraftPhoto(name, self._card_picture(content.data if content else b""))

        with ThreadPoolExecutor(READ_THREADS, "draft") as pool:
            return list(pool.map(read_photo, names))

    def discard(self, person: Person, batch: Batch) -> int:
        """Deletes a draft and returns the number of its photos; `UsageError` if the batch is not a draft."""
        photos = self.acts.discard(person, batch)
        self._on_change(batch)
        return photos

    @property
    def price_of_labels(self) -> float | None:
        """Dollars for the labels of one photo, None if unknown. Photos labelled before cost nothing."""
        return 0.0 if self.settings.custom_labels_arn else facts_of(DETECT_LABELS.name).cost(images=1)

    def labels(
        self, person: Person, batch: Batch, names: Sequence[str], done: Callable[[int], object]
    ) -> dict[str, LabelsFound]:
        """The labels of photos by name. They are paid for once for the same bytes, and the run uses them too.

        ``done`` is called with the number of photos finished so far.
        """
        with (
            self.acts.spend(person, batch, "labels", len(names)) as spent,
            self._context() as context,
            ThreadPoolExecutor(LABEL_THREADS, "labels") as pool,
        ):
            results = {}
            labelled = pool.map(lambda name: self._labels_of_photo(context, batch, name), names)
            for number, (name, labels) in enumerate(zip(names, labelled, strict=True), 1):
                results[name] = labels
                done(number)
            total = context.run_budget.totals().get(DETECT_LABELS.name, OperationTotal())
            spent |= {"Calls": total.calls, "CostUSD": total.cost_usd}
            return results

    def _labels_of_photo(self, context: RunContext, batch: Batch, name: str) -> LabelsFound:
        budget = ImageBudget(context.run_budget, batch, name, stage=LABELS)
        try:
            photo = SourceImage(self.store, batch.upload_key(name), context.picture_memory)
            document = PhotoAnalyzer(context, photo, budget).labels().document
        except BgPipelineError as error:
            return LabelsFound(problem=str(error))
        usable = dict.fromkeys(usable_labels(document))
        others = dict.fromkeys(label["Name"] for label in document.get("Labels", ()))
        return LabelsFound(tuple(usable), tuple(name for name in others if name not in usable))

    def request(
        self,
        batch: Batch,
        names: Sequence[str],
        fields: Mapping[str, Any],
        photo_fields: Mapping[str, Mapping[str, Any]],
    ) -> tuple[bytes, BatchRequest]:
        """The request for the photos ``names``, as JSON and parsed; `RequestError` by field.

        ``fields`` apply to all photos; ``photo_fields`` override them for single photos, by name.
        """
        entries = [{"ImageName": name, **photo_fields[name]} for name in names if photo_fields.get(name)]
        images = [{"ImageName": name, **photo_fields.get(name, {})} for name in names] if entries else None
        return compose_request(self.settings, batch, names, self._with_id(batch, fields) | {"Images": images})

    def from_manifest(
        self, person: Person, batch: Batch, data: bytes, names: Sequence[str], fields: Mapping[str, Any]
    ) -> ResolvedManifest:
        """What a manifest asks for; its cells name photos of the draft (``names``) or objects in S3.

        Nothing is copied before `submit`. Raises `RequestError` by line and column.
        """
        draft = listing.find(self.store, batch)
        photos = {name: draft.images[name] for name in names if draft and name in draft.images}
        may_read = partial(self.acts.authorization.may_read_key, person)
        fallback = S3Sources(self.settings, self.store, may_read)
        return resolve_manifest(
            self.settings,
            batch,
            manifest.read(data),
            data,
            DraftSources(self.store, photos, fallback),
            self._with_id(batch, fields),
            stored_names=photos,
        )

    def _with_id(self, batch: Batch, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields with the batch's own Id, so that the same wishes always give the same request."""
        return {"Id": batch.derived_id(self.store.bucket), **fields}

    @staticmethod
    def warnings(data: bytes) -> list[str]:
        """Sentences about manifest cells that a spreadsheet may have changed; `RequestError` if it cannot be read."""
        return [f"{place}: {text}" for _, place, text in manifest.read(data).warnings]

    def plan(
        self, batch: Batch, request: BatchRequest, files: Mapping[str, Upload] | None = None
    ) -> tuple[Plan, list[str]]:
        """The calls, time and cost of the request, and why models cannot be used. Nothing is spent.

        ``files`` are those that `submit` will store; those of them that are copied from S3 are planned too. Raises
        `UsageError` if the draft's photos were deleted.
        """
        uploaded = listing.find(self.store, batch)
        if uploaded is None:
            raise UsageError("the photos of this draft are gone; drop them again")
        prefix = f"{batch.input_prefix}/"
        uploaded.others.update(
            (key.removeprefix(prefix), replace(file.stored, key=key))
            for key, file in (files or {}).items()
            if isinstance(file, StoredFile)
        )
        with self._context() as context:
            models, reasons = planning.choose_models(context)
        work = open_draft(self.store, self.settings, uploaded, request)
        return planning.plan([work], self.settings, models), reasons

    def submit(
        self,
        person: Person,
        batch: Batch,
        data: bytes,
        files: Mapping[str, Upload] | None = None,
    ) -> None:
        """Stores ``files`` by key and submits the batch with the request in ``data``.

        The same request may be submitted twice; another one raises `UsageError`, and nothing is changed.
        """
        request = check_request(self.settings, batch, data)
        self.acts.authorization.require_change(person, batch)
        self.acts.authorization.check_request(person, batch, request)
        if files and self.store.head(batch.request_key) is None:
            store_files(self.store, files)
        uploaded = listing.find(self.store, batch)
        if uploaded is None:
            raise UsageError("the photos of this draft are gone; drop them again")
        etags, draft = etags_of(uploaded.objects), uploaded.draft is not None
        if not self.acts.submit(person, batch, data, request, closed_with=etags, draft=draft):
            raise UsageError(f"batch {batch.path} was submitted already")
        self._on_change(batch)

    @contextmanager
    def _context(self) -> Iterator[RunContext]:
        context = RunContext(self.settings, self._aws, self.store, stop=threading.Event())
        try:
            yield context
        finally:
            context.close()


def stored_wishes(store: Store, batch: Batch) -> dict[str, Any]:
    """What `DraftService.keep_wishes` stored last; empty if nothing was, or if it cannot be read."""
    stored = store.read(batch.draft_key)
    wishes = draft_document(stored.data).get(WISHES) if stored else None
    return wishes if isinstance(wishes, dict) else {}


def moved(document: Any, batch: Batch, to: Batch) -> Any:
    """A JSON document with the keys of the draft's masks and backdrops as they are after `DraftService.rename`."""
    if isinstance(document, dict):
        return {name: moved(value, batch, to) for name, value in document.items()}
    if isinstance(document, list):
        return [moved(value, batch, to) for value in document]
    prefix = f"{batch.input_prefix}/."
    if isinstance(document, str) and document.startswith(prefix):
        return to.upload_key(f".{document.removeprefix(prefix)}")
    return document


def unused_name(name: str, taken: Collection[str]) -> str:
    """A valid image name, made from a file's ``name``, that is not in ``taken``.

    Folders, leading dots and characters that S3 keys cannot hold are removed; a number is added to a taken name.
    Raises `UsageError` if an image cannot have this name.
    """
    name = posixpath.basename(name.replace("\\", "/")).encode("utf-8", "replace").decode().lstrip(".")
    if kind_of(name) is not Kind.IMAGE:
        raise UsageError(f"a photo cannot be called '{name}'; rename it")
    stem, dot, extension = name.rpartition(".")
    number = 2
    free = name
    while free in taken:
        free = f"{stem} {number}.{extension}" if dot else f"{name} {number}"
        number += 1
    return free


def user_error(error: RequestError) -> list[str]:
    """The problems of a request, one sentence each."""
    return [
        NO_BACKGROUND if name == "Prompt" and "required" in text else f"{name}: {text}" if name else text
        for name, text in error.problems
    ]


NO_BACKGROUND = "Describe a background to see the price."
