"""The calls that prepare and submit a batch: create it, upload its photos, plan it, submit its request.

A batch in preparation is a folder with a draft: it costs nothing, and no run works on it.
"""

import mimetypes
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, cast
from urllib.parse import quote

from botocore.exceptions import ClientError
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from bg_pipeline import planning
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.requests import BatchRequest, names_object
from bg_pipeline.domain.requests.fields import ImageEntry, ImageFields, is_mask_folder
from bg_pipeline.domain.requests.text import parse_object
from bg_pipeline.errors import PreconditionFailed, RequestError
from bg_pipeline.run.batch_work import open_draft
from bg_pipeline.run.context import RunContext
from bg_pipeline.uploads import listing as uploads
from bg_pipeline.uploads.listing import Uploaded
from bg_pipeline.uploads.submission import closed_folder, etags_of
from bg_pipeline.uploads.submitting import check_submission, new_batch, paid_pictures
from bg_pipeline.uploads.unicode_names import match_names, similar_name
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.service import (
    ASubmitter,
    IdempotencyKey,
    ObjectKey,
    Service,
    TheCaller,
    TheService,
    check_name,
)
from bg_pipeline.web.single_photo_jobs import idempotent_batch

UPLOAD_SECONDS = 3600
"""How long a presigned upload is valid."""
MAX_FILES = 1000

MAX_SUGGESTIONS: Final = 20
"""Names of a request that were not uploaded for which a similar one is looked for."""
MAX_LOOKED_UP: Final = 50
"""Masks and backdrops outside of the batch's folder whose existence is checked."""

router = APIRouter(prefix="/batches", tags=["batches"])

_REQUEST_REF = {"$ref": "#/components/schemas/BatchRequest"}


def _batch(
    date: Annotated[date, Path(description="Upload date of the batch.")],
    name: Annotated[str, Path(description="Name of the batch, the last part of its id.")],
    service: TheService,
    caller: TheCaller,
) -> Batch:
    """The batch in a path. Raises `NoSuchBatch` if the caller may not see it, whether it exists or not."""
    try:
        batch = Batch(date, name)
    except ValueError as error:
        raise Problem(404, "NoSuchBatch", str(error)) from None
    service.acts.authorization.require_visible(caller, batch)
    return batch


def _own_batch(batch: Annotated[Batch, Depends(_batch)], service: TheService, caller: TheCaller) -> Batch:
    """The batch in a path. Raises `NotAllowed` if the caller may see it but not change it."""
    service.acts.authorization.require_change(caller, batch)
    return batch


TheBatch = Annotated[Batch, Depends(_batch)]
OwnBatch = Annotated[Batch, Depends(_own_batch)]


class File(BaseModel):
    """A photo that will be uploaded; its name may contain folders."""

    model_config = ConfigDict(extra="forbid")

    Name: ObjectKey = Field(examples=["shoes/red.jpg"])
    ContentType: Annotated[str | None, Field(pattern=r"^image/[a-z0-9.+-]{1,50}$")] = Field(
        None, description="By default what the name's extension says."
    )


class Files(BaseModel):
    """Up to 1,000 photos; add more by calling ``/uploads``."""

    model_config = ConfigDict(extra="forbid")

    Files: Annotated[list[File], Field(max_length=MAX_FILES)] = []


class Upload(BaseModel):
    """Where to POST one photo: a form (multipart/form-data) of ``Fields`` and, last, ``file`` with its bytes.

    S3 refuses a file that is empty, larger than ``MaxBytes``, or uploaded after ``Expires``.
    """

    Name: str
    Key: str
    Url: str
    Fields: dict[str, str]
    MaxBytes: int
    Expires: datetime


class Prepared(BaseModel):
    """A batch in preparation. ``Id`` is a suggested ``Id`` for its request."""

    Id: str
    Batch: str
    Prefix: str
    Uploads: list[Upload]


class Submitted(BaseModel):
    """A submitted batch. ``PaidPictures`` is the number of pictures to pay for if each succeeds at the first try."""

    Id: str
    Batch: str
    Images: int
    PaidPictures: int


