"""What the page works with: drafts, plans, batches and results, as plain functions over the bucket.

Nothing here knows Streamlit. Photos lie in storage from the moment they are dropped, in a folder with a draft, which
costs nothing and which nothing works on; the request, written last, hands the batch to the pipeline.
"""

import hashlib
import json
import posixpath
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from bg_pipeline import planning, review
from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import LABELS
from bg_pipeline.domain.upload_kinds import Kind, kind_of
from bg_pipeline.errors import BgPipelineError, ImageError, RequestError, UsageError
from bg_pipeline.imaging import small_jpeg
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import header_of, run_on_file, shared_workers
from bg_pipeline.labelers.rekognition import OPERATION as DETECT_LABELS
from bg_pipeline.masks.label_boxes import usable_labels
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline.planning import Plan
from bg_pipeline.reports import overview
from bg_pipeline.reports.overview import BatchCosts
from bg_pipeline.reports.report import Report
from bg_pipeline.review import Item, Results, Reviews, State
from bg_pipeline.run.analysis import PhotoAnalyzer
from bg_pipeline.run.batch_work import BatchWork, drafted, open_batch
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import find_work
from bg_pipeline.run.rows import rows
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import drafts, listing, manifest
from bg_pipeline.uploads.submitting import (
    compose_request,
    hand_over,
    new_batch,
    paid_pictures,
    upload,
)
from bg_pipeline.uploads.unicode_names import match_names

LOOK_AGAIN_SECONDS = 30
"""After so long new uploads are seen, too."""
DATES_KNOWN = 10
BATCHES_KNOWN = 5
LABELLERS = 8
"""Photos whose labels are asked for at a time."""
READERS = 8
"""Photos of a draft that are read again at a time."""
LOOK = 1200
"""Pixels of the longer side of a picture that is looked at."""
PART = 1 << 20

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class DraftPhoto:
    """A photo in storage: the name it has in its batch, and its small picture, empty where it is no picture."""

    name: str
    small: bytes


@dataclass(frozen=True)
class LabelsFound:
    """What Rekognition found in a photo: ``usable`` names have a box and can be cut out. Or the ``problem``."""

    usable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class ApprovedShare:
    """Some photos of a batch, and the pictures that models paint of them if each succeeds at once."""

    photos: int = 0
    pictures: int = 0


@dataclass(frozen=True)
class BatchCard:
    """A batch on its way: its ``state`` in words, images by status, what was spent.

    Nothing works on one that is not ``complete``, be it a ``draft`` or still being uploaded. ``to_approve`` waits
    until its sample is approved, and ``to_retry`` failed or was skipped in a run that has reported. ``request_etag``
    is the tag of the request that it was looked up with.
    """

    batch: Batch
    state: str
    images: int
    counts: Mapping[str, int] = field(default_factory=dict)
    to_do: int = 0
    costs: BatchCosts = field(default_factory=BatchCosts)
    to_approve: ApprovedShare = ApprovedShare()
    to_retry: ApprovedShare = ApprovedShare()
    complete: bool = True
    draft: bool = False
    request_etag: str = ""

    @property
    def done(self) -> int:
        return self.images - self.to_do


