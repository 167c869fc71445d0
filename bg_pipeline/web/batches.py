"""The batch calls: prepare a batch, upload its photos, hand it to the pipeline, see how it stands, approve, retry.

A batch in preparation is a folder with a draft, which costs nothing and which nothing works on.
"""

import mimetypes
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bg_pipeline import planning, review
from bg_pipeline.budget.remaining import CapUsedUp
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.reports.overview import (
    BatchCosts,
    BatchOverview,
    BatchState,
    batch_state,
    load_status,
)
from bg_pipeline.run.batch_work import open_draft, open_work
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.rows import rows
from bg_pipeline.uploads import listing as uploads
from bg_pipeline.uploads.listing import Uploaded, discard_draft
from bg_pipeline.uploads.submitting import check_submission, hand_over, new_batch, paid_pictures
from bg_pipeline.uploads.unicode_names import match_names
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import (
    IdempotencyKey,
    Link,
    ObjectKey,
    Service,
    TheCaller,
    TheService,
    check_name,
)
from bg_pipeline.web.single_photo_jobs import idempotent_batch

UPLOAD_SECONDS = 3600
MAX_FILES = 1000

router = APIRouter(prefix="/batches", tags=["batches"])


def _batch(date: date, name: str) -> Batch:
    try:
        return Batch(date, name)
    except ValueError as error:
        raise Problem(404, "NoSuchBatch", str(error)) from None


TheBatch = Annotated[Batch, Depends(_batch)]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=255,
        description="The RequestETag of the batch's status, in quotation marks or not; any request with `*`.",
    ),
]


class File(BaseModel):
    """A photo that will be uploaded, under a name that may hold folders."""

    model_config = ConfigDict(extra="forbid")

    Name: ObjectKey = Field(examples=["shoes/red.jpg"])
    ContentType: Annotated[str | None, Field(pattern=r"^image/[a-z0-9.+-]{1,50}$")] = Field(
        None, description="By default what the name's extension says."
    )


class Files(BaseModel):
    """Up to 1,000 photos; more are asked for by another call."""

    model_config = ConfigDict(extra="forbid")

    Files: Annotated[list[File], Field(max_length=MAX_FILES)] = []


class Upload(BaseModel):
    """Where to POST one photo: a form (multipart/form-data) of ``Fields`` and, last, ``file`` with its bytes.

    Storage refuses what is larger than ``MaxBytes``, empty, or later than ``Expires``.
    """

    Name: str
    Key: str
    Url: str
    Fields: dict[str, str]
    MaxBytes: int
    Expires: datetime


class Prepared(BaseModel):
    """A batch in preparation; ``Id`` is a good one for its request."""

    Id: str
    Batch: str
    Prefix: str
    Uploads: list[Upload]


class Submitted(BaseModel):
    """A batch that is in the pipeline's hands; ``PaidPictures`` is what models paint if each succeeds at once."""

    Id: str
    Batch: str
    Images: int
    PaidPictures: int


class BatchStatus(BaseModel):
    """How a batch stands; ``Counts`` are its images by status, ``ToDo`` those that no run has come to.

    ``WaitForApproval`` are those of the skipped that wait until its sample is approved. ``CostUSD`` was surely
    billed, up to ``MaybeBilledUSD`` may have been billed besides; null is not known. While a run works on it, the
    figures are some 20 seconds old. ``Cause`` is why a request was refused, ``RequestETag`` the request's tag.
    """

    Id: str
    Batch: str
    State: BatchState
    Images: int
    Counts: dict[Status, int] = {}
    ToDo: int = 0
    WaitForApproval: int = 0
    CostUSD: float | None = None
    MaybeBilledUSD: float | None = None
    Cause: str = ""
    RequestETag: str = ""


class PlannedCalls(BaseModel):
    """The calls of one operation; ``WorstUSD`` is null where a price is not known."""

    Operation: str
    Model: str
    Regions: list[str]
    Calls: int
    CallsAtWorst: int
    WorstUSD: float | None


