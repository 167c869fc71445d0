"""An in-memory S3 with the operations that the pipeline uses, and a client with boto3's interface.

The client retries as boto3 does (five attempts), so that a write whose answer was lost is sent twice. A request takes
time before and after its effect, during which other tasks run.
"""

import hashlib
import io
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.response import StreamingBody
from urllib3.exceptions import ProtocolError
from urllib3.exceptions import ReadTimeoutError as BodyTimeout

from bg_pipeline_tests.simulation.scheduler import active

T = TypeVar("T")

ATTEMPTS: Final = 5
READ_TIMEOUT: Final = 60.0
SECONDS: Final = (0.005, 0.06)
"""Minimum and maximum time before the effect of a request, and after it."""

_STATUS: Final = {
    "NoSuchKey": 404,
    "PreconditionFailed": 412,
    "ConditionalRequestConflict": 409,
    "AccessDenied": 403,
    "InvalidObjectState": 403,
    "InternalError": 500,
    "SlowDown": 503,
}
_AGAIN: Final = {"InternalError", "SlowDown"}


@dataclass(frozen=True)
class Object:
    data: bytes
    etag: str
    media_type: str
    metadata: dict[str, str]
    modified: float


@dataclass(frozen=True)
class Change:
    """A written or deleted (``now`` is None) object, and the object before."""

    key: str
    before: Object | None
    now: Object | None


@dataclass
class Bucket:
    """Objects by key; ``watchers`` are called with each change when it happens."""

    objects: dict[str, Object] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    watchers: list[Callable[[Change], None]] = field(default_factory=list)

    def put(
        self, key: str, data: bytes, media_type: str = "", metadata: dict[str, str] | None = None
    ) -> Object:
        made = Object(data, hashlib.md5(data).hexdigest(), media_type, metadata or {}, active().now)  # noqa: S324
        before = self.objects.get(key)
        if before is None:
            insort(self.keys, key)
        self.objects[key] = made
        self._tell(Change(key, before, made))
        return made

    def delete(self, key: str) -> None:
        before = self.objects.pop(key, None)
        if before is not None:
            del self.keys[bisect_left(self.keys, key)]
            self._tell(Change(key, before, None))

    def under(self, prefix: str) -> list[str]:
        place = bisect_left(self.keys, prefix)
        end = place
        while end < len(self.keys) and self.keys[end].startswith(prefix):
            end += 1
        return self.keys[place:end]

    def _tell(self, change: Change) -> None:
        for watch in self.watchers:
            watch(change)


def error(code: str, operation: str) -> ClientError:
    """The ClientError of boto3 for this code."""
    response: Any = {
        "Error": {"Code": code, "Message": f"{code} (simulated)"},
        "ResponseMetadata": {"HTTPStatusCode": _STATUS[code], "HTTPHeaders": {}},
    }
    return ClientError(response, operation)


