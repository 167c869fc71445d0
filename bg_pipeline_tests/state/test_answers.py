"""Claims on paid calls: only one process makes a call, also after failed writes, crashes and clock errors."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from botocore.exceptions import ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import CallError, ClaimLost, ImageError, OutcomeUnknown, RunStopped
from bg_pipeline.state.answers import Answer, AnswerPolicy, AnswerStore
from bg_pipeline.state.claims import CALL_SECONDS, RENEW_SECONDS, Claim, Price
from bg_pipeline.storage.object_store import ObjectContent, Store
from bg_pipeline_tests.state.trouble import Clock, Troubled

NAME = "a" * 64
MADE = Answer(b"made", "titan-v2")
PRICE = Price("TITAN_V2", 0.012, "digest")


class Patience(threading.Event):
    """A stop event whose `wait` advances a clock; it is set after ``seconds`` of that clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock = clock
        self.ends = clock.now + seconds

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.now += timeout or 0.0
        return self.clock.now > self.ends


@pytest.fixture
def ours(store: Troubled, clock: Clock) -> AnswerStore:
    return AnswerStore(store, "our-machine.1.1.1", clock=clock)


@pytest.fixture
def theirs(new_store: Callable[[], Store]) -> AnswerStore:
    return AnswerStore(new_store(), "their-machine.1.1.1", clock=Clock())


def claim(
    answers: AnswerStore, *, batch: str = "2026/11/20/101530", retry: str = "", seconds: float = 0.0
) -> Claim | Answer:
    """Claims the call; waits up to ``seconds`` of the store's test clock, or of a new one."""
    clock = answers._clock if isinstance(answers._clock, Clock) else Clock()
    return answers.claim("picture", NAME, AnswerPolicy(Patience(clock, seconds), batch, retry), PRICE)


def taken(answers: AnswerStore, **how: object) -> Claim:
    made = claim(answers, **how)  # type: ignore[arg-type]
    assert isinstance(made, Claim)
    return made


def stored(store: Store) -> dict[str, object]:
    content = store.read(s3_keys.call_claim_key(NAME))
    assert content is not None
    return dict(orjson.loads(content.data))


OTHER = "2026/11/19/101530"