class Plan(BaseModel):
    """What a run would do and cost at worst; nothing was spent. ``Notes`` say which models cannot be used."""

    Images: int
    Due: int
    WithoutPrompt: int
    Minutes: float
    MinutesAtWorst: float
    WorstUSD: float | None
    Calls: list[PlannedCalls]
    Notes: list[str]


class ImageResults(BaseModel):
    """One image and links to its results."""

    ImageName: str
    Status: Status
    Cause: str
    Results: list[Link]


@router.post("", status_code=201)
def prepare(
    asked: Files,
    service: TheService,
    caller: TheCaller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Prepared:
    """A new batch, with an upload for each of its files."""
    names = [file.Name for file in asked.Files]
    batch = idempotent_batch(service.store, caller, idempotency_key, ["batches", names], new_batch())
    made = _uploads(service, batch, asked)
    if service.store.head(batch.request_key) is None:
        service.store.write_json(batch.draft_key, {"Id": batch.derived_id(service.store.bucket)})
    response.headers["Location"] = _path(batch)
    return made


@router.post("/{date}/{name}/uploads")
def prepare_more(batch: TheBatch, asked: Files, service: TheService) -> Prepared:
    """Uploads for more files of a batch that is still in preparation."""
    _in_preparation(service, batch)
    return _uploads(service, batch, asked)


@router.delete("/{date}/{name}", status_code=204)
def discard(batch: TheBatch, service: TheService) -> None:
    """Deletes a batch that is still in preparation, with everything that was uploaded for it."""
    _in_preparation(service, batch)
    discard_draft(service.store, batch)


@router.put(
    "/{date}/{name}/request",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
        }
    },
)
async def submit(batch: TheBatch, service: TheService, request: Request, response: Response) -> Submitted:
    """Checks the batch's request against what was uploaded and hands the batch to the pipeline."""
    data = await request.body()
    response.headers["Location"] = _path(batch)
    return await service.in_turn(_submit, batch, data)


@router.post(
    "/{date}/{name}/plan",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
        }
    },
)
async def plan(batch: TheBatch, service: TheService, request: Request) -> Plan:
    """What this request would do and cost with what was uploaded so far; nothing is spent or stored."""
    data = await request.body()
    return await service.in_turn(_plan, batch, data)


@router.get("/{date}/{name}")
def status(batch: TheBatch, service: TheService) -> BatchStatus:
    """How the batch stands."""
    found = _found(service, batch)
    bucket = service.store.bucket
    if found.request is None and found.draft:
        return BatchStatus(
            Id=batch.derived_id(bucket), Batch=batch.path, State=BatchState.DRAFT, Images=len(found.images)
        )
    ledger_objects = list(service.store.list(f"{batch.ledger_prefix}/"))
    work = open_work(service.store, service.settings, found, ledger_objects)
    lines = list(rows(work))
    costs = BatchCosts.of(lines)
    state, _ = batch_state(service.store, work)
    return BatchStatus(
        Id=work.locations.request_id,
        Batch=batch.path,
        State=state,
        Images=len(work.images),
        Counts=Counter(row.Status for row in lines),
        ToDo=sum(work.ledger.get(image) is None for image in work.images),
        WaitForApproval=sum(row.waits_for_approval for row in lines),
        CostUSD=costs.usd,
        MaybeBilledUSD=costs.maybe_usd,
        Cause=str(work.problem or ""),
        RequestETag=found.request.etag if found.request else "",
    )


@router.put("/{date}/{name}/approval", status_code=204)
def approve(batch: TheBatch, service: TheService, caller: TheCaller, if_match: IfMatch = None) -> None:
    """Says that the batch's sample is good, so that the rest of it runs; said again it changes nothing.

    With ``If-Match``, the ``RequestETag`` of the status that was looked at, nothing is approved (412) if the request
    was replaced since. Where it was replaced since its sample was made nothing is approved either (409).
    """
    standing = _standing(service, batch)
    seen = (if_match or "").strip().removeprefix("W/").strip('"').removeprefix("*")
    try:
        review.approve_sample(service.store, standing, by=caller, seen=seen)
    except review.RequestReplaced as error:
        raise Problem(412 if seen else 409, "RequestReplaced", str(error)) from None
    except UsageError as error:
        raise Problem(409, "NoSample", str(error)) from None


