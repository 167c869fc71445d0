"""The time in which a Custom Labels model runs for the pipeline: started by one run, stopped in every case.

Under a lease that one run holds, a record of the start is stored before the model is started. That run stops
the model when it is done, however that ends. If it was killed, `bg_pipeline.custom_labels.orphaned_models` does so,
or the next run that gets the lease. A model that runs without such a record was started by somebody else: it is used,
and left running.
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
from bg_pipeline.custom_labels.model import CustomModel, InUse, NotStarted, State
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import BgPipelineError, PreconditionFailed, Throttled, Transient
from bg_pipeline.labelers import custom_labels
from bg_pipeline.state.leases import Lease, Leases, holder_of, seconds_since_boot
from bg_pipeline.storage.object_store import Store

POLL_SECONDS = 10.0
"""Between two looks at a model that starts or stops; AWS takes 5 such calls a second."""
CLOSE_SECONDS = 120.0
"""How long the end of a run tries to stop the model, which is impossible while it starts, before the guard has to."""
GRACE_SECONDS = 60.0
"""For so long after its start a model may be seen as if nothing had happened."""
CERTAIN_SECONDS = 600.0
"""After so long a start without an answer, of which nothing is to be seen, is known not to have happened."""
SLICE_HOURS = 0.05
"""Money is set aside for so much of the model's time at once: caps hold to three minutes."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True)

    version: int = 1


class WindowRecord(_Document):
    """A start of the model that its run, or whoever follows it, has to end; ``opened`` lies before the start.

    ``accepted`` says that Rekognition has said yes; until then the start may or may not have happened.
    """

    model: str = Field(pattern=r"^arn:[^/]+:rekognition:[^/:]+:[^/:]*:project/[^/]+/version/[^/]+/[^/]+$")
    run: str
    units: int
    opened: datetime
    accepted: bool = False


