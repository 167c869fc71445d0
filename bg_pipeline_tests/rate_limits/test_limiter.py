"""The rate limiter in simulated time, and its queue with real threads."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.errors import RunStopped
from bg_pipeline.rate_limits.limiter import (
    AdaptiveRate,
    Permit,
    Rate,
    RateLimiter,
    RegionLimiter,
    earliest_free,
)
from bg_pipeline_tests.rate_limits.simulation import SHAPES, simulate

HOURLY = Rate(1 / 3600)
PATIENCE_SECONDS = 20.0

every_shape = pytest.mark.parametrize("shape", SHAPES)


# The speed of one process


@every_shape
def test_at_the_right_quota_no_call_is_refused_and_a_run_takes_three_per_cent_over_the_floor(
    shape: str,
) -> None:
    outcome = simulate(shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.refused == 0
    assert outcome.ratio <= 1.03


@pytest.mark.parametrize("shape", ["bucket of 1", "fixed 60 s"])
def test_ten_thousand_images_take_half_a_per_cent_over_the_floor(shape: str) -> None:
    outcome = simulate(images=(10_000,), shape=shape, seed=1)
    assert outcome.done == 10_000
    assert outcome.refused == 0
    assert outcome.ratio <= 1.005


@every_shape
@pytest.mark.parametrize("configured", [1.02, 1.5, 4.0])
@pytest.mark.parametrize("per_minute", [20.0, 120.0])
def test_a_quota_configured_too_high_is_detected(shape: str, configured: float, per_minute: float) -> None:
    outcome = simulate(configured=configured, shape=shape, per_minute=per_minute, seed=2)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.07
    assert outcome.refused <= 0.1


@every_shape
def test_calls_that_travel_for_different_times_are_not_refused_in_any_but_the_shallowest_bucket(
    shape: str,
) -> None:
    outcome = simulate(shape=shape, jitter=0.05, seed=1)
    assert outcome.done == 1000
    assert outcome.refused <= (0.02 if shape == "bucket of 1" else 0.0)


@every_shape
@pytest.mark.parametrize("per_minute", [20.0, 40.0, 60.0])
def test_a_slow_quota_refuses_no_call_that_travels_six_milliseconds_less_than_the_one_before(
    shape: str, per_minute: float
) -> None:
    outcome = simulate(shape=shape, per_minute=per_minute, jitter=0.006, seed=1)
    assert outcome.done == 1000
    assert outcome.refused == 0
    assert outcome.ratio <= 1.02


def test_one_refused_call_in_many_costs_a_hundredth_of_the_speed_and_one_in_few_a_twentieth() -> None:
    full = AdaptiveRate(Rate(2.0)).rate(0.0)
    for calls, part in ((30, 0.99), (10, 0.95)):
        pace, now = AdaptiveRate(Rate(2.0)), 0.0
        for _ in range(calls):
            now = pace.next_at(now)
            number = pace.acquire(now)
        pace.record_refusal(number, now)
        assert pace.rate(now) == pytest.approx(full * part)


def test_a_late_call_is_not_made_up_for_if_the_quota_is_slow() -> None:
    pace = AdaptiveRate(Rate.per_minute(40))
    pace.acquire(0.0)
    expected = pace.next_at(0.0)
    pace.expect_call(expected)
    assert pace.next_at(expected + 0.05) == expected + 0.05
    pace.acquire(expected + 0.05)
    assert pace.next_at(expected + 0.05) >= expected + 0.05 + 1.5


@every_shape
def test_an_accounts_own_quota_is_never_exceeded_even_if_nothing_is_refused(shape: str) -> None:
    outcome = simulate(configured=0.25, shape=shape, images=(300,), seed=1)
    assert outcome.refused == 0
    assert outcome.ratio >= 4.0


@every_shape
def test_a_published_default_four_times_too_low_does_not_hold_up_a_run_for_long(shape: str) -> None:
    outcome = simulate(configured=0.25, may_probe=True, shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.35
    assert outcome.refused <= 0.05


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "bucket of 60 s"])
def test_probing_costs_at_most_ten_refused_calls_in_a_thousand_when_the_default_was_right(shape: str) -> None:
    outcome = simulate(may_probe=True, shape=shape, seed=1)
    assert outcome.ratio <= 1.03
    assert outcome.refused <= 0.01


def test_nothing_is_probed_by_calls_that_did_not_have_to_wait() -> None:
    pace = AdaptiveRate(Rate(1.0, may_probe=True))
    for second in range(0, 3600, 4):
        pace.acquire(float(second))
    assert pace.rate(3600.0) <= 1.0


def test_an_idle_hour_gives_no_burst() -> None:
    pace = AdaptiveRate(Rate(1.0))
    pace.acquire(0.0)
    pace.acquire(3600.0)
    assert pace.next_at(3600.0) >= 3601.0


def test_the_effect_of_refusals_ends_within_an_hour() -> None:
    pace = AdaptiveRate(Rate(2.0))
    for second in range(10):
        pace.record_refusal(pace.acquire(float(second)), second + 0.1)
    assert pace.rate(10.0) < 1.9
    pace.acquire(3600.0)
    assert pace.rate(3600.1) == pytest.approx(2.0, rel=0.01)


def test_late_calls_are_made_up_for_so_that_the_rate_is_kept() -> None:
    region = RegionLimiter("a", Rate(10.0))
    now = 0.0
    for _ in range(1000):
        at, _ = earliest_free([region], now)
        now = at + 0.004
        assert earliest_free([region], now)[0] == now
        region.acquire(now)
    assert now == pytest.approx(100.0, rel=0.005)


def test_no_call_is_allowed_before_the_retry_after_time() -> None:
    pace = AdaptiveRate(Rate(10.0))
    pace.record_refusal(pace.acquire(0.0), 0.1, retry_after=30.0)
    assert pace.next_at(0.2) >= 30.1


def test_the_token_quota_limits_calls_if_it_is_the_tighter_one() -> None:
    pace = AdaptiveRate(Rate(calls=10.0, tokens=100.0))
    pace.acquire(0.0, tokens=200.0)
    assert pace.next_at(0.0) == pytest.approx(2.0, rel=0.01)


def test_unused_tokens_are_refunded() -> None:
    pace = AdaptiveRate(Rate(calls=10.0, tokens=100.0))
    pace.acquire(0.0, tokens=200.0)
    pace.refund(150.0)
    assert pace.next_at(0.0) == pytest.approx(0.5, rel=0.01)


def test_a_call_of_double_cost_takes_double_time() -> None:
    pace = AdaptiveRate(Rate(10.0))
    pace.acquire(0.0, cost=2.0)
    assert pace.next_at(0.0) == pytest.approx(0.2, rel=0.01)


def test_a_smaller_share_applies_to_a_waiting_call() -> None:
    pace = AdaptiveRate(Rate(1.0))
    pace.acquire(0.0)
    pace.share(0.5, 5)
    assert pace.next_at(0.5) == pytest.approx(3.0, rel=0.02)
    pace.share(1.0, 1)
    assert pace.next_at(1.0) == pytest.approx(1.4, rel=0.02)


def test_processes_with_different_indexes_take_turns() -> None:
    processes = [AdaptiveRate(Rate(1.0)) for _ in range(3)]
    taken = []
    for place, pace in enumerate(processes):
        pace.share(100.0, 3, place)
        now = 100.0 + 0.1 * place
        for _ in range(4):
            now = pace.next_at(now)
            pace.acquire(now)
            taken.append(now)
    taken.sort()
    apart = [later - sooner for sooner, later in pairwise(taken)]
    assert apart == pytest.approx([1.0] * 11, rel=0.01)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["took", "refused", "share"]),
            st.floats(0.0, 30.0),
            st.integers(1, 5),
            st.floats(0.0, 9.0),
        ),
        max_size=200,
    ),
    st.floats(0.01, 100.0),
)
def test_the_rate_stays_positive_and_within_its_quota(
    events: list[tuple[str, float, int, float]], calls: float
) -> None:
    pace, now, taken, call = AdaptiveRate(Rate(calls)), 1000.0, 0, 0
    for what, wait, n, retry_after in events:
        now += wait
        if what == "share":
            pace.share(now, n, n - 1)
        elif what == "refused" and call:
            pace.record_refusal(call, now, retry_after)
        else:
            at = pace.next_at(now)
            assert now <= at < now + 1000 / calls + 60
            now = at
            call = pace.acquire(now)
            taken += 1
        assert 0 < pace.rate(now) <= calls
    assert taken <= 2 + calls * (now - 1000.0) + sum(event[0] != "took" for event in events)


# Several processes


@every_shape
@pytest.mark.parametrize("images", [(250, 250, 250, 250), (50, 100, 250, 600)])
def test_four_processes_share_a_quota_with_hardly_a_refused_call(shape: str, images: tuple[int, ...]) -> None:
    outcome = simulate(images=images, shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.05
    assert outcome.refused <= 0.005


@every_shape
def test_processes_may_come_one_after_another(shape: str) -> None:
    outcome = simulate(images=(400, 200, 200, 200), starts=(0, 30, 90, 200), shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.05
    assert outcome.refused <= 0.005


@every_shape
def test_processes_that_see_each_other_only_after_ten_seconds_lose_no_time(shape: str) -> None:
    outcome = simulate(images=(50, 100, 250, 600), beat=10.0, shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.05
    assert outcome.refused <= 0.02


@pytest.mark.parametrize("shape", ["rolling 60 s", "fixed 60 s"])
def test_four_processes_detect_together_that_the_quota_is_four_times_smaller(shape: str) -> None:
    outcome = simulate(images=(250,) * 4, configured=4.0, shape=shape, seed=1)
    assert outcome.done == 1000
    assert outcome.ratio <= 1.09
    assert outcome.refused <= 0.2


# Several Regions


@every_shape
def test_the_quotas_of_three_regions_add_up(shape: str) -> None:
    outcome = simulate(images=(1500,), regions="abc", shape=shape, seed=1)
    assert outcome.done == 1500
    assert outcome.refused == 0
    assert outcome.ratio <= 1.05
    assert {region.served for region in outcome.regions.values()} == {500}


def test_regions_are_used_in_proportion_to_their_quotas() -> None:
    limiters = [RegionLimiter("large", Rate(4.0)), RegionLimiter("small", Rate(1.0))]
    used: Counter[str] = Counter()
    now = 0.0
    for _ in range(1000):
        now, region = earliest_free(limiters, now)
        region.acquire(now)
        used[region.name] += 1
    assert used["large"] == pytest.approx(800, abs=2)


def test_a_failing_region_is_suspended_and_used_again_and_no_image_is_lost() -> None:
    outcome = simulate(images=(3000,), regions="abc", broken={"b": (100, 200)}, seed=1)
    assert outcome.done == 3000
    assert outcome.failed <= 15
    assert outcome.refused == 0
    assert outcome.regions["b"].rate > 0
    assert outcome.regions["b"].served >= 800
    assert outcome.ratio <= 1.12


def test_the_only_region_is_tried_until_it_works_again() -> None:
    outcome = simulate(images=(500,), broken={"a": (50, 150)}, seed=1)
    assert outcome.done == 500
    assert outcome.failed <= 15


def test_an_image_that_always_fails_does_not_suspend_a_region() -> None:
    region = RegionLimiter("a", Rate(10.0))
    for attempt in range(4):
        region.acquire(float(attempt))
        region.record_failure(attempt + 0.5, since=float(attempt))
    assert region.next_at(4.0) == 4.0


def test_answers_to_calls_made_before_the_failures_do_not_end_a_suspension() -> None:
    region = RegionLimiter("a", Rate(10.0))
    for call in range(5):
        region.acquire(10.0 + call)
        region.record_failure(10.5 + call, since=10.0 + call)
    region.record_success(since=9.0)
    assert region.next_at(15.0) >= 16.0
    region.acquire(17.0)
    assert region.next_at(17.1) >= 19.0, "one call only while the Region is tried"
    region.record_success(since=17.0)
    assert region.next_at(18.0) == 18.0


# The limiter with threads


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def in_thread(what: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ended(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def queue_up(
    limiter: RateLimiter, names: str, into: list[str], retry_of: Permit | None = None
) -> list[threading.Thread]:
    """Threads that queue in order and append their name when they are admitted."""

    def ask(name: str) -> None:
        limiter.acquire(retry_of=retry_of)
        into.append(name)

    threads = []
    for number, name in enumerate(names, limiter.waiting + 1):
        threads.append(in_thread(partial(ask, name)))
        until(lambda n=number: limiter.waiting == n)  # type: ignore[misc]
    return threads


def let_through(limiter: RateLimiter, clock: Clock, calls: int) -> None:
    """Advances the clock by an hour for each call."""
    for left in reversed(range(limiter.waiting - calls, limiter.waiting)):
        clock.now += 4000
        limiter.change(lambda now: None)
        until(lambda n=left: limiter.waiting == n)  # type: ignore[misc]


def test_callers_are_admitted_in_order() -> None:
    clock, order = Clock(), list[str]()
    limiter = RateLimiter("test", {"a": HOURLY}, clock=clock)
    limiter.acquire()
    threads = queue_up(limiter, "12345", order)
    let_through(limiter, clock, 5)
    ended(*threads)
    assert order == list("12345")


def test_a_throttled_call_keeps_its_place_in_the_queue() -> None:
    clock, order = Clock(), list[str]()
    limiter = RateLimiter("test", {"a": HOURLY}, clock=clock)
    permit = limiter.acquire()
    threads = queue_up(limiter, "123", order)
    permit.refused()
    threads += queue_up(limiter, "r", order, retry_of=permit)
    let_through(limiter, clock, 4)
    ended(*threads)
    assert order == list("r123")
    assert limiter.state()["a"].refused == 1


def test_a_larger_share_admits_waiting_callers_at_once() -> None:
    limiter = RateLimiter("test", {"a": Rate(1000.0)})
    limiter.share(1_000_000)
    limiter.acquire()
    waiting = queue_up(limiter, "12", [])
    limiter.share(1)
    ended(*waiting)


def test_a_closed_limiter_raises_its_reason_for_waiting_and_new_callers() -> None:
    limiter = RateLimiter("test", {"a": HOURLY, "b": HOURLY})
    reasons: list[str] = []

    def ask() -> None:
        try:
            limiter.acquire()
        except RunStopped as reason:
            reasons.append(str(reason))

    limiter.acquire()
    limiter.acquire()
    threads = [in_thread(ask) for _ in range(3)]
    until(lambda: limiter.waiting == 3)
    limiter.close("The quota of the day is used up in a.", "a")
    assert limiter.waiting == 3, "the other Region is still open"
    limiter.close("The quota of the day is used up.")
    ended(*threads)
    ask()
    assert reasons == ["The quota of the day is used up in a.; The quota of the day is used up."] * 4


def test_a_closed_region_gets_no_more_calls() -> None:
    limiter = RateLimiter("test", {"a": Rate(1000.0), "b": Rate(1000.0)})
    limiter.close("The model is not available in a.", "a")
    assert {limiter.acquire().region for _ in range(10)} == {"b"}
    assert limiter.state()["a"].rate == 0.0


def test_a_stopped_run_leaves_the_queue() -> None:
    limiter = RateLimiter("test", {"a": HOURLY})
    limiter.acquire()
    stop = threading.Event()
    outcomes: list[str] = []

    def ask() -> None:
        try:
            limiter.acquire(stop=stop)
        except RunStopped:
            outcomes.append("stopped")

    threads = [in_thread(ask) for _ in range(3)]
    until(lambda: limiter.waiting == 3)
    stop.set()
    ended(*threads)
    assert outcomes == ["stopped"] * 3
    assert limiter.waiting == 0


def test_many_threads_keep_the_rate_and_lose_no_call() -> None:
    limiter = RateLimiter("test", {"a": Rate(200.0), "b": Rate(100.0)})
    admitted: list[tuple[str, float]] = []

    def work() -> None:
        for _ in range(15):
            permit = limiter.acquire(tokens=5.0)
            admitted.append((permit.region, time.monotonic()))
            permit.succeeded(tokens=2.0)

    ended(*[in_thread(work) for _ in range(10)])
    state = limiter.state()
    assert sum(region.served for region in state.values()) == len(admitted) == 150
    assert state["a"].admitted == pytest.approx(100, abs=5)
    took = max(at for _, at in admitted) - min(at for _, at in admitted)
    assert took >= 140 / 300, "no faster than the quota"