@router.post("/{date}/{name}/retry", status_code=202)
def retry(
    batch: TheBatch,
    service: TheService,
    caller: TheCaller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Asks again for what failed or was skipped of the batch, as a new batch; what is stored is not paid for again.

    A call that was never answered, and may have been billed, is made once more. What waits for the approval of a
    sample is not asked for. While an earlier retry of the batch has no report, the answer is that batch. Batch and
    retries share one cap, ``MaxCostUSD``.
    """
    standing = _standing(service, batch)
    try:
        found = review.prepare_retry(service.store, service.settings, standing)
        code, why = "NothingToRetry", f"nothing of batch {batch.path} failed that a retry could mend"
    except CapUsedUp as error:
        found, code, why = None, "CapReached", str(error)
    except UsageError as error:
        found, code, why = None, "NoReport", str(error)
    again = found.batch if found else new_batch()
    again = idempotent_batch(service.store, caller, idempotency_key, ["retry", batch.path], again)
    earlier = service.store.read(again.request_key)
    if earlier is not None:
        # Submitted by this call before it was repeated, or by another that has no report yet.
        found = review.Retry.of(service.settings, again, earlier.data)
    elif found is None:
        raise Problem(409, code, why)
    else:
        found = replace(found, batch=again)
    asks = found.submit(service.store)
    response.headers["Location"] = _path(asks)
    return Submitted(Id=found.id, Batch=asks.path, Images=found.images, PaidPictures=found.pictures)


_REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report",
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "text/csv": {"schema": {"type": "string"}},
            "text/html": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/{date}/{name}/report", response_class=Response, responses=_REPORT)
def report(batch: TheBatch, service: TheService, format: Literal["json", "csv", "html"] = "json") -> Response:
    """The batch's report as it was last written."""
    standing = _standing(service, batch)
    content = standing.data.read(standing.report_key(format))
    if content is None:
        raise Problem(409, "NoReport", f"batch {batch.path} has no report as {format}; a run writes it")
    media_type = {"json": "application/json", "csv": "text/csv", "html": "text/html"}[format]
    # The page of a report may run its own filter and nothing else, and is no part of this site.
    headers = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}
    return Response(content.data, media_type=media_type, headers=headers)


@router.get("/{date}/{name}/results")
def results(batch: TheBatch, service: TheService) -> list[ImageResults]:
    """Links, good for an hour, to the results of each image."""
    standing = _standing(service, batch)
    found = standing.report()
    if found is None:
        raise Problem(409, "NoReport", f"batch {batch.path} has no report yet; a run writes it")
    return [
        ImageResults(
            ImageName=row.ImageName,
            Status=row.Status,
            Cause=row.Cause,
            Results=[service.link(key) for key in row.Results],
        )
        for row in found.rows
    ]


def _path(batch: Batch) -> str:
    return f"/batches/{batch.date}/{quote(batch.name, safe='')}"


def _found(service: Service, batch: Batch) -> Uploaded:
    found = uploads.find(service.store, batch)
    if found is None:
        raise Problem(404, "NoSuchBatch", f"there is no batch {batch.path}")
    return found


def _standing(service: Service, batch: Batch) -> BatchOverview:
    try:
        return load_status(service.store, service.settings, batch)
    except UsageError as error:
        raise Problem(404, "NoSuchBatch", str(error)) from None


def _in_preparation(service: Service, batch: Batch) -> None:
    if service.store.head(batch.request_key) is not None:
        raise Problem(409, "AlreadySubmitted", f"batch {batch.path} was submitted; prepare another one")
    if service.store.head(batch.draft_key) is None:
        raise Problem(404, "NoSuchBatch", f"no batch {batch.path} is in preparation")


def _uploads(service: Service, batch: Batch, asked: Files) -> Prepared:
    names = [file.Name for file in asked.Files]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise Problem(422, "BadName", f"'{twice[0]}' is named twice")
    return Prepared(
        Id=batch.derived_id(service.store.bucket),
        Batch=batch.path,
        Prefix=batch.input_prefix,
        Uploads=[_upload(service, batch, file) for file in asked.Files],
    )


