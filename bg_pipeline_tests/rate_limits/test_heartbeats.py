"""Heartbeats: each process learns how many share its quotas."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from botocore.exceptions import EndpointConnectionError

from bg_pipeline.rate_limits.heartbeats import Heartbeats
from bg_pipeline.state.process_identity import process_name
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline_tests.buckets import new_bucket

PREFIX = "pipeline-state/heartbeats"
OPERATION = "STABILITY_INPAINT"
EAST, WEST = "us-east-1", "us-west-2"


class Aged(Store):
    """A store that lists some processes' heartbeats as older than they are, counts its requests, or is down."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.client, store.bucket)
        self.seconds: dict[str, float] = {}
        self.requests: list[str] = []
        self.down = False

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        self.requests.append("LIST")
        for found in super().list(prefix, start_after=start_after):
            age = next((age for process, age in self.seconds.items() if f"/{process}." in found.key), 0.0)
            yield ObjectInfo(found.key, found.size, found.etag, found.modified - timedelta(seconds=age))

    def write(self, key: str, data: bytes, **conditions: object) -> str:
        if self.down:
            raise EndpointConnectionError(endpoint_url="http://s3")
        self.requests.append("PUT")
        return super().write(key, data, **conditions)  # type: ignore[arg-type]


class Listener(dict[str, int]):
    """A listener that records the last number of each Region, and how often it was called."""

    calls = 0

    def __call__(self, region: str, number: int, place: int) -> None:
        self[region] = number
        self.calls += 1


@pytest.fixture
def new_store(moto_s3: str) -> Callable[[], Store]:
    """Each call returns a new client, as of another process, of one new bucket."""
    return new_bucket(moto_s3)


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Aged:
    return Aged(new_store())


@pytest.fixture
def join(new_store: Callable[[], Store]) -> Callable[[str], Heartbeats]:
    """Heartbeats of another process; its background thread is too slow to matter."""
    return lambda process: Heartbeats(new_store(), PREFIX, process=process, period=10)


@pytest.fixture
def ours(store: Aged) -> Heartbeats:
    return Heartbeats(store, PREFIX, period=10)


def test_a_single_process_counts_one(ours: Heartbeats) -> None:
    counts = Listener()
    with ours.working(OPERATION, [EAST], counts):
        assert counts == {EAST: 1}
    assert ours.live(OPERATION, EAST) == 1


