"""One bucket seen through several processes' clients, and a clock that stands still."""

from collections.abc import Callable

import pytest

from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.buckets import new_bucket
from bg_pipeline_tests.state.trouble import Clock, Troubled


@pytest.fixture(params=["moto", "ministack"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Each call is another process's client of one new bucket, on either of two servers by different authors."""
    if request.param == "moto":
        return new_bucket(request.getfixturevalue("moto_s3"))
    return new_bucket(request.getfixturevalue("stand_in").storage)


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Troubled:
    made = new_store()
    return Troubled(made.client, made.bucket)


@pytest.fixture
def clock() -> Clock:
    return Clock()
