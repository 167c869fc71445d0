"""Jobs for calls with single photos: each is run as a batch, with the same engine, ledger, quotas and caps.

A job's photos are copied into a batch under ``image-files/``, so that the job is stored, reported and paid for once,
as any batch. If this process ends, any run of its date finishes it.
"""

import hashlib
import logging
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import orjson

from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.budget.run_budget import RunBudget
from bg_pipeline.budget.spend_log import SpendLog
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.domain.s3_keys import idempotency_key
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.reports.overview import BatchOverview, load_status
from bg_pipeline.run.analysis import PhotoAnalyzer
from bg_pipeline.run.context import RunContext, check_signing
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.settings import Settings
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting
from bg_pipeline.uploads.submitting import Upload
from bg_pipeline.web.problems import Problem

MAX_RUNNING = 8
"""Jobs that run at a time."""
MAX_ACCEPTED = 64
"""Jobs that run or wait at a time; more are refused."""

_log = logging.getLogger(__name__)

_ID = re.compile(r"(\d{8})-(\d{6}-[0-9a-f]{16})")


def new_batch() -> Batch:
    """The batch of a new job."""
    now = datetime.now(UTC)
    return Batch(now.date(), f"api-{now:%H%M%S}-{uuid.uuid4().hex[:16]}")


def job_id(batch: Batch) -> str:
    """The id by which a caller asks for the job."""
    return f"{batch.date:%Y%m%d}-{batch.name.removeprefix('api-')}"


def batch_of_job(text: str) -> Batch:
    """The batch of the job with this id; raises `Problem` 404 if no job can have it."""
    match = _ID.fullmatch(text)
    try:
        if match:
            return Batch(datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date(), f"api-{match[2]}")
    except ValueError:
        pass
    raise no_such_order(text)


def no_such_order(text: str) -> Problem:
    """The answer about an order that does not exist for the caller."""
    return Problem(404, "NoSuchOrder", f"there is no order '{text}'")


def requested_at(batch: Batch) -> datetime:
    """The time of the job's call, to the second (UTC)."""
    time = batch.name.removeprefix("api-")[:6]
    return datetime.strptime(f"{batch.date} {time}", "%Y-%m-%d %H%M%S").replace(tzinfo=UTC)


def idempotent_batch(store: Store, caller: Person, key: str | None, call: Any, batch: Batch) -> Batch:
    """``batch``, or the batch of the caller's earlier call with this idempotency key.

    ``call`` is the content of the call, as JSON values. Raises `Problem` 422 if the earlier one differs. Without a
    key every call is a new one.
    """
    if not key:
        return batch
    digest = hashlib.sha256(orjson.dumps([caller.subject or caller.name, key])).hexdigest()
    document = {
        "Version": 1,
        "Batch": [f"{batch.date}", batch.name],
        "Asked": hashlib.sha256(orjson.dumps(call)).hexdigest(),
    }
    try:
        store.write_json(idempotency_key(digest), document, if_absent=True)
    except PreconditionFailed:
        stored = store.read_json(idempotency_key(digest))
        earlier: dict[str, Any] = {**document, **stored} if isinstance(stored, dict) else document
        if earlier["Asked"] != document["Asked"]:
            text = "this idempotency key was used for another call; use a new one"
            raise Problem(422, "IdempotencyKeyReused", text) from None
        day, name = earlier["Batch"]
        return Batch(date.fromisoformat(day), name)
    return batch


