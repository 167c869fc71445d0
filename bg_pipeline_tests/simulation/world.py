"""One simulation: a bucket, models, processes and users go through a plan, then finish without faults."""

import hashlib
import inspect
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from random import Random
from typing import Any, Final

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline import pipeline
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, parse_upload
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.imaging import malloc
from bg_pipeline.imaging.workers import InProcess, substituted
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.changes import RunResult, SensorCursor, SensorTick, runs_for
from bg_pipeline_tests.simulation import people, photos
from bg_pipeline_tests.simulation.models import Aws, Models
from bg_pipeline_tests.simulation.plan import HORIZON, Plan, Step
from bg_pipeline_tests.simulation.s3 import Bucket, Change, Client
from bg_pipeline_tests.simulation.scheduler import Process, Scheduler
from bg_pipeline_tests.simulation.threads import installed

BUCKET: Final = "photos"
START: Final = 1_795_168_800.0
"""2026-11-20 10:00 UTC."""
REGIONS: Final = ("us-east-1", "us-west-2")
EXPECTED: Final = (BgPipelineError, ClientError, BotoCoreError, KeyboardInterrupt)
"""Exceptions that may end a process: the command line and Dagster report them in a sentence."""
QUIET_RUNS: Final = 60
"""Maximum number of final runs; runs with a cap can need many."""
TICK_SECONDS: Final = 30.0

_AREAS: Final = (
    (f"{s3_keys.STATE}/ledger/", "ledger"),
    (f"{s3_keys.STATE}/answers/", "answers"),
    (f"{s3_keys.STATE}/calls/", "calls"),
    (f"{s3_keys.STATE}/leases/", "leases"),
    (f"{s3_keys.STATE}/spend/", "spend"),
    (f"{s3_keys.STATE}/heartbeats/", "heartbeats"),
    (f"{s3_keys.STATE}/retries/", "retries"),
    (f"{s3_keys.STATE}/", "state"),
    (f"{s3_keys.LABELS}/", "labels"),
    (f"{s3_keys.CAPTIONS}/", "captions"),
    (f"{s3_keys.MASKS}/", "masks"),
    (f"{s3_keys.REPORTS}/", "report"),
    (f"{s3_keys.PAYLOADS}/", "payloads"),
    (f"{s3_keys.REVIEWS}/", "reviews"),
    (f"{s3_keys.PUBLISHED}/", "published"),
)


def area(operation: str, key: str) -> str:
    """The kind of object that a key names."""
    if key.startswith(f"{s3_keys.UPLOADS}/"):
        if operation == "list":
            return "uploads"
        return "request" if key.endswith(".json") else "source"
    if key.startswith(f"{s3_keys.RESULTS}/"):
        return "provenance" if key.endswith(".json") else "results"
    return next((name for prefix, name in _AREAS if key.startswith(prefix)), "other")


@cache
def _made_settings(chosen: str) -> Settings:
    # Cached, because reading settings takes longer than many simulated runs.
    defaults = {
        "bucket": BUCKET,
        "settle_seconds": 0,
        "html_report_images": 0,
        "mask_sources": ["alpha", "cut-out"],
    }
    return settings(**{**defaults, "caption_models": ["us.amazon.nova-pro-v1:0"], **json.loads(chosen)})


@dataclass
class RunArguments:
    """The arguments of a run, for the invariants."""

    again: tuple[str, ...] = ()
    occasion: str = ""
    retry: bool = False
    settings: Settings | None = None
    stages: tuple[str, ...] = STAGES
    run_key: str = ""
    cap_group: str = ""


@dataclass
class _Outage:
    until: float
    operation: str
    area: str
    kind: str


