"""A sign-in to the page is over when it was not used for a while, or when its person signed out, in every process."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from bg_pipeline.domain.people import Person, Via
from bg_pipeline.domain.s3_keys import sign_in_key
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.state import sign_ins
from bg_pipeline.state.sign_ins import SignIn, SignIns
from bg_pipeline.storage.object_store import Store

ISSUER = "https://pool.example"
START = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
IDLE = timedelta(minutes=60)

Wait = Callable[..., None]


@pytest.fixture
def store(s3: Any, bucket: str) -> Store:
    return Store(s3, bucket)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Moves the clock of the sign-ins, which begins at `START`; midnight comes soon."""
    now = [START]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return now[0].astimezone(tz)

    monkeypatch.setattr(sign_ins, "datetime", Clock)

    def wait(**time: float) -> None:
        now[0] += timedelta(**time)

    return wait


def signed_in(
    store: Store, idle: timedelta | None = IDLE, at: datetime = START, subject: str = "ada"
) -> SignIn:
    """The sign-in as a process sees it that has just begun."""
    return SignIns(store, idle).of(ISSUER, subject, at)


def test_it_lasts_while_it_is_used_and_ends_when_it_is_not(store: Store, wait: Wait) -> None:
    sign_in = signed_in(store)
    for _ in range(5):
        wait(minutes=59)
        assert not sign_in.is_over
        sign_in.use()
    wait(minutes=61)
    assert sign_in.is_over
    sign_in.use()
    assert sign_in.is_over


def test_looking_is_no_use(store: Store, wait: Wait) -> None:
    sign_in = signed_in(store)
    sign_in.use()
    for _ in range(61):
        assert not sign_in.is_over
        wait(minutes=1)
    assert sign_in.is_over


def test_a_use_in_one_process_counts_in_all(store: Store, wait: Wait) -> None:
    one, other = signed_in(store), signed_in(store)
    other.use()
    for _ in range(10):
        wait(minutes=30)
        one.use()
    assert not other.is_over
    assert not signed_in(store).is_over, "a process that has just begun"
    wait(minutes=67)
    assert one.is_over
    assert other.is_over
    assert signed_in(store).is_over


def test_one_that_is_old_and_was_never_used_is_over(store: Store, wait: Wait) -> None:
    """A cookie that was copied hours ago, or of the time before last uses were stored."""
    assert signed_in(store, at=START - timedelta(hours=2)).is_over
    assert not signed_in(store, at=START - timedelta(minutes=50)).is_over


def test_signing_out_ends_it_in_every_process_and_for_good(store: Store, wait: Wait) -> None:
    one, other = signed_in(store), signed_in(store)
    one.use()
    other.use()
    assert not other.is_over
    one.end()
    assert one.is_over
    wait(seconds=sign_ins.LOOK_SECONDS)
    assert other.is_over
    other.use()
    one.use()
    assert one.is_over
    assert signed_in(store).is_over
    one.end()


def test_signing_out_counts_without_a_time_out_too(store: Store, wait: Wait) -> None:
    one = signed_in(store, idle=None)
    one.use()
    assert store.read(sign_in_key(one.name)) is None, "nothing has to be stored"
    wait(days=20)
    assert not one.is_over
    one.end()
    assert signed_in(store, idle=None).is_over


def test_it_is_one_sign_in_of_one_person(store: Store, wait: Wait) -> None:
    first, second = signed_in(store), signed_in(store, at=START + timedelta(seconds=1))
    others = [signed_in(store, subject="Ada"), SignIns(store, IDLE).of("https://other.example", "ada", START)]
    first.end()
    assert first.is_over
    assert not any(each.is_over for each in (second, *others))


def test_somebody_who_works_costs_few_calls(
    store: Store, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("read", "write"):
        original = getattr(Store, name)

        def counted(self: Store, *some: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            calls.append(name)
            return original(self, *some, **more)

        monkeypatch.setattr(Store, name, counted)
    sign_in = signed_in(store)
    for _ in range(3600):
        assert not sign_in.is_over
        sign_in.use()
        wait(seconds=1)
    assert calls.count("write") <= 11
    assert calls.count("read") <= 3600 / sign_ins.LOOK_SECONDS + 25


def test_the_end_survives_a_use_that_is_stored_at_the_same_moment(
    store: Store, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = signed_in(store), signed_in(store)
    other.use()
    wait(minutes=10)
    assert not other.is_over
    write = Store.write_json

    def end_first(self: Store, *some: Any, **more: Any) -> str:
        monkeypatch.setattr(Store, "write_json", write)
        one.end()
        return write(self, *some, **more)

    monkeypatch.setattr(Store, "write_json", end_first)
    other.use()
    assert signed_in(store).is_over
    assert other.is_over


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"Ended": null}', b'{"Ended": ""}'])
def test_a_document_that_cannot_be_read_ends_it(store: Store, wait: Wait, content: bytes) -> None:
    sign_in = signed_in(store)
    store.write(sign_in_key(sign_in.name), content, media_type="application/json")
    assert sign_in.is_over


@pytest.mark.parametrize("used", ["yesterday", 7, None, ""])
def test_a_last_use_that_is_no_time_is_none(store: Store, wait: Wait, used: object) -> None:
    old = signed_in(store, at=START - timedelta(hours=2))
    store.write_json(sign_in_key(old.name), {"Used": used})
    assert old.is_over


def test_a_last_use_without_a_time_zone_ends_nothing_by_an_error(store: Store, wait: Wait) -> None:
    sign_in = signed_in(store)
    store.write_json(sign_in_key(sign_in.name), {"Used": "2026-11-30T23:00:00"})
    assert not sign_in.is_over


def test_a_sign_out_that_is_not_stored_is_said(
    store: Store, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **more: Any) -> str:
        raise PreconditionFailed("somebody else writes")

    monkeypatch.setattr(Store, "write_json", refuse)
    with pytest.raises(UsageError, match="sign out again"):
        signed_in(store).end()


def test_a_person_may_do_nothing_after_it(store: Store, wait: Wait) -> None:
    sign_in = signed_in(store)
    ada = Person("ada", Via.PAGE, issuer=ISSUER, subject="ada", sign_in=sign_in)
    assert not ada.expired
    assert ada == Person("ada", Via.PAGE, issuer=ISSUER, subject="ada")
    wait(minutes=59)
    ada.use_sign_in()
    wait(minutes=59)
    assert not ada.expired
    wait(minutes=2)
    assert ada.expired


def test_only_so_many_are_remembered(store: Store, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "MOST_REMEMBERED", 2)
    shared = SignIns(store, IDLE)
    people = [shared.of(ISSUER, f"person {number}", START) for number in range(5)]
    for each in people:
        each.use()
    people[0].end()
    assert [each.is_over for each in people] == [True, False, False, False, False]
    assert len(shared._states) == 2
