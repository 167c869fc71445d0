"""The words for batches: what people recognise them by, and how they stand."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.reports.overview import BatchState
from bg_pipeline.web.page.batches import BatchCard, PendingPhotos
from bg_pipeline.web.page.progress import title, when, words
from bg_pipeline.web.page.submit import minutes_in_words

DAY = date(2026, 12, 31)


def card(name: str = "050412-ee57c37e", **more: Any) -> BatchCard:
    return BatchCard(Batch(DAY, name), "a state", **{"images": 12, "kind": BatchState.REPORTED, **more})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (card(kind=BatchState.WAITING, counts={"Skipped": 12}, to_do=12), "12 waiting"),
        (card(kind=BatchState.WORKING, to_do=5), "working"),
        (card(counts={"Succeeded": 11, "NeedsReview": 1}), "finished: 11 good, 1 to look at"),
        (
            card(counts={"Succeeded": 2, "Failed": 1, "Blocked": 1}),
            "finished: 2 good, 1 failed, 1 refused by the model",
        ),
        (card(counts={"Succeeded": 10, "Skipped": 2}, to_do=2), "something to do: 10 good, 2 not made"),
        (
            card(counts={"Succeeded": 2, "Skipped": 10}, to_do=10, to_approve=PendingPhotos(10, 10)),
            "sample finished: 2 good, 10 waiting until the sample is approved",
        ),
        (
            card(
                counts={"Succeeded": 2, "Skipped": 6},
                to_do=6,
                reasons={"CapReached": 3, "WaitsForWindow": 2},
            ),
            "something to do: 2 good, 2 waiting for the Custom Labels model, 3 stopped at a spending cap, 1 not made",
        ),
        (card(kind=BatchState.REFUSED), "request refused; the report says why"),
        (card(), "finished"),
        (card(kind=BatchState.DRAFT), "a state"),
    ],
)
def test_a_batch_stands_in_words_that_frighten_nobody(given: BatchCard, expected: str) -> None:
    assert words(given) == expected


@pytest.mark.parametrize(
    ("minutes", "expected"), [(0.2, "about 1 min"), (7.6, "about 8 min"), (1234.0, "about 1,234 min")]
)
def test_the_time_that_is_left_is_never_zero(minutes: float, expected: str) -> None:
    assert words(card(kind=BatchState.WORKING), minutes) == f"working, {expected} left"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (card(title="a sandy beach"), "a sandy beach"),
        (card("spring-shoes", title="a sandy beach"), "spring-shoes · a sandy beach"),
        (card("10:15:30", title="a beach"), "a beach"),
        (card(title="a beach", redo_of="2026/12/30/x"), "Made again: a beach"),
        (card(draft=True, title="a beach"), "Draft: a beach"),
        (card(draft=True), "Draft"),
        (card(), "050412-ee57c37e"),
    ],
)
def test_a_batch_is_recognised_by_its_name_and_first_words(given: BatchCard, expected: str) -> None:
    assert title(given) == expected


def test_days_have_their_names_over_midnight_and_the_new_year() -> None:
    changed = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert when(card(changed=changed), DAY) == "today 23:59 UTC"
    assert when(card(changed=changed), date(2027, 1, 1)) == "yesterday 23:59 UTC"
    assert when(card(changed=changed), date(2027, 1, 2)) == "Thursday, 31 December 2026 23:59 UTC"
    # Uploaded to after midnight, and from where it is tomorrow already.
    assert when(card(changed=datetime(2027, 1, 1, 0, 1, tzinfo=UTC)), date(2027, 1, 1)) == "yesterday"
    assert when(card(), date(2026, 12, 30)) == "Thursday, 31 December 2026"


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (0.0, "under 1 min"),
        (0.99, "under 1 min"),
        (1.0, "about 1 min"),
        (89.4, "about 89 min"),
        (90.0, "about 1.5 h"),
    ],
)
def test_the_time_of_a_plan_is_told_in_words(minutes: float, expected: str) -> None:
    assert minutes_in_words(minutes) == expected
