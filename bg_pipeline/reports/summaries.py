"""A batch in numbers, for listings: its state, its images by status, its costs. No model is called."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.reports.overview import BatchCosts, BatchState, batch_state
from bg_pipeline.reports.words import Outcomes
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.discovery import WorkFinder
from bg_pipeline.run.rows import rows
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import Uploaded

LONGEST_PROMPT = 200
"""Characters of a prompt in a summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch stands, with the field names of the HTTP API.

    ``Counts`` are its images by status, ``ToDo`` those that no run has come to, ``Due`` those that the next run works
    on, ``WaitForApproval`` the skipped ones that wait until its sample is approved. ``CostUSD`` was certainly billed,
    up to ``MaybeBilledUSD`` may have been billed in addition; None is not known. ``Cause`` is why its request was
    refused, ``RequestETag`` the request's tag, ``Prompt`` the beginning of its first prompt. ``LastChange`` is when
    its newest upload was stored (ISO 8601, UTC), empty if all uploads were archived.
    """

    Id: str
    Batch: str
    State: BatchState
    Images: int
    Counts: dict[Status, int] = field(default_factory=dict)
    ToDo: int = 0
    Due: int = 0
    WaitForApproval: int = 0
    CostUSD: float | None = None
    MaybeBilledUSD: float | None = None
    Cause: str = ""
    RequestETag: str = ""
    Prompt: str = ""
    LastChange: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it is reported, nothing is due, and every image succeeded."""
        done = self.State is BatchState.REPORTED and not self.Due
        return done and self.Counts.get(Status.SUCCEEDED, 0) == sum(self.Counts.values())


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A summary and, for people, its state in words; ``work`` is None while the batch is not completely uploaded."""

    summary: BatchSummary
    state: str
    work: BatchWork | None


def list_batches(
    store: Store, settings: Settings, dates: Iterable[UploadDate], only: Collection[Batch] = ()
) -> Iterator[ListedBatch]:
    """Every batch of the dates, or those of ``only``, drafts included, in the order of their keys for each date."""
    finder = WorkFinder(store, settings)
    for date in dates:
        for uploaded, work in finder.of_date(date, only):
            if work is not None:
                image_rows = list(rows(work))
                state, words = batch_state(store, work, Outcomes.of(image_rows))
                yield ListedBatch(_summary(work, state, image_rows), words, work)
            elif uploaded.images or uploaded.draft:
                draft = uploaded.draft is not None
                words = f"draft of {uploaded.last_change:%Y-%m-%d %H:%M} UTC" if draft else "being uploaded"
                yield ListedBatch(unsubmitted(store, uploaded), words, None)


def summary(work: BatchWork, state: BatchState) -> BatchSummary:
    """The summary of a complete batch; ``Due`` is 0 unless ``work`` was opened by `WorkFinder`."""
    return _summary(work, state, list(rows(work)))


def _summary(work: BatchWork, state: BatchState, image_rows: Sequence[Row]) -> BatchSummary:
    costs = BatchCosts.of(image_rows)
    prompts = (work.request.Prompts or ()) if work.request else ()
    prompt = (work.request.Prompt or next(iter(prompts), "")) if work.request else ""
    return BatchSummary(
        Id=work.locations.request_id,
        Batch=work.locations.batch.path,
        State=state,
        Images=len(work.images),
        Counts=dict(Counter(row.Status for row in image_rows)),
        ToDo=sum(work.ledger.get(image) is None for image in work.images),
        Due=len(work.due),
        WaitForApproval=sum(row.waits_for_approval for row in image_rows),
        CostUSD=costs.usd,
        MaybeBilledUSD=costs.maybe_usd,
        Cause=str(work.problem or ""),
        RequestETag=work.uploaded.request.etag if work.uploaded.request else "",
        Prompt=prompt[:LONGEST_PROMPT],
        LastChange=_iso(work.uploaded),
    )


def unsubmitted(store: Store, uploaded: Uploaded) -> BatchSummary:
    """The summary of a draft, or of a folder that is still being uploaded."""
    return BatchSummary(
        Id=uploaded.batch.derived_id(store.bucket),
        Batch=uploaded.batch.path,
        State=BatchState.DRAFT if uploaded.draft else BatchState.WAITING,
        Images=len(uploaded.images),
        LastChange=_iso(uploaded),
    )


def dates_with_uploads(store: Store, first: UploadDate, last: UploadDate) -> list[UploadDate]:
    """The dates from ``first`` to ``last`` that have a folder of uploads or a ledger, in order.

    One listing for each year, month and date with uploads, however long the range is.
    """
    found: set[UploadDate] = set()

    def walk(top: str, prefix: str, depth: int) -> None:
        for folder in store.folders(prefix):
            path = folder.removeprefix(f"{top}/").rstrip("/")
            if not _overlaps(path, first, last):
                continue
            if depth < 2:
                walk(top, folder, depth + 1)
            else:
                batch = find_batch(f"{path}/any")
                found.update([batch.date] if batch and first <= batch.date <= last else [])

    # Uploads may all be archived; then only the ledger is left.
    for top in (s3_keys.UPLOADS, f"{s3_keys.STATE}/ledger"):
        walk(top, f"{top}/", 0)
    return sorted(found)


def batches_of(store: Store, date: UploadDate) -> list[Batch]:
    """The names of a date's batches, in order, also of those whose uploads are all archived: two listings."""
    tops = (s3_keys.UPLOADS, f"{s3_keys.STATE}/ledger")
    folders = (folder for top in tops for folder in store.folders(f"{top}/{s3_keys.date_path(date)}/"))
    found = {find_batch(f"{folder.removeprefix(f'{s3_keys.STATE}/ledger/')}any") for folder in folders}
    return sorted(filter(None, found), key=lambda batch: batch.path)


def _overlaps(path: str, first: UploadDate, last: UploadDate) -> bool:
    """Whether dates that begin with ``path`` (``2026``, ``2026/11`` …) can lie between the two."""
    low, high = (s3_keys.date_path(date)[: len(path)] for date in (first, last))
    return low <= path <= high


def _iso(uploaded: Uploaded) -> str:
    changed = uploaded.last_change
    return "" if changed.year == 1 else changed.isoformat(timespec="seconds")
