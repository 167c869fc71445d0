"""Buckets for tests in which several S3 clients access the same objects."""

import uuid
from collections.abc import Callable
from functools import cache

import boto3
from botocore.config import Config

from bg_pipeline.storage.object_store import Store


@cache
def _session() -> boto3.session.Session:
    # Shared, because a session loads the service model of S3, which takes longer than most tests.
    return boto3.session.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )


def new_bucket(address: str) -> Callable[[], Store]:
    """Creates a bucket; each call of the result returns a Store with its own client, like that of another process."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"

    def store() -> Store:
        config = Config(max_pool_connections=32)
        return Store(_session().client("s3", endpoint_url=address, config=config), name)

    store().client.create_bucket(Bucket=name)
    return store
