"""What a batch has cost, in numbers and in words."""

from dataclasses import dataclass

import pytest

from bg_pipeline.reports.overview import BatchCosts


@dataclass
class _Row:
    """What `BatchCosts` looks at of a report's row."""

    CostUSD: float | None
    MaybeBilledUSD: float | None = 0.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "0.00 USD"),
        ([_Row(0.12)], "0.12 USD"),
        ([_Row(0.1, 0.01), _Row(0.02, 0.02)], "0.12 USD, and up to 0.03 more that may have been billed"),
        ([_Row(0.1), _Row(None, 0.02)], "unknown, and up to 0.02 more that may have been billed"),
        ([_Row(0.1, None)], "0.10 USD, and an unknown amount more that may have been billed"),
    ],
)
def test_what_was_billed_and_what_may_have_been_are_told_apart(rows: list[_Row], words: str) -> None:
    assert BatchCosts.of(rows).in_words() == words  # type: ignore[arg-type]


def test_small_amounts_are_told_with_more_places() -> None:
    assert BatchCosts(0.0139, 0.0007).in_words(4) == (
        "0.0139 USD, and up to 0.0007 more that may have been billed"
    )