class SinglePhotoJobs:
    """The running jobs of this process. `close` ends them, after paid calls were answered.

    All jobs share their rate limits and one budget: BG_MAX_COST_USD, which caps a run, here caps what this process
    spends in a day (UTC).
    """

    def __init__(self, settings: Settings, aws: Aws, store: Store) -> None:
        self._settings = settings
        self._aws = aws
        self._store = store
        self._pool = ThreadPoolExecutor(MAX_RUNNING, "job")
        self._lock = threading.Lock()
        self._running: dict[Batch, Future[None]] = {}
        self._stop = threading.Event()
        self._context: RunContext | None = None
        self._users = 0
        self._spent = (date.min, 0.0)

    def is_submitted(self, batch: Batch) -> bool:
        """Whether the job is stored; it is then run sooner or later."""
        return self._store.head(batch.request_key) is not None

    def submit(
        self,
        acts: Acts,
        caller: Person,
        batch: Batch,
        photos: Sequence[Upload],
        fields: Mapping[str, Any],
    ) -> None:
        """Stores a job as a batch whose request has these ``fields``. Raises `RequestError` by field."""
        document = {
            # Derived, so that two simultaneous calls with one idempotency key write the same request.
            "Id": batch.derived_id(self._store.bucket),
            **fields,
            "Images": [{"ImageName": photo.name} for photo in photos],
        }
        request, _ = submitting.compose_request(self._settings, batch, [], document)
        acts.upload_and_submit(caller, batch, photos, request)

    def start(self, batch: Batch) -> Future[None]:
        """Runs a job in a thread, unless it is running already; what is already done is not repeated.

        Raises `Problem` 503 if `MAX_ACCEPTED` jobs run or wait.
        """
        with self._lock:
            if batch not in self._running:
                if len(self._running) >= MAX_ACCEPTED:
                    raise Problem(
                        503,
                        "Busy",
                        f"{MAX_ACCEPTED} calls are being processed; repeat this one later",
                        retry_after=10,
                    )
                future = self._running[batch] = self._pool.submit(self._run, batch)
                future.add_done_callback(partial(_log_failure, batch))
            return self._running[batch]

    def status(self, batch: Batch) -> BatchOverview:
        """The job's request, and its report if there is one; raises `Problem` 404 if the job does not exist."""
        try:
            return load_status(self._store, self._settings, batch)
        except UsageError:
            raise no_such_order(job_id(batch)) from None

    def is_final(self, batch: Batch, image: str) -> bool:
        """Whether a photo that failed would fail again in the next run."""
        ledger = Ledger.read(self._store, batch, list(self._store.list(f"{batch.ledger_prefix}/")))
        entry = ledger.get(image)
        return entry is not None and PICTURES in entry.stages and entry.stages[PICTURES].final

    def labels(self, acts: Acts, caller: Person, batch: Batch, image: str) -> dict[str, Any]:
        """The labels document of an uploaded photo; paid for once for the same bytes, within the caps.

        The caller's audit line has the number of calls; what they cost is in the line of this process's jobs. Raises
        the errors of the call (`bg_pipeline.errors`).
        """
        with acts.spend(caller, batch, "labels", 1) as spent, self._shared_context() as context:
            budget = ImageBudget(context.run_budget, batch, image, stage=LABELS)
            photo = SourceImage(self._store, batch.upload_key(image), context.picture_memory)
            document = dict(PhotoAnalyzer(context, photo, budget).labels().document)
            spent["Calls"] = len(budget.paid)
        return document

    def close(self) -> None:
        """Stops the running jobs and drops those that wait; the next run of their date finishes them."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _run(self, batch: Batch) -> None:
        try:
            with self._shared_context() as context:
                engine = Engine(
                    context,
                    run_id=f"api-{uuid.uuid4()}",
                    reporter=REPORTER,
                    stages=(PICTURES, REPORT),
                    only=[batch],
                )
                engine.run([batch.date])
        finally:
            with self._lock:
                del self._running[batch]

    @contextmanager
    def _shared_context(self) -> Iterator[RunContext]:
        """One context for all running jobs, since each context counts as a process among those that share a quota."""
        with self._lock:
            if self._context is None:
                self._context = self._new_context()
            context = self._context
            self._users += 1
        try:
            yield context
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._context = None
                    context.close()
                    self._spent = (self._spent[0], self._spent[1] + _cost(context.run_budget))

    def _new_context(self) -> RunContext:
        today = datetime.now(UTC).date()
        if self._spent[0] != today:
            self._spent = (today, 0.0)
        check_signing(self._settings)
        context = RunContext(self._settings, self._aws, self._store, stop=self._stop)
        context.run_budget = RunBudget(
            self._store,
            run_cap_usd=self._settings.max_cost_usd,
            day_cap_usd=self._settings.max_cost_usd_per_day,
            spent_usd=self._spent[1],
            spend_log=SpendLog(
                self._store, local_person("the HTTP API", Via.RUN), {"Run": f"api-{uuid.uuid4()}"}
            ),
        )
        return context


def _log_failure(batch: Batch, work: Future[None]) -> None:
    """Logs why a job failed, since its caller may not be waiting any more."""
    if not work.cancelled() and (error := work.exception()):
        _log.warning("job %s was not finished: %s: %s", job_id(batch), type(error).__name__, error)


def _cost(budget: RunBudget) -> float:
    return sum(total.cost_usd for total in budget.totals().values())