def _upload(service: Service, batch: Batch, file: File) -> Upload:
    check_name(file.Name)
    if "${filename}" in file.Name:
        raise Problem(422, "BadName", "'${filename}' in a name would be replaced by storage")
    media_type = file.ContentType or _media_type(file.Name)
    form = service.store.client.generate_presigned_post(
        service.store.bucket,
        batch.upload_key(file.Name),
        Fields={"Content-Type": media_type},
        Conditions=[["content-length-range", 1, service.max_bytes], {"Content-Type": media_type}],
        ExpiresIn=UPLOAD_SECONDS,
    )
    return Upload(
        Name=file.Name,
        Key=form["fields"]["key"],
        Url=form["url"],
        Fields=form["fields"],
        MaxBytes=service.max_bytes,
        Expires=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=UPLOAD_SECONDS),
    )


def _media_type(name: str) -> str:
    """The type that the name's extension says; raises `Problem` 422 where that is no picture's."""
    ending = name.rpartition(".")[2].lower()
    for format, endings in EXTENSIONS.items():
        if ending in endings:
            return f"image/{format}"
    guessed = mimetypes.guess_type(name)[0] or "nothing"
    text = f"'{name}' has not the extension of a picture (it says {guessed}); say its ContentType"
    raise Problem(422, "NotAnImage", text)


def _checked(service: Service, batch: Batch, data: bytes) -> tuple[BatchRequest, Uploaded]:
    """The request, complete and within its rights, and what was uploaded for it."""
    found = _found(service, batch)
    request = check_submission(service.settings, batch, data)
    problems = []
    if request.InputS3Prefix == batch.input_prefix and request.S3Bucket == service.store.bucket:
        there = match_names(request.entries, found.objects)
        for number, entry in enumerate(request.Images or ()):
            if entry.ImageName not in there:
                problems.append((f"Images[{number}].ImageName", f"'{entry.ImageName}' was not uploaded"))
        if not found.images:
            problems.append(("Images", "no photo was uploaded"))
        for name, each in found.objects.items():
            if each.size > service.max_bytes:
                problems.append(("", f"'{name}' has {each.size:,} bytes and may have {service.max_bytes:,}"))
    if problems:
        raise RequestError(problems[:100])
    return request, found


def _submit(service: Service, batch: Batch, data: bytes) -> Submitted:
    request, found = _checked(service, batch, data)
    names = list(request.entries) or list(found.images)
    if not hand_over(service.store, batch, data):
        text = f"batch {batch.path} was submitted with another request; prepare another one"
        raise Problem(409, "AlreadySubmitted", text)
    return Submitted(
        Id=request.Id, Batch=batch.path, Images=len(names), PaidPictures=paid_pictures(request, names)
    )


def _plan(service: Service, batch: Batch, data: bytes) -> Plan:
    request, found = _checked(service, batch, data)
    work = open_draft(service.store, service.settings, found, request)
    context = RunContext(service.settings, service.aws, service.store, stop=threading.Event())
    try:
        models, notes = planning.models_in_use(context)
    finally:
        context.close()
    planned = planning.plan([work], service.settings, models)
    return Plan(
        Images=planned.images,
        Due=planned.due,
        WithoutPrompt=planned.without_prompt,
        Minutes=planned.minutes,
        MinutesAtWorst=planned.minutes_at_worst,
        WorstUSD=planned.worst_usd,
        Calls=[
            PlannedCalls(
                Operation=line.operation.name,
                Model=line.operation.invoke_id,
                Regions=list(line.regions),
                Calls=line.calls,
                CallsAtWorst=line.at_worst,
                WorstUSD=line.worst_usd,
            )
            for line in planned.lines
        ],
        Notes=notes,
    )


REQUEST_SCHEMA: dict[str, Any] = TypeAdapter(BatchRequest).json_schema(
    ref_template="#/components/schemas/{model}"
)
"""The body of a request, with its parts under ``$defs``, for the OpenAPI document."""
