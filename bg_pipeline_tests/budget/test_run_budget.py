import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from bg_pipeline.budget.limits import CapReached, read_spending
from bg_pipeline.budget.run_budget import PriceUnknown, Reservation, RunBudget
from bg_pipeline.domain.s3_keys import spend_key
from bg_pipeline.errors import PreconditionFailed, RunStopped
from bg_pipeline.storage.object_store import ObjectContent, Store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = spend_key(NOON.date())
BATCH = "pipeline-state/spend/batches/2026/11/21/101530.json"
INPAINT = "STABILITY_INPAINT"


class Watched(Store):
    """A store that counts its requests, or is down."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.client, store.bucket)
        self.requests = 0
        self.down = False

    def read(self, key: str) -> ObjectContent | None:
        self.requests += 1
        if self.down:
            raise EndpointConnectionError(endpoint_url="http://s3")
        return super().read(key)


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Watched:
    return Watched(new_store())


def run_budget(store: Store, **caps: Any) -> RunBudget:
    return RunBudget(store, now=lambda: NOON, **caps)


def spend_all(budget: RunBudget, cost: float, **batch: object) -> int:
    """Pays for calls until a cap stops it; returns their number."""
    calls = 0
    try:
        while True:
            budget.reserve(cost, INPAINT, **batch).settle()  # type: ignore[arg-type]
            calls += 1
    except CapReached:
        return calls


def total(store: Store, key: str) -> float:
    return read_spending(store, key)[0].total / 1e6


def test_a_run_spends_up_to_its_cap_and_not_beyond(store: Watched) -> None:
    with run_budget(store, run_cap_usd=1.0) as run:
        assert spend_all(run, 0.08) == 12
        run.reserve(0.04, INPAINT).settle()
        with pytest.raises(CapReached) as stopped:
            run.reserve(0.000001, INPAINT)
    assert stopped.value.scope == "run"
    assert stopped.value.spent_usd == 1.0
    assert "BG_MAX_COST_USD = 1.00 USD" in str(stopped.value)
    assert INPAINT in str(stopped.value)


def test_a_cap_that_is_a_whole_number_of_calls_is_used_to_the_last_one(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.3) as run:
        assert spend_all(run, 0.1) == 3


def test_what_a_run_spent_before_it_was_killed_counts(store: Watched) -> None:
    with run_budget(store, run_cap_usd=1.0, spent_usd=0.9) as run:
        assert spend_all(run, 0.08) == 1


def test_without_caps_nothing_is_refused_and_the_day_still_counts(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.0, day_cap_usd=0.0) as run:
        for _ in range(30):
            run.reserve(10.0, INPAINT).settle()
    assert total(store, TODAY) == 300.0


def test_a_days_cap_holds_over_runs_one_after_the_other(store: Watched) -> None:
    for expected in (5, 5, 2, 0):
        with run_budget(store, run_cap_usd=0.4, day_cap_usd=1.0) as run:
            assert spend_all(run, 0.08) == expected
    assert total(store, TODAY) == 0.96


def test_each_utc_day_has_its_own_cap(store: Watched) -> None:
    east = timezone(timedelta(hours=13))
    now = [datetime(2026, 11, 22, 12, 59, tzinfo=east)]
    with RunBudget(store, day_cap_usd=0.2, now=lambda: now[0]) as run:
        assert spend_all(run, 0.1) == 2
        now[0] += timedelta(minutes=2)
        assert spend_all(run, 0.1) == 2
    assert total(store, spend_key(datetime(2026, 11, 21, tzinfo=UTC).date())) == 0.2
    assert total(store, spend_key(datetime(2026, 11, 22, tzinfo=UTC).date())) == 0.2


def test_a_batchs_cap_holds_over_all_its_runs_and_leaves_other_batches_alone(store: Watched) -> None:
    with run_budget(store) as run:
        assert spend_all(run, 0.3, batch_key=BATCH, batch_cap_usd=0.7) == 2
    with run_budget(store) as run:
        with pytest.raises(CapReached) as stopped:
            run.reserve(0.3, INPAINT, batch_key=BATCH, batch_cap_usd=0.7)
        assert stopped.value.scope == "batch"
        assert "MaxCostUSD = 0.70 USD" in str(stopped.value)
        assert spend_all(run, 0.3, batch_key=f"{BATCH}-2", batch_cap_usd=0.7) == 2
        run.reserve(0.3, INPAINT).settle()
    assert total(store, BATCH) == 0.6
    assert total(store, TODAY) == 1.5


def test_a_call_refused_by_one_cap_is_not_counted_under_the_others(store: Watched) -> None:
    with run_budget(store, run_cap_usd=1.0, day_cap_usd=2.0) as run:
        with pytest.raises(CapReached):
            run.reserve(0.6, INPAINT, batch_key=BATCH, batch_cap_usd=0.5)
        assert spend_all(run, 0.5) == 2


def test_a_released_reservation_may_be_spent_again_and_a_kept_one_not(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.2) as run:
        unbilled, unknown = run.reserve(0.1, INPAINT), run.reserve(0.1, INPAINT)
        with pytest.raises(CapReached):
            run.reserve(0.1, INPAINT)
        unknown.keep()
        unbilled.release()
        run.reserve(0.1, INPAINT).settle()
        with pytest.raises(CapReached):
            run.reserve(0.1, INPAINT)
    assert total(store, TODAY) == 0.2


def test_the_unused_part_of_a_reservation_may_be_spent_again(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.1, day_cap_usd=0.1) as run:
        for _ in range(9):
            run.reserve(0.02, "CAPTION").settle(0.01)
        with pytest.raises(CapReached):
            run.reserve(0.02, "CAPTION")
    assert total(store, TODAY) == 0.09


def test_a_cost_above_the_reservation_is_counted(store: Watched) -> None:
    with run_budget(store, day_cap_usd=0.1) as run:
        run.reserve(0.02, "CAPTION").settle(0.09)
        with pytest.raises(CapReached):
            run.reserve(0.02, "CAPTION")
    assert total(store, TODAY) == 0.09


def test_only_the_first_end_of_a_reservation_counts(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.1) as run:
        paid = run.reserve(0.1, INPAINT)
        paid.settle()
        paid.release()
        with pytest.raises(CapReached):
            run.reserve(0.1, INPAINT)
    assert run.totals()[INPAINT].calls == 1


def test_a_call_that_ended_in_an_unexpected_error_counts_as_billed(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.1) as run:
        with pytest.raises(ZeroDivisionError), run.reserve(0.1, INPAINT):
            _ = 1 / 0
        with pytest.raises(CapReached):
            run.reserve(0.1, INPAINT)
    assert (run.totals()[INPAINT].unsure, run.totals()[INPAINT].cost_usd) == (1, 0.1)


@pytest.mark.parametrize(
    ("caps", "batch", "setting"),
    [
        ({"run_cap_usd": 1.0}, {}, "BG_MAX_COST_USD"),
        ({"day_cap_usd": 1.0}, {}, "BG_MAX_COST_USD_PER_DAY"),
        ({}, {"batch_key": BATCH, "batch_cap_usd": 1.0}, "MaxCostUSD"),
    ],
)
def test_with_any_cap_set_an_unknown_price_stops_before_spending(
    store: Watched, caps: dict[str, float], batch: dict[str, object], setting: str
) -> None:
    with (
        run_budget(store, **caps) as run,
        pytest.raises(PriceUnknown, match=rf"no price is known for {INPAINT}, and {setting} is set"),
    ):
        run.reserve(None, INPAINT, **batch)  # type: ignore[arg-type]
    assert total(store, TODAY) == 0


def test_without_caps_calls_of_unknown_price_are_made_and_counted_as_unpriced(store: Watched) -> None:
    with run_budget(store) as run:
        run.reserve(None, INPAINT, batch_key=BATCH).settle()
        run.reserve(None, INPAINT).settle(0.07)
        run.reserve(None, INPAINT).release()
    billed = run.totals()[INPAINT]
    assert (billed.calls, billed.unpriced, billed.cost_usd) == (2, 1, 0.07)


def test_totals_are_kept_by_operation(store: Watched) -> None:
    with run_budget(store) as run:
        for _ in range(3):
            run.reserve(0.08, INPAINT).settle()
        run.reserve(0.0008, "CAPTION").settle(0.0005)
        run.reserve(0.07, "STABILITY_REMOVE_BACKGROUND").release()
    assert {name: (each.calls, each.cost_usd) for name, each in run.totals().items()} == {
        INPAINT: (3, 0.24),
        "CAPTION": (1, 0.0005),
        "STABILITY_REMOVE_BACKGROUND": (0, 0.0),
    }


def test_most_reservations_make_no_request(store: Watched) -> None:
    with run_budget(store, day_cap_usd=1000.0) as run:
        for _ in range(200):
            run.reserve(0.08, INPAINT).settle()
        assert store.requests == 10
        assert total(store, TODAY) == 16.0


def test_a_process_claims_no_more_than_a_hundredth_of_the_cap_in_advance(store: Watched) -> None:
    run = run_budget(store, day_cap_usd=16.0)
    run.reserve(0.08, INPAINT).settle()
    assert total(store, TODAY) == 0.16
    with run_budget(store, day_cap_usd=16.0) as other:
        assert spend_all(other, 0.08) == 198


def test_a_killed_processs_claim_stays_counted(store: Watched) -> None:
    killed = run_budget(store, day_cap_usd=1.0)
    killed.reserve(0.3, INPAINT).settle()
    killed.reserve(0.3, INPAINT)
    with run_budget(store, day_cap_usd=1.0) as run:
        assert spend_all(run, 0.3) == 1
        with pytest.raises(CapReached, match=r"0\.90 USD, 0\.60 of it claimed by other processes,"):
            run.reserve(0.3, INPAINT)
    assert total(store, TODAY) == pytest.approx(0.9)


def test_closing_twice_or_in_the_middle_of_a_call_loses_no_count(store: Watched) -> None:
    run = run_budget(store, day_cap_usd=1.0)
    under_way = run.reserve(0.4, INPAINT)
    run.close()
    assert total(store, TODAY) == 0.4
    under_way.settle()
    run.reserve(0.4, INPAINT).settle()
    run.close()
    run.close()
    assert total(store, TODAY) == 0.8


def test_an_invalid_spending_document_stops_the_run(store: Watched) -> None:
    store.write(TODAY, b'{"foreign": 1}', media_type="application/json")
    with pytest.raises(RunStopped, match=f"{TODAY} in bucket .* is not a record of spending"):
        run_budget(store, day_cap_usd=1.0).reserve(0.1, INPAINT)


def test_if_s3_does_not_answer_at_the_end_the_claim_stays(
    store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_budget(store)
    run.reserve(0.1, INPAINT).settle()
    store.down = True
    run.close()
    assert "the whole amount claimed by this process stays counted as spent" in caplog.text
    store.down = False
    assert total(store, TODAY) == 2.0
    run.close()
    assert total(store, TODAY) == 0.1


def test_if_s3_does_not_answer_nothing_is_reserved_under_any_cap(store: Watched) -> None:
    with run_budget(store, run_cap_usd=0.1) as run:
        store.down = True
        with pytest.raises(EndpointConnectionError):
            run.reserve(0.1, INPAINT)
        store.down = False
        run.reserve(0.1, INPAINT).settle()


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf")])
def test_an_invalid_amount_of_money_is_refused(store: Watched, cost: float) -> None:
    with pytest.raises(ValueError, match="not an amount of money"):
        run_budget(store).reserve(cost, INPAINT)


def test_many_threads_of_several_processes_cannot_exceed_a_days_cap(
    new_store: Callable[[], Store],
) -> None:
    budgets = [run_budget(new_store(), day_cap_usd=6.0) for _ in range(3)]
    start = threading.Barrier(9)
    paid: list[int] = []

    def work(budget: RunBudget) -> None:
        start.wait()
        paid.append(spend_all(budget, 0.05))

    threads = [threading.Thread(target=work, args=(one,)) for one in budgets for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as closing:
        for one in budgets:
            closing.enter_context(one)
    assert 115 <= sum(paid) <= 120, "a process that ends early may hold back its last claim"
    assert total(new_store(), TODAY) == sum(paid) * 50_000 / 1e6


class Remembered(Store):
    """A store in memory whose writes may lose their response."""

    def __init__(self) -> None:
        self.bucket = "memory"
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.lost_answers = 0

    def read(self, key: str) -> ObjectContent | None:
        if key not in self.objects:
            return None
        data, version = self.objects[key]
        return ObjectContent(data, str(version), "application/json", {}, NOON)

    def write(self, key: str, data: bytes, **conditions: object) -> str:
        there, version = self.objects.get(key, (None, 0))
        if conditions.get("if_absent") and there is not None:
            raise PreconditionFailed(key)
        if conditions.get("if_etag") is not None and conditions["if_etag"] != str(version):
            raise PreconditionFailed(key)
        self.objects[key] = (data, version + 1)
        if self.lost_answers:
            self.lost_answers -= 1
            raise PreconditionFailed("sent twice")
        return str(version + 1)


def test_a_claim_whose_write_response_was_lost_is_recognised_as_our_own() -> None:
    store = Remembered()
    store.lost_answers = 1
    with run_budget(store, day_cap_usd=0.1) as run:
        run.reserve(0.1, INPAINT).settle()
        store.lost_answers = 1
    assert total(store, TODAY) == 0.1


class Spenders(RuleBasedStateMachine):
    """Several processes reserve, pay, end and are killed in any order, under the caps of a day and a batch."""

    reservations: Bundle[tuple[int, int, bool, Reservation]] = Bundle("reservations")

    @initialize(day=st.integers(1, 400), batch=st.integers(1, 400))
    def start(self, day: int, batch: int) -> None:
        self.store = Remembered()
        self.day, self.batch = day * 10_000, batch * 10_000
        self.processes = [self.new_process() for _ in range(3)]
        self.true_day = self.true_batch = 0

    def new_process(self) -> RunBudget:
        return RunBudget(self.store, day_cap_usd=self.day / 1e6, now=lambda: NOON)

    @rule(target=reservations, who=st.integers(0, 2), cost=st.integers(1, 600_000), batch=st.booleans())
    def reserve(self, who: int, cost: int, batch: bool) -> tuple[int, int, bool, Reservation]:
        key, cap = (BATCH, self.batch / 1e6) if batch else ("", None)
        try:
            made = self.processes[who].reserve(cost / 1e6, INPAINT, batch_key=key, batch_cap_usd=cap)
        except CapReached:
            return (who, 0, False, self.processes[who].reserve(0.0, INPAINT))
        self.true_day += cost
        self.true_batch += cost * batch
        return (who, cost, batch, made)

    @rule(reserved=consumes(reservations), share=st.floats(0, 1))
    def settle(self, reserved: tuple[int, int, bool, Reservation], share: float) -> None:
        _, cost, batch, reservation = reserved
        actual = int(cost * share)
        reservation.settle(actual / 1e6)
        self.true_day += actual - cost
        self.true_batch += (actual - cost) * batch

    @rule(reserved=consumes(reservations))
    def release(self, reserved: tuple[int, int, bool, Reservation]) -> None:
        _, cost, batch, reservation = reserved
        reservation.release()
        self.true_day -= cost
        self.true_batch -= cost * batch

    @rule(reserved=consumes(reservations))
    def keep(self, reserved: tuple[int, int, bool, Reservation]) -> None:
        reserved[3].keep()

    @rule(who=st.integers(0, 2))
    def end(self, who: int) -> None:
        self.processes[who].close()

    @rule(who=st.integers(0, 2))
    def kill(self, who: int) -> None:
        self.processes[who] = self.new_process()

    @rule()
    def lose_an_answer(self) -> None:
        self.store.lost_answers = 1

    @invariant()
    def no_cap_is_ever_overrun(self) -> None:
        assert self.true_day <= self.day
        assert self.true_batch <= self.batch

    @invariant()
    def the_documents_count_all_that_was_spent(self) -> None:
        assert self.true_day <= read_spending(self.store, TODAY)[0].total <= self.day
        assert self.true_batch <= read_spending(self.store, BATCH)[0].total <= self.batch


TestSpenders = Spenders.TestCase
TestSpenders.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
