"""What all routes work with, and what they have in common."""

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, BinaryIO, TypeVar

from anyio import CapacityLimiter, to_thread
from botocore.exceptions import ClientError
from fastapi import Depends, Header, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.upload_kinds import Kind, kind_of
from bg_pipeline.errors import ImageError, PreconditionFailed
from bg_pipeline.imaging.workers import header_of, shared_workers
from bg_pipeline.reports import links
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.limits import SMALL_BYTES
from bg_pipeline.web.problems import TOO_LARGE, Problem
from bg_pipeline.web.single_photo_jobs import SinglePhotoJobs, job_id

T = TypeVar("T")

LINK_SECONDS = 3600
"""How long a link to a picture is good, if the credentials that signed it live as long."""

_OWN = (s3_keys.STATE, s3_keys.PAYLOADS, s3_keys.REVIEWS)
"""Prefixes of which no caller gets to see anything."""

ObjectKey = Annotated[
    str, Field(min_length=1, max_length=s3_keys.MAX_KEY_BYTES, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class Link(BaseModel):
    """An object, and an address under which anybody may read it until it expires."""

    Key: str
    Url: str
    Expires: datetime


@dataclass(frozen=True)
class StoredPhoto:
    """A photo in a bucket, to be copied under its own key as its name."""

    store: Store
    name: str

    def open(self) -> AbstractContextManager[BinaryIO]:
        content = self.store.read(self.name)
        if content is None:
            raise Problem(404, "NotFound", f"'{self.name}' is gone from bucket '{self.store.bucket}'")
        return io.BytesIO(content.data)


@dataclass(frozen=True)
class Service:
    """The pipeline as the API uses it."""

    settings: Settings
    aws: Aws
    store: Store
    jobs: SinglePhotoJobs
    large_requests: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    async def in_turn(self, work: Callable[["Service", Batch, bytes], T], batch: Batch, request: bytes) -> T:
        """Has a batch request worked on; large ones one after another, as each takes half a gigabyte of memory."""
        limiter = self.large_requests if len(request) > SMALL_BYTES else None
        return await to_thread.run_sync(work, self, batch, request, limiter=limiter)

    @property
    def max_bytes(self) -> int:
        """The largest photo taken."""
        return self.settings.api_max_upload_mb * 1_000_000

    def photo(self, key: str, bucket: str = "") -> StoredPhoto:
        """The photo under a key that a caller named; raises `Problem` where there is none that can be used."""
        bucket = bucket or self.store.bucket
        shown = f"'{key}' in bucket '{bucket}'"
        if bucket not in (self.store.bucket, *self.settings.allowed_buckets):
            text = f"bucket '{bucket}' is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS"
            raise Problem(403, "BucketNotAllowed", text)
        if key.partition("/")[0] in _OWN:
            raise Problem(403, "KeyNotAllowed", f"{shown} belongs to the pipeline itself")
        check_name(key)
        store = self.store.in_bucket(bucket)
        try:
            found = store.head(key)
            if found is not None and found.size > self.max_bytes:
                most = f"{self.max_bytes:,} (BG_API_MAX_UPLOAD_MB)"
                raise Problem(413, "TooLarge", f"{shown} has {found.size:,} bytes and may have {most}")
            content = store.read(
                key
            )  # where there is nothing, this tells a missing bucket from a missing key
        except ClientError as error:
            raise _refused_by_s3(error, key, bucket) from error
        if content is None:
            raise Problem(404, "NotFound", f"S3 object '{key}' does not exist in bucket '{bucket}'")
        try:
            header_of(shared_workers(self.settings.max_decoded_images), content.data)
        except ImageError as error:
            status = 413 if error.code in TOO_LARGE else 422
            raise Problem(status, error.code, f"{shown}: {error}") from None
        return StoredPhoto(store, key)

    def link(self, key: str) -> Link:
        now = datetime.now(UTC).replace(microsecond=0)
        made = links.share_link(self.aws, self.store, key, LINK_SECONDS, now)
        return Link(Key=key, Url=made.url, Expires=made.until)

    async def carry_out(self, batch: Batch, advice: str) -> None:
        """Has an order worked on and waits for its end.

        Raises `Problem` 504 with ``advice`` where it does not come within BG_API_WAIT_SECONDS; the work goes on.
        """
        begun = await run_in_threadpool(self.jobs.start, batch)
        work = asyncio.wrap_future(begun)
        work.add_done_callback(_look_at)
        done, _ = await asyncio.wait([work], timeout=self.settings.api_wait_seconds)
        if not done:
            raise Problem(
                504,
                "StillWorking",
                f"there is no picture after {self.settings.api_wait_seconds:g} s; the work goes on: {advice}",
                retry_after=10,
                Id=job_id(batch),
            )
        work.result()

    def deliver(self, result: str, targets: Iterable[str]) -> str:
        """Copies a result to the first of ``targets`` that is free, or to which it was copied before; its key."""
        content = self.store.read(result)
        if content is None:
            raise Problem(410, "Gone", f"the result {result} was removed")
        mark = {"made-from": hashlib.sha256(result.encode()).hexdigest()}
        for target in targets:
            try:
                self.store.write(
                    target, content.data, media_type=content.media_type, metadata=mark, if_absent=True
                )
                return target
            except PreconditionFailed:
                held = self.store.read(target)
                if held is not None and held.metadata.get("made-from") == mark["made-from"]:
                    return target
        raise Problem(409, "Taken", f"there is something else where {result} was to go")

    def problem(self, batch: Batch, row: Row) -> Problem:
        """Why a photo has no result, with the status that is true of it."""
        text = f"'{row.ImageName}': {row.Cause}"
        code = row.Error or row.Status.value
        if row.Status in (Status.BLOCKED, Status.NEEDS_REVIEW):
            return Problem(422, code, text)
        if row.Status == Status.FAILED and self.jobs.is_final(batch, row.ImageName):
            return Problem(413 if code in TOO_LARGE else 422, code, text)
        return Problem(503, code, text, retry_after=30)


def check_name(name: str) -> None:
    """Raises `Problem` 422 for what cannot be the name of an image."""
    if kind_of(name) is not Kind.IMAGE:
        raise Problem(422, "NotAnImage", f"'{name}' is no picture: it is a folder, a dot-file or JSON")
    # HTTP clients resolve such segments, so that another object would be meant.
    if {".", ".."} & set(name.split("/")):
        raise Problem(422, "BadName", f"'{name}' holds a '.' or '..' segment")
    if len(name.encode()) > s3_keys.MAX_KEY_BYTES:
        raise Problem(
            422, "KeyTooLong", f"'{name[:40]}…' is longer than the {s3_keys.MAX_KEY_BYTES} bytes S3 takes"
        )


def _refused_by_s3(error: ClientError, key: str, bucket: str) -> Problem:
    code = error.response.get("Error", {}).get("Code", "an error")
    if code == "NoSuchBucket":
        return Problem(404, "NoSuchBucket", f"S3 bucket '{bucket}' does not exist")
    if code in ("403", "AccessDenied"):
        text = f"S3 denies this service access to object '{key}' in bucket '{bucket}'"
        return Problem(403, "AccessDenied", text)
    return Problem(502, "StorageError", f"S3 answered {code} for object '{key}' in bucket '{bucket}'")


def _look_at(work: asyncio.Future[None]) -> None:
    """Takes note of a failure that nobody waits for any more; it was logged where it came from."""
    if not work.cancelled():
        work.exception()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request) -> str:
    caller: str = request.state.caller
    return caller


TheService = Annotated[Service, Depends(_service)]
TheCaller = Annotated[str, Depends(_caller)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="Of the caller's choice: a call repeated with it has the outcome of the first.",
    ),
]
