"""Calls for single photos, each carried out as a batch of its own: the same engine, ledger, quotas and caps.

An order's photos are copied into a batch under ``image-files/``, so that what was asked is kept, reported and
paid for once like everything else, and goes on elsewhere if this process ends: any run finishes it.
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

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.run_budget import RunBudget
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import idempotency_key
from bg_pipeline.domain.stages import PICTURES, REPORT
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.reports.overview import BatchOverview, load_status
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.engine import Engine
from bg_pipeline.settings import Settings
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting
from bg_pipeline.uploads.submitting import Upload
from bg_pipeline.web.problems import Problem

AT_ONCE = 8
"""Orders worked on at a time."""
WAITING = 64
"""Orders taken in at a time; more are refused."""

_log = logging.getLogger(__name__)

_ID = re.compile(r"(\d{8})-(\d{6}-[0-9a-f]{16})")


def new_batch() -> Batch:
    """The batch of a new order."""
    now = datetime.now(UTC)
    return Batch(now.date(), f"api-{now:%H%M%S}-{uuid.uuid4().hex[:16]}")


def job_id(batch: Batch) -> str:
    """What a caller asks for the order by."""
    return f"{batch.date:%Y%m%d}-{batch.name.removeprefix('api-')}"


def batch_of_job(text: str) -> Batch:
    """The batch of the order; raises `Problem` 404 if there can be none."""
    match = _ID.fullmatch(text)
    try:
        if match:
            return Batch(datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date(), f"api-{match[2]}")
    except ValueError:
        pass
    raise Problem(404, "NoSuchOrder", f"there is no order '{text}'")


def requested_at(batch: Batch) -> datetime:
    """When the order came, to the second (UTC)."""
    time = batch.name.removeprefix("api-")[:6]
    return datetime.strptime(f"{batch.date} {time}", "%Y-%m-%d %H%M%S").replace(tzinfo=UTC)


def idempotent_batch(store: Store, caller: str, key: str | None, asked: Any, batch: Batch) -> Batch:
    """``batch``, or that of the caller's earlier call with this idempotency key.

    Raises `Problem` 422 if the earlier call asked for something else. Without a key every call is a new one.
    """
    if not key:
        return batch
    digest = hashlib.sha256(orjson.dumps([caller, key])).hexdigest()
    document = {
        "Version": 1,
        "Batch": [f"{batch.date}", batch.name],
        "Asked": hashlib.sha256(orjson.dumps(asked)).hexdigest(),
    }
    try:
        store.write_json(idempotency_key(digest), document, if_absent=True)
    except PreconditionFailed:
        stored = store.read_json(idempotency_key(digest))
        earlier: dict[str, Any] = {**document, **stored} if isinstance(stored, dict) else document
        if earlier["Asked"] != document["Asked"]:
            text = "this idempotency key was used for another call; take a new one"
            raise Problem(422, "IdempotencyKeyReused", text) from None
        day, name = earlier["Batch"]
        return Batch(date.fromisoformat(day), name)
    return batch


class SinglePhotoJobs:
    """The orders under way in this process. End it with `close`, which lets paid calls come to their end.

    All of them share their gates and one purse; what this process spends on them in a day (UTC) is capped by
    BG_MAX_COST_USD, as a run is.
    """

    def __init__(self, settings: Settings, aws: Aws, store: Store) -> None:
        self._settings = settings
        self._aws = aws
        self._store = store
        self._pool = ThreadPoolExecutor(AT_ONCE, "order")
        self._lock = threading.Lock()
        self._running: dict[Batch, Future[None]] = {}
        self._stop = threading.Event()
        self._context: RunContext | None = None
        self._users = 0
        self._spent = (date.min, 0.0)

    def is_placed(self, batch: Batch) -> bool:
        """Whether the order is stored, and so will be carried out."""
        return self._store.head(batch.request_key) is not None

    def submit(self, batch: Batch, photos: Sequence[Upload], wishes: Mapping[str, Any]) -> None:
        """Stores an order as a batch. Raises `RequestError` by field."""
        document = {
            # The same for the same order: two calls with one idempotency key may both get here.
            "Id": batch.derived_id(self._store.bucket),
            **wishes,
            "Images": [{"ImageName": photo.name} for photo in photos],
        }
        request, _ = submitting.compose_request(self._settings, batch, [], document)
        submitting.submit(self._store, batch, photos, request)

    def start(self, batch: Batch) -> Future[None]:
        """Has the order worked on; what is done of it already is not done again.

        Raises `Problem` 503 if too many are under way.
        """
        with self._lock:
            if batch not in self._running:
                if len(self._running) >= WAITING:
                    raise Problem(
                        503,
                        "Busy",
                        f"{WAITING} photos are being worked on; ask again in a while",
                        retry_after=10,
                    )
                begun = self._running[batch] = self._pool.submit(self._work, batch)
                begun.add_done_callback(partial(_note, batch))
            return self._running[batch]

    def status(self, batch: Batch) -> BatchOverview:
        """What was ordered, and its report once there is one; raises `Problem` 404 if there is no such order."""
        try:
            return load_status(self._store, self._settings, batch)
        except UsageError:
            raise Problem(404, "NoSuchOrder", f"there is no order '{job_id(batch)}'") from None

    def is_final(self, batch: Batch, image: str) -> bool:
        """Whether a photo that failed would fail again."""
        ledger = Ledger.read(self._store, batch, list(self._store.list(f"{batch.ledger_prefix}/")))
        entry = ledger.get(image)
        return entry is not None and PICTURES in entry.stages and entry.stages[PICTURES].final

    def close(self) -> None:
        """Takes nothing more; what is not begun is left to the next run."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _work(self, batch: Batch) -> None:
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
        """The tools that all orders under way share: a process counts once among those that share a quota."""
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
        context = RunContext(self._settings, self._aws, self._store, stop=self._stop)
        context.run_budget = RunBudget(
            self._store,
            run_cap_usd=self._settings.max_cost_usd,
            day_cap_usd=self._settings.max_cost_usd_per_day,
            spent_usd=self._spent[1],
        )
        return context


def _note(batch: Batch, work: Future[None]) -> None:
    """Logs why an order came to no end, since nobody may be waiting for it."""
    if not work.cancelled() and (error := work.exception()):
        _log.warning("order %s was not finished: %s: %s", job_id(batch), type(error).__name__, error)


def _cost(purse: RunBudget) -> float:
    return sum(total.cost_usd for total in purse.totals().values())
