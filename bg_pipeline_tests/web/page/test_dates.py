"""The dates that the page's screens are asked for, while midnight passes."""

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from bg_pipeline.domain.people import Person
from bg_pipeline.settings import Settings
from bg_pipeline.web.page import progress, search
from bg_pipeline_tests.clocks import stop_clock

pytestmark = pytest.mark.dates

LATE = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


class NoBatches:
    """What the screens show where nothing was uploaded."""

    settings = Settings()
    acts = SimpleNamespace(authorization=None)

    def __init__(self) -> None:
        self.asked: list[date] = []

    def batches(self, person: Person, day: date, *, max_age: float = 0.0) -> list[Any]:
        self.asked.append(day)
        return []


def script(show):  # Streamlit runs its source alone, without imports
    show()


CHOSEN = date(2026, 12, 1), date(2026, 12, 24)


def show_progress(service: Any) -> None:
    progress.show(service, None, "", lambda draft: None)


@pytest.mark.parametrize(
    ("module", "show", "default"),
    [(progress, show_progress, ()), (search, search.show, (date(2026, 12, 1), date(2026, 12, 31)))],
)
def test_a_date_that_a_person_chose_stays_past_midnight(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, show: Callable[[Any], None], default: Any
) -> None:
    # AppTest puts its script in the place of the main module, which processes that are spawned later would start.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    stop_clock(monkeypatch, LATE, module)
    page = AppTest.from_function(script, kwargs={"show": lambda: show(NoBatches())}).run()
    assert page.date_input[0].value == default
    page.date_input[0].set_value(CHOSEN).run()
    stop_clock(monkeypatch, LATE + timedelta(seconds=2), module)
    page.run()
    assert not page.exception
    assert page.date_input[0].value == CHOSEN


def test_the_last_week_goes_on_with_the_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    service = NoBatches()
    for moment, last in ((LATE, date(2027, 1, 1)), (LATE + timedelta(seconds=2), date(2027, 1, 2))):
        stop_clock(monkeypatch, moment, progress)
        service.asked.clear()
        page = AppTest.from_function(script, kwargs={"show": lambda: show_progress(service)}).run()
        assert not page.exception
        # From tomorrow, for uploads from places where it is tomorrow already, to six days ago.
        assert service.asked == [last - timedelta(back) for back in range(8)]
