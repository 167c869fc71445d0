"""The photo-booth calls: upload a photo, and get its people on several backgrounds, at once or by polling.

These calls replace those of an earlier system: requests may use its field names, and answers have its fields beside
ours.
"""

import logging
import posixpath
import uuid
from datetime import datetime
from typing import Annotated, Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import APIRouter, Path, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from bg_pipeline.authorization import upload_mark
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import image_settings
from bg_pipeline.domain.rows import Row
from bg_pipeline.errors import BgPipelineError, NoSuchBatch
from bg_pipeline.reports.overview import BatchOverview
from bg_pipeline.state.leases import holder_of
from bg_pipeline.state.process_identity import is_dead
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import (
    ASubmitter,
    IdempotencyKey,
    Link,
    ObjectKey,
    Service,
    TheCaller,
    TheService,
    check_name,
)
from bg_pipeline.web.single_photo_jobs import (
    batch_of_job,
    idempotent_batch,
    job_id,
    new_batch,
    no_such_order,
)

PRESET = "portrait-booth"
UPLOAD_SECONDS = 300
"""How long a presigned upload is valid."""

router = APIRouter(tags=["photo booth"])
_log = logging.getLogger(__name__)


class UploadRequest(BaseModel):
    """A photo that will be uploaded."""

    model_config = ConfigDict(extra="forbid")

    Filename: ObjectKey = Field(validation_alias=AliasChoices("Filename", "filename"), examples=["me.jpg"])
    ContentType: Annotated[str, Field(pattern=r"^[a-z]{1,20}/[a-z0-9.+-]{1,100}$")] = Field(
        validation_alias=AliasChoices("ContentType", "contentType"), examples=["image/jpeg"]
    )
    Size: Annotated[int | None, Field(ge=1)] = Field(
        None,
        validation_alias=AliasChoices("Size", "size"),
        description="The photo's bytes, for who uploads it with PUT.",
    )
    Type: Annotated[str, Field(pattern=r"^[ -~]{1,50}$")] = Field(
        "photo",
        validation_alias=AliasChoices("Type", "type"),
        description="`photo`, which is an image and may be named in `Key`; anything else is stored under `docs/`.",
    )


class PhotoUpload(BaseModel):
    """Where to upload the photo within ``Expires`` seconds; then name its ``Key``.

    Either POST it to ``Url`` as a form (multipart/form-data) of ``Fields`` and, last, ``file`` with its bytes,
    at most ``MaxBytes``. Or PUT it to ``UploadURL`` with this ``ContentType`` and, if ``Size`` was given, exactly
    that many bytes. Without ``Size`` S3 accepts a PUT of any size; a photo of more than ``MaxBytes`` is then refused
    by the call that names it. ``statusCode`` and ``body`` (the other fields as a JSON string) are for clients of the
    photo booth that this API replaces.
    """

    Bucket: str
    Key: str
    Expires: int
    ContentType: str
    Url: str
    Fields: dict[str, str]
    MaxBytes: int
    UploadURL: str
    statusCode: int = 200  # noqa: N815 (the original's name)
    body: str = ""


class PhotoRequest(BaseModel):
    """A photo in the bucket and its new backgrounds; without ``Prompts``, those of the preset.

    ``Id`` is part of the results' names, by default the photo's own name. ``RequestId`` serves as an
    idempotency key.
    """

    model_config = ConfigDict(extra="forbid")

    Key: ObjectKey = Field(validation_alias=AliasChoices("Key", "key"), examples=["photo/0f…/me.jpg"])
    Bucket: Annotated[str, Field(max_length=255)] = Field(
        "", validation_alias=AliasChoices("Bucket", "bucket")
    )
    Id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        None, validation_alias=AliasChoices("Id", "id")
    )
    RequestId: Annotated[str | None, Field(pattern=r"^[!-~]{1,255}$")] = Field(
        None, validation_alias=AliasChoices("RequestId", "requestId")
    )
    Prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=5)] = []


class Picture(BaseModel):
    """One background: a link to its picture, or the cause why there is none."""

    Status: str
    Cause: str = ""
    Key: str | None = None
    Url: str | None = None
    Expires: datetime | None = None


