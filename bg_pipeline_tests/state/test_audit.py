"""The audit log: a line before each act, one after it, and nothing that changes or loses one."""

import json
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Via, local_person
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.state import audit
from bg_pipeline.state.audit import Act, AuditLog, AuditRecord, Outcome
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.batches import DATE, aws

pytestmark = pytest.mark.dates

ANN = local_person("ann", Via.PAGE)
BATCH = Batch(DATE, "101530")


@pytest.fixture
def store(bucket: str) -> Store:
    return Store(aws().s3(bucket), bucket)


@pytest.fixture
def log(store: Store) -> AuditLog:
    return AuditLog(store)


def records(log: AuditLog) -> list[AuditRecord]:
    today = datetime.now(UTC).date()
    return list(log.records(today - timedelta(1), today + timedelta(1)))


def denied(*_: object, **__: object) -> Any:
    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")


def test_an_act_has_a_line_before_it_is_done_and_one_after(log: AuditLog) -> None:
    with log.act(ANN, Act.PUBLISH, BATCH, request_etag="e1", Approved=3) as result:
        (before,) = records(log)
        assert (before.act, before.outcome, before.details) == ("Publish", Outcome.UNKNOWN, {"Approved": 3})
        result["Copied"] = 2
    (after,) = records(log)
    assert (after.outcome, after.result, after.request_etag) == (Outcome.DONE, {"Copied": 2}, "e1")
    assert (after.name, after.via, after.batch) == ("ann", "page", BATCH.path)


def test_an_act_whose_line_cannot_be_stored_is_not_done(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setattr(Store, "write", denied)
    with pytest.raises(ClientError), log.act(ANN, Act.PUBLISH, BATCH):
        done.append(1)
    assert done == []


def test_an_act_that_was_done_stays_done_if_its_end_cannot_be_stored(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched, log.act(ANN, Act.PUBLISH, BATCH):
        patched.setattr(Store, "write", denied)
    (record,) = records(log)
    assert record.outcome == Outcome.UNKNOWN
    assert "could not be added" in caplog.text


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UsageError("nothing to do"), Outcome.REFUSED),
        (BgPipelineError("half of it"), Outcome.FAILED),
        (ClientError({"Error": {"Code": "SlowDown", "Message": "slow"}}, "PutObject"), Outcome.FAILED),
        (KeyboardInterrupt(), Outcome.UNKNOWN),
        (ZeroDivisionError(), Outcome.UNKNOWN),
    ],
)
def test_how_an_act_ended_is_told_and_the_error_goes_on(
    log: AuditLog, error: BaseException, outcome: Outcome
) -> None:
    def act() -> None:
        with log.act(ANN, Act.DECIDE, BATCH) as result:
            result["Half"] = 1
            raise error

    with pytest.raises(type(error)):
        act()
    (record,) = records(log)
    assert record.outcome == outcome
    assert record.result == ({} if outcome == Outcome.UNKNOWN else {"Half": 1})


def test_a_write_whose_answer_was_lost_is_one_line(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store.write
    lost: list[str] = []

    def twice(self: Store, key: str, *args: Any, **more: Any) -> str:
        if key not in lost:
            lost.append(key)
            write(self, key, *args, **more)
        return write(self, key, *args, **more)

    monkeypatch.setattr(Store, "write", twice)
    with log.act(ANN, Act.PUBLISH, BATCH):
        pass
    (record,) = records(log)
    assert record.outcome == Outcome.DONE


def test_many_writers_at_the_same_moment_lose_nothing(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Stopped":
            return cls(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=tz)

    monkeypatch.setattr(audit, "datetime", Stopped)

    def act(number: int) -> None:
        with log.act(ANN, Act.DECIDE, BATCH, Number=number):
            pass

    threads = [threading.Thread(target=act, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(log.records(date(2026, 2, 28), date(2026, 2, 28)))
    assert sorted(each.details["Number"] for each in found) == list(range(20))
    assert {each.outcome for each in found} == {Outcome.DONE}
    assert list(log.records(date(2026, 3, 1), date(2026, 3, 2))) == []
    assert list(log.records(date(2026, 2, 1), date(2026, 2, 27))) == []


@pytest.mark.parametrize("lines", [1, 2, 3, 4, 5])
def test_a_log_longer_than_one_block_is_read_whole(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setattr(audit, "BLOCK", 2)
    for number in range(lines):
        with log.act(ANN, Act.DECIDE, BATCH, Number=number):
            pass
    found = records(log)
    assert [each.details["Number"] for each in found] == list(range(lines))
    assert {each.outcome for each in found} == {Outcome.DONE}


def test_what_is_no_line_is_shown_as_such_and_hides_nothing(log: AuditLog, store: Store) -> None:
    with log.act(ANN, Act.PUBLISH, BATCH):
        pass
    (key, end) = [info.key for info in store.list("audit/")]
    assert end == f"{key.removesuffix('.json')}.outcome.json"
    day = key.rpartition("/")[0]
    for name, data in (
        ("000000.000000-a.json", b"{"),
        ("000000.000000-b.json", b"[1]"),
        ("000000.000000-c.json", b'{"By": 5}'),
        ("000000.000000-d.json", json.dumps({"By": {"Name": 5}, "At": [], "Details": "x"}).encode()),
        ("000000.000000-e.outcome.json", b"{}"),
    ):
        store.write(f"{day}/{name}", data, media_type="application/json")
    found = {each.key.rpartition("-")[2]: each for each in records(log)}
    assert not any(found[f"{name}.json"].readable for name in "abc")
    assert (found["d.json"].name, found["d.json"].at, found["d.json"].details) == ("", "", {})
    assert found[key.rpartition("-")[2]].outcome == Outcome.DONE
    assert "e.outcome.json" not in found


def test_any_name_can_be_stored_and_no_text_is_endless(log: AuditLog) -> None:
    somebody = local_person("a\udcff\x1b[2J\n" + "x" * 5000, Via.LOCAL)
    with log.act(somebody, Act.DECIDE, BATCH, Reason="\ud800"):
        pass
    (record,) = records(log)
    assert len(record.name) <= audit.LONGEST_TEXT + 1
    assert record.details == {"Reason": "\\ud800"}
