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
from bg_pipeline.web.page import progress, results, search
from bg_pipeline_tests.clocks import stop_clock

pytestmark = pytest.mark.dates

LATE = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


class NoBatches:
    """What the screens show where nothing was uploaded."""

    settings = Settings()
    acts = SimpleNamespace(authorization=None)

    def batches(self, person: Person, day: date) -> list[Any]:
        return []


def script(show):  # Streamlit runs its source alone, without imports
    show()


@pytest.mark.parametrize(
    ("module", "show", "chosen"),
    [
        (progress, lambda service: progress.show(service, None, "", lambda draft: None), date(2026, 12, 24)),
        (results, results.show, date(2026, 12, 24)),
        (search, search.show, (date(2026, 12, 1), date(2026, 12, 24))),
    ],
)
def test_a_date_that_a_person_chose_stays_past_midnight(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, show: Callable[[Any], None], chosen: Any
) -> None:
    # AppTest puts its script in the place of the main module, which processes that are spawned later would start.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    stop_clock(monkeypatch, LATE, module)
    page = AppTest.from_function(script, kwargs={"show": lambda: show(NoBatches())}).run()
    default: Any = page.date_input[0].value
    assert (default[1] if isinstance(default, tuple) else default) == date(2026, 12, 31)
    page.date_input[0].set_value(chosen).run()
    stop_clock(monkeypatch, LATE + timedelta(seconds=2), module)
    page.run()
    assert not page.exception
    assert page.date_input[0].value == chosen
