"""A window: the time during which a Custom Labels model runs for the pipeline; one run starts and stops it.

The run that holds the window's lease stores a record of the start before it starts the model, and stops the model at
its end, also after an error. If the run is killed, `bg_pipeline.custom_labels.orphaned_models` or the next run that
gets the lease stops the model. A model that runs without a record was started by somebody else: it is used and left
running.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from bg_pipeline.budget.run_budget import Reservation, RunBudget
from bg_pipeline.custom_labels.model import CustomModel, NotStarted, State, WrongState
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import BgPipelineError, PreconditionFailed, Throttled, Transient
from bg_pipeline.labelers import custom_labels
from bg_pipeline.state.leases import Lease, Leases, holder_of, seconds_since_boot
from bg_pipeline.storage.object_store import Store

POLL_SECONDS = 10.0
"""Seconds between two reads of the state of a starting or stopping model; AWS allows 5 such calls per second."""
CLOSE_SECONDS = 120.0
"""Seconds for which a run tries to stop the model at its end, before it leaves that to `custom_labels_guard`. A model
cannot be stopped while it is starting."""
GRACE_SECONDS = 60.0
"""Seconds after the order to start during which Rekognition may still return the old state."""
CERTAIN_SECONDS = 600.0
"""Seconds after a start order with an unknown outcome after which a model that is off was certainly not started."""
RESERVATION_HOURS = 0.05
"""Hours of model time that are reserved under the caps at once; caps are so exact to three minutes."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True)

    version: int = 1


class WindowRecord(_Document):
    """The stored record of a start, which obliges its run, or a later process, to stop the model.

    ``opened`` is a time before the start order. ``accepted`` is True once Rekognition has accepted the order; until
    then the outcome is unknown.
    """

    model: str = Field(pattern=r"^arn:[^/]+:rekognition:[^/:]+:[^/:]*:project/[^/]+/version/[^/]+/[^/]+$")
    run: str
    units: int
    opened: datetime
    accepted: bool = False


class WindowReport(_Document):
    """The stored report of one window.

    ``hours`` is the time from the start order to the stop order. ``cost_usd`` is None if the price is unknown, and 0
    if ``own`` is False, because somebody else started the model and pays for it. ``ended_by`` is ``run`` or
    ``guard``; the guard does not know the labels and dates.
    """

    model: str
    run: str
    own: bool
    units: int
    opened: datetime
    stopped: datetime
    ended_by: str
    hours: float
    cost_usd: float | None = Field(serialization_alias="CostUSD")
    dates: tuple[date, ...] = ()
    labelled: int = 0
    failed: int = 0
    still_waiting: int = 0


class WindowTaken(BgPipelineError):
    """Another run holds the window's lease."""


@dataclass
class WindowCounts:
    """The dates and photos processed while the model ran."""

    dates: tuple[date, ...] = ()
    labelled: int = 0
    failed: int = 0
    still_waiting: int = 0