class Photo(BaseModel):
    """The status of the photo. While it is Waiting or Working, ``Generated`` has the future pictures' links."""

    Id: str
    Status: str
    Cause: str = ""
    Original: Link
    Generated: list[Picture]
    Seconds: float | None = None
    CostUSD: float | None = None
    url_original: str
    url_generated: str = Field(description="A JSON list of links, as a string.")
    time_taken: str = ""


@router.post("/upload")
def upload(request: UploadRequest, service: TheService, caller: ASubmitter) -> PhotoUpload:
    """Returns an upload for one photo under a new key, so that no other photo is overwritten."""
    name = posixpath.basename(request.Filename)
    if request.Type == "photo":
        check_name(name)
    elif name in ("", ".", ".."):
        raise Problem(422, "BadName", f"'{request.Filename}' does not name a file")
    if "${filename}" in name:
        raise Problem(422, "BadName", "a name cannot contain '${filename}': S3 would replace it")
    if request.Type == "photo" and not request.ContentType.startswith("image/"):
        text = f"body.ContentType: a photo is an image, and '{name}' is {request.ContentType}"
        raise Problem(422, "InvalidRequest", text)
    folder = f"{uuid.uuid4().hex}-{upload_mark(caller)}" if caller.signed_in else uuid.uuid4().hex
    unique = f"{folder}/{name}"
    key = s3_keys.photo_key(unique) if request.Type == "photo" else s3_keys.document_key(unique)
    client, bucket, media_type = service.store.client, service.store.bucket, request.ContentType
    form = client.generate_presigned_post(
        bucket,
        key,
        Fields={"Content-Type": media_type},
        Conditions=[["content-length-range", 1, service.max_bytes], {"Content-Type": media_type}],
        ExpiresIn=UPLOAD_SECONDS,
    )
    if request.Size is not None and request.Size > service.max_bytes:
        text = (
            f"a photo of {request.Size:,} bytes is larger than {service.max_bytes:,} (BG_API_MAX_UPLOAD_MB)"
        )
        raise Problem(413, "TooLarge", text)
    length = {} if request.Size is None else {"ContentLength": request.Size}
    address = client.generate_presigned_url(
        "put_object",
        Params={"Bucket": bucket, "Key": key, "ContentType": media_type, **length},
        ExpiresIn=UPLOAD_SECONDS,
    )
    answer = PhotoUpload(
        Bucket=bucket,
        Key=key,
        Expires=UPLOAD_SECONDS,
        ContentType=media_type,
        Url=form["url"],
        Fields=form["fields"],
        MaxBytes=service.max_bytes,
        UploadURL=address,
    )
    answer.body = answer.model_dump_json(exclude={"statusCode", "body"})
    return answer


@router.post("/photo")
async def photo(
    request: PhotoRequest, service: TheService, caller: ASubmitter, idempotency_key: IdempotencyKey = None
) -> Photo:
    """Makes the pictures and returns links to them, which are valid for an hour.

    If no picture could be made, the answer is a problem document; if only some could be made, each of the others has
    its cause.
    """
    batch = await run_in_threadpool(_store_job, service, caller, idempotency_key, request)
    await service.run_job(batch, f"ask for it with GET /photo-api/{job_id(batch)}")
    return await run_in_threadpool(_finished, service, batch)


