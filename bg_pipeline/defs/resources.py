"""The resources: the bucket, the AWS clients and the event queue, as plain objects made from configuration.

Assets, checks, sensors and schedules make no boto3 sessions themselves; they use these resources.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from bg_pipeline.aws.clients import Aws
from bg_pipeline.aws.sqs import Queue, region_of
from bg_pipeline.errors import SettingsError
from bg_pipeline.storage.object_store import Store

_regions: dict[tuple[str, str], str] = {}
"""Regions of buckets by endpoint and name. They never change, so sensor ticks need not look them up each time."""


class PhotoBucket(dg.ConfigurableResource[Store]):
    """The bucket with the photos, as the `Store` that assets, checks, sensors and schedules use.

    Its client is for the bucket's own Region. If the bucket cannot be reached, the first call on the store raises the
    error, so that its caller can report it.
    """

    name: str = Field(description="Name of the bucket (BG_BUCKET).")
    connections: int = Field(
        10, description="HTTP connections that the client keeps, at least the number of threads."
    )
    use_obstore: bool = Field(
        True, description="Whether small objects are read and written with obstore first (BG_S3_CLIENT)."
    )

    def create_resource(self, context: dg.InitResourceContext) -> Store:
        if not self.name:
            raise SettingsError("BG_BUCKET is not set: name the S3 bucket that holds the photos")
        aws = Aws(connections=self.connections, in_a_tick=context.run is None)
        client = aws.client("s3")
        place = (client.meta.endpoint_url, self.name)
        if place in _regions:
            return self._store(aws.client("s3", _regions[place]))
        try:
            client = aws.s3(self.name)
        except SettingsError:
            return self._store(client)
        _regions[place] = client.meta.region_name
        return self._store(client)

    def _store(self, client: Any) -> Store:
        return Store(client, self.name, use_obstore=self.use_obstore)


class ModelClients(dg.ConfigurableResource[Aws]):
    """boto3 clients of all AWS services, as an `Aws` that all threads of a run share."""

    regions: list[str] = Field(description="Regions of the models (BG_REGIONS); if empty, boto3's Region.")
    connections: int = Field(
        description="HTTP connections that each client keeps, at least the number of threads."
    )

    def create_resource(self, context: dg.InitResourceContext) -> Aws:
        return Aws(self.regions, connections=self.connections)


class EventQueue(dg.ConfigurableResource[Queue]):
    """The SQS queue with the bucket's event notifications, as a `Queue`; its Region is taken from its address."""

    url: str = Field(description="Address of the SQS queue (BG_QUEUE_URL).")

    def create_resource(self, context: dg.InitResourceContext) -> Queue:
        return Queue(Aws(connections=1).client("sqs", region_of(self.url)), self.url)


def resources(
    bucket: str,
    regions: tuple[str, ...],
    connections: int,
    queue_url: str = "",
    *,
    use_obstore: bool = True,
) -> dict[str, Any]:
    """The resources by name; ``queue`` exists only with a ``queue_url``."""
    return {
        "bucket": PhotoBucket(name=bucket, connections=connections, use_obstore=use_obstore),
        "aws": ModelClients(regions=list(regions), connections=connections),
        **({"queue": EventQueue(url=queue_url)} if queue_url else {}),
    }