class Client:
    """The parts of boto3's S3 client that the pipeline uses.

    ``fault_at`` is called with the operation, the key and "before" or "after" its effect; it returns the name of the
    request's fault, or "".
    """

    def __init__(self, bucket: Bucket, fault_at: Callable[[str, str, str], str]) -> None:
        self._bucket = bucket
        self._fault_at = fault_at
        nothing = SimpleNamespace(unregister=lambda *_, **__: None, register_first=lambda *_, **__: None)
        self.meta = SimpleNamespace(events=nothing, config=None)

    def _request(self, operation: str, key: str, do: Callable[[], T]) -> T:
        clock = active()
        if clock.current is None:  # a request of the test itself: no delay, no faults
            return do()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(operation, key, do)
            except (ConnectionClosedError, ReadTimeoutError):
                if attempt == ATTEMPTS:
                    raise
            except ClientError as failed:
                if failed.response["Error"]["Code"] not in _AGAIN or attempt == ATTEMPTS:
                    raise
            clock.sleep(clock.random.uniform(0, min(2.0**attempt, 20.0)))
        raise AssertionError("unreachable")

    def _attempt(self, operation: str, key: str, do: Callable[[], T]) -> T:
        clock = active()
        clock.sleep(clock.random.uniform(*SECONDS))
        fault = self._fault_at(operation, key, "before")
        if fault == "stalled":
            clock.sleep(READ_TIMEOUT)
            raise ReadTimeoutError(endpoint_url="https://s3")
        if fault == "closed":
            raise ConnectionClosedError(endpoint_url="https://s3")
        if fault in _STATUS:
            raise error(fault, operation)
        done = do()
        lost = self._fault_at(operation, key, "after")
        clock.sleep(clock.random.uniform(*SECONDS))
        if fault == "lost" or lost == "lost":
            raise ConnectionClosedError(endpoint_url="https://s3")
        if fault in ("cut", "body stalled") and isinstance(done, dict) and "Body" in done:
            done["Body"] = _body(done["ContentLength"], fault)
        return done

    def _found(self, key: str, operation: str) -> Object:
        found = self._bucket.objects.get(key)
        if found is None:
            raise error("NoSuchKey", operation)
        return found

    def _check(
        self, key: str, operation: str, if_match: str | None, if_none_match: str | None = None
    ) -> None:
        current = self._bucket.objects.get(key)
        if if_none_match is not None and current is not None:
            raise error("PreconditionFailed", operation)
        if if_match is not None:
            if current is None:
                raise error("NoSuchKey", operation)
            if current.etag != if_match.strip('"'):
                raise error("PreconditionFailed", operation)

    def head_bucket(self, **_: object) -> dict[str, Any]:
        return {"BucketRegion": "us-east-1"}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        def do() -> dict[str, Any]:
            found = self._found(Key, "GetObject")
            return {
                **_described(found),
                "Body": StreamingBody(io.BytesIO(found.data), len(found.data)),
            }

        return self._request("get", Key, do)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return self._request("head", Key, lambda: _described(self._found(Key, "HeadObject")))

    def put_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Body: Any,  # noqa: N803
        ContentType: str = "",  # noqa: N803
        Metadata: dict[str, str] | None = None,  # noqa: N803
        IfMatch: str | None = None,  # noqa: N803
        IfNoneMatch: str | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        data = Body if isinstance(Body, bytes) else Body.read()

        def do() -> dict[str, Any]:
            self._check(Key, "PutObject", IfMatch, IfNoneMatch)
            return {"ETag": f'"{self._bucket.put(Key, data, ContentType, Metadata).etag}"'}

        return self._request("put", Key, do)

    def delete_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        IfMatch: str | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            self._check(Key, "DeleteObject", IfMatch)
            self._bucket.delete(Key)
            return {}

        return self._request("delete", Key, do)

    def copy_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        CopySource: dict[str, str],  # noqa: N803
        CopySourceIfMatch: str | None = None,  # noqa: N803
        **_: object,
    ) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            source = CopySource["Key"]
            found = self._found(source, "CopyObject")
            self._check(source, "CopyObject", CopySourceIfMatch)
            made = self._bucket.put(Key, found.data, found.media_type, found.metadata)
            return {"CopyObjectResult": {"ETag": f'"{made.etag}"'}}

        return self._request("copy", Key, do)

    def list_objects_v2(
        self,
        *,
        Bucket: str,  # noqa: N803
        Prefix: str = "",  # noqa: N803
        StartAfter: str = "",  # noqa: N803
        Delimiter: str = "",  # noqa: N803
        ContinuationToken: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            contents: list[dict[str, Any]] = []
            folders: dict[str, None] = {}
            for key in self._bucket.under(Prefix):
                if key <= StartAfter:
                    continue
                head, slash, _ = key.removeprefix(Prefix).partition(Delimiter) if Delimiter else ("", "", "")
                if slash:
                    folders[f"{Prefix}{head}{slash}"] = None
                    continue
                found = self._bucket.objects[key]
                contents.append(
                    {
                        "Key": key,
                        "Size": len(found.data),
                        "ETag": f'"{found.etag}"',
                        "LastModified": _moment(found.modified),
                    }
                )
            return {
                "Contents": contents,
                "CommonPrefixes": [{"Prefix": folder} for folder in folders],
                "IsTruncated": False,
            }

        return self._request("list", Prefix, do)

    def generate_presigned_url(self, *_: object, **__: object) -> str:
        return "https://s3/link"


def _described(found: Object) -> dict[str, Any]:
    return {
        "ETag": f'"{found.etag}"',
        "ContentLength": len(found.data),
        "ContentType": found.media_type,
        "LastModified": _moment(found.modified),
        "Metadata": dict(found.metadata),
    }


def _moment(seconds: float) -> datetime:
    """A time in whole seconds, as S3 returns it."""
    return datetime.fromtimestamp(int(seconds), UTC)


class BrokenStream(io.RawIOBase):
    """A response body of urllib3 whose connection stalls or is cut."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    def read(self, *_: object, **__: object) -> bytes:
        if self._fault == "cut":
            raise ProtocolError("Connection broken: IncompleteRead (simulated)")
        active().sleep(READ_TIMEOUT)
        raise BodyTimeout(None, None, "Read timed out. (simulated)")


def _body(length: int, fault: str) -> StreamingBody:
    stream: Any = BrokenStream(fault)
    return StreamingBody(stream, length)
