"""Objects of one S3 bucket, read and written with boto3 or, for small objects, with obstore (`fast_s3`).

All S3 requests of the pipeline are made here. Each method is one request (or one request for each page of a listing),
repeated only as documented; nothing is cached. Processes coordinate by conditional writes: `write(...,
if_absent=True)` and `write(..., if_etag=...)` raise `PreconditionFailed` in every process but the one whose write S3
accepted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from xml.etree import ElementTree

import orjson
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from bg_pipeline.aws.botocore_internals import parse_listings_with, send_bodies_without_expect
from bg_pipeline.aws.clients import Aws
from bg_pipeline.errors import PreconditionFailed, SettingsError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.fast_s3 import (
    FallbackNeeded,
    FastS3,
    ObjectMissing,
    PreconditionLost,
    fast_s3,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_GONE = {"NoSuchKey", "404", "NotFound"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
_LOST = {"PreconditionFailed", "412"} | _CONFLICT
BLOCK: Final = 1 << 16
"""Bytes of an object that are in memory at a time when it is streamed."""
READ_PAUSES: Final = (0.1, 0.5)
"""Seconds to wait before reading an object again whose body was cut, stalled or damaged; three reads at most."""
CONFLICT_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds to wait before repeating a request that S3 answered with 409: another write of the key was in progress, and
AWS asks clients to retry. A conditional write that still gets 409 after the last pause has lost."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing. ``etag`` is an opaque version tag without quotes, never interpreted as an MD5.

    ``metadata`` is None in listings; only `Store.head` returns it.
    """

    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ObjectContent:
    """A whole object with the ETag of exactly these bytes."""

    data: bytes
    etag: str
    media_type: str
    metadata: Mapping[str, str]
    modified: datetime


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, ClientError) and _code(error) in _CONFLICT


def _is_broken_body(error: Exception) -> bool:
    return isinstance(error, (ResponseStreamingError, FlexibleChecksumError))


def _retry(attempt: Callable[[], T], pauses: Sequence[float], is_transient: Callable[[Exception], bool]) -> T:
    """Returns the result of ``attempt``, repeated after each of the ``pauses`` while its error ``is_transient``."""
    for pause in pauses:
        try:
            return attempt()
        except (ClientError, BotoCoreError) as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return attempt()


@contextmanager
def _stream_errors() -> Iterator[None]:
    """Converts every error that ends the reading of a response body early to `ResponseStreamingError`.

    botocore lets some errors of urllib3 through: TLS errors, and errors while it reads the body of an error response.
    """
    try:
        yield
    except (HTTPError, ReadTimeoutError, IncompleteReadError) as error:
        raise ResponseStreamingError(error=error) from error


def _speed_up(client: "S3Client") -> None:
    """Replaces the slowest steps of an S3 client; the results stay the same."""
    send_bodies_without_expect(client)
    # 10 µs of CPU for each listed object instead of botocore's 60; a date may have 100,000 objects.
    parse_listings_with(client, _parse_contents)


