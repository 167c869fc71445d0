"""Reintroduces faults that the program once had, to check that the simulation finds them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import IO, Any, Final
from unittest.mock import patch

import orjson

from bg_pipeline import pipeline
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import StageRecord
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, retry_request
from bg_pipeline.domain.stages import PICTURES
from bg_pipeline.reports.overview import BatchOverview
from bg_pipeline.review import follow_up
from bg_pipeline.run import batch_work, image_run, outcome_recorder
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.occasions import RefreshRequest
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.run.outcomes import SAMPLE_WAITS, RowOutcome
from bg_pipeline.settings import Settings
from bg_pipeline.state.answers import AnswerStore
from bg_pipeline.state.claims import parse_call_claim
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.storage.object_store import ObjectContent, Store
from bg_pipeline_tests.simulation.scheduler import active


@contextmanager
def retry_gets_round_the_sample() -> Iterator[None]:
    """Images that wait for approval are reported with what stopped the run, so that a retry requests them all."""
    skip = OutcomeRecorder.skip

    def skip_as_stopped(recorder: OutcomeRecorder, work: BatchWork, image: str, reason: RowOutcome) -> None:
        stopped = work.stopped or recorder._state.stopped or recorder._state.no_model
        skip(recorder, work, image, stopped if reason is SAMPLE_WAITS and stopped else reason)

    def request(
        store: Store, settings: Settings, standing: BatchOverview, again: Batch
    ) -> BatchRequest | None:
        asked, report = standing.request, standing.report()
        images = report.to_do_again if report else ()
        return retry_request(asked, images, PRESET_REQUESTS, approved=True) if asked else None

    with (
        patch.object(OutcomeRecorder, "skip", skip_as_stopped),
        patch.object(follow_up, "_retry_now", request),
    ):
        yield


@contextmanager
def attempts_clear_what_was_delivered() -> Iterator[None]:
    """The outcome of an attempt replaces the earlier outcome even if that was better."""
    skip = OutcomeRecorder.skip

    def latest(
        before: StageRecord | None, now: StageRecord, *, intact: bool = True, newer: bool = False
    ) -> StageRecord:
        return now

    def skip_and_forget(recorder: OutcomeRecorder, work: BatchWork, image: str, reason: RowOutcome) -> None:
        entry = work.ledger.get(image)
        if entry is not None and PICTURES in work.due[image]:
            entry.outputs = []
            work.ledger.put(entry)
        skip(recorder, work, image, reason)

    with (
        patch.object(outcome_recorder, "keep_better", latest),
        patch.object(image_run, "keep_better", latest),
        patch.object(OutcomeRecorder, "skip", skip_and_forget),
    ):
        yield


@contextmanager
def who_has_the_lease_takes_calls_over() -> Iterator[None]:
    """A lease is released while its calls are in flight, and the next holder treats those calls as abandoned."""
    close, is_over = Engine._close, AnswerStore._is_over

    def release_at_once(engine: Engine, pools: Any) -> None:
        for work in list(engine._state.open_batches):
            if work.lease is not None:
                work.lease.release()
        close(engine, pools)

    def is_over_or_another_s(answers: AnswerStore, content: ObjectContent, since: float) -> bool:
        held = parse_call_claim(content.data)
        another = bool(held["Batch"]) and held["Holder"] != answers._holder
        return another or is_over(answers, content, since)

    with (
        patch.object(Engine, "_close", release_at_once),
        patch.object(AnswerStore, "_is_over", is_over_or_another_s),
    ):
        yield


@contextmanager
def a_refresh_is_bound_to_its_run() -> Iterator[None]:
    """Each run with a refresh pays for everything, even what earlier runs of the same occasion paid."""

    def wish(stages: frozenset[str], retry: bool, *_: object) -> RefreshRequest:
        current = active().current
        return RefreshRequest(stages, retry, current.process.name if current else "", datetime.now(UTC))

    def occasions(header: Mapping[str, Any], wish: RefreshRequest) -> dict[str, str]:
        return dict.fromkeys(wish.names, wish.occasion)

    with patch.object(pipeline, "RefreshRequest", wish), patch.object(batch_work, "occasions", occasions):
        yield


@contextmanager
def writes_land_without_a_lease() -> Iterator[None]:
    """A process that lost its lease goes on writing and overwrites what others wrote since."""

    def write(
        writer: LeasedWriter,
        store: Store,
        key: str,
        data: bytes | IO[bytes],
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        known_etag: str | None = None,
    ) -> str:
        return store.write(key, data, media_type=media_type, metadata=metadata)

    def write_json(writer: LeasedWriter, store: Store, key: str, document: Any) -> str:
        return store.write(key, orjson.dumps(document), media_type="application/json")

    with ExitStack() as patches:
        for name, put in (("write", write), ("write_json", write_json), ("check", lambda writer: None)):
            patches.enter_context(patch.object(LeasedWriter, name, put))
        yield


OLD_FAULTS: Final[Mapping[str, tuple[Callable[[], AbstractContextManager[None]], str]]] = {
    "M1": (retry_gets_round_the_sample, "samples_wait"),
    "M2": (attempts_clear_what_was_delivered, "nothing_delivered_is_lost"),
    "M4": (who_has_the_lease_takes_calls_over, "nothing_is_asked_twice_at_once"),
    "M6": (a_refresh_is_bound_to_its_run, "nothing_stored_is_paid_again"),
    "M10": (writes_land_without_a_lease, "who_lost_a_lease_writes_nothing"),
}
"""Each fault by its number, with the invariant that it violates."""
