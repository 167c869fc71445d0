"""Every setting of the pipeline: its type, its default, its environment name.

Credentials and endpoints are not here: they come from boto3's own chain only. The README's table is made
from this module by ``python -m bg_pipeline.settings``.
"""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bg_pipeline.domain import model_facts
from bg_pipeline.domain.effects import Affects, Effect
from bg_pipeline.domain.requests import read_image_fields
from bg_pipeline.errors import RequestError, SettingsError

PREFIX = "BG_"

Words = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list."""

RequestsPerMinute = Annotated[float | None, Field(gt=0, le=1_000_000)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseSettings):
    """The settings in use, read from the environment; made with `settings()`, which words its refusals.

    The annotation of each declares what it affects (`bg_pipeline.domain.effects`).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    bucket: Annotated[str, Affects.RUN] = Field(
        "", description="The S3 bucket that holds photos, results and the pipeline's state."
    )
    allowed_buckets: Annotated[Words, Affects.RUN] = Field(
        (), description="Other buckets a request may name."
    )
    regions: Annotated[Words, Affects.RUN] = Field(
        (),
        description="Regions for the models, comma-separated; empty: boto3's Region, and for an image model that is "
        "not there a Region that has it, which is told.",
    )
    image_models: Annotated[Words, Affects.RUN] = Field(
        ("titan-v2", "nova-canvas", "stability"),
        description="Image models in order of preference; the first one alive and allowed is used. "
        "`package.module:Class` is a generator of your own.",
    )
    caption_models: Annotated[Words, Affects.RUN] = Field(
        ("us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0", "us.amazon.nova-lite-v1:0"),
        description="Caption models in order of preference; set and empty: no captions. The default ones are called "
        "through the inference profiles of the Region in use (`us.`, `eu.`, `apac.` …); what you name is taken as "
        "it is.",
    )
    caption_regions: Annotated[Words, Affects.RUN] = Field(
        (), description="Regions for captions; empty: those of `BG_REGIONS`."
    )
    caption_tier: Annotated[Literal["default", "flex"], Affects.NOTHING] = Field(
        "default",
        description="Bedrock's service tier for captions; `flex` costs half where a model has it, and may be slower.",
    )
    caption_prompt: Annotated[str, Effect(Affects.CAPTION_CALL, "prompt")] = Field(
        "Generate a detailed description of the image.", description="What the caption model is asked."
    )
    # Whether there is one changes the call, its length does not: a text that is there already is shortened.
    alt_text_length: Annotated[
        int, Effect(Affects.CAPTION_CALL, "alt_text", bool, needs="alt_text_length"), Affects.CAPTION
    ] = Field(
        125,
        ge=0,
        le=1000,
        description="Characters of the alternative text that the same call makes for those who cannot see the "
        "picture; 0: none.",
    )
    default_prompt: Annotated[str, Affects.RUN] = Field(
        "", description="Background for folders without a request; empty: their images are skipped."
    )

    max_cost_usd: Annotated[Dollars, Affects.RUN] = Field(
        25.0, description="Hard cap of one run in dollars; 0: none."
    )
    max_cost_usd_per_day: Annotated[Dollars, Affects.RUN] = Field(
        0.0, description="Hard cap of a calendar day (UTC) over all runs in dollars; 0: none."
    )
    max_concurrency: Annotated[int, Affects.NOTHING] = Field(
        64, ge=1, le=512, description="Images worked on at a time, calls in flight."
    )
    max_decoded_images: Annotated[int, Affects.NOTHING] = Field(
        0,
        ge=0,
        le=64,
        description="Worker processes that decode and finish photos; 0: one for each core.",
    )
    max_failed_share: Annotated[Share, Affects.RUN] = Field(
        0.5, description="Share of failures, after the first 20 images, that stops a run; 1: never."
    )
    max_regenerations: Annotated[int, Affects.NOTHING] = Field(
        1, ge=0, le=5, description="New attempts with another seed for a picture that failed its checks."
    )
    attempts: Annotated[int, Affects.NOTHING] = Field(
        3, ge=1, le=10, description="Attempts of a call that fails with a passing fault."
    )

    model_facts: Annotated[Path | None, Affects.RUN] = Field(
        None,
        description="TOML file with prices and quotas of your own image models, or that win over the built-in ones; "
        "see the README.",
    )

    quota_titan_v1_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None, description="Your quota where it is not the default's."
    )
    quota_titan_v2_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(None, description="Likewise.")
    quota_nova_canvas_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None, description="Likewise."
    )
    quota_stability_inpaint_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None, description="Likewise."
    )
    quota_stability_remove_background_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None, description="Likewise."
    )
    quota_caption_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(None, description="Likewise.")
    quota_detect_labels_tps: Annotated[float | None, Field(gt=0, le=10_000), Affects.NOTHING] = Field(
        None, description="Likewise, in calls a second."
    )
    quota_detect_faces_tps: Annotated[float | None, Field(gt=0, le=10_000), Affects.NOTHING] = Field(
        None, description="Likewise, in calls a second."
    )
    quota_sam_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None, description="What your SAM endpoint takes a minute (60)."
    )

    label_confidence: Annotated[
        float, Field(ge=0, le=100), Effect(Affects.LABELS_CALL, "min_confidence", unless="custom_labels_arn")
    ] = Field(55.0, description="Labels below this confidence are not kept.")
    custom_labels_arn: Annotated[str, Effect(Affects.LABELS_CALL, "model", needs="custom_labels_arn")] = (
        Field(
            "",
            pattern=r"^(arn:[a-z0-9-]+:rekognition:[a-z0-9-]+:[0-9]+:project/[A-Za-z0-9_.-]+/version/[A-Za-z0-9_.-]+/[0-9]+)?$",
            description="Version of a Rekognition Custom Labels model that makes the labels; the job "
            "`custom_labels_window` starts it, and stops it, when photos wait for it.",
        )
    )
    custom_labels_units: Annotated[int, Affects.NOTHING] = Field(
        1,
        ge=1,
        le=100,
        description="Inference units of that model; each is billed by the hour while it runs.",
    )
    custom_labels_confidence: Annotated[
        float, Field(ge=0, le=100), Effect(Affects.LABELS_CALL, "min_confidence", needs="custom_labels_arn")
    ] = Field(70.0, description="That model's labels below this confidence are not kept.")
    custom_labels_start_minutes: Annotated[float, Field(gt=0, le=720), Affects.NOTHING] = Field(
        30.0, description="A start of that model that takes longer is given up."
    )
    archive_to: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="Where photos go once all their results succeeded: `archive` is that prefix of the bucket, "
        "anything else another bucket; empty: they stay.",
    )
    mask_sources: Annotated[Words, Affects.MASK] = Field(
        ("alpha", "studio", "onnx", "persons", "cut-out"),
        description="Where a subject's mask may come from, the free ones first; leave one out to switch it off. "
        "`persons` are cut out around their faces (`Subject: FACES`).",
    )
    onnx_model: Annotated[Path | None, Affects.MASK] = Field(
        None, description="Your own ONNX matting model (extra `masks`)."
    )
    sam_endpoint: Annotated[str, Effect(Affects.SAM_CALL, "endpoint", needs="sam_endpoint")] = Field(
        "", description="SageMaker endpoint of a SAM model, for `Subject: FACES`."
    )
    sam_form: Annotated[str, Effect(Affects.SAM_CALL, "form", needs="sam_endpoint")] = Field(
        "", description="The endpoint's request and answer form, as JSON; see the README."
    )
    feather: Annotated[float, Field(ge=0, le=50), Affects.RESULT] = Field(
        1.5, description="Width in source pixels of the soft edge around the subject."
    )

    first_date: Annotated[date, Affects.NOTHING] = Field(
        date(2024, 1, 1), description="The first upload date that is a partition."
    )
    open_dates: Annotated[int, Affects.NOTHING] = Field(
        3, ge=1, le=31, description="Newest dates that the sensor looks at in every tick."
    )
    lookback_days: Annotated[int, Affects.NOTHING] = Field(
        30, ge=0, le=3650, description="Older dates that the sensor looks at hourly."
    )
    settle_seconds: Annotated[int, Affects.NOTHING] = Field(
        300, ge=0, le=86_400, description="Quiet time after which a folder without a request is a batch."
    )
    queue_url: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="SQS queue with the bucket's event notifications; with it there is the sensor `upload_events`.",
    )
    key_prefix: Annotated[str, Affects.NOTHING] = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="Prefix of asset keys and group names, beside other code."
    )
    keep_payloads: Annotated[bool, Affects.NOTHING] = Field(
        False, description="Keep the exact request and answer of each model call under `model-payloads/`."
    )
    state_dir: Annotated[Path, Affects.NOTHING] = Field(
        Path(".bg_pipeline"), description="Where `demo` and `up` keep their local state."
    )
    report_link_seconds: Annotated[int, Affects.NOTHING] = Field(
        86_400,
        ge=60,
        le=604_800,
        description="Life of a presigned report link, if the credentials live as long.",
    )
    html_report_images: Annotated[int, Affects.REPORT] = Field(
        500,
        ge=0,
        le=10_000,
        description="Batches of up to so many images get a report as HTML with each run; that of a larger one is "
        "made by `bg-pipeline report --format html`.",
    )
    auto_approve: Annotated[bool, Affects.NOTHING] = Field(
        True, description="Results that passed every check are approved by themselves, without a person."
    )
    review_share: Annotated[Share, Affects.NOTHING] = Field(
        0.05, description="Share of those, chosen by their keys, that wait for a person all the same."
    )
    oidc_issuer: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Who signs people in to the HTTP API and the web page (OpenID Connect), such as a Cognito user "
        "pool's address.",
    )
    oidc_audience: Annotated[str, Affects.NOTHING] = Field(
        "", description="The audience that tokens for the HTTP API must name: the client id of the API."
    )
    oidc_client_id: Annotated[str, Affects.NOTHING] = Field(
        "",
        description="Client of the issuer with which people sign in to the web page; without it the page serves "
        "this machine only. Its callback address is `BG_PAGE_ADDRESS`/oauth2callback.",
    )
    oidc_client_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""), description="The secret of that client."
    )
    page_address: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://[^\s/]+)?$",
        description="Where browsers find the web page that people sign in to, such as `https://photos.example.com`.",
    )
    page_cookie_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        description="Signs the page's cookie of who has signed in, the same in all of its processes; "
        "empty: a new one with each start, after which everybody signs in again.",
    )
    api_requests_per_minute: Annotated[int, Affects.NOTHING] = Field(
        120, ge=1, le=100_000, description="Requests that each caller of the HTTP API may make a minute."
    )
    api_max_upload_mb: Annotated[int, Affects.NOTHING] = Field(
        30, ge=1, le=1000, description="Size of a photo, in MB, up to which the HTTP API takes it."
    )
    api_wait_seconds: Annotated[float, Field(ge=0, le=900), Affects.NOTHING] = Field(
        280, description="How long a call of the HTTP API waits for its picture."
    )
    stale_hours: Annotated[float, Field(gt=0, le=8760), Affects.NOTHING] = Field(
        24.0, description="Age of an upload from which a check warns where no report tells of it."
    )
    sns_topic_arn: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+(\.fifo)?)?$",
        description="SNS topic that is told of every finished batch, and of runs that left one unfinished.",
    )
    webhook_url: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Web hook that is told the same by a signed POST of JSON.",
    )
    webhook_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        validate_default=True,
        description="What those are signed with (HMAC-SHA256); needed with a web hook.",
    )
    postgres_url: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        description="PostgreSQL database (`postgresql://user:password@host/name`) in which `up` and `demo` keep "
        "Dagster's history (extra `postgres`); empty: SQLite.",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Affects.NOTHING] = Field(
        "INFO", description="Level of the log."
    )

    _own_quotas: dict[str, float | None] = PrivateAttr(default_factory=dict)

    @field_validator(
        "allowed_buckets",
        "regions",
        "image_models",
        "caption_models",
        "caption_regions",
        "mask_sources",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("onnx_model", "model_facts", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return value if value != "" else None

    @field_validator("image_models")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        return value

    @field_validator("default_prompt")
    @classmethod
    def _a_prompt(cls, value: str) -> str:
        try:
            read_image_fields({"Prompt": value})
        except RequestError as error:
            raise ValueError("; ".join(text for _, text in error.problems)) from None
        return value

    @field_validator("mask_sources")
    @classmethod
    def _known_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = ("alpha", "studio", "onnx", "persons", "cut-out")
        for word in value:
            if word not in known:
                raise ValueError(f"'{word}' is not one of {', '.join(known)}")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signed(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if info.data.get("webhook_url") and not value.get_secret_value():
            raise ValueError("set it as well: what goes to BG_WEBHOOK_URL is signed with it")
        return value

    def quota(self, operation: str) -> float | None:
        """The account's own requests a minute for an operation such as ``TITAN_V2``, if it was set."""
        if operation.startswith("DETECT_"):
            a_second = getattr(self, f"quota_{operation.lower()}_tps", None)
            return None if a_second is None else a_second * 60
        name = quota_name(operation)
        return self._own_quotas.get(name, getattr(self, name, None))


def quota_name(operation: str) -> str:
    """The setting of an operation's requests a minute; ``BG_QUOTA_ACME_PAINT_RPM`` is ``quota_acme_paint_rpm``."""
    return f"quota_{re.sub('[^a-z0-9]+', '_', operation.lower())}_rpm"


def settings(**overrides: Any) -> Settings:
    """The settings of this process: the environment's ``BG_*`` variables, then ``overrides``.

    Prices and quotas of the file in ``BG_MODEL_FACTS`` count in this process until settings are made again; each
    operation in it has a setting ``BG_QUOTA_<NAME>_RPM``. Raises `SettingsError`, naming each variable, for a value
    that does not fit and for a name that is no setting, and naming file, table and key for a fault in that file.
    """
    fields = {PREFIX + name.upper() for name in Settings.model_fields}
    said = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    said |= {PREFIX + name.upper(): value for name, value in overrides.items()}
    quotas = {name: said[name] for name in said if _QUOTA.fullmatch(name) and name not in fields}
    _refuse_unknown(said.keys() - quotas.keys(), fields)
    with _named():
        made = Settings(
            **{name: overrides[name] for name in overrides if PREFIX + name.upper() not in quotas}
        )
    model_facts.use(made.model_facts)
    # The quotas of Rekognition are said a second.
    operations = {name for name in model_facts.operations() if not name.startswith("DETECT_")}
    _refuse_unknown(quotas, fields | {PREFIX + quota_name(operation).upper() for operation in operations})
    for name, value in quotas.items():
        with _named(name):
            made._own_quotas[name.removeprefix(PREFIX).lower()] = _QUOTA_VALUE.validate_python(value)
    return made


_QUOTA: Final = re.compile(f"{PREFIX}QUOTA_.+_RPM")
_QUOTA_VALUE: Final = TypeAdapter[float | None](RequestsPerMinute)


def _refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    for name in sorted(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            if _QUOTA.fullmatch(name):
                hint += " A model of your own has a quota once the file in BG_MODEL_FACTS names its operation"
            raise SettingsError(f"{name} is not a setting{hint}")


@contextmanager
def _named(variable: str = "") -> Iterator[None]:
    """Words what does not fit by the variable's name."""
    try:
        yield
    except ValidationError as error:
        problems = (
            f"{variable or PREFIX + '_'.join(str(part) for part in problem['loc']).upper()}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False)
        )
        raise SettingsError("; ".join(problems)) from None


def table() -> str:
    """The settings as a Markdown table for the README."""
    lines = ["| name | meaning | default |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = "" if default is None or str(default) == "" else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {field.description} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