class PlannedCalls(BaseModel):
    """The calls of one operation. ``WorstUSD`` is null if a price is not known."""

    Operation: str
    Model: str
    Regions: list[str]
    Calls: int
    CallsAtWorst: int
    WorstUSD: float | None


class Plan(BaseModel):
    """What a run would do, and its highest possible cost. ``Notes`` name the models that cannot be used."""

    Images: int
    Due: int
    WithoutPrompt: int
    Minutes: float
    MinutesAtWorst: float
    WorstUSD: float | None
    Calls: list[PlannedCalls]
    Notes: list[str]


@router.post(
    "",
    status_code=201,
    responses={202: {"model": Submitted, "description": "The request was submitted"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [{"$ref": "#/components/schemas/Files"}, _REQUEST_REF]},
                }
            },
        }
    },
)
async def prepare(
    service: TheService,
    caller: ASubmitter,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Prepared | Submitted:
    """Creates a batch with an upload for each of its files (201), or submits the batch of a batch request (202).

    A batch request names the folder of photos that are already in the bucket as ``InputS3Prefix``
    (``image-files/YYYY/MM/DD/name``), as clients of a workflow do. Repeating it changes nothing; another request for
    the same folder is refused (409). If groups have rights, only an admin can submit a folder that the caller did not
    prepare through this API.
    """
    data = await request.body()
    document = _json_object(data)
    if document.keys() - Files.model_fields.keys():
        batch = _batch_of_request(document)
        submitted = await service.run_with_body(_submit_stored, caller, batch, data)
        response.status_code = 202
        response.headers["Location"] = batch_path(batch)
        return submitted
    try:
        files = Files.model_validate(document)
    except ValidationError as error:
        errors = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(errors) from None
    batch, prepared = await run_in_threadpool(_prepare, service, caller, idempotency_key, files)
    response.headers["Location"] = batch_path(batch)
    return prepared


def _prepare(
    service: Service, caller: Person, idempotency_key: str | None, files: Files
) -> tuple[Batch, Prepared]:
    names = [file.Name for file in files.Files]
    batch = idempotent_batch(service.store, caller, idempotency_key, ["batches", names], new_batch())
    service.acts.authorization.take(caller, batch)
    prepared = _uploads(service, batch, files)
    if service.store.head(batch.request_key) is None:
        with suppress(PreconditionFailed):
            # Of an earlier call with this idempotency key; it may be in the middle of being discarded.
            service.store.write_json(
                batch.draft_key, {"Id": batch.derived_id(service.store.bucket)}, if_absent=True
            )
    return batch, prepared


def _submit_stored(service: Service, caller: Person, batch: Batch, data: bytes) -> Submitted:
    service.acts.authorization.require_change(caller, batch)
    return _submit(service, caller, batch, data)


def _json_object(data: bytes) -> dict[str, Any]:
    """The body as a JSON object; raises `Problem` 422 if it is none."""
    try:
        return parse_object(data)
    except RequestError as error:
        raise Problem(422, "InvalidRequest", f"body: {error}") from None


def _batch_of_request(document: Mapping[str, Any]) -> Batch:
    """The batch whose folder a request names as ``InputS3Prefix``; raises `RequestError` if it names none."""
    prefix = document.get("InputS3Prefix")
    batch = find_batch(f"{prefix}/any") if isinstance(prefix, str) else None
    if batch is None or batch.input_prefix != prefix:
        text = (
            "must be the folder of the photos, image-files/YYYY/MM/DD/<batch>, if a request is sent here; "
            "or send Files first, upload them, and PUT the request to the batch"
        )
        raise RequestError([("InputS3Prefix", text)])
    return batch


@router.post("/{date}/{name}/uploads")
def prepare_more(batch: OwnBatch, files: Files, service: TheService) -> Prepared:
    """Adds uploads for more files to a batch in preparation."""
    _check_is_draft(service, batch)
    return _uploads(service, batch, files)


@router.delete("/{date}/{name}", status_code=204)
def discard(batch: OwnBatch, service: TheService, caller: TheCaller) -> None:
    """Deletes a batch in preparation with all its uploads."""
    _check_is_draft(service, batch)
    service.acts.discard(caller, batch)


@router.put(
    "/{date}/{name}/request",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _REQUEST_REF}},
        }
    },
)
async def submit(
    batch: OwnBatch, service: TheService, caller: TheCaller, request: Request, response: Response
) -> Submitted:
    """Checks the request against the uploaded photos and submits the batch."""
    data = await request.body()
    response.headers["Location"] = batch_path(batch)
    return await service.run_with_body(_submit, caller, batch, data)