def test_the_number_is_known_before_the_first_call_is_made(
    ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    counts = Listener()
    with (
        join("b").working(OPERATION, [EAST], Listener()),
        join("c").working(OPERATION, [EAST], Listener()),
        ours.working(OPERATION, [EAST], counts),
    ):
        assert counts == {EAST: 3}


def test_each_operation_and_each_region_is_counted_for_itself(
    ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    captions, images = Listener(), Listener()
    with (
        join("b").working(OPERATION, [EAST], Listener()),
        join("c").working("CAPTION", [WEST], Listener()),
        ours.working(OPERATION, [EAST, WEST], images),
        ours.working("CAPTION", [EAST, WEST], captions),
    ):
        assert images == {EAST: 2, WEST: 1}
        assert captions == {EAST: 1, WEST: 2}


def test_a_changed_number_of_processes_is_reported_once_at_the_next_heartbeat(
    ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    counts = Listener()
    with ours.working(OPERATION, [EAST], counts):
        with join("b").working(OPERATION, [EAST], Listener()):
            ours.beat()
            ours.beat()
            assert (counts[EAST], counts.calls) == (2, 2)
            assert ours.live(OPERATION, EAST) == 2
        ours.beat()
        ours.beat()
        assert (counts[EAST], counts.calls) == (1, 3)


def test_a_killed_process_no_longer_counts_after_three_missed_heartbeats(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    counts = Listener()
    with join("killed").working(OPERATION, [EAST], Listener()), ours.working(OPERATION, [EAST], counts):
        store.seconds["killed"] = 33
        ours.beat()
        assert counts == {EAST: 2}
        store.seconds["killed"] = 37
        ours.beat()
        assert counts == {EAST: 1}


def test_a_killed_process_of_this_machine_is_found_at_once(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    host, pid, started, place = process_name().split(".")
    if not place:
        pytest.skip("needs /proc")
    killed = f"{host}.{pid}.{int(started) - 1}.{place}"
    counts = Listener()
    with join(killed).working(OPERATION, [EAST], Listener()), ours.working(OPERATION, [EAST], counts):
        assert counts == {EAST: 1}
        assert [killed in found.key for found in store.list(PREFIX)] == [False]


def test_heartbeats_older_than_an_hour_are_deleted(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    with join("killed").working("CAPTION", [WEST], Listener()), ours.working(OPERATION, [EAST], Listener()):
        store.seconds["killed"] = 3590
        ours.beat()
        assert len(list(store.list(PREFIX))) == 2
        store.seconds["killed"] = 3610
        ours.beat()
        assert len(list(store.list(PREFIX))) == 1


def test_ages_are_measured_by_s3s_clock_even_if_it_is_far_from_ours(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    store.seconds = {"b": 7200, process_name(): 7200}
    counts = Listener()
    with join("b").working(OPERATION, [EAST], Listener()), ours.working(OPERATION, [EAST], counts):
        assert counts == {EAST: 2}


def test_two_blocks_in_one_process_count_once_until_both_end(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats]
) -> None:
    first, second = Listener(), Listener()
    with join("b").working(OPERATION, [EAST], Listener()):
        with ours.working(OPERATION, [EAST], first):
            with ours.working(OPERATION, [EAST], second):
                assert (first, second) == ({EAST: 2}, {EAST: 2})
            assert len(list(store.list(PREFIX))) == 2
        assert len(list(store.list(PREFIX))) == 1


def test_nothing_is_left_after_the_work_even_if_it_failed(store: Aged, ours: Heartbeats) -> None:
    with pytest.raises(ZeroDivisionError), ours.working(OPERATION, [EAST, WEST], Listener()):
        _ = 1 / 0
    assert list(store.list(PREFIX)) == []


def test_a_heartbeat_is_one_write_for_each_operation_and_region_and_one_listing(
    store: Aged, ours: Heartbeats
) -> None:
    with ours.working(OPERATION, [EAST, WEST], Listener()), ours.working("CAPTION", [EAST], Listener()):
        store.requests.clear()
        ours.beat()
        assert sorted(store.requests) == ["LIST", "PUT", "PUT", "PUT"]


def test_while_s3_does_not_answer_the_last_known_number_stays(
    store: Aged, ours: Heartbeats, join: Callable[[str], Heartbeats], caplog: pytest.LogCaptureFixture
) -> None:
    counts = Listener()
    with ours.working(OPERATION, [EAST], counts), join("b").working(OPERATION, [EAST], Listener()):
        ours.beat()
        store.down = True
        ours.beat()
        assert (counts[EAST], counts.calls) == (2, 2)
        assert "could not be renewed" in caplog.text


def test_without_s3_a_process_starts_as_if_it_were_alone(store: Aged, ours: Heartbeats) -> None:
    store.down = True
    counts = Listener()
    with ours.working(OPERATION, [EAST], counts):
        assert counts == {EAST: 1}


def test_other_objects_under_the_prefix_are_not_counted(store: Aged, ours: Heartbeats) -> None:
    Store(store.client, store.bucket).write(f"{PREFIX}/{OPERATION}/readme.txt", b"", media_type="text/plain")
    counts = Listener()
    with ours.working(OPERATION, [EAST], counts):
        assert counts == {EAST: 1}


def test_the_background_thread_beats_only_while_there_is_work(
    new_store: Callable[[], Store], join: Callable[[str], Heartbeats]
) -> None:
    two = threading.Event()
    ours = Heartbeats(new_store(), PREFIX, process="ours", period=0.5)
    before = set(threading.enumerate())

    def counts(region: str, number: int, place: int) -> None:
        if number == 2:
            two.set()

    with ours.working(OPERATION, [EAST], counts):
        (thread,) = (t for t in set(threading.enumerate()) - before if t.name == "heartbeats")
        with join("b").working(OPERATION, [EAST], Listener()):
            assert two.wait(20)
    thread.join(20)
    assert not thread.is_alive()


def test_concurrent_processes_agree_on_their_number(
    new_store: Callable[[], Store],
) -> None:
    all_in = threading.Barrier(5)
    all_out = threading.Barrier(5)
    counts = [Listener() for _ in range(5)]

    stores = [new_store() for _ in range(5)]

    def work(number: int) -> None:
        heartbeats = Heartbeats(stores[number], PREFIX, process=f"p{number}", period=10)
        with heartbeats.working(OPERATION, [EAST], counts[number]):
            all_in.wait()
            heartbeats.beat()
            all_out.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [{EAST: 5}] * 5
    assert list(new_store().list(PREFIX)) == []