class Window:
    """Starts and stops a model under the window's lease.

    The caller updates ``counts``, which become part of ``report`` (set when the window is closed). The model's time
    is reserved in ``run_budget``. ``note`` is called with log lines.
    """

    def __init__(
        self,
        model: CustomModel,
        store: Store,
        lease: Lease,
        *,
        run: str,
        units: int = 1,
        run_budget: RunBudget | None = None,
        note: Callable[[str], None],
    ) -> None:
        self.counts = WindowCounts()
        self.report: WindowReport | None = None
        self.report_key = ""
        self._model = model
        self._store = store
        self._lease = lease
        self._run = run
        self._units = units
        self._run_budget = run_budget
        self._note = note
        self._opened = datetime.now(UTC)
        self._key = s3_keys.window_key(model.arn, "start")
        self._record, self._etag = read_record(store, self._key)
        self._runs = False
        self._reserved: list[Reservation] = []

    def start(self, minutes: float) -> None:
        """Returns when the model runs; raises `NotStarted` if it does not run within ``minutes``."""
        deadline = seconds_since_boot() + minutes * 60
        state = self._wait(lambda state: state.status != "STOPPING", deadline, minutes)
        if state.is_billed and self._record is None:
            self._note_foreign_start()
        elif state.is_billed and self._record is not None:
            self._note(f"{self._model.arn} was left on by run {self._record.run}; this run takes it over")
            self._write(self._record.model_copy(update={"run": self._run}))
            self.keep_alive()
        else:
            self._start_model()
        started = seconds_since_boot()

        def is_final(state: State) -> bool:
            late = seconds_since_boot() - started > GRACE_SECONDS
            return state.status in ("RUNNING", "FAILED") or (state.status != "STARTING" and late)

        state = self._wait(is_final, deadline, minutes)
        if state.status != "RUNNING":
            raise NotStarted(
                f"{self._model.arn} did not start: it is {state.status} ({state.message or 'no reason is given'}). "
                "Photos that need it wait; see the model in the Rekognition Custom Labels console"
            )
        self._runs = True

    def keep_alive(self) -> None:
        """Reserves the cost of the model's time so far; must be called often. Raises `CapReached` if a cap has no
        room.
        """
        if self._record is None or self._run_budget is None:
            return
        hours = self._hours(datetime.now(UTC))
        while len(self._reserved) * RESERVATION_HOURS <= hours:
            price = self._price(RESERVATION_HOURS)
            self._reserved.append(self._run_budget.reserve(price, custom_labels.OPERATION.name))

    def stop(self, by: str = "run", *, timeout: float | None = None) -> None:
        """Stops the model if its start is recorded, and stores the report.

        Tries for ``timeout`` seconds (default: `CLOSE_SECONDS`); after that `custom_labels_guard` has to stop it.
        Errors of AWS and of the pipeline are noted, not raised.
        """
        try:
            if self._record is None:
                if self._runs:
                    self._store_report(by, datetime.now(UTC))
            elif self._lease.held():
                self._stop_model(by, CLOSE_SECONDS if timeout is None else timeout)
            else:
                self._note(
                    f"{self._model.arn}: another process has taken over the window and stops the model"
                )
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._note(
                f"the window of {self._model.arn} is not closed: {error}; custom_labels_guard stops the model"
            )
        for reservation in self._reserved:
            reservation.keep()

    # The model

    def _start_model(self) -> None:
        if self._record is not None:
            self._finish("run", datetime.now(UTC))  # its run died, and somebody else stopped the model
        record = WindowRecord(
            model=self._model.arn, run=self._run, units=self._units, opened=datetime.now(UTC)
        )
        self._record = record
        try:
            self.keep_alive()
        except BgPipelineError:
            self._record = None
            raise
        self._write(record)
        try:
            self._model.start(self._units)
        except WrongState:
            self._discard_record()
            self._note_foreign_start()
        except Throttled:
            self._discard_record()
            raise
        except Transient as error:
            self._note(f"it is not known yet whether {self._model.arn} is starting: {error}")
        except BgPipelineError:
            self._discard_record()
            raise
        else:
            self._write(record.model_copy(update={"accepted": True}))
            self._note(f"{self._model.arn} was started with {self._units} inference units")

    def _note_foreign_start(self) -> None:
        self._note(f"{self._model.arn} was started by somebody else: it is used, and left running")

    def _wait(self, condition: Callable[[State], bool], deadline: float, minutes: float) -> State:
        while True:
            try:
                state = self._model.state()
                if condition(state):
                    return state
                description = f"is still {state.status}"
            except Transient as error:
                description = f"is in an unknown state ({error})"
            self.keep_alive()
            if seconds_since_boot() >= deadline:
                raise NotStarted(
                    f"{self._model.arn} {description} after {minutes:g} minutes (BG_CUSTOM_LABELS_START_MINUTES). "
                    "If this run started it, it is stopped as soon as possible"
                )
            time.sleep(POLL_SECONDS)

    def _stop_model(self, by: str, timeout: float) -> None:
        deadline = seconds_since_boot() + timeout
        stopped: datetime | None = None
        while True:
            reason = "it is still starting, or stopping"
            try:
                state = self._model.state()
                if not state.is_billed and (stopped or self._is_certainly_off()):
                    self._finish(by, stopped or datetime.now(UTC))
                    return
                if state.is_billed and stopped is None:
                    self._model.stop()
                    stopped = datetime.now(UTC)
                    continue
            except WrongState:
                stopped = None
            except BgPipelineError as error:
                reason = str(error)
            if seconds_since_boot() >= deadline:
                self._note(f"{self._model.arn} is not stopped yet ({reason}); custom_labels_guard stops it")
                return
            time.sleep(POLL_SECONDS)

    def _is_certainly_off(self) -> bool:
        """Whether a model whose state is off stays off, because no recorded start order may still take effect."""
        record = self._record
        return record is None or record.accepted or self._hours(datetime.now(UTC)) * 3600 > CERTAIN_SECONDS

    # Stored documents

    def _write(self, record: WindowRecord) -> None:
        document = record.model_dump(mode="json", by_alias=True)
        try:
            etag = self._store.write_json(
                self._key, document, if_absent=self._etag is None, if_etag=self._etag
            )
        except PreconditionFailed:
            # The refusal may be our own doing: if the answer to the first request was lost, boto3 repeats the write.
            stored, stored_etag = read_record(self._store, self._key)
            if stored != record or stored_etag is None:
                raise
            etag = stored_etag
        self._record, self._etag = record, etag

    def _discard_record(self) -> None:
        """Deletes the record and releases the reservations, because this run did not start the model."""
        self._store.delete(self._key, if_etag=self._etag)
        self._record, self._etag = None, None
        for reservation in self._reserved:
            reservation.release()
        self._reserved.clear()

    def _finish(self, by: str, stopped: datetime) -> None:
        """Stores the report, settles the reservations and deletes the record, because the model is off."""
        self._store_report(by, stopped)
        each, left = self._price(RESERVATION_HOURS), self._price(self._hours(stopped))
        for number, reservation in enumerate(self._reserved, 1):
            if each is None or left is None:
                break
            paid = left if number == len(self._reserved) else min(each, left)
            reservation.settle(paid)
            left -= paid
        self._store.delete(self._key, if_etag=self._etag)
        self._record, self._etag = None, None
        self._reserved.clear()

    def _store_report(self, by: str, stopped: datetime) -> None:
        record = self._record
        hours = self._hours(stopped)
        self.report = WindowReport(
            model=self._model.arn,
            run=record.run if record else self._run,
            own=record is not None,
            units=record.units if record else 0,
            opened=record.opened if record else self._opened,
            stopped=stopped,
            ended_by=by,
            hours=round(hours, 4),
            cost_usd=None if (price := self._price(hours)) is None else round(price, 4),
            **vars(self.counts),
        )
        self.report_key = s3_keys.window_report_key(self.report.opened.astimezone(UTC), self.report.run)
        self._store.write_json(self.report_key, self.report.model_dump(mode="json", by_alias=True))

    def _hours(self, until: datetime) -> float:
        since = self._record.opened if self._record else self._opened
        return max(0.0, (until - since).total_seconds() / 3600)

    def _price(self, hours: float) -> float | None:
        """The cost of this many hours in US dollars, for the units that this run started (0 if none); None if
        unknown.
        """
        units = self._record.units if self._record else 0
        return facts_of(custom_labels.OPERATION.name).cost(unit_hours=units * hours)


