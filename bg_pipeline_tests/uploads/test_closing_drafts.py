"""A draft is submitted or discarded: of both at the same moment one wins, whenever the other comes in between."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from functools import partial
from typing import Any

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import BgPipelineError, NoSuchBatch, UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import closing_drafts, listing
from bg_pipeline.uploads.listing import discard_draft, move_draft
from bg_pipeline.uploads.submission import etags_of
from bg_pipeline.uploads.submitting import LocalFile, hand_over, reserve_name, submit
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

PHOTOS = {"a.jpg", "b/c.jpg"}
REQUEST = b'{"Id": "one", "Prompt": "a beach"}'
S3_CALLS = ("read", "write", "delete", "head", "list", "copy")

Act = Callable[[], object]


class Killed(BaseException):
    """The process was killed in the middle of an act."""


@pytest.fixture
def bench(s3: Any, bucket: str) -> Bench:
    return Bench(Store(s3, bucket))


def submission(bench: Bench, batch: Batch) -> Act:
    """A submission as the page and the API make it: they look at the folder first."""

    def act() -> object:
        uploaded = listing.find(bench.store, batch)
        if uploaded is None:
            raise UsageError("gone")
        etags, has_draft = etags_of(uploaded.objects), uploaded.draft is not None
        return hand_over(bench.store, batch, REQUEST, closed_with=etags, draft=has_draft)

    return act


@contextmanager
def at_call(number: int, intrude: Act) -> Iterator[list[int]]:
    """Calls ``intrude`` just before the call of S3 with this number, counted from 0; yields the count of calls."""
    count, originals = [0], {name: getattr(Store, name) for name in S3_CALLS}

    def hooked(name: str) -> Any:
        def call(self: Store, *arguments: Any, **more: Any) -> Any:
            now, count[0] = count[0], count[0] + 1
            if now == number:
                restore()
                try:
                    intrude()
                finally:
                    hook()
            return originals[name](self, *arguments, **more)

        return call

    def hook() -> None:
        for name in S3_CALLS:
            setattr(Store, name, hooked(name))

    def restore() -> None:
        for name, original in originals.items():
            setattr(Store, name, original)

    hook()
    try:
        yield count
    finally:
        restore()


def outcome(act: Act) -> str:
    try:
        act()
    except BgPipelineError as error:
        return f"refused: {error}"
    return "done"


def left(bench: Bench, batch: Batch) -> set[str]:
    prefix = f"{batch.input_prefix}/"
    return {key.removeprefix(prefix) for key in bench.keys(prefix) if ".submission-" not in key}


def is_whole(bench: Bench, batch: Batch) -> bool:
    return left(bench, batch) == {*PHOTOS, ".mask-1.png", "request.json"}


def in_turns(first: Callable[[int], tuple[Act, Act]]) -> Iterator[tuple[int, str, str]]:
    """Runs one act with the other before each of its calls of S3: (number, outcome of the one, of the other)."""
    for number in itertools.count():
        one, other = first(number)
        said: list[str] = []
        with at_call(number, lambda other=other, said=said: said.append(outcome(other))):  # type: ignore[misc]
            result = outcome(one)
        if not said:
            assert number > 4, "the calls were counted"
            return
        yield number, result, said[0]


def test_a_discard_in_the_middle_of_a_submission_wins_alone_or_not_at_all(bench: Bench) -> None:
    won = set()

    def pair(number: int) -> tuple[Act, Act]:
        batch = bench.draft(f"batch-{number}")
        return submission(bench, batch), lambda: discard_draft(bench.store, batch)

    for number, submitted, discarded in in_turns(pair):
        batch = named(number)
        assert (submitted == "done") != (discarded == "done"), (number, submitted, discarded)
        if submitted == "done":
            assert is_whole(bench, batch), number
        else:
            assert left(bench, batch) == set(), number
        won.add(submitted == "done")
    assert won == {True, False}


def test_a_submission_in_the_middle_of_a_discard_wins_alone_or_not_at_all(bench: Bench) -> None:
    won = set()

    def pair(number: int) -> tuple[Act, Act]:
        batch = bench.draft(f"batch-{number}")
        return lambda: discard_draft(bench.store, batch), submission(bench, batch)

    for number, discarded, submitted in in_turns(pair):
        assert (submitted == "done") != (discarded == "done"), (number, submitted, discarded)
        if submitted == "done":
            assert is_whole(bench, named(number)), number
        else:
            assert left(bench, named(number)) == set(), number
        won.add(submitted == "done")
    assert won == {True, False}


def moving(bench: Bench, batch: Batch, to: Batch) -> Act:
    """A draft that is named, as the page does it."""

    def act() -> object:
        reserve_name(bench.store, to)
        return move_draft(bench.store, batch, to, lambda data: data)

    return act


@pytest.mark.parametrize("naming_first", [True, False])
@pytest.mark.parametrize("closing", ["submitted", "discarded"])
def test_a_draft_that_is_named_and_closed_at_once_is_whole_in_one_place(
    bench: Bench, closing: str, naming_first: bool
) -> None:
    def pair(number: int) -> tuple[Act, Act]:
        batch = bench.draft(f"batch-{number}")
        close = submission(bench, batch)
        if closing == "discarded":
            close = partial(discard_draft, bench.store, batch)
        name = moving(bench, batch, Batch(DATE, f"named-{number}"))
        return (name, close) if naming_first else (close, name)

    draft = {*PHOTOS, ".mask-1.png", "draft.json"}
    for number, first, second in in_turns(pair):
        moved, closed = (first, second) if naming_first else (second, first)
        here, there = left(bench, named(number)), left(bench, Batch(DATE, f"named-{number}"))
        # Of a draft that was moved already, its old place is all that is discarded.
        assert "done" in (moved, closed), (number, moved, closed)
        assert closing == "discarded" or moved != closed, (number, moved, closed)
        if moved == "done":
            assert (here, there) == (set(), draft), number
        else:
            assert there == set(), (number, there, moved)
            assert here == (set() if closing == "discarded" else draft - {"draft.json"} | {"request.json"})


def test_a_draft_whose_naming_fails_at_any_call_is_whole_in_its_old_place_or_in_both(bench: Bench) -> None:
    draft = {*PHOTOS, ".mask-1.png", "draft.json"}

    def refuse() -> None:
        raise Killed

    for number in itertools.count():
        batch, to = bench.draft(f"batch-{number}"), Batch(DATE, f"named-{number}")
        with suppress(Killed), at_call(number, refuse) as count:
            moving(bench, batch, to)()
        if count[0] <= number:
            break
        places = [left(bench, each) for each in (batch, to)]
        assert any(place >= PHOTOS and "draft.json" in place for place in places), (number, places)
        assert all("draft.json" in place or not place for place in places), (number, places)
    assert number > 10
    assert left(bench, to) == draft


def named(number: int) -> Batch:
    return Batch(DATE, f"batch-{number}")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Puts this process's clock ahead of a submission's longest time."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=closing_drafts.STUCK_SECONDS + 5)

    return lambda: monkeypatch.setattr(closing_drafts, "datetime", Ahead)


def test_a_submission_that_was_suspended_for_minutes_leaves_no_batch_without_photos(
    bench: Bench, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    discards = 0
    for number in itertools.count():
        batch = bench.draft(f"batch-{number}")
        said: list[str] = []

        def discard(batch: Batch = batch, said: list[str] = said) -> None:
            later()
            said.append(outcome(lambda: discard_draft(bench.store, batch)))

        with at_call(number, discard):
            submitted = outcome(submission(bench, batch))
        monkeypatch.setattr(closing_drafts, "datetime", datetime)
        if not said:
            break
        assert (submitted == "done") != (said == ["done"]), (number, submitted, said)
        assert is_whole(bench, batch) if submitted == "done" else left(bench, batch) == set(), number
        discards += submitted != "done"
    assert discards > 3


def test_a_submission_that_was_killed_can_be_repeated_or_its_draft_discarded(bench: Bench) -> None:
    def die() -> None:
        raise Killed

    for number in itertools.count():
        repeated, dropped = bench.draft(f"again-{number}"), bench.draft(f"drop-{number}")
        died = 0
        for batch in (repeated, dropped):
            with at_call(number, die):
                try:
                    submission(bench, batch)()
                except Killed:
                    died += 1
        if not died:
            break
        assert submission(bench, repeated)()
        assert is_whole(bench, repeated)
        with pytest.MonkeyPatch.context() as clock:
            clock.setattr(closing_drafts, "STUCK_SECONDS", -1.0)
            if bench.store.head(dropped.request_key) is None:
                discard_draft(bench.store, dropped)
                assert left(bench, dropped) == set()
            else:
                with pytest.raises(UsageError, match="was submitted"):
                    discard_draft(bench.store, dropped)
                assert left(bench, dropped) - {"draft.json"} == {*PHOTOS, ".mask-1.png", "request.json"}


def test_a_discard_that_was_killed_is_never_submitted_and_can_be_repeated(bench: Bench) -> None:
    def die() -> None:
        raise Killed

    for number in itertools.count():
        batch = bench.draft(f"batch-{number}")
        killed = False
        with at_call(number, die):
            try:
                discard_draft(bench.store, batch)
            except Killed:
                killed = True
        if not killed:
            break
        stored = bench.store.read(batch.draft_key)
        if stored is None or closing_drafts.is_being_discarded(stored.data):
            with pytest.raises(UsageError):
                submission(bench, batch)()
            assert bench.store.head(batch.request_key) is None
        with suppress(UsageError):
            discard_draft(bench.store, batch)
        assert left(bench, batch) == set()


def test_while_a_draft_is_being_submitted_a_discard_says_so(bench: Bench) -> None:
    batch = bench.draft()
    assert closing_drafts.Submission(bench.store, batch).begin()
    with pytest.raises(UsageError, match="being submitted at the moment"):
        discard_draft(bench.store, batch)
    assert left(bench, batch) == {*PHOTOS, ".mask-1.png", "draft.json"}
    assert submission(bench, batch)()


def test_two_submissions_of_one_request_at_the_same_moment_are_both_done(bench: Bench) -> None:
    def pair(number: int) -> tuple[Act, Act]:
        batch = bench.draft(f"batch-{number}")
        return submission(bench, batch), submission(bench, batch)

    for number, one, other in in_turns(pair):
        assert (one, other) == ("done", "done"), number
        assert is_whole(bench, named(number)), number


def test_a_submission_from_the_command_line_notices_that_its_draft_was_discarded(
    bench: Bench, tmp_path: Any
) -> None:
    """Another person sees its draft on the page while the photos are on their way."""
    file = tmp_path / "a.jpg"
    file.write_bytes(photo(1))
    batch = named(0)

    def discard(name: str) -> None:
        discard_draft(bench.store, batch)

    with pytest.raises(NoSuchBatch, match="was discarded"):
        submit(bench.store, batch, [LocalFile(file, "a.jpg")], REQUEST, done=discard)
    assert bench.store.head(batch.request_key) is None


def test_what_is_typed_while_a_draft_is_discarded_does_not_bring_it_back(bench: Bench) -> None:
    batch, drafts = bench.draft(), DraftService(bench.settings(), aws(), bench.store)
    closing_drafts.begin_discarding(bench.store, batch)
    drafts.keep_wishes(batch, {"Fields": {"Prompts": "a beach"}})
    stored = bench.store.read(batch.draft_key)
    assert stored is not None
    assert closing_drafts.is_being_discarded(stored.data)


def test_photos_that_arrive_while_a_draft_is_discarded_go_too(bench: Bench) -> None:
    batch = bench.draft()
    # After the deletions, before the folder is listed again.
    with at_call(7, lambda: bench.put(batch.upload_key("late.jpg"), b"late")):
        discard_draft(bench.store, batch)
    assert left(bench, batch) == set()


def test_a_document_of_another_program_is_a_draft_too(bench: Bench) -> None:
    for content in (b"", b"[]", b"not JSON", b'{"Closing": 1}', b"\xff"):
        batch = bench.draft()
        bench.put(batch.draft_key, content)
        assert discard_draft(bench.store, batch) == 2
        batch = bench.draft()
        bench.put(batch.draft_key, content)
        assert submission(bench, batch)()
        for key in bench.keys(f"{batch.input_prefix}/"):
            bench.store.delete(key)