@dataclass
class History:
    """Times of user actions and faults, for the invariants."""

    requests: dict[str, list[float]] = field(default_factory=dict)
    sources: dict[str, list[float]] = field(default_factory=dict)
    settings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    decided: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    approved: dict[str, list[float]] = field(default_factory=dict)
    retried: dict[str, list[str]] = field(default_factory=dict)
    faults: list[tuple[float, str, str, Process]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    kills: list[tuple[float, Process]] = field(default_factory=list)


class World:
    """The state of one simulation. ``trace`` is called with a line for each event."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.clock = Scheduler(Random(plan.seed * 2 + 1), START)
        self.drawn = Random(plan.seed * 2 + 2)
        self.bucket = Bucket()
        self.models = Models(self._model_fault)
        self.client = Client(self.bucket, self._s3_fault)
        self.settings: dict[str, Any] = dict(plan.settings)
        self.history = History()
        self.runs: list[Process] = []
        self.asked: dict[str, RunArguments] = {}
        self.internal: list[str] = []
        self.sensor_rests = True
        self.quiet_runs_pay = False
        self.clock_start = START
        self.at_rest: Callable[[], None] = lambda: None
        self.quiet_from = 0.0
        self.violations: list[tuple[str, str]] = []
        self._trace = trace
        self._counts: Counter[tuple[str, str]] = Counter()
        self._points: dict[tuple[str, str, int], list[Step]] = {}
        self._outages: list[_Outage] = []
        self._away: list[_Outage] = []
        self._quiet = False
        self._people = 0
        self._memory: str | None = None
        self._by_key: dict[str, Process] = {}
        for step in plan.steps:
            if step.at is None:
                self._points.setdefault((step.point, step.moment, step.number), []).append(step)
        self.bucket.watchers.append(self._note_answer)

    # Trace

    def trace(self, text: str) -> None:
        if self._trace is not None:
            who = self.clock.current.process.name if self.clock.current else "-"
            self._trace(f"{self.clock.now - START:9.2f} {who:10} {text}")

    # Requests

    def _s3_fault(self, operation: str, key: str, moment: str) -> str:
        sort = f"{operation} {area(operation, key)}"
        if moment == "before":
            self.trace(f"{operation} {key}")
        fault = self._fault_at(sort, moment)
        if moment == "after" or self._quiet or fault:
            return self._noted(fault, sort)
        if operation == "get" and key in self.history.unreadable:
            return self._noted(self.history.unreadable[key], sort)
        for outage in self._outages:
            fits = outage.operation in ("*", operation) and outage.area in ("", sort.partition(" ")[2])
            if self.clock.now < outage.until and fits:
                return self._noted(outage.kind, sort)
        return ""

    def _model_fault(self, kind: str, model: str, moment: str) -> str:
        number = len(self.models.calls) - 1
        self.trace(f"call {number}: {kind} by {model}" if moment == "before" else f"{kind} billed")
        fault = self._fault_at(kind, moment)
        if moment == "before" and not fault and not self._quiet:
            for away in self._away:
                if self.clock.now < away.until and away.area == kind:
                    fault = away.kind
        return self._noted(fault, kind)

    def _noted(self, fault: str, sort: str) -> str:
        if fault:
            process = self.clock.current.process if self.clock.current else None
            self.trace(f"FAULT {fault} at {sort}")
            if process is not None:
                self.history.faults.append((self.clock.now, fault, sort, process))
        return fault

    def _fault_at(self, sort: str, moment: str) -> str:
        if self._quiet:
            return ""
        self._counts[sort, moment] += 1
        fault = ""
        for step in self._points.get((sort, moment, self._counts[sort, moment]), ()):
            if step.do == "fault":
                fault = step.args["kind"]
            else:
                self._do(step)
        return fault

    def _note_answer(self, change: Change) -> None:
        if change.now is not None and change.key.startswith(f"{s3_keys.STATE}/answers/"):
            data = change.now.data
            found = re.search(rb"DetectLabels 3\.0\.(\d+)|seen in call (\d+)", data[:400])
            if found:
                call = self.models.calls[int(found[1] or found[2])]
            else:
                call = self.models.by_digest.get(hashlib.sha256(data).hexdigest())
            if call is not None and call.stored is None:
                call.stored = self.clock.now
                self.trace(f"the answer of call {call.number} is stored")

    # Steps

    def _do(self, step: Step) -> None:
        """Performs a step, on the process that reached its point or on the latest living run."""
        args = dict(step.args)
        current = self.clock.current
        target = current.process if current is not None and step.at is None else None
        if target is None or target not in self.runs:
            living = [process for process in self.runs if process.alive]
            target = living[-1] if living else None
        args.pop("process", None)
        match step.do:
            case "kill":
                if target is not None:
                    self.trace(f"KILL {target}")
                    self.history.kills.append((self.clock.now, target))
                    self.clock.kill(target)
            case "suspend":
                if target is not None and not target.suspended:
                    self.trace(f"SUSPEND {target} for {args['seconds']} s")
                    self._later(args["seconds"], lambda: self._resume(target))
                    self.clock.suspend(target)
            case "interrupt":
                if target is not None:
                    self.trace(f"INTERRUPT {target}")
                    if args["again"] is not None:
                        self._later(args["again"], lambda: self.clock.interrupt(target, KeyboardInterrupt()))
                    self.clock.interrupt(target, KeyboardInterrupt())
            case "outage":
                self.trace(f"OUTAGE {args}")
                until = self.clock.now + args["seconds"]
                self._outages.append(_Outage(until, args["operation"], args["area"], args["kind"]))
            case "model away":
                self.trace(f"MODEL AWAY {args}")
                self._away.append(_Outage(self.clock.now + args["seconds"], "", args["of"], args["kind"]))
            case "model dies":
                self.trace(f"MODEL DIES {args['model']}")
                self.models.die(args["model"])
            case "run":
                self.start_run(**args)
            case "sensor":
                self._start("sensor", "daemon", self._watch)
            case "settings":
                self.trace(f"SETTINGS {args}")
                self.settings |= args
                self.history.settings.append((self.clock.now, args))
            case "unreadable":
                key = f"{s3_keys.UPLOADS}/{args['batch']}/{args['photo']}"
                self.history.unreadable[key] = args["kind"]
            case _:
                people.do(self, step.do, args)

    def _resume(self, process: Process) -> None:
        self.trace(f"RESUME {process}")
        self.clock.resume(process)

    def _later(self, seconds: float, do: Callable[[], object]) -> None:
        def run() -> None:
            self.clock.sleep(seconds)
            do()

        self._people += 1
        self.clock.start(Process(f"later{self._people}", "none"), run)

    def _start(self, name: str, machine: str, run: Callable[[], Any]) -> Process:
        process = Process(name, machine)
        self.clock.start(process, run)
        return process

    def person(self, what: str, run: Callable[[], Any]) -> None:
        """Performs a user's action in a process of its own; errors in `EXPECTED` are ignored."""
        self._people += 1
        self.trace(f"PERSON {what}")

        def do() -> None:
            try:
                run()
            except EXPECTED as error:
                self.trace(f"the person is told: {error}")

        self._start(f"person{self._people}", "desk", do)

    @property
    def store(self) -> Store:
        return Store(self.client, BUCKET)  # type: ignore[arg-type]

    def made_settings(self) -> Settings:
        """The current settings."""
        return _made_settings(json.dumps(self.settings))

    # Runs

    def start_run(
        self,
        *,
        machine: str = "a",
        stages: list[str] | None = None,
        again: list[str] | None = None,
        retry: bool = False,
        occasion: str = "",
        dates: list[date] | None = None,
        run_key: str = "",
        cap_group: str = "",
    ) -> Process:
        """Starts a run of ``dates`` (default: all dates with uploads)."""
        name = f"run{len(self.runs)}"
        configured = self.made_settings()
        run_arguments = RunArguments(
            tuple(again or ()), occasion, retry, configured, tuple(stages or STAGES), run_key, cap_group
        )
        more = {"occasion": occasion} if "occasion" in inspect.signature(pipeline.run).parameters else {}
        self.asked[name] = run_arguments
        self.trace(
            f"RUN {name} on {machine}: stages={stages} again={again} retry={retry} occasion={occasion}"
        )

        def run() -> Any:
            return pipeline.run(
                configured,
                dates if dates is not None else self.dates(),
                aws=Aws(self.models, self.client, REGIONS),  # type: ignore[arg-type]
                store=self.store,
                stages=run_arguments.stages,
                again=run_arguments.again,
                retry=retry,
                run_id=name,
                cap_group=cap_group,
                note=lambda line: self.trace(f"note: {line}"),
                **more,  # type: ignore[arg-type]
            )

        process = self._start(name, machine, run)
        self.runs.append(process)
        return process

    def dates(self) -> list[date]:
        return sorted({batch.date for batch in self.batches()})

    def batches(self) -> list[Batch]:
        """All batches with an object in their folder."""
        found = (parse_upload(key) for key in self.bucket.under(f"{s3_keys.UPLOADS}/"))
        return list(dict.fromkeys(upload.batch for upload in found if upload is not None))

    # The sensor

    def _watch(self) -> None:
        while self.clock.now < START + HORIZON:
            self.clock.sleep(TICK_SECONDS)
            try:
                self.tick()
            except EXPECTED as error:
                self.trace(f"the tick is skipped: {error}")

    def tick(self) -> int:
        """One tick of the sensor: starts the requested runs and returns their number."""
        memory = SensorCursor.read(self._memory)
        tick = SensorTick(
            settings=self.made_settings(),
            store=self.store,
            cursor=memory,
            now=self.clock.now,
            first=date(2024, 1, 1),
            last=date(2026, 11, 21),
            find_run=self._find_run,
            time_is_up=lambda: False,
            warn=lambda line: self.trace(f"sensor: {line}"),
        )
        asked = list(tick.run_requests())
        self._memory = memory.model_dump_json()
        for day, each in asked:
            settings = self.made_settings()
            number = runs_for(settings, each.count)
            group = each.run_key if number > 1 else ""
            for helper in range(number):
                machine = f"daemon{helper or ''}"
                process = self.start_run(dates=[day], machine=machine, run_key=each.run_key, cap_group=group)
                self._by_key.setdefault(each.run_key, process)
        return len(asked)

    def _find_run(self, run_key: str) -> RunResult | None:
        process = self._by_key.get(run_key)
        if process is None:
            return None
        bad = process.killed or process.error is not None
        bad = bad or any(day.nothing_worked for day in (process.result or {}).values())
        return RunResult(not process.alive, bad, process.started, process.ended)

    # The simulation

    def run(self) -> None:
        """Goes through the plan, then lets everything finish without faults."""
        self._upload()
        self.clock.start(Process("plan", "none"), self._go_through)
        self.clock.run(START + HORIZON)
        self._become_quiet()

    def _upload(self) -> None:
        for path, spec in self.plan.batches.items():
            for name, number in spec["photos"].items():
                self.put_photo(path, name, number)
            self.put_request(path, spec["request"])

    def put_photo(self, path: str, name: str, number: int) -> None:
        key = f"{s3_keys.UPLOADS}/{path}/{name}"
        self.history.sources.setdefault(key, []).append(self.clock.now)
        self.bucket.put(key, photos.photo(number) if number >= 0 else b"not a picture")

    def put_request(self, path: str, request: dict[str, Any]) -> None:
        key = f"{s3_keys.UPLOADS}/{path}/{s3_keys.REQUEST}"
        self.history.requests.setdefault(key, []).append(self.clock.now)
        self.bucket.put(key, orjson.dumps(request))

    def _go_through(self) -> None:
        timed = sorted(
            (step for step in self.plan.steps if step.at is not None), key=lambda step: step.at or 0.0
        )
        for step in timed:
            self.clock.sleep(START + (step.at or 0.0) - self.clock.now)
            self._do(step)

    def _become_quiet(self) -> None:
        """Ends all faults and suspensions and waits for all processes; then the sensor and clean runs do the rest."""
        self._quiet = True
        self.quiet_from = self.clock.now
        self.trace("QUIET")
        for process in self.clock.processes.values():
            process.suspended = False
        self._settle()
        self.at_rest()
        if any(step.do == "sensor" for step in self.plan.steps):
            self._rest_of_the_sensor()
        for _ in range(QUIET_RUNS):
            before = len(self.models.calls)
            self.start_run()
            self._settle()
            if len(self.models.calls) == before:
                break
        else:
            self.quiet_runs_pay = True
        self._people_publish()

    def _settle(self) -> None:
        """Runs until every process has ended."""
        self.clock.run()

    def _rest_of_the_sensor(self) -> None:
        for _ in range(12):
            self.clock.now += 1900
            if not self.in_a_process(self.tick):
                return
            self._settle()
        self.sensor_rests = False

    def in_a_process(self, run: Callable[[], Any]) -> Any:
        """Calls ``run`` in a process while no other is active and returns its result."""
        self._people += 1
        process = self._start(f"quiet{self._people}", "desk", run)
        self._settle()
        if process.error is not None:
            raise process.error
        return process.result

    def _people_publish(self) -> None:
        for batch in self.batches():
            self.in_a_process(lambda batch=batch: people.publish(self, batch))  # type: ignore[misc]


class _Faults(logging.Handler):
    """Collects the errors that bg_pipeline logs about itself."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if not self._world.clock.closed:
            self._world.internal.append(text)
            self._world.trace(text)


@contextmanager
def simulated(
    plan: Plan,
    trace: Callable[[str], None] | None = None,
    watch: Callable[[World], object] = lambda world: None,
) -> Iterator[World]:
    """Simulates a plan and yields the world for inspection; ``watch`` is called with it before the start."""
    world = World(plan, trace)
    watch(world)
    handler, log = _Faults(world), logging.getLogger("bg_pipeline")
    configure_malloc, malloc.configure_malloc = malloc.configure_malloc, lambda thresholds: None
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    quiet = logging.getLogger("concurrent.futures")
    disabled, quiet.disabled = quiet.disabled, True
    try:
        with substituted(InProcess()), installed(world.drawn), world.clock:
            world.run()
            yield world
    finally:
        log.removeHandler(handler)
        log.propagate, quiet.disabled, malloc.configure_malloc = propagates, disabled, configure_malloc