@router.post(
    "/{date}/{name}/plan",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _REQUEST_REF}},
        }
    },
)
async def plan(batch: OwnBatch, service: TheService, caller: TheCaller, request: Request) -> Plan:
    """Returns what this request would do and cost with the photos uploaded so far; nothing is paid or stored."""
    data = await request.body()
    return await service.run_with_body(_plan, caller, batch, data)


def batch_path(batch: Batch) -> str:
    """The path of a batch in this API, for ``Location`` headers."""
    return f"/batches/{batch.date}/{quote(batch.name, safe='')}"


def find_uploaded(service: Service, batch: Batch) -> Uploaded:
    """What was uploaded of a batch; raises `Problem` 404 if it does not exist."""
    uploaded = uploads.find(service.store, batch)
    if uploaded is None:
        raise Problem(404, "NoSuchBatch", f"there is no batch {batch.path}")
    return uploaded


def _check_is_draft(service: Service, batch: Batch) -> None:
    """Raises `Problem` if the batch was submitted (409) or does not exist (404)."""
    if service.store.head(batch.request_key) is not None:
        raise Problem(409, "AlreadySubmitted", f"batch {batch.path} was submitted; prepare another one")
    if service.store.head(batch.draft_key) is None:
        raise Problem(404, "NoSuchBatch", f"no batch {batch.path} is in preparation")


def _uploads(service: Service, batch: Batch, files: Files) -> Prepared:
    names = [file.Name for file in files.Files]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise Problem(422, "BadName", f"'{repeated[0]}' is named twice")
    return Prepared(
        Id=batch.derived_id(service.store.bucket),
        Batch=batch.path,
        Prefix=batch.input_prefix,
        Uploads=[_upload(service, batch, file) for file in files.Files],
    )


def _upload(service: Service, batch: Batch, file: File) -> Upload:
    check_name(file.Name)
    if "${filename}" in file.Name:
        raise Problem(422, "BadName", "a name cannot contain '${filename}': S3 would replace it")
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
    """The media type of the name's extension; raises `Problem` 422 if it is not that of an image."""
    extension = name.rpartition(".")[2].lower()
    for format, extensions in EXTENSIONS.items():
        if extension in extensions:
            return f"image/{format}"
    guessed = mimetypes.guess_type(name)[0] or "of an unknown type"
    text = f"'{name}' does not have the extension of an image (it is {guessed}); send its ContentType"
    raise Problem(422, "NotAnImage", text)


def _checked(service: Service, caller: Person, batch: Batch, data: bytes) -> tuple[BatchRequest, Uploaded]:
    """The parsed request, and what was uploaded for it; raises `RequestError` by field, with at most 100 problems."""
    uploaded = find_uploaded(service, batch)
    request = check_submission(service.settings, batch, data)
    service.acts.authorization.check_request(caller, batch, request)
    problems: list[tuple[str, str]] = []
    if request.InputS3Prefix == batch.input_prefix and request.S3Bucket == service.store.bucket:
        matched = match_names(request.entries, uploaded.objects)
        for number, entry in enumerate(request.Images or ()):
            if entry.ImageName not in matched:
                found = (
                    similar_name(entry.ImageName, uploaded.objects) if len(problems) < MAX_SUGGESTIONS else ""
                )
                words = f"; did you mean '{found}'?" if found else ""
                problems.append(
                    (f"Images[{number}].ImageName", f"'{entry.ImageName}' was not uploaded{words}")
                )
        if not uploaded.images:
            problems.append(("Images", "no photo was uploaded"))
        for name, each in uploaded.objects.items():
            if each.size > service.max_bytes:
                text = f"'{name}' has {each.size:,} bytes; at most {service.max_bytes:,} are allowed"
                problems.append(("", text))
    problems += _missing_objects(service, request, uploaded)
    if problems:
        raise RequestError(problems[:100])
    return request, uploaded


