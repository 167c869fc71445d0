"""A clock that stands still in chosen modules, for tests of what depends on the date."""

from datetime import datetime, tzinfo
from types import ModuleType

import pytest


def stop_clock(monkeypatch: pytest.MonkeyPatch, moment: datetime, *modules: ModuleType) -> None:
    """From now on ``datetime.now`` in these modules is ``moment``, which has a time zone."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return moment.astimezone(tz)

    for module in modules:
        monkeypatch.setattr(module, "datetime", Stopped)
