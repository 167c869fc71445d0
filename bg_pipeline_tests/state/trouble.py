"""A clock that tests advance, and a store with faults."""

from datetime import timedelta

from botocore.exceptions import EndpointConnectionError

from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.storage.object_store import ObjectContent, Store


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Troubled(Store):
    """A store whose next writes lose their response or never arrive; it dates objects ``moved_back`` earlier."""

    lost_answers = 0
    down = False
    moved_back = timedelta(0)

    def write(self, key: str, data: bytes, **conditions: object) -> str:
        if self.down:
            raise EndpointConnectionError(endpoint_url="http://s3")
        etag = super().write(key, data, **conditions)  # type: ignore[arg-type]
        if self.lost_answers:
            self.lost_answers -= 1
            raise PreconditionFailed("the client sent it twice")
        return etag

    def read(self, key: str) -> ObjectContent | None:
        content = super().read(key)
        if content is None:
            return None
        return ObjectContent(
            content.data,
            content.etag,
            content.media_type,
            content.metadata,
            content.modified - self.moved_back,
        )