def _missing_objects(
    service: Service, request: BatchRequest, uploaded: Uploaded
) -> Iterator[tuple[str, str]]:
    """Fields with the key of a mask or backdrop that is not there: its images could only fail, after paid labels.

    Keys outside of the batch's folder cost a call each; only the first `MAX_LOOKED_UP` are looked up.
    """
    store, batch = service.store.in_bucket(request.S3Bucket), uploaded.batch
    own = f"{batch.input_prefix}/" if request.S3Bucket == service.store.bucket else ""
    there, places = uploaded.objects, dict[str, str]()
    levels = (("", request), *((f"Images[{at}].", each) for at, each in enumerate(request.Images or ())))
    for place, level in levels:
        for field in ("MaskKey", "Backdrop"):
            key = getattr(level, field)
            if key and names_object(key) and not is_mask_folder(key):
                places.setdefault(key, place + field)
    looked_up = 0
    for key, field in places.items():
        if own and key.startswith(own):
            missing = key.removeprefix(own) not in there
        else:
            looked_up, missing = looked_up + 1, False
            # The run tells of an object that it may not read.
            with suppress(ClientError):
                missing = looked_up <= MAX_LOOKED_UP and store.head(key) is None
        if missing:
            yield field, f"there is no object {key} in the bucket {store.bucket}"


def _submit(service: Service, caller: Person, batch: Batch, data: bytes) -> Submitted:
    request, uploaded = _checked(service, caller, batch, data)
    names = list(request.entries) or list(uploaded.images)
    if request.S3Bucket != service.store.bucket:
        closed_with: dict[str, str] | None = None
    elif request.InputS3Prefix == batch.input_prefix:
        closed_with = etags_of(uploaded.objects)
    else:
        closed_with = closed_folder(service.store, request.InputS3Prefix)
    draft = uploaded.draft is not None
    if not service.acts.submit(caller, batch, data, request, closed_with=closed_with, draft=draft):
        text = f"batch {batch.path} was submitted with another request; prepare another one"
        raise Problem(409, "AlreadySubmitted", text)
    return Submitted(
        Id=request.Id, Batch=batch.path, Images=len(names), PaidPictures=paid_pictures(request, names)
    )


def _plan(service: Service, caller: Person, batch: Batch, data: bytes) -> Plan:
    request, uploaded = _checked(service, caller, batch, data)
    work = open_draft(service.store, service.settings, uploaded, request)
    context = RunContext(service.settings, service.aws, service.store, stop=threading.Event())
    try:
        models, notes = planning.choose_models(context)
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


def _without_empty_defaults(schema: Any) -> Any:
    """A JSON schema without defaults that mean "not given": generators of clients would require such fields."""
    if isinstance(schema, list):
        return [_without_empty_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_empty_defaults(value)
        for name, value in schema.items()
        if not (name == "default" and value in (None, "", []))
    }


def _request_schema() -> dict[str, Any]:
    template = "#/components/schemas/{model}"
    schema = TypeAdapter(BatchRequest).json_schema(ref_template=template)
    # pydantic does not take over the descriptions of inherited fields.
    inherited = TypeAdapter(ImageFields).json_schema(ref_template=template)["properties"]
    for described in (schema, schema["$defs"][ImageEntry.__name__]):
        for name, field in described["properties"].items():
            if "description" not in field:
                field["description"] = inherited[name]["description"]
    return cast(dict[str, Any], _without_empty_defaults(schema))


REQUEST_SCHEMA: Final = _request_schema()
"""The JSON schema of a request's body for the OpenAPI document; the schemas it refers to are under ``$defs``."""