def test_it_waits_for_another_processs_call_and_uses_its_answer(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    taken(ours)
    with pytest.raises(RunStopped):
        claim(theirs, batch=OTHER, seconds=30)
    ours.keep("picture", NAME, MADE, media_type="image/png")
    assert claim(theirs, batch=OTHER) == theirs.find("picture", NAME) == MADE


def test_an_answer_stored_during_another_processs_lookup_is_not_paid_for_twice(
    new_store: Callable[[], Store], ours: AnswerStore
) -> None:
    taken(ours)
    reads = []

    class Watched(Store):
        def read(self, key: str) -> ObjectContent | None:
            content = super().read(key)
            if key == s3_keys.answer_key("picture", NAME):
                reads.append(key)
                if len(reads) == 2:
                    ours.keep("picture", NAME, MADE, media_type="image/png")
            return content

    store = new_store()
    theirs = AnswerStore(Watched(store.client, store.bucket), "their-machine.1.1.1", clock=Clock())
    assert claim(theirs, batch=OTHER, seconds=30) == MADE
    assert len(reads) == 3
    assert stored(store)["Holder"] == "our-machine.1.1.1"


def test_a_request_for_another_model_makes_the_call_unless_it_is_in_progress(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    first = taken(ours)
    made = replace(MADE, call=first.payments[0].call, paid_usd=0.012)
    ours.keep("picture", NAME, made, media_type="image/png", claim=first)

    def other(answers: AnswerStore) -> Claim | Answer:
        return answers.claim(
            "picture", NAME, AnswerPolicy(Patience(Clock(), 30), models=["nova-canvas"]), PRICE
        )

    renewed = other(ours)
    assert isinstance(renewed, Claim)
    assert renewed.maybe_billed == 0
    with pytest.raises(RunStopped):
        other(theirs)
    kept = ours.keep("picture", NAME, Answer(b"anew", "nova-canvas"), media_type="image/png", claim=renewed)
    assert other(theirs) == kept


def test_a_claim_whose_write_response_was_lost_is_recognised_as_our_own(
    store: Troubled, ours: AnswerStore
) -> None:
    store.lost_answers = 1
    made = taken(ours)
    assert made.maybe_billed == 0
    assert made.make(lambda: "the answer") == "the answer"


def test_a_claim_that_waited_long_for_the_rate_limiter_is_renewed_before_its_call(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore, clock: Clock
) -> None:
    made = taken(ours)
    with pytest.raises(RunStopped):
        claim(theirs, batch=OTHER, seconds=CALL_SECONDS - 20)
    clock.now += CALL_SECONDS - 20
    made.renew()
    assert stored(store)["Renewed"] == 1
    with pytest.raises(RunStopped):
        claim(theirs, batch=OTHER, seconds=CALL_SECONDS - 20)
    made.renew()
    assert stored(store)["Renewed"] == 1, "what was renewed a moment ago needs no second write"


def test_a_claim_that_is_not_renewed_is_taken_over_and_counted_as_maybe_billed(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    taken(ours)
    assert taken(theirs, batch=OTHER, seconds=CALL_SECONDS + 20).maybe_billed == 1


def test_the_answer_of_a_process_that_wakes_up_after_its_claim_was_taken_over_is_used(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore
) -> None:
    """It stores what it has paid for while the other one still waits to make the call, as for the rate limiter."""
    taken(ours)
    paid = []

    def call(claim: Claim) -> Answer:
        claim.renew()
        ours.keep("picture", NAME, MADE, media_type="image/png")
        claim.renew()
        paid.append("a second time")
        return MADE

    policy = AnswerPolicy(Patience(theirs._clock, CALL_SECONDS + 20), OTHER)  # type: ignore[arg-type]
    assert theirs.once("picture", NAME, policy, call, media_type="image/png", price=PRICE) == MADE
    assert paid == []
    assert stored(store)["Holder"] == "", "nobody has to wait for it"


def test_a_fast_clock_does_not_take_over_a_call_in_progress(
    new_store: Callable[[], Store], ours: AnswerStore
) -> None:
    taken(ours)
    store = new_store()
    ahead = Troubled(store.client, store.bucket)
    ahead.moved_back = timedelta(minutes=14)
    with pytest.raises(RunStopped):
        claim(AnswerStore(ahead, "their-machine.1.1.1", clock=Clock()), batch=OTHER, seconds=30)
    ahead.moved_back = timedelta(minutes=40)
    taken(AnswerStore(ahead, "their-machine.1.1.1", clock=Clock()), batch=OTHER)


def test_a_suspended_process_does_not_make_a_call_that_was_taken_over(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore, clock: Clock
) -> None:
    slept = taken(ours)
    made = taken(theirs, seconds=CALL_SECONDS + 20)
    clock.now += RENEW_SECONDS + 1
    called = []

    def call() -> None:
        slept.renew()
        called.append("a paid call")

    with pytest.raises(ClaimLost):
        slept.make(call)
    assert called == []
    assert stored(store)["Holder"] == "their-machine.1.1.1"
    assert made.make(lambda: "the answer") == "the answer"


@pytest.mark.parametrize("error", [CallError("ValidationException", "wrong"), RunStopped("enough")])
def test_the_claim_of_a_failed_call_is_deleted_unless_another_process_has_it(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        taken(ours).make(fail)
    assert store.read(s3_keys.call_claim_key(NAME)) is None
    slept = taken(ours)
    taken(theirs, seconds=CALL_SECONDS + 20)
    with pytest.raises(type(error)):
        slept.make(fail)
    assert stored(store)["Holder"] == "their-machine.1.1.1"


def test_a_call_with_unknown_outcome_is_made_twice_and_then_only_on_retry(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore
) -> None:
    calls = []

    def call() -> None:
        calls.append("a paid call")
        raise OutcomeUnknown("MaybeBilled", "no answer")

    store.lost_answers = 1
    with pytest.raises(OutcomeUnknown):
        taken(ours).make(call)
    assert len(calls) == 2
    with pytest.raises(CallError, match="--retry"):
        claim(theirs)


def test_a_call_with_unknown_outcome_is_not_repeated_after_a_takeover(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    calls = []
    slept = taken(ours)
    taken(theirs, seconds=CALL_SECONDS + 20)

    def call() -> None:
        calls.append("a paid call")
        raise OutcomeUnknown("MaybeBilled", "no answer")

    with pytest.raises(OutcomeUnknown):
        slept.make(call)
    assert len(calls) == 1


def test_a_bug_after_a_call_is_repeated_by_one_more_run_only(
    ours: AnswerStore, theirs: AnswerStore, store: Troubled
) -> None:
    def call() -> None:
        raise KeyError("a field that was always there")

    with pytest.raises(KeyError):
        taken(ours).make(call)
    with pytest.raises(KeyError):
        taken(theirs).make(call)
    assert stored(store)["Unknown"] == 2
    with pytest.raises(CallError, match="made 2 times"):
        claim(ours)


def test_a_refresh_waits_for_a_call_in_progress_and_is_made_once_per_occasion(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore
) -> None:
    def again(answers: AnswerStore, occasion: str, seconds: float = 0.0) -> Claim | Answer:
        policy = AnswerPolicy(Patience(Clock(), seconds), OTHER, occasion=occasion)
        return answers.claim("picture", NAME, policy, PRICE)

    first = taken(ours)
    with pytest.raises(RunStopped):
        again(theirs, "Monday", seconds=30)
    ours.keep(
        "picture", NAME, replace(MADE, call="first", paid_usd=0.012), media_type="image/png", claim=first
    )
    renewed = again(theirs, "Monday")
    assert isinstance(renewed, Claim)
    assert stored(store)["Holder"] == "their-machine.1.1.1"
    theirs.keep("picture", NAME, replace(MADE, occasion="Monday"), media_type="image/png", claim=renewed)
    assert isinstance(again(ours, "Monday"), Answer)
    assert isinstance(again(ours, "Tuesday"), Claim)


def test_what_is_made_for_a_batch_that_goes_on_with_an_earlier_refresh_serves_the_others_of_its_run(
    ours: AnswerStore,
) -> None:
    def on_tuesday(occasion: str) -> Claim | Answer:
        terms = AnswerPolicy(Patience(Clock(), 0), OTHER, occasion=occasion, refresh_occasion="Tuesday")
        return ours.claim("picture", NAME, terms, PRICE)

    anew = on_tuesday("Monday")
    assert isinstance(anew, Claim)
    ours.keep("picture", NAME, replace(MADE, occasion="Monday"), media_type="image/png", claim=anew)
    anew.leave()
    assert isinstance(on_tuesday("Tuesday"), Answer)
    assert isinstance(on_tuesday("Monday"), Answer)
    wednesday = AnswerPolicy(Patience(Clock(), 0), OTHER, occasion="Wednesday", refresh_occasion="Thursday")
    anew = ours.claim("picture", NAME, wednesday, PRICE)
    assert isinstance(anew, Claim)
    ours.keep("picture", NAME, replace(MADE, occasion="Wednesday"), media_type="image/png", claim=anew)
    for occasion in ("Monday", "Tuesday", "Wednesday", "Thursday"):
        assert isinstance(on_tuesday(occasion), Answer)


def test_a_claim_records_earlier_payments_and_the_expected_cost(
    store: Troubled, ours: AnswerStore, theirs: AnswerStore
) -> None:
    first = taken(ours)
    (written,) = ours.payments(NAME)
    assert (written.operation, written.usd, written.certain, written.made_for) == (
        *("TITAN_V2", 0.012),
        False,
        "digest",
    )
    made = replace(MADE, call=written.call, paid_usd=0.01)
    ours.keep("picture", NAME, made, media_type="image/png", claim=first)
    policy = AnswerPolicy(threading.Event(), OTHER, occasion="Monday")
    renewed = theirs.claim("picture", NAME, policy, PRICE)
    assert isinstance(renewed, Claim)
    assert [(each.usd, each.certain) for each in theirs.payments(NAME)] == [(0.01, True), (0.012, False)]


def test_a_live_holder_is_waited_for_even_within_the_same_batch(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    taken(ours)
    with pytest.raises(RunStopped):
        claim(theirs, seconds=CALL_SECONDS - 20)


def test_a_process_takes_over_at_once_a_claim_left_by_its_own_thread(ours: AnswerStore) -> None:
    def fail() -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    with pytest.raises(ClientError):
        taken(ours).make(fail)
    assert taken(ours).maybe_billed == 1


def test_each_retry_allows_one_more_call_after_two_maybe_billed_calls(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    calls = []

    def call() -> None:
        calls.append("a paid call")
        raise OutcomeUnknown("MaybeBilled", "no answer")

    with pytest.raises(OutcomeUnknown):
        taken(ours).make(call)
    for calls_before, retry in ((2, "on Monday"), (3, "on Tuesday")):
        again = taken(theirs, retry=retry)
        assert again.maybe_billed == calls_before
        with pytest.raises(OutcomeUnknown):
            again.make(call)
        assert len(calls) == calls_before + 1
        for answers, occasion in ((theirs, retry), (ours, retry), (ours, "")):
            with pytest.raises(CallError, match=f"made {len(calls)} times"):
                claim(answers, retry=occasion)


def once(answers: AnswerStore, ask: Callable[[Claim], Answer], **how: bool) -> Answer:
    return answers.once(
        "labels",
        NAME,
        AnswerPolicy(threading.Event()),
        ask,
        media_type="application/json",
        price=PRICE,
        **how,
    )


@pytest.mark.parametrize("look_first", [True, False])
def test_concurrent_processes_and_threads_make_one_call(
    ours: AnswerStore, theirs: AnswerStore, monkeypatch: pytest.MonkeyPatch, look_first: bool
) -> None:
    monkeypatch.setattr("bg_pipeline.state.answers.POLL_SECONDS", 0.02)
    asked, together, claims = [], threading.Barrier(4), threading.Semaphore(0)
    for answers in (ours, theirs):
        claims_it = answers.claim

        def counted(
            kind: str,
            name: str,
            policy: AnswerPolicy,
            price: Price,
            claims_it: Callable[..., Claim | Answer] = claims_it,
        ) -> Claim | Answer:
            claims.release()
            return claims_it(kind, name, policy, price)

        monkeypatch.setattr(answers, "claim", counted)

    def ask(claim: Claim) -> Answer:
        asked.append(claim)
        # Threads of one process wait for each other before they claim.
        for _ in (ours, theirs):
            assert claims.acquire(timeout=30), "the other process comes meanwhile"
        return MADE

    def come(answers: AnswerStore) -> Answer:
        together.wait()
        return once(answers, ask, look_first=look_first)

    with ThreadPoolExecutor(4) as pool:
        came = list(pool.map(come, (ours, theirs, ours, theirs)))
    assert [answer.data for answer in came] == [MADE.data] * 4
    assert len(asked) == 1


def test_claiming_before_the_lookup_saves_a_request_if_nothing_is_stored(
    store: Troubled, ours: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    for method in ("read", "write"):
        done = getattr(store, method)
        monkeypatch.setattr(
            store,
            method,
            lambda *given, _done=done, _method=method, **named: (
                requests.append(_method) or _done(*given, **named)
            ),
        )
    once(ours, lambda claim: MADE, look_first=False)
    assert requests == ["write", "write"]
    assert once(ours, lambda claim: Answer(b"other", "titan-v2"), look_first=False).data == MADE.data


def test_an_undecodable_picture_leaves_no_claim(store: Troubled, ours: AnswerStore) -> None:
    def ask(claim: Claim) -> Answer:
        raise ImageError("NotAnImage", "it is no picture")

    with pytest.raises(ImageError):
        once(ours, ask)
    assert store.read(s3_keys.call_claim_key(NAME)) is None


def test_a_process_that_lost_its_claim_uses_the_new_holders_answer(
    ours: AnswerStore, theirs: AnswerStore, clock: Clock
) -> None:
    called = []

    def ask(claim: Claim) -> Answer:
        clock.now += CALL_SECONDS + 20
        # Nobody heard of us for so long.
        made = theirs.once(
            "labels",
            NAME,
            AnswerPolicy(Patience(theirs._clock, CALL_SECONDS + 20)),  # type: ignore[arg-type]
            lambda _: MADE,
            media_type="application/json",
            price=PRICE,
        )
        assert (made.data, made.maybe_billed) == (MADE.data, 1)
        claim.renew()
        called.append("a paid call")
        return MADE

    assert once(ours, ask, look_first=False).data == MADE.data
    assert called == []


def test_processes_without_a_lease_do_not_take_over_each_others_calls(
    ours: AnswerStore, theirs: AnswerStore
) -> None:
    taken(ours, batch="")
    with pytest.raises(RunStopped):
        claim(theirs, batch="", seconds=30)
