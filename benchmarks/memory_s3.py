"""An S3 server in memory that answers in 0.1 ms, so that benchmarks measure the pipeline and not a disk.

It implements what the pipeline uses: GET, HEAD, PUT and DELETE of objects with ``If-Match`` and ``If-None-Match``,
ListObjectsV2 with every parameter, and CopyObject. Requests are not authenticated; buckets are created on first use.
``POST /_seed`` adds up to a million empty objects to a bucket in seconds, ``GET /_overwritten`` counts the objects
under a prefix that were written more than once, ``GET /_requests`` counts all requests to a bucket.
"""

import asyncio
import sys
import zlib
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import Any
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

import httptools
import uvloop

from bg_pipeline_local_aws.launcher import end_with_parent

_REASONS = {100: "Continue", 200: "OK", 204: "No Content", 404: "Not Found", 412: "Precondition Failed"}


@dataclass(slots=True)
class Stored:
    """An object: its bytes, ETag, stored request headers and time of modification."""

    data: bytes
    etag: str
    headers: list[tuple[str, str]]
    modified: float


class Bucket:
    """Objects by key, and the sorted keys."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.keys: list[str] = []
        self.overwritten: set[str] = set()
        self.requests = 0

    def put(self, key: str, stored: Stored) -> None:
        if key in self.objects:
            self.overwritten.add(key)
        else:
            insort(self.keys, key)
        self.objects[key] = stored

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def seed(self, prefix: str, objects: int, ending: str) -> None:
        """Adds empty objects in numbered folders of 1,000 each."""
        now = time()
        for number in range(objects):
            key = f"{prefix}/{number // 1000:06}/{number % 1000:06}{ending}"
            self.objects[key] = Stored(b"", f"{number:032x}", [], now)
        self.keys = sorted(self.objects)


BUCKETS: defaultdict[str, Bucket] = defaultdict(Bucket)


def _listing(bucket: Bucket, query: dict[str, list[str]]) -> str:
    """One page of ListObjectsV2."""
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    after = query.get("continuation-token", query.get("start-after", [""]))[0]
    most = int(query.get("max-keys", ["1000"])[0])
    encoded = quote if query.get("encoding-type") == ["url"] else str
    place = max(bisect_left(bucket.keys, prefix), bisect_left(bucket.keys, after + "\0") if after else 0)
    lines: list[str] = []
    last, more = "", False
    while place < len(bucket.keys):
        key = bucket.keys[place]
        if not key.startswith(prefix):
            break
        if len(lines) == most:
            more = True
            break
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        if end >= 0:
            last = key[: end + len(delimiter)]
            place = bisect_left(bucket.keys, last + "\U0010ffff", place)
            if last != after:
                name = escape(encoded(last))
                lines.append(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            last += "\U0010ffff"
            continue
        found = bucket.objects[key]
        moment = formatdate_iso(found.modified)
        lines.append(
            f"<Contents><Key>{escape(encoded(key))}</Key><LastModified>{moment}</LastModified>"
            f"<ETag>&quot;{found.etag}&quot;</ETag><Size>{len(found.data)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
        last = key
        place += 1
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        f"<KeyCount>{len(lines)}</KeyCount>{''.join(lines)}</ListBucketResult>"
    )


def formatdate_iso(moment: float) -> str:
    """A time in the format of ListObjectsV2."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body = b"", bytearray()
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, words = self._url.decode().partition("?")
        query = parse_qs(words, keep_blank_values=True)
        name, _, key = unquote(path).lstrip("/").partition("/")
        method = self._parser.get_method().decode()
        if name == "_seed":
            BUCKETS[query["bucket"][0]].seed(query["prefix"][0], int(query["objects"][0]), query["ending"][0])
            self._answer(200)
        elif name == "_overwritten":
            found = BUCKETS[query["bucket"][0]].overwritten
            number = sum(each.startswith(query["prefix"][0]) for each in found)
            self._answer(200, str(number).encode())
        elif name == "_requests":
            self._answer(200, str(BUCKETS[query["bucket"][0]].requests).encode())
        else:
            bucket = BUCKETS[name]
            bucket.requests += 1
            if key:
                self._object(method, bucket, key)
            else:
                self._bucket(method, bucket, query)

    def _bucket(self, method: str, bucket: Bucket, query: dict[str, list[str]]) -> None:
        if method == "GET":
            self._answer(200, _listing(bucket, query).encode(), [("Content-Type", "application/xml")])
        else:
            self._answer(200)

    def _object(self, method: str, bucket: Bucket, key: str) -> None:
        stored = bucket.objects.get(key)
        match, none_match = self._headers.get("if-match"), self._headers.get("if-none-match")
        if match and stored is None:
            self._error(404, "NoSuchKey")
        elif (match and stored and match.strip('"') != stored.etag) or (none_match == "*" and stored):
            self._error(412, "PreconditionFailed")
        elif method == "DELETE":
            bucket.delete(key)
            self._answer(204)
        elif method == "PUT":
            self._put(bucket, key)
        elif stored is None:
            self._error(404, "NoSuchKey", head=method == "HEAD")
        else:
            headers = [
                *stored.headers,
                ("ETag", f'"{stored.etag}"'),
                ("Last-Modified", formatdate(stored.modified, usegmt=True)),
            ]
            self._answer(200, stored.data, headers, head=method == "HEAD")

    def _put(self, bucket: Bucket, key: str) -> None:
        source = self._headers.get("x-amz-copy-source")
        if source:
            name, _, from_key = unquote(source).lstrip("/").partition("/")
            data = BUCKETS[name].objects[from_key].data
        else:
            data = bytes(self._body)
        kept = [
            (name, value)
            for name, value in self._headers.items()
            if name == "content-type" or name.startswith("x-amz-meta-")
        ]
        etag = f"{zlib.crc32(data):08x}{len(data):024x}"
        bucket.put(key, Stored(data, etag, kept, time()))
        body = f"<CopyObjectResult><ETag>&quot;{etag}&quot;</ETag></CopyObjectResult>" if source else ""
        self._answer(200, body.encode(), [("ETag", f'"{etag}"')])

    def _error(self, status: int, code: str, *, head: bool = False) -> None:
        self._answer(status, b"" if head else f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        headers: list[tuple[str, str]] | None = None,
        *,
        head: bool = False,
    ) -> None:
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers or ()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else body))


async def serve() -> None:
    """Serves on a free loopback port, which it prints, until the parent process has ended."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    sys.exit(0)