def read_record(store: Store, key: str) -> tuple[WindowRecord | None, str | None]:
    """The record at ``key`` and its ETag; the record is None if it is absent or invalid."""
    content = store.read(key)
    if content is None:
        return None, None
    try:
        return WindowRecord.model_validate_json(content.data), content.etag
    except ValidationError:
        return None, content.etag


@contextmanager
def open_window(
    model: CustomModel,
    store: Store,
    leases: Leases,
    *,
    units: int,
    minutes: float,
    run_budget: RunBudget,
    note: Callable[[str], None],
) -> Iterator[Window]:
    """Runs the model for the duration of the block; raises `WindowTaken` if another run owns the window.

    Raises `NotStarted` and the errors of `CustomModel` if the model does not run within ``minutes``, and
    `CapReached`. A model that was started here is always stopped before the lease is released.
    """
    key = s3_keys.window_key(model.arn, "lease")
    lease = leases.acquire(key)
    if lease is None:
        raise WindowTaken(
            f"{describe_owner(store, model.arn)} owns the window of {model.arn}; there is one at a time"
        )
    with lease:
        window = Window(model, store, lease, run=leases.run, units=units, run_budget=run_budget, note=note)
        try:
            window.start(minutes)
            yield window
        finally:
            window.stop()


def describe_owner(store: Store, arn: str) -> str:
    """A phrase that names the owner of a model's window: run, host and since when."""
    holder = holder_of(store, s3_keys.window_key(arn, "lease"))
    return f"run {holder.run} (on {holder.host} since {holder.since:%H:%M} UTC)" if holder else "another run"