class PageService:
    """One bucket and its settings, for all visitors of the page. Safe for threads."""

    def __init__(self, settings: Settings, aws: Aws, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._aws = aws
        self._workers = shared_workers(self.settings.max_decoded_images)
        self._looking = threading.Lock()
        self._standings: dict[UploadDate, tuple[float, object, list[BatchCard]]] = {}
        self._results: dict[Batch, tuple[object, Results]] = {}
        self._reviews: dict[str, Reviews] = {}

    # Preparing

    def start_draft(self) -> Batch:
        """A new batch of today with a draft, so that nothing works on it yet."""
        batch = new_batch()
        self.store.write_json(batch.draft_key, {"Id": batch.derived_id(self.store.bucket)})
        return batch

    def store_photo(self, batch: Batch, name: str, file: BinaryIO) -> DraftPhoto:
        """Stores a dropped file under a name that `free_name` gave."""
        small = self._small(file.read())
        file.seek(0)
        upload(self.store, batch.upload_key(name), name, file)
        return DraftPhoto(name, small)

    def thumbnail(self, data: bytes) -> bytes:
        """A small JPEG of a picture file; raises `ImageError` if it does not open."""
        return run_on_file(self._workers, thumbnail, data)

    def _small(self, data: bytes) -> bytes:
        """A dropped photo's thumbnail; empty if it does not open: the run's report gives the reason."""
        try:
            return self.thumbnail(data)
        except ImageError:
            return b""

    def backdrop(self, batch: Batch, data: bytes) -> str:
        """Stores a picture to be put behind the subjects, and returns its key; `UsageError` if it is no picture."""
        try:
            found = header_of(self._workers, data)
        except ImageError as error:
            raise UsageError(f"the backdrop cannot be used: {error}") from None
        return self._beside(batch, "backdrop", found.format, data)

    def mask(self, batch: Batch, photo: str, data: bytes) -> str:
        """Stores a mask for one photo, and returns its key; `UsageError` if it cannot be that photo's."""
        source = self.store.read(batch.upload_key(photo))
        if source is None:
            raise UsageError(f"{photo} is gone; drop it again")
        try:
            run_on_file(self._workers, read_user_mask, data, header_of(self._workers, source.data).size)
            found = header_of(self._workers, data)
        except ImageError as error:
            raise UsageError(f"the mask of {photo} cannot be used: {error}") from None
        return self._beside(batch, "mask", found.format, data)

    def _beside(self, batch: Batch, kind: str, format: str, data: bytes) -> str:
        """The key of a file of a draft that is no photo: a dot-file is never taken for one."""
        ending = EXTENSIONS[format][0] if format in EXTENSIONS else "png"
        key = batch.upload_key(f".{kind}-{hashlib.sha256(data).hexdigest()[:16]}.{ending}")
        self.store.write(key, data, media_type=f"image/{format}")
        return key

    def remove_photo(self, batch: Batch, name: str) -> None:
        """Deletes a photo of a draft."""
        self.store.delete(batch.upload_key(name))

    def resume_draft(self, batch: Batch) -> list[DraftPhoto]:
        """The photos of a draft that somebody has left; `UsageError` if it is none."""
        names = sorted(drafts.find_draft(self.store, batch).images)

        def again(name: str) -> DraftPhoto:
            content = self.store.read(batch.upload_key(name))
            return DraftPhoto(name, self._small(content.data if content else b""))

        with ThreadPoolExecutor(READERS, "draft") as pool:
            return list(pool.map(again, names))

    def discard(self, batch: Batch) -> int:
        """Deletes a draft and says how many photos it had; `UsageError` if it is none."""
        photos = drafts.discard(self.store, batch)
        self._refresh(batch)
        return photos

    @property
    def price_of_labels(self) -> float | None:
        """Dollars for the labels of one photo; a photo whose labels are known costs nothing."""
        return 0.0 if self.settings.custom_labels_arn else facts_of(DETECT_LABELS.name).cost(images=1)

    def labels(
        self, batch: Batch, names: Sequence[str], done: Callable[[int], object]
    ) -> dict[str, LabelsFound]:
        """The labels of photos: asked for once for the same bytes, and used again by the run."""
        with self._context() as context, ThreadPoolExecutor(LABELLERS, "labels") as pool:
            found = {}
            for number, (name, seen) in enumerate(
                zip(names, pool.map(lambda name: self._seen(context, batch, name), names), strict=True), 1
            ):
                found[name] = seen
                done(number)
            return found

    def _seen(self, context: RunContext, batch: Batch, name: str) -> LabelsFound:
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
        wishes: Mapping[str, Any],
        own: Mapping[str, Mapping[str, Any]],
    ) -> tuple[bytes, BatchRequest]:
        """The request for ``names``: ``wishes`` for all, and what is the ``own`` of some. `RequestError` by field."""
        entries = [{"ImageName": name, **own[name]} for name in names if own.get(name)]
        images = [{"ImageName": name, **own.get(name, {})} for name in names] if entries else None
        return compose_request(self.settings, batch, names, {**wishes, "Images": images})

    def from_manifest(
        self, batch: Batch, data: bytes, names: Sequence[str], wishes: Mapping[str, Any]
    ) -> tuple[bytes, BatchRequest]:
        """The request that a manifest asks for; its ``source`` cells name dropped photos. `RequestError` by line."""
        read = manifest.read(data)
        found, missing = [], []
        named = [posixpath.basename(line.said.get("source", "").replace("\\", "/")) for line in read.lines]
        meant = match_names(named, set(names))
        for line, name in zip(read.lines, named, strict=True):
            if name in meant:
                found.append(meant[name])
            else:
                missing.append(f"line {line.number}: '{name}' was not dropped on the page")
        if missing:
            raise UsageError("; ".join(missing[:20]))
        return manifest.compose(self.settings, batch, read, found, {}, wishes)

    @staticmethod
    def warnings(data: bytes) -> list[str]:
        """Cells of a manifest that a spreadsheet may have changed, in lines; a `RequestError` where it is none."""
        return [f"{place}: {words}" for _, place, words in manifest.read(data).doubts]

    def plan(self, batch: Batch, request: BatchRequest) -> tuple[Plan, list[str]]:
        """What the request would take, and why a model of some kind cannot be used. Nothing is spent."""
        found = listing.find(self.store, batch)
        if found is None:
            raise UsageError("the photos of this draft are gone; drop them again")
        with self._context() as context:
            models, reasons = planning.models_in_use(context)
        work = drafted(self.store, self.settings, found, request)
        return planning.plan([work], self.settings, models), reasons

    def submit(self, batch: Batch, data: bytes) -> None:
        """Hands the batch to the pipeline; again with another request it is a `UsageError`."""
        if not hand_over(self.store, batch, data):
            raise UsageError(f"batch {batch.path} was submitted already")
        self._refresh(batch)

    def _refresh(self, batch: Batch) -> None:
        with self._looking:
            self._standings.pop(batch.date, None)

    @contextmanager
    def _context(self) -> Iterator[RunContext]:
        context = RunContext(self.settings, self._aws, self.store, stop=threading.Event())
        try:
            yield context
        finally:
            context.close()

    # Batches

    def batches(self, date: UploadDate) -> list[BatchCard]:
        """The batches of a date, the newest first.

        Asked again, it makes two listings of a few objects for all visitors; only where a run has stored something
        meanwhile, or `LOOK_AGAIN_SECONDS` have passed, are uploads and results looked through again.
        """
        marks = tuple(
            (found.key, found.etag)
            for kind in ("ledger", "leases")
            for found in self.store.list(f"{s3_keys.STATE}/{kind}/{s3_keys.date_path(date)}/")
        )
        with self._looking:
            seen = self._standings.get(date)
            if seen is None or seen[1] != marks or time.monotonic() - seen[0] > LOOK_AGAIN_SECONDS:
                began = time.monotonic()
                seen = began, marks, self._read(date)
                self._standings.pop(date, None)
                self._standings[date] = seen
                if len(self._standings) > DATES_KNOWN:
                    self._standings.pop(next(iter(self._standings)))
            return list(seen[2])

    def _read(self, date: UploadDate) -> list[BatchCard]:
        complete = {work.locations.batch: work for work in find_work(self.store, self.settings, [date])}
        found = []
        uploads = sorted(listing.batches(self.store, date), key=lambda each: each.newest, reverse=True)
        for uploaded in uploads:
            work = complete.get(uploaded.batch)
            if work is None:
                draft = uploaded.draft is not None
                state = f"draft, last touched {uploaded.last_change:%H:%M} UTC" if draft else "being uploaded"
                images = len(uploaded.images)
                found.append(BatchCard(uploaded.batch, state, images, complete=False, draft=draft))
                continue
            report = Report(tuple(rows(work)))
            state, in_words = overview.batch_state(self.store, work)
            waiting = [row.ImageName for row in report if row.waits_for_approval]
            sample = work.request.Sample if work.request else None
            if sample is not None and work.uploaded.approved:
                sample, waiting = None, []
            found.append(
                BatchCard(
                    uploaded.batch,
                    in_words,
                    len(work.images),
                    {status.value: number for status, number in report.counts.items() if number},
                    len(work.due),
                    BatchCosts.of(report),
                    to_approve=_share(work, waiting),
                    to_retry=_share(work, overview.images_to_retry(report, sample))
                    if state is overview.BatchState.REPORTED
                    else ApprovedShare(),
                    request_etag=work.uploaded.request.etag if work.uploaded.request else "",
                )
            )
        return found

    def open(self, batch: Batch) -> BatchWork:
        """One batch; raises `UsageError` if there is none of this name."""
        return open_batch(self.store, self.settings, batch)

    def approve_sample(self, batch: Batch, *, by: str, seen: str = "") -> None:
        """Lets the rest of the batch run; `UsageError` if it asked for no sample.

        ``seen`` is the ``request_etag`` of the standing that was shown: of another request nothing is approved, and a
        `UsageError` says so.
        """
        stands = overview.load_status(self.store, self.settings, batch)
        try:
            review.approve_sample(self.store, stands, by=by, seen=seen)
        finally:
            self._refresh(batch)

    def retry(self, batch: Batch) -> Batch:
        """Asks again for what failed or was skipped, as the batch that it returns; `UsageError` if nothing was.

        It is an earlier one while that has no report; `UsageError`, too, if nothing is left of the batch's cap.
        """
        standing = overview.load_status(self.store, self.settings, batch)
        found = review.prepare_retry(self.store, self.settings, standing)
        if found is None:
            raise UsageError(
                "nothing of it failed that a retry could mend: a photo without a background has none"
            )
        asks = found.submit(self.store)
        self._refresh(asks)
        return asks

    # Results

    def results(self, batch: Batch) -> Results:
        """The results of a batch, read again once a run has stored something; `UsageError` if there is none."""
        marks = tuple((found.key, found.etag) for found in self.store.list(f"{batch.ledger_prefix}/"))
        with self._looking:
            known = self._results.pop(batch, None)
            if known is None or known[0] != marks:
                work = self.open(batch)
                reviews = self._reviews.setdefault(work.locations.data.bucket, Reviews(work.locations.data))
                known = marks, Results(work, self.settings, reviews)
            self._results[batch] = known
            if len(self._results) > BATCHES_KNOWN:
                self._results.pop(next(iter(self._results)))
            return known[1]

    def redo(
        self, work: BatchWork, found: Sequence[Item], *, by: str, prompt: str, seed: int | None
    ) -> Batch:
        """Asks for pictures again, as the batch that it returns: an earlier one while that has no report."""
        asks = review.redo(self.store, self.settings, work, found, by=by, prompt=prompt, seed=seed)
        self._refresh(asks)
        return asks

    def decision_of(self, work: BatchWork, item: Item) -> tuple[bytes, bytes]:
        """A result's photo and the result, as JPEGs that a screen shows; empty where there is none."""
        store, lies_at = work.locations.resolve(f"{work.locations.input_prefix}/{item.image}")
        before = self._shown(store, lies_at)
        return before, self._shown(work.locations.data, item.key) if item.key else b""

    def _shown(self, store: Store, key: str) -> bytes:
        content = store.read(key)
        if content is None:
            return b""
        try:
            return run_on_file(self._workers, small_jpeg, content.data, within=(LOOK, LOOK))
        except ImageError:
            return b""

    def download(self, work: BatchWork, item: Item) -> bytes:
        content = work.locations.data.read(item.key)
        if content is None:
            raise UsageError(f"{item.key} is gone; run its date again")
        return content.data

    def pack(self, work: BatchWork, found: Sequence[Item], file: Path) -> int:
        """Writes the approved results into a ZIP file, one in memory at a time; says how many."""
        approved = [item for item in found if item.state is State.APPROVED and item.key]
        prefix = f"{work.locations.output_prefix}/"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
            for item in approved:
                name = archive_path(item.key.removeprefix(prefix))
                pack.writestr(name, self.download(work, item))
        return len(approved)