def _parse_contents(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Parses the objects of a listing and leaves the rest of the answer to botocore, or all of it if it is unusual.

    An answer that is not a listing (torn, empty, an error document, an HTML page) becomes a 500, so that botocore
    repeats the request. botocore would read some of these as an empty prefix, and then paid results would look
    missing.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        listing = ElementTree.fromstring(response_dict["body"])  # noqa: S314 (sent by S3)
    except ElementTree.ParseError:
        listing = ElementTree.Element("torn")
    if not listing.tag.endswith("ListBucketResult"):
        response_dict["status_code"] = 500
        return
    namespace = listing.tag.removesuffix("ListBucketResult")
    try:
        items = listing.findall(f"{namespace}Contents")
        contents = [
            {
                "Key": item.findtext(f"{namespace}Key", ""),
                "ETag": item.findtext(f"{namespace}ETag", ""),
                "Size": int(item.findtext(f"{namespace}Size", "")),
                "LastModified": datetime.fromisoformat(item.findtext(f"{namespace}LastModified", "")),
            }
            for item in items
        ]
    except ValueError:
        return
    for item in items:
        listing.remove(item)
    response_dict["body"] = ElementTree.tostring(listing)
    customized_response_dict["Contents"] = contents


def _body_blocks(body: Any) -> Iterator[bytes]:
    """Yields the blocks of a response body and closes it."""
    try:
        while True:
            with _stream_errors():
                block = body.read(BLOCK)
            if not block:
                return
            yield block
    finally:
        body.close()


def _replaced(key: str) -> ResponseStreamingError:
    return ResponseStreamingError(error=f"{key} was replaced or deleted while it was read")


class Store:
    """Reads and writes objects of one bucket through one boto3 client, which may be shared by threads.

    With ``use_obstore`` small objects are read and written with obstore first, where it can imitate the client.
    """

    def __init__(self, client: "S3Client", bucket: str, *, use_obstore: bool = True) -> None:
        self.client = client
        self.bucket = bucket
        self.use_obstore = use_obstore
        _speed_up(client)

    @cached_property
    def _fast(self) -> FastS3 | None:
        # Created on first use: that takes several milliseconds, and many sensor ticks only list.
        return fast_s3(self.client, self.bucket) if self.use_obstore else None

    def in_bucket(self, bucket: str) -> "Store":
        """A store for another bucket with the same client and options."""
        if bucket == self.bucket:
            return self
        return Store(self.client, bucket, use_obstore=self.use_obstore)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yields every object under ``prefix`` in UTF-8 key order; one request for each 1,000 objects, made as
        needed.
        """
        for page in self._pages(prefix, start_after=start_after):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"])

    def folders(self, prefix: str, *, start_after: str = "") -> Iterator[str]:
        """Yields the prefixes one level below ``prefix``, each as a whole prefix that ends in "/"."""
        for page in self._pages(prefix, start_after=start_after, delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"]

    def _pages(self, prefix: str, *, start_after: str = "", delimiter: str = "") -> Iterator[Any]:
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        if start_after:
            request["StartAfter"] = start_after
        if delimiter:
            request["Delimiter"] = delimiter
        while True:
            page = self.client.list_objects_v2(**request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def read(self, key: str) -> ObjectContent | None:
        """The whole object, or None if there is no such object."""
        if self._fast is not None:
            try:
                return ObjectContent(*self._fast.read(key))
            except ObjectMissing:
                return None
            except FallbackNeeded:
                pass
        return _retry(lambda: self._read(key), READ_PAUSES, _is_broken_body)

    def _read(self, key: str) -> ObjectContent | None:
        answer = self._get(key)
        if answer is None:
            return None
        body = answer["Body"]
        try:
            # `with body` would yield the raw stream, without the checksum test and error conversion of `body`.
            with _stream_errors():
                data = body.read()
        finally:
            body.close()
        return ObjectContent(
            data,
            answer["ETag"].strip('"'),
            answer.get("ContentType", ""),
            answer.get("Metadata", {}),
            answer["LastModified"],
        )

    def _get(self, key: str, **request: Any) -> Any | None:
        """The response to GetObject, or None if there is no such object; the caller reads and closes its body."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=key, **request)
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise
        except HTTPError as error:
            # botocore does not convert this one: the body of an error response was cut.
            raise ResponseStreamingError(error=error) from error

    def blocks(self, key: str, *, if_etag: str | None = None) -> Iterator[bytes]:
        """Streams the object's bytes in blocks; yields nothing if there is no such object.

        All blocks are of one version: if the body breaks off, the rest of the same version is requested. Raises
        `ResponseStreamingError` if that version is gone or the body breaks off a third time. With ``if_etag`` raises
        `PreconditionFailed`, before the first block, if the object is another version.
        """
        pauses = iter(READ_PAUSES)
        read_bytes = 0
        resume = {} if if_etag is None else {"IfMatch": f'"{if_etag}"'}
        while True:
            try:
                answer = self._get(key, **resume)
            except ClientError as error:
                if not read_bytes and if_etag is not None and _code(error) in _LOST:
                    raise PreconditionFailed(f"{key} was written by somebody else") from error
                if read_bytes and _code(error) in _LOST:
                    raise _replaced(key) from error
                raise
            if answer is None and read_bytes:
                raise _replaced(key)
            if answer is None:
                return
            try:
                for block in _body_blocks(answer["Body"]):
                    read_bytes += len(block)
                    resume = {"IfMatch": answer["ETag"], "Range": f"bytes={read_bytes}-"}
                    yield block
                return
            except ResponseStreamingError:
                pause = next(pauses, None)
                if pause is None:
                    raise
            time.sleep(pause)

    def head(self, key: str) -> ObjectInfo | None:
        """Size, ETag, modification time and metadata of an object, or None if there is no such object."""
        try:
            answer = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise
        return ObjectInfo(
            key,
            answer["ContentLength"],
            answer["ETag"].strip('"'),
            answer["LastModified"],
            answer.get("Metadata", {}),
        )

    def write(
        self,
        key: str,
        data: bytes | IO[bytes],
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_etag: str | None = None,
    ) -> str:
        """Stores the whole object or nothing, and returns its ETag; a file is read from its beginning.

        Raises `PreconditionFailed` if ``if_absent`` and the key exists, or if the object's ETag is no longer
        ``if_etag``. A write that S3 answers with 409 (another write is in progress) is repeated first. Metadata
        values must be ASCII, 2 KB in all.
        """
        if isinstance(data, bytes) and self._fast is not None:
            try:
                return self._fast.write(
                    key,
                    data,
                    media_type=media_type,
                    metadata=metadata or {},
                    if_absent=if_absent,
                    if_etag=if_etag,
                )
            except PreconditionLost:
                raise PreconditionFailed(f"{key} was written by somebody else") from None
            except FallbackNeeded:
                pass
        request: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": key,
            "Body": data,
            "ContentType": media_type,
            "Metadata": dict(metadata or {}),
        }
        if if_absent:
            request["IfNoneMatch"] = "*"
        if if_etag is not None:
            request["IfMatch"] = f'"{if_etag}"'

        def put() -> Any:
            if not isinstance(data, bytes):
                data.seek(0)
            return self.client.put_object(**request)

        try:
            answer = _retry(put, CONFLICT_PAUSES, _is_conflict)
        except ClientError as error:
            lost = _code(error) in _LOST or (if_etag is not None and _code(error) in _GONE)
            if lost and (if_absent or if_etag is not None):
                raise PreconditionFailed(f"{key} was written by somebody else") from error
            raise
        return str(answer["ETag"]).strip('"')

    def read_json(self, key: str) -> Any | None:
        """The parsed JSON document, or None if it is absent or not valid JSON."""
        content = self.read(key)
        if content is None:
            return None
        try:
            return orjson.loads(content.data)
        except orjson.JSONDecodeError:
            return None

    def write_json(
        self, key: str, document: Any, *, if_absent: bool = False, if_etag: str | None = None
    ) -> str:
        """Stores a document as indented JSON and returns its ETag; conditions and errors as `write`."""
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return self.write(key, data, media_type="application/json", if_absent=if_absent, if_etag=if_etag)

    def copy(
        self,
        source: str,
        target: str,
        *,
        to: "Store | None" = None,
        media_type: str | None = None,
        if_etag: str | None = None,
    ) -> str:
        """Copies an object on the server side and returns the new ETag.

        The target is in this bucket, or in the bucket of ``to``. With ``if_etag`` raises `PreconditionFailed` if the
        source is gone or has another ETag by now.
        """
        request: dict[str, Any] = {
            "Bucket": (to or self).bucket,
            "Key": target,
            "CopySource": {"Bucket": self.bucket, "Key": source},
        }
        if media_type:
            request |= {"MetadataDirective": "REPLACE", "ContentType": media_type}
        if if_etag is not None:
            request["CopySourceIfMatch"] = f'"{if_etag}"'
        try:
            answer = _retry(lambda: (to or self).client.copy_object(**request), CONFLICT_PAUSES, _is_conflict)
        except ClientError as error:
            if if_etag is not None and _code(error) in _LOST | _GONE:
                raise PreconditionFailed(f"{source} was written by somebody else or is gone") from error
            raise
        etag = answer.get("CopyObjectResult", {}).get("ETag")
        if not etag:
            raise ResponseStreamingError(error=f"S3's answer to the copy of {source} contains no ETag")
        return str(etag).strip('"')

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """Deletes the object if it exists. With ``if_etag`` raises `PreconditionFailed` if it is another version."""
        request: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        if if_etag is not None:
            request["IfMatch"] = f'"{if_etag}"'
        try:
            _retry(lambda: self.client.delete_object(**request), CONFLICT_PAUSES, _is_conflict)
        except ClientError as error:
            if if_etag is not None and _code(error) in _LOST:
                raise PreconditionFailed(f"{key} was written by somebody else") from error
            if _code(error) not in _GONE:
                raise

    def presign(self, key: str, seconds: int) -> str:
        """A GET link that anyone may use for ``seconds``, or until the signing credentials expire if sooner."""
        return self.client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
        )


def explain_s3_error(store: Store, error: ClientError | BotoCoreError) -> str:
    """A sentence for the run's log about an S3 error that ended the work: its cause and what to do."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return f"there is no bucket '{store.bucket}' (BG_BUCKET): {error}"
    if code in ("AccessDenied", "403", "Forbidden"):
        return f"{error}; check the credentials and their rights with `bg-pipeline doctor`"
    return (
        f"a request to S3 failed (bucket '{store.bucket}', BG_BUCKET): {error}. "
        "Finished work is kept; run it again later to continue"
    )


def open_bucket(settings: Settings, aws: Aws) -> Store:
    """The bucket of ``settings``; raises `SettingsError` if ``BG_BUCKET`` is not set or cannot be reached."""
    if not settings.bucket:
        raise SettingsError("BG_BUCKET is not set: name the S3 bucket that holds the photos")
    return Store(aws.s3(settings.bucket), settings.bucket, use_obstore=settings.use_obstore)
