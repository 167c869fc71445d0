import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bg_pipeline.state import leases
from bg_pipeline.state.leases import Lease, Leases, holder_of
from bg_pipeline.state.process_identity import is_dead, process_name
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.state.trouble import Clock, Troubled

KEY = "pipeline-state/leases/2026/11/21/101530.json"


@pytest.fixture
def ours(store: Troubled, clock: Clock) -> Iterator[Leases]:
    with Leases(store, "our run", ttl=60, clock=clock) as made:
        yield made


@pytest.fixture
def theirs(new_store: Callable[[], Store]) -> Iterator[Leases]:
    with Leases(new_store(), "their run", ttl=60, clock=Clock()) as made:
        yield made


def take(from_: Leases) -> Lease:
    lease = from_.acquire(KEY)
    assert lease is not None
    return lease


def test_only_one_of_two_gets_a_lease(ours: Leases, theirs: Leases) -> None:
    lease = take(ours)
    assert theirs.acquire(KEY) is None
    assert lease.held()


def test_a_released_lease_is_free_at_once(ours: Leases, theirs: Leases) -> None:
    with take(ours) as lease:
        assert lease.held()
    assert not lease.held()
    assert holder_of(ours.store, KEY) is None
    assert take(theirs).held()


def test_a_lease_contains_its_holder(ours: Leases) -> None:
    take(ours)
    holder = holder_of(ours.store, KEY)
    assert holder is not None
    assert (holder.run, holder.pid, holder.process) == ("our run", os.getpid(), process_name())
    assert abs(datetime.now(UTC) - holder.since) < timedelta(minutes=1)


def test_an_expired_lease_is_taken_over_by_the_observers_clock(
    ours: Leases, theirs: Leases, clock: Clock
) -> None:
    left_behind = take(theirs)
    assert ours.acquire(KEY) is None
    clock.now += 60
    assert ours.acquire(KEY) is None
    clock.now += 0.1
    assert take(ours).held()
    left_behind.renew()
    assert left_behind.lost.is_set()
    assert not left_behind.held()


def test_a_renewed_lease_is_not_taken_over_however_long_it_is_held(
    ours: Leases, theirs: Leases, clock: Clock
) -> None:
    lease = take(theirs)
    for _ in range(5):
        assert ours.acquire(KEY) is None
        clock.now += 59
        lease.renew()
    assert ours.acquire(KEY) is None
    assert lease.held()


def test_the_holders_ttl_counts_and_not_the_observers(
    new_store: Callable[[], Store], ours: Leases, clock: Clock
) -> None:
    with Leases(new_store(), "patient", ttl=600, clock=Clock()) as patient:
        take(patient)
        assert ours.acquire(KEY) is None
        clock.now += 599
        assert ours.acquire(KEY) is None
        clock.now += 2
        take(ours)


def test_a_former_holder_does_not_touch_the_new_holders_lease(
    ours: Leases, theirs: Leases, clock: Clock
) -> None:
    left_behind = take(theirs)
    ours.acquire(KEY)
    clock.now += 61
    lease = take(ours)
    left_behind.release()
    assert lease.held()
    lease.renew()
    assert lease.held()