def _share(work: BatchWork, names: Sequence[str]) -> ApprovedShare:
    if work.request is None:
        return ApprovedShare()
    return ApprovedShare(len(names), paid_pictures(replace(work.request, Sample=None), names))


def unused_name(name: str, taken: Collection[str]) -> str:
    """A name that is not taken and can be an image's: without folders, dots in front and what S3 cannot hold."""
    name = posixpath.basename(name.replace("\\", "/")).encode("utf-8", "replace").decode().lstrip(".")
    if kind_of(name) is not Kind.IMAGE:
        raise UsageError(f"'{name}' cannot be a photo of a batch by its name; rename it")
    stem, dot, ending = name.rpartition(".")
    number = 2
    free = name
    while free in taken:
        free = f"{stem} {number}.{ending}" if dot else f"{name} {number}"
        number += 1
    return free


def dagster_at_work(address: str) -> bool | None:
    """Whether Dagster's daemon there looks for uploads; None if nobody answers."""
    query = {"query": "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"}
    asked = urllib.request.Request(  # noqa: S310 (the address is `up`'s own or the setting's)
        f"{address}/graphql", orjson.dumps(query), {"Content-Type": "application/json"}
    )
    try:
        with _direct.open(asked, timeout=5) as answer:
            statuses = json.load(answer)["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError, KeyError, TypeError):
        return None
    healthy = {status["daemonType"]: status["healthy"] for status in statuses}
    return bool(healthy.get("SENSOR")) and bool(healthy.get("QUEUED_RUN_COORDINATOR", True))


def user_error(error: RequestError) -> list[str]:
    """What is wrong with a request, a sentence for each field."""
    return [f"{name}: {text}" if name else text for name, text in error.problems]
