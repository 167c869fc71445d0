"""A bucket with the clients of several processes, and a clock that stands still."""

from collections.abc import Callable

import pytest

from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.buckets import new_bucket
from bg_pipeline_tests.state.trouble import Clock, Troubled


@pytest.fixture(params=["moto", "ministack"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Each call returns a new client, as of another process, of one new bucket; on each of two S3 servers."""
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
