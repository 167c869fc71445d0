"""A bucket with the clients of several processes, and a clock that stands still."""

from collections.abc import Callable

import pytest

from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.state.trouble import Clock, Troubled


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Troubled:
    made = new_store()
    return Troubled(made.client, made.bucket)


@pytest.fixture
def clock() -> Clock:
    return Clock()