class WindowReport(_Document):
    """What became of one window, as it is stored.

    ``hours`` last from the order to start to the order to stop; ``cost_usd`` is None where the price of an hour is
    unknown, and 0 where ``own`` is False: somebody else started the model and pays for it. ``ended_by`` is
    ``run`` or ``guard``. Of labels and dates the guard knows nothing.
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
    """Another run owns the window."""


@dataclass
class Tally:
    """What was done while the model ran."""

    dates: tuple[date, ...] = ()
    labelled: int = 0
    failed: int = 0
    still_waiting: int = 0


class Window:
    """A model in the hands of whoever holds its lease.

    ``tally`` goes into the `report`, which is there once the window is closed. Money for the model's time is set
    aside in ``purse``. ``note`` is called with a line for a person.
    """

    def __init__(
        self,
        model: CustomModel,
        store: Store,
        lease: Lease,
        *,
        run: str,
        units: int = 1,
        purse: RunBudget | None = None,
        note: Callable[[str], None],
    ) -> None:
        self.tally = Tally()
        self.report: WindowReport | None = None
        self.report_key = ""
        self._model = model
        self._store = store
        self._lease = lease
        self._run = run
        self._units = units
        self._purse = purse
        self._note = note
        self._opened = datetime.now(UTC)
        self._key = s3_keys.window_key(model.arn, "start")
        self._record, self._etag = read_record(store, self._key)
        self._runs = False
        self._reserved: list[Reservation] = []

    def start(self, minutes: float) -> None:
        """Returns when the model runs; raises `NotStarted` when it does not within ``minutes``."""
        deadline = seconds_since_boot() + minutes * 60
        state = self._wait(lambda state: state.status != "STOPPING", deadline, minutes)
        if state.on and self._record is None:
            self._leave_alone()
        elif state.on and self._record is not None:
            self._note(f"{self._model.arn} was left on by run {self._record.run}; this run takes it over")
            self._write(self._record.model_copy(update={"run": self._run}))
            self.keep_alive()
        else:
            self._start_model()
        started = seconds_since_boot()

        def decided(state: State) -> bool:
            late = seconds_since_boot() - started > GRACE_SECONDS
            return state.status in ("RUNNING", "FAILED") or (state.status != "STARTING" and late)

        state = self._wait(decided, deadline, minutes)
        if state.status != "RUNNING":
            raise NotStarted(
                f"{self._model.arn} should start and is {state.status} ({state.message or 'no reason is given'}). "
                "Photos that need it wait; see the model in the Rekognition Custom Labels console"
            )
        self._runs = True

    def keep_alive(self) -> None:
        """Sets money aside for the time that the model is on; raises `CapReached` where a cap has no room."""
        if self._record is None or self._purse is None:
            return
        hours = self._hours(datetime.now(UTC))
        while len(self._reserved) * SLICE_HOURS <= hours:
            price = self._price(SLICE_HOURS)
            self._reserved.append(self._purse.reserve(price, custom_labels.OPERATION.name))

    def stop(self, by: str = "run", *, patience: float | None = None) -> None:
        """Stops the model if its start is recorded; what cannot be stopped is left to the guard.

        Tries for ``patience`` seconds (default: `CLOSE_SECONDS`).

        Raises nothing that is expected: what went wrong is noted.
        """
        try:
            if self._record is None:
                if self._runs:
                    self._tell(by, datetime.now(UTC))
            elif self._lease.held():
                self._stop_model(by, CLOSE_SECONDS if patience is None else patience)
            else:
                self._note(
                    f"{self._model.arn}: another process has taken the window over and stops the model"
                )
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._note(
                f"the window of {self._model.arn} is not closed: {error}; custom_labels_guard sees to it"
            )
        for reservation in self._reserved:
            reservation.keep()

    # The model

    def _start_model(self) -> None:
        if self._record is not None:
            self._finish("run", datetime.now(UTC))  # stopped by somebody else after its run had died
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
        except InUse:
            self._forget()
            self._leave_alone()
        except Throttled:
            self._forget()
            raise
        except Transient as error:
            self._note(f"whether {self._model.arn} starts is to be seen: {error}")
        except BgPipelineError:
            self._forget()
            raise
        else:
            self._write(record.model_copy(update={"accepted": True}))
            self._note(f"{self._model.arn} was started with {self._units} inference units")

    def _leave_alone(self) -> None:
        self._note(f"{self._model.arn} was started by somebody else: it is used, and left running")

    def _wait(self, until: Callable[[State], bool], deadline: float, minutes: float) -> State:
        while True:
            try:
                state = self._model.state()
                if until(state):
                    return state
                words = f"is still {state.status}"
            except Transient as error:
                words = f"is in an unknown state ({error})"
            self.keep_alive()
            if seconds_since_boot() >= deadline:
                raise NotStarted(
                    f"{self._model.arn} {words} after {minutes:g} minutes (BG_CUSTOM_LABELS_START_MINUTES). "
                    "If it was started for this, it is stopped as soon as that is possible"
                )
            time.sleep(POLL_SECONDS)

    def _stop_model(self, by: str, patience: float) -> None:
        give_up = seconds_since_boot() + patience
        stopped: datetime | None = None
        while True:
            words = "it is still starting, or stopping"
            try:
                state = self._model.state()
                if not state.on and (stopped or self._certain()):
                    self._finish(by, stopped or datetime.now(UTC))
                    return
                if state.on and stopped is None:
                    self._model.stop()
                    stopped = datetime.now(UTC)
                    continue
            except InUse:
                stopped = None
            except BgPipelineError as error:
                words = str(error)
            if seconds_since_boot() >= give_up:
                self._note(f"{self._model.arn} is not stopped yet ({words}); custom_labels_guard sees to it")
                return
            time.sleep(POLL_SECONDS)

    def _certain(self) -> bool:
        """Whether a model that is off was stopped, and is not just about to start."""
        record = self._record
        return record is None or record.accepted or self._hours(datetime.now(UTC)) * 3600 > CERTAIN_SECONDS

    # What is stored

    def _write(self, record: WindowRecord) -> None:
        document = record.model_dump(mode="json", by_alias=True)
        try:
            etag = self._store.write_json(
                self._key, document, if_absent=self._etag is None, if_etag=self._etag
            )
        except PreconditionFailed:
            # Where an answer is lost boto3 sends the write again, and what refuses the second is the first.
            there, found = read_record(self._store, self._key)
            if there != record or found is None:
                raise
            etag = found
        self._record, self._etag = record, etag

    def _forget(self) -> None:
        """Nothing was started."""
        self._store.delete(self._key, if_etag=self._etag)
        self._record, self._etag = None, None
        for reservation in self._reserved:
            reservation.release()
        self._reserved.clear()

    def _finish(self, by: str, stopped: datetime) -> None:
        """The model is off: tells what it cost, then removes the record."""
        self._tell(by, stopped)
        each, left = self._price(SLICE_HOURS), self._price(self._hours(stopped))
        for number, reservation in enumerate(self._reserved, 1):
            if each is None or left is None:
                break
            paid = left if number == len(self._reserved) else min(each, left)
            reservation.settle(paid)
            left -= paid
        self._store.delete(self._key, if_etag=self._etag)
        self._record, self._etag = None, None
        self._reserved.clear()

    def _tell(self, by: str, stopped: datetime) -> None:
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
            **vars(self.tally),
        )
        self.report_key = s3_keys.window_report_key(self.report.opened.astimezone(UTC), self.report.run)
        self._store.write_json(self.report_key, self.report.model_dump(mode="json", by_alias=True))

    def _hours(self, until: datetime) -> float:
        since = self._record.opened if self._record else self._opened
        return max(0.0, (until - since).total_seconds() / 3600)

    def _price(self, hours: float) -> float | None:
        """What so many hours of the model cost us."""
        units = self._record.units if self._record else 0
        return facts_of(custom_labels.OPERATION.name).cost(unit_hours=units * hours)


def read_record(store: Store, key: str) -> tuple[WindowRecord | None, str | None]:
    """The record at ``key`` and its tag; None for what is none."""
    content = store.read(key)
    if content is None:
        return None, None
    try:
        return WindowRecord.model_validate_json(content.data), content.etag
    except ValidationError:
        return None, content.etag


@contextmanager
def opened(
    model: CustomModel,
    store: Store,
    leases: Leases,
    *,
    units: int,
    minutes: float,
    purse: RunBudget,
    note: Callable[[str], None],
) -> Iterator[Window]:
    """The model, running, for as long as the block lasts; one owner at a time, else raises `WindowTaken`.

    Raises `NotStarted` and what `CustomModel` raises if it does not run within ``minutes``, and `CapReached`. In
    every case a model that was started for this is stopped before the lease is given back.
    """
    key = s3_keys.window_key(model.arn, "lease")
    lease = leases.acquire(key)
    if lease is None:
        raise WindowTaken(f"{owner(store, model.arn)} owns the window of {model.arn}; there is one at a time")
    with lease:
        window = Window(model, store, lease, run=leases.run, units=units, purse=purse, note=note)
        try:
            window.start(minutes)
            yield window
        finally:
            window.stop()


def owner(store: Store, arn: str) -> str:
    """Who owns the window of a model, in words."""
    holder = holder_of(store, s3_keys.window_key(arn, "lease"))
    return f"run {holder.run} (on {holder.host} since {holder.since:%H:%M} UTC)" if holder else "another run"