def test_a_lease_renewed_long_ago_by_s3s_clock_is_taken_over_without_watching(
    store: Troubled, ours: Leases, theirs: Leases
) -> None:
    take(theirs)
    store.moved_back = timedelta(minutes=15, seconds=50)
    assert ours.acquire(KEY) is None
    store.moved_back = timedelta(minutes=16, seconds=10)
    take(ours)


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_over_without_watching(
    new_store: Callable[[], Store], ours: Leases
) -> None:
    store = new_store()
    script = (
        "import sys, boto3, time\n"
        "from bg_pipeline.state.leases import Leases\n"
        "from bg_pipeline.storage.object_store import Store\n"
        "client = boto3.client('s3', endpoint_url=sys.argv[1], aws_access_key_id='x',\n"
        "    aws_secret_access_key='x', region_name='us-east-1')\n"
        "Leases(Store(client, sys.argv[2]), 'killed').acquire(sys.argv[3])\n"
        "print('taken', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(store.client.meta.endpoint_url), store.bucket, KEY],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "taken\n"
        assert ours.acquire(KEY) is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    take(ours)


def test_exactly_one_of_many_concurrent_processes_gets_the_lease(new_store: Callable[[], Store]) -> None:
    many = [Leases(new_store(), f"run {i}") for i in range(6)]
    start = threading.Barrier(len(many))
    won: list[Lease] = []

    def race(one: Leases) -> None:
        start.wait()
        lease = one.acquire(KEY)
        if lease is not None:
            won.append(lease)

    threads = [threading.Thread(target=race, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert won[0].held()
    for one in many:
        one.close()


def test_exactly_one_of_many_processes_takes_over_from_a_dead_holder(new_store: Callable[[], Store]) -> None:
    clock = Clock()
    gone = Leases(new_store(), "gone", clock=Clock())
    take(gone)
    many = [Leases(new_store(), f"run {i}", clock=clock) for i in range(6)]
    assert [one.acquire(KEY) for one in many] == [None] * 6
    clock.now += 61
    start = threading.Barrier(len(many))
    won: list[Lease] = []

    def race(one: Leases) -> None:
        start.wait()
        lease = one.acquire(KEY)
        if lease is not None:
            won.append(lease)

    threads = [threading.Thread(target=race, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    for one in [*many, gone]:
        one.close()


def test_a_write_whose_response_was_lost_is_recognised_as_our_own(
    store: Troubled, ours: Leases, theirs: Leases
) -> None:
    store.lost_answers = 1
    lease = take(ours)
    store.lost_answers = 1
    lease.renew()
    assert lease.held()
    assert theirs.acquire(KEY) is None
    lease.release()
    assert holder_of(store, KEY) is None


def test_a_lease_that_cannot_be_renewed_is_held_for_four_fifths_of_its_ttl(
    store: Troubled, ours: Leases, clock: Clock
) -> None:
    lease = take(ours)
    store.down = True
    clock.now += 30
    lease.renew()
    assert lease.held()
    clock.now += 17.9
    assert lease.held()
    clock.now += 0.2
    assert not lease.held()
    assert lease.lost.is_set()


def test_after_a_suspension_a_free_lease_is_renewed_before_it_counts_as_held(
    ours: Leases, clock: Clock
) -> None:
    lease = take(ours)
    clock.now += 8 * 3600
    assert lease.held()
    holder = holder_of(ours.store, KEY)
    assert holder is not None
    assert holder.renewals == 1


def test_after_a_suspension_a_lease_taken_over_by_another_is_not_held(
    ours: Leases, new_store: Callable[[], Store], clock: Clock
) -> None:
    lease = take(ours)
    awake = Clock()
    with Leases(new_store(), "awake", clock=awake) as other:
        assert other.acquire(KEY) is None
        awake.now += 61
        take(other)
        clock.now += 8 * 3600
        assert not lease.held()


def test_an_invalid_lease_document_counts_as_held_until_it_expires(
    store: Troubled, ours: Leases, clock: Clock
) -> None:
    store.write(KEY, b'{"torn": ', media_type="application/json")
    assert ours.acquire(KEY) is None
    assert holder_of(store, KEY) is None
    clock.now += 61
    take(ours)


def test_the_background_thread_renews_every_lease_and_ends_with_close(new_store: Callable[[], Store]) -> None:
    store = new_store()
    ours = Leases(store, "run", ttl=0.2)
    held = [ours.acquire(f"{KEY}-{i}") for i in range(3)]
    assert all(held)
    renewed = threading.Event()
    for _ in range(200):
        holders = [holder_of(store, f"{KEY}-{i}") for i in range(3)]
        if all(holder is not None and holder.renewals > 1 for holder in holders):
            break
        renewed.wait(0.02)
    else:
        pytest.fail("not renewed within 4 seconds")
    ours.close()
    assert list(store.list("pipeline-state/leases/")) == []
    assert "leases" not in [thread.name for thread in threading.enumerate()]


def test_waiting_ends_when_the_holder_releases(
    ours: Leases, theirs: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.01)
    lease = take(theirs)
    threading.Timer(0.05, lease.release).start()
    waited_for = ours.acquire(KEY, wait=None)
    assert waited_for is not None
    assert waited_for.held()


def test_waiting_ends_when_the_stop_event_is_set(ours: Leases, theirs: Leases) -> None:
    take(theirs)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    assert ours.acquire(KEY, wait=None, stop=stop) is None


def test_waiting_ends_after_the_timeout(new_store: Callable[[], Store], theirs: Leases) -> None:
    take(theirs)
    with Leases(new_store(), "run") as ours:
        assert ours.acquire(KEY, wait=0.05) is None


def test_a_process_is_dead_only_if_that_is_certain() -> None:
    host, pid, started, place = process_name().split(".")
    assert not is_dead(process_name())
    assert not is_dead(f"{host}.{pid}.{started}.another0")
    assert not is_dead(f"{host}.{pid}..")
    assert not is_dead("nonsense")
    if Path("/proc/self/stat").exists():
        assert is_dead(f"{host}.{pid}.{int(started) - 1}.{place}"), "the id was given to a new process"
