"""What all routes share: the service object, links, checks of names, and common parameters."""

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, BinaryIO, TypeVar

from anyio import CapacityLimiter, to_thread
from botocore.exceptions import ClientError
from fastapi import Depends, Header, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from bg_pipeline.acts import Acts
from bg_pipeline.authorization import Right
from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.upload_kinds import Kind, kind_of
from bg_pipeline.errors import ImageError, PreconditionFailed
from bg_pipeline.imaging.workers import header_of, shared_workers
from bg_pipeline.reports.overview import share_link
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.limits import SMALL_BYTES
from bg_pipeline.web.problems import TOO_LARGE, Problem
from bg_pipeline.web.single_photo_jobs import SinglePhotoJobs, job_id

T = TypeVar("T")

_PRIVATE = (s3_keys.STATE, s3_keys.PAYLOADS, s3_keys.REVIEWS, s3_keys.AUDIT)
"""Prefixes whose objects callers cannot use."""

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
    """A photo in a bucket, to be copied into a batch; its key ``name`` is also its name there."""

    store: Store
    name: str

    def open(self) -> AbstractContextManager[BinaryIO]:
        content = self.store.read(self.name)
        if content is None:
            raise Problem(404, "NotFound", f"'{self.name}' was deleted from bucket '{self.store.bucket}'")
        return io.BytesIO(content.data)


@dataclass(frozen=True)
class Service:
    """The pipeline's functions for the API's routes."""

    settings: Settings
    aws: Aws
    store: Store
    jobs: SinglePhotoJobs
    large_requests: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    @cached_property
    def acts(self) -> Acts:
        """What callers may do, authorized and recorded."""
        return Acts(self.settings, self.store)

    async def run_with_body(
        self,
        function: Callable[["Service", Person, Batch, bytes], T],
        caller: Person,
        batch: Batch,
        body: bytes,
    ) -> T:
        """Runs ``function`` with a batch request in a thread.

        Large requests are handled one at a time, since each takes half a gigabyte of memory.
        """
        limiter = self.large_requests if len(body) > SMALL_BYTES else None
        return await to_thread.run_sync(function, self, caller, batch, body, limiter=limiter)

    @property
    def max_bytes(self) -> int:
        """Size of the largest photo that is accepted."""
        return self.settings.api_max_upload_mb * 1_000_000

    def photo(self, caller: Person, key: str, bucket: str = "") -> StoredPhoto:
        """The photo under a caller's key; raises `Problem` if it is missing, not allowed or cannot be opened."""
        bucket = bucket or self.store.bucket
        name = f"'{key}' in bucket '{bucket}'"
        if bucket not in (self.store.bucket, *self.settings.allowed_buckets):
            text = f"bucket '{bucket}' is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS"
            raise Problem(403, "BucketNotAllowed", text)
        if key.partition("/")[0] in _PRIVATE:
            raise Problem(403, "KeyNotAllowed", f"{name} belongs to the pipeline itself")
        if not self.acts.authorization.may_read_key(caller, bucket, key):
            raise Problem(403, "KeyNotAllowed", f"{name} does not belong to you")
        check_name(key)
        store = self.store.in_bucket(bucket)
        try:
            head = store.head(key)
            if head is not None and head.size > self.max_bytes:
                limit = f"at most {self.max_bytes:,} are allowed (BG_API_MAX_UPLOAD_MB)"
                raise Problem(413, "TooLarge", f"{name} has {head.size:,} bytes; {limit}")
            # Unlike the head above, a read distinguishes a missing bucket from a missing key.
            content = store.read(key)
        except ClientError as error:
            raise _refused_by_s3(error, key, bucket) from error
        if content is None:
            raise Problem(404, "NotFound", f"S3 object '{key}' does not exist in bucket '{bucket}'")
        try:
            header_of(shared_workers(self.settings.max_decoded_images), content.data)
        except ImageError as error:
            status = 413 if error.code in TOO_LARGE else 422
            raise Problem(status, error.code, f"{name}: {error}") from None
        return StoredPhoto(store, key)

    def link(self, key: str, store: Store | None = None) -> Link:
        """A presigned link to an object (default: of the bucket), valid for BG_API_LINK_SECONDS."""
        now = datetime.now(UTC).replace(microsecond=0)
        link = share_link(self.aws, store or self.store, key, self.settings.api_link_seconds, now)
        return Link(Key=key, Url=link.url, Expires=link.until)

    async def run_job(self, batch: Batch, advice: str) -> None:
        """Starts the job of a batch and waits for its end.

        Raises `Problem` 504 with ``advice`` after BG_API_WAIT_SECONDS; the job then continues.
        """
        future = await run_in_threadpool(self.jobs.start, batch)
        work = asyncio.wrap_future(future)
        work.add_done_callback(_retrieve_exception)
        done, _ = await asyncio.wait([work], timeout=self.settings.api_wait_seconds)
        if not done:
            raise Problem(
                504,
                "StillWorking",
                f"there is no picture after {self.settings.api_wait_seconds:g} s; the work continues: {advice}",
                retry_after=10,
                Id=job_id(batch),
            )
        work.result()

    def deliver(self, result: str, targets: Iterable[str]) -> str:
        """Copies a result to the first key of ``targets`` that is free or already has it; returns that key."""
        content = self.store.read(result)
        if content is None:
            raise Problem(410, "Gone", f"the result {result} was removed")
        metadata = {"made-from": hashlib.sha256(result.encode()).hexdigest()}
        for target in targets:
            try:
                self.store.write(
                    target, content.data, media_type=content.media_type, metadata=metadata, if_absent=True
                )
                return target
            except PreconditionFailed:
                existing = self.store.read(target)
                if existing is not None and existing.metadata.get("made-from") == metadata["made-from"]:
                    return target
        raise Problem(
            409, "Taken", f"{result} cannot be copied: there is another object under the target's key"
        )

    def problem(self, batch: Batch, row: Row) -> Problem:
        """Why a photo has no result: 422 or 413 if a repetition would fail too, otherwise 503."""
        text = f"'{row.ImageName}': {row.Cause}"
        code = row.Error or row.Status.value
        if row.Status in (Status.BLOCKED, Status.NEEDS_REVIEW):
            return Problem(422, code, text)
        if row.Status == Status.FAILED and self.jobs.is_final(batch, row.ImageName):
            return Problem(413 if code in TOO_LARGE else 422, code, text)
        return Problem(503, code, text, retry_after=30)


