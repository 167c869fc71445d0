"""Objects in one bucket: the only module that speaks S3, by boto3 or, where that is the same, by `quick_s3`.

Everything here is one request (or one page of a listing); nothing is cached. Conditional writes are how
processes agree on who was first: `write(..., if_absent=True)` and `write(..., if_etag=...)` raise
`PreconditionFailed` for the one who lost.
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
from botocore.handlers import convert_body_to_file_like_object
from urllib3.exceptions import HTTPError

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
"""Bytes of an object that are held at a time where it is not read whole."""
READ_PAUSES: Final = (0.1, 0.5)
"""Seconds before an object is read again whose body was cut, stalled or damaged: it is read three times at most."""
CONFLICT_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds before a request is made again that S3 answered with 409: another write was under way, and AWS asks for
a retry. What is still refused after the last one is lost."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing. ``etag`` is an opaque version tag (without quotes), never taken for an MD5.

    ``metadata`` is None in listings; only `Store.head` returns it.
    """

    key: str
    size: int
    etag: str
    modified: datetime
    metadata: Mapping[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ObjectContent:
    """An object read whole, with the tag of exactly these bytes."""

    data: bytes
    etag: str
    media_type: str
    metadata: Mapping[str, str]
    modified: datetime


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _in_conflict(error: Exception) -> bool:
    return isinstance(error, ClientError) and _code(error) in _CONFLICT


def _broke_off(error: Exception) -> bool:
    return isinstance(error, (ResponseStreamingError, FlexibleChecksumError))


def _again(attempt: Callable[[], T], pauses: Sequence[float], passes: Callable[[Exception], bool]) -> T:
    """What ``attempt`` returns; after an error that ``passes`` it is made again, after each of the ``pauses``."""
    for pause in pauses:
        try:
            return attempt()
        except (ClientError, BotoCoreError) as error:
            if not passes(error):
                raise
        time.sleep(pause)
    return attempt()


@contextmanager
def _stream_errors() -> Iterator[None]:
    """Whatever ends the reading of an answer too early, as `ResponseStreamingError`.

    botocore passes some of urllib3's errors on: those of TLS, and those in the body of an error.
    """
    try:
        yield
    except (HTTPError, ReadTimeoutError, IncompleteReadError) as error:
        raise ResponseStreamingError(error=error) from error


def _lighten(client: "S3Client") -> None:
    """Takes out of an S3 client what costs most here; without any of it the same comes out, later."""
    events = client.meta.events
    # Sent as a file, each body waits for a "100 Continue": one more round trip for every write.
    events.unregister("before-parameter-build.s3.PutObject", convert_body_to_file_like_object)
    # botocore takes 60 µs of CPU for each listed object, this 10: a date may have 100,000. It comes first, because a
    # handler of botocore's own parses the whole answer too.
    events.register_first("before-parse.s3.ListObjectsV2", _take_contents, unique_id="bg-pipeline-listing")


def _take_contents(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Reads the objects out of a listing before botocore would, and leaves it the rest, or all that is odd.

    What is no listing (torn, empty, an error or another's page) is asked for again: botocore would take some of it
    for a prefix under which there is nothing, and what was paid for lies under prefixes.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        listing = ElementTree.fromstring(response_dict["body"])  # noqa: S314 (an answer of S3's)
    except ElementTree.ParseError:
        listing = ElementTree.Element("torn")
    if not listing.tag.endswith("ListBucketResult"):
        response_dict["status_code"] = 500
        return
    space = listing.tag.removesuffix("ListBucketResult")
    try:
        items = listing.findall(f"{space}Contents")
        contents = [
            {
                "Key": item.findtext(f"{space}Key", ""),
                "ETag": item.findtext(f"{space}ETag", ""),
                "Size": int(item.findtext(f"{space}Size", "")),
                "LastModified": datetime.fromisoformat(item.findtext(f"{space}LastModified", "")),
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
    """The blocks of an answer's body, which is closed in the end."""
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
    """Reads and writes objects of one bucket through one boto3 client, which may be shared by threads."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        _lighten(client)

    @cached_property
    def _quick(self) -> FastS3 | None:
        # Made when it is first needed: that takes several milliseconds, and many a sensor's tick only lists.
        return fast_s3(self.client, self.bucket)

    def in_bucket(self, bucket: str) -> "Store":
        """The same client on another bucket."""
        return self if bucket == self.bucket else Store(self.client, bucket)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Every object under ``prefix`` in UTF-8 key order, one request per 1,000, streamed."""
        for page in self._pages(prefix, start_after=start_after):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"])

    def folders(self, prefix: str, *, start_after: str = "") -> Iterator[str]:
        """The distinct next path segments under ``prefix`` (each ending in "/"), as whole prefixes."""
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
        """The object's bytes, or None if there is no such object."""
        if self._quick is not None:
            try:
                return ObjectContent(*self._quick.read(key))
            except ObjectMissing:
                return None
            except FallbackNeeded:
                pass
        return _again(lambda: self._read(key), READ_PAUSES, _broke_off)

    def _read(self, key: str) -> ObjectContent | None:
        answer = self._get(key)
        if answer is None:
            return None
        body = answer["Body"]
        try:
            # `with body` would give the stream inside, whose errors and checksum nobody looks at.
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
        """S3's answer, whose body is still to be read and closed; None if there is no such object."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=key, **request)
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise
        except HTTPError as error:
            # An error whose text was cut, which botocore does not look at.
            raise ResponseStreamingError(error=error) from error

    def blocks(self, key: str) -> Iterator[bytes]:
        """The object's bytes in blocks, streamed; none if there is no such object.

        All are of one version: where the body breaks off, the rest of the same version is read, or an error raised.
        """
        pauses = iter(READ_PAUSES)
        given, rest = 0, dict[str, str]()
        while True:
            try:
                answer = self._get(key, **rest)
            except ClientError as error:
                if given and _code(error) in _LOST:
                    raise _replaced(key) from error
                raise
            if answer is None and given:
                raise _replaced(key)
            if answer is None:
                return
            try:
                for block in _body_blocks(answer["Body"]):
                    given += len(block)
                    rest = {"IfMatch": answer["ETag"], "Range": f"bytes={given}-"}
                    yield block
                return
            except ResponseStreamingError:
                pause = next(pauses, None)
                if pause is None:
                    raise
            time.sleep(pause)

    def head(self, key: str) -> ObjectInfo | None:
        """Size, tag and metadata of an object, or None if there is no such object."""
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
        """Stores the whole object or nothing, and returns its tag; a file is read from its beginning.

        Raises `PreconditionFailed` if ``if_absent`` and the key exists, or if the object's tag is no longer
        ``if_etag``. A write that S3 refuses only because another one is under way is made again first. Metadata
        values must be ASCII, 2 KB in all.
        """
        if isinstance(data, bytes) and self._quick is not None:
            try:
                return self._quick.write(
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
            answer = _again(put, CONFLICT_PAUSES, _in_conflict)
        except ClientError as error:
            lost = _code(error) in _LOST or (if_etag is not None and _code(error) in _GONE)
            if lost and (if_absent or if_etag is not None):
                raise PreconditionFailed(f"{key} was written by somebody else") from error
            raise
        return str(answer["ETag"]).strip('"')

    def read_json(self, key: str) -> Any | None:
        """The parsed document, or None if it is absent or torn (what is not JSON is not a document)."""
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
        """Stores a document as JSON a person can read; returns its tag."""
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
        """Copies an object without its bytes passing through here; returns the new tag.

        It is copied inside the bucket, or into that of ``to``. With ``if_etag`` raises `PreconditionFailed` if the
        source is gone or has another tag by now.
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
            answer = _again(lambda: (to or self).client.copy_object(**request), CONFLICT_PAUSES, _in_conflict)
        except ClientError as error:
            if if_etag is not None and _code(error) in _LOST | _GONE:
                raise PreconditionFailed(f"{source} was written by somebody else or is gone") from error
            raise
        etag = answer.get("CopyObjectResult", {}).get("ETag")
        if not etag:
            raise ResponseStreamingError(error=f"S3's answer to the copying of {source} holds no tag")
        return str(etag).strip('"')

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """Removes the object; absent is fine. With ``if_etag`` raises `PreconditionFailed` on another version."""
        request: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        if if_etag is not None:
            request["IfMatch"] = f'"{if_etag}"'
        try:
            _again(lambda: self.client.delete_object(**request), CONFLICT_PAUSES, _in_conflict)
        except ClientError as error:
            if if_etag is not None and _code(error) in _LOST:
                raise PreconditionFailed(f"{key} was written by somebody else") from error
            if _code(error) not in _GONE:
                raise

    def presign(self, key: str, seconds: int) -> str:
        """A GET link that anyone may use for ``seconds``, or until the signing credentials end, if sooner."""
        return self.client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
        )


def explain_s3_error(store: Store, error: ClientError | BotoCoreError) -> str:
    """What an error that S3 ended the work with means, for the log of a run."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return f"there is no bucket '{store.bucket}' (BG_BUCKET), S3 says: {error}"
    if code in ("AccessDenied", "403", "Forbidden"):
        return f"{error}; check the credentials and their rights with `bg-pipeline doctor`"
    return (
        f"S3 (bucket '{store.bucket}', BG_BUCKET) does not do what it is asked: {error}. "
        "What is done is kept; run it again when that has passed"
    )


def open_bucket(settings: Settings, aws: Aws) -> Store:
    """The bucket of the settings; raises `SettingsError` if it is not named or cannot be reached."""
    if not settings.bucket:
        raise SettingsError("BG_BUCKET is not set: name the S3 bucket that holds the photos")
    return Store(aws.s3(settings.bucket), settings.bucket)
