"""A stopped clock in chosen modules, for tests that depend on the date."""

from datetime import datetime, tzinfo
from types import ModuleType

import pytest


def stop_clock(monkeypatch: pytest.MonkeyPatch, moment: datetime, *modules: ModuleType) -> None:
    """Makes ``datetime.now`` in these modules return ``moment``, which must have a time zone."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return moment.astimezone(tz)

    for module in modules:
        monkeypatch.setattr(module, "datetime", Stopped)