def check_name(name: str) -> None:
    """Raises `Problem` 422 if an image cannot have this name."""
    if kind_of(name) is not Kind.IMAGE:
        raise Problem(422, "NotAnImage", f"'{name}' is not an image: it is a folder, a dot-file or JSON")
    # HTTP clients resolve such segments and would address another object.
    if {".", ".."} & set(name.split("/")):
        raise Problem(422, "BadName", f"'{name}' contains a '.' or '..' segment")
    if len(name.encode()) > s3_keys.MAX_KEY_BYTES:
        raise Problem(
            422, "KeyTooLong", f"'{name[:40]}…' is longer than S3's limit of {s3_keys.MAX_KEY_BYTES} bytes"
        )


def _refused_by_s3(error: ClientError, key: str, bucket: str) -> Problem:
    code = error.response.get("Error", {}).get("Code", "an error")
    if code == "NoSuchBucket":
        return Problem(404, "NoSuchBucket", f"S3 bucket '{bucket}' does not exist")
    if code in ("403", "AccessDenied"):
        text = f"S3 denies this service access to object '{key}' in bucket '{bucket}'"
        return Problem(403, "AccessDenied", text)
    return Problem(502, "StorageError", f"S3 answered {code} for object '{key}' in bucket '{bucket}'")


def _retrieve_exception(work: asyncio.Future[None]) -> None:
    """Retrieves a job's exception, so that asyncio does not log it again after the call stopped waiting."""
    if not work.cancelled():
        work.exception()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _caller(request: Request) -> Person:
    caller: Person = request.state.caller
    return caller


def _member(request: Request) -> Person:
    """The caller; raises `NotAllowed` if the caller has no role."""
    caller = _caller(request)
    _service(request).acts.authorization.require_role(caller)
    return caller


def _submitter(request: Request) -> Person:
    """The caller; raises `NotAllowed` unless the caller may submit, and so spend."""
    caller = _caller(request)
    _service(request).acts.authorization.require(caller, Right.SUBMIT)
    return caller


TheService = Annotated[Service, Depends(_service)]
TheCaller = Annotated[Person, Depends(_caller)]
AMember = Annotated[Person, Depends(_member)]
ASubmitter = Annotated[Person, Depends(_submitter)]
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