@router.post("/photo-api", status_code=202)
async def photo_later(
    request: PhotoRequest,
    service: TheService,
    caller: ASubmitter,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Photo:
    """Stores the order and returns at once; GET at ``Location`` returns its status.

    The links in the answer work once the pictures are made. If this process ends before that, another one makes the
    pictures, and the links work after the next GET at ``Location``.
    """
    batch = await run_in_threadpool(_store_job, service, caller, idempotency_key, request)
    work = await run_in_threadpool(service.jobs.start, batch)
    work.add_done_callback(lambda done: _deliver_all(service, batch))
    response.headers["Location"] = f"/photo-api/{job_id(batch)}"
    return await run_in_threadpool(_photo, service, batch)


@router.get("/photo-api/{order}")
def photo_order(
    order: Annotated[str, Path(description="Id of the order, as in `Location`.")],
    service: TheService,
    caller: TheCaller,
) -> Photo:
    """Returns the status of an order, with its pictures once they are made."""
    batch = batch_of_job(order)
    try:
        service.acts.authorization.require_visible(caller, batch)
    except NoSuchBatch:
        raise no_such_order(order) from None
    return _photo(service, batch)


def _store_job(service: Service, caller: Person, idempotency_key: str | None, request: PhotoRequest) -> Batch:
    """Stores the request as a batch, unless an earlier call with this idempotency key did."""
    call = request.model_dump(exclude={"RequestId"})
    batch = idempotent_batch(
        service.store, caller, idempotency_key or request.RequestId, ["photo", call], new_batch()
    )
    service.acts.authorization.take(caller, batch)
    if not service.jobs.is_submitted(batch):
        source = service.photo(caller, request.Key, request.Bucket)
        stem = posixpath.splitext(posixpath.basename(request.Key))[0]
        fields = {
            "Renditions": [{"Preset": PRESET}],
            "Ref": request.Id or stem[:64],
            "Prompts": request.Prompts or None,
        }
        service.jobs.submit(service.acts, caller, batch, [source], fields)
    return batch


def _finished(service: Service, batch: Batch) -> Photo:
    """The photo after its job; raises `Problem` if it has no picture."""
    report = service.jobs.status(batch).report()
    if report is not None and not report.rows[0].Results:
        raise service.problem(batch, report.rows[0])
    return _photo(service, batch)


def _photo(service: Service, batch: Batch) -> Photo:
    overview = service.jobs.status(batch)
    report = overview.report()
    if report is None:
        return _unfinished(service, batch, overview)
    (row,) = report.rows
    pictures = [
        Picture(Status=output.Status, Cause=output.Cause, **_delivered(service, batch, row, number))
        for number, output in enumerate(row.Outputs, 1)
    ]
    return _answer(service, batch, row.ImageName, row.Status, pictures, row)


def _unfinished(service: Service, batch: Batch, overview: BatchOverview) -> Photo:
    if overview.request is None or not overview.request.Images:
        raise ValueError(f"the request of batch {batch.path} names no photo, so it is not one of these calls")
    (entry,) = overview.request.Images
    holder = holder_of(service.store, batch.lease_key)
    working = holder is not None and not is_dead(holder.process)
    status = "Working" if working else "Waiting"
    outputs = image_settings(overview.request, entry.ImageName, PRESET_REQUESTS).outputs
    ref = overview.request.Ref or ""
    links = (service.link(_key(batch, ref, output.position)) for output in outputs)
    pictures = [Picture(Status=status, **link.model_dump()) for link in links]
    return _answer(service, batch, entry.ImageName, status, pictures)


def _key(batch: Batch, ref: str, number: int) -> str:
    return s3_keys.photo_key(f"{job_id(batch)}/photo_{ref}_{number}.jpeg")


def _deliver_all(service: Service, batch: Batch) -> None:
    """Copies a finished order's pictures to the keys whose links were answered; a failure is logged."""
    try:
        report = service.jobs.status(batch).report()
        for row in report.rows if report else ():
            for number in range(1, len(row.Outputs) + 1):
                _delivered(service, batch, row, number)
    except (Problem, BgPipelineError, ClientError, BotoCoreError) as error:
        _log.warning("the pictures of order %s were not delivered: %s", job_id(batch), error)


def _delivered(service: Service, batch: Batch, row: Row, number: int) -> dict[str, Any]:
    """The fields of a link to one picture, which is copied to its public key first; empty without a picture."""
    result = row.Outputs[number - 1].Key
    if not result:
        return {}
    key = _key(batch, row.Ref, number)
    if service.store.head(key) is None:
        service.deliver(result, [key])
    return service.link(key).model_dump()


def _answer(
    service: Service, batch: Batch, image: str, status: str, pictures: list[Picture], row: Row | None = None
) -> Photo:
    original = service.link(batch.upload_key(image))
    links = [picture.Url for picture in pictures if picture.Url]
    return Photo(
        Id=job_id(batch),
        Status=status,
        Cause=row.Cause if row else "",
        Original=original,
        Generated=pictures,
        Seconds=row.Seconds if row else None,
        CostUSD=row.CostUSD if row else None,
        url_original=original.Url,
        url_generated=orjson.dumps(links).decode(),
        time_taken=f"{row.Seconds}" if row else "",
    )
