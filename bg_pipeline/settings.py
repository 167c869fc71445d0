"""Every setting of the pipeline: its type, its default, its environment name.

Credentials and endpoints are not here: they come from boto3's own chain only. The README's table is made
from this module by ``python -m bg_pipeline.settings``.
"""

import difflib
import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bg_pipeline.errors import SettingsError

PREFIX = "BG_"

Words = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list."""

RequestsPerMinute = Annotated[float | None, Field(gt=0, le=1_000_000)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseSettings):
    """The settings in use, read from the environment; made with `settings()`, which words its refusals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    bucket: str = Field("", description="The S3 bucket that holds photos, results and the pipeline's state.")
    allowed_buckets: Words = Field((), description="Other buckets a request may name.")
    regions: Words = Field(
        (),
        description="Regions for the models, comma-separated; empty: boto3's Region, and for an image model that is "
        "not there a Region that has it, which is told.",
    )
    image_models: Words = Field(
        ("titan-v2", "nova-canvas", "stability"),
        description="Image models in order of preference; the first one alive and allowed is used. "
        "`package.module:Class` is a generator of your own.",
    )
    caption_models: Words = Field(
        ("us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0", "us.amazon.nova-lite-v1:0"),
        description="Caption models in order of preference. The default ones are called through the inference "
        "profiles of the Region in use (`us.`, `eu.`, `apac.` …); what you name is taken as it is.",
    )
    caption_regions: Words = Field((), description="Regions for captions; empty: those of `BG_REGIONS`.")
    caption_tier: Literal["default", "flex"] = Field(
        "default",
        description="Bedrock's service tier for captions; `flex` costs half where a model has it, and may be slower.",
    )
    caption_prompt: str = Field(
        "Generate a detailed description of the image.", description="What the caption model is asked."
    )
    alt_text_length: int = Field(
        125,
        ge=0,
        le=1000,
        description="Characters of the alternative text that the same call makes for those who cannot see the "
        "picture; 0: none.",
    )
    default_prompt: str = Field(
        "", description="Background for folders without a request; empty: their images are skipped."
    )

    max_cost_usd: Dollars = Field(25.0, description="Hard cap of one run in dollars; 0: none.")
    max_cost_usd_per_day: Dollars = Field(
        0.0, description="Hard cap of a calendar day (UTC) over all runs in dollars; 0: none."
    )
    max_concurrency: int = Field(64, ge=1, le=512, description="Images worked on at a time, calls in flight.")
    max_decoded_images: int = Field(
        2,
        ge=1,
        le=64,
        description="Pictures held decoded at a time; each may need 20 bytes a pixel, a WebP 32.",
    )
    max_failed_share: Share = Field(
        0.5, description="Share of failures, after the first 20 images, that stops a run; 1: never."
    )
    max_regenerations: int = Field(
        1, ge=0, le=5, description="New attempts with another seed for a picture that failed its checks."
    )
    attempts: int = Field(3, ge=1, le=10, description="Attempts of a call that fails with a passing fault.")

    quota_titan_v1_rpm: RequestsPerMinute = Field(
        None, description="Your quota where it is not the default's."
    )
    quota_titan_v2_rpm: RequestsPerMinute = Field(None, description="Likewise.")
    quota_nova_canvas_rpm: RequestsPerMinute = Field(None, description="Likewise.")
    quota_stability_inpaint_rpm: RequestsPerMinute = Field(None, description="Likewise.")
    quota_stability_remove_background_rpm: RequestsPerMinute = Field(None, description="Likewise.")
    quota_caption_rpm: RequestsPerMinute = Field(None, description="Likewise.")
    quota_detect_labels_tps: Annotated[float | None, Field(gt=0, le=10_000)] = Field(
        None, description="Likewise, in calls a second."
    )
    quota_detect_faces_tps: Annotated[float | None, Field(gt=0, le=10_000)] = Field(
        None, description="Likewise, in calls a second."
    )
    quota_sam_rpm: RequestsPerMinute = Field(None, description="What your SAM endpoint takes a minute (60).")

    label_confidence: Annotated[float, Field(ge=0, le=100)] = Field(
        55.0, description="Labels below this confidence are not kept."
    )
    custom_labels_arn: str = Field(
        "",
        pattern=r"^(arn:[a-z0-9-]+:rekognition:[a-z0-9-]+:[0-9]+:project/[A-Za-z0-9_.-]+/version/[A-Za-z0-9_.-]+/[0-9]+)?$",
        description="Version of a Rekognition Custom Labels model that makes the labels; the job "
        "`custom_labels_window` starts it, and stops it, when photos wait for it.",
    )
    custom_labels_units: int = Field(
        1,
        ge=1,
        le=100,
        description="Inference units of that model; each is billed by the hour while it runs.",
    )
    custom_labels_confidence: Annotated[float, Field(ge=0, le=100)] = Field(
        70.0, description="That model's labels below this confidence are not kept."
    )
    custom_labels_start_minutes: Annotated[float, Field(gt=0, le=720)] = Field(
        30.0, description="A start of that model that takes longer is given up."
    )
    archive_to: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="Where photos go once all their results succeeded: `archive` is that prefix of the bucket, "
        "anything else another bucket; empty: they stay.",
    )
    mask_sources: Words = Field(
        ("alpha", "studio", "onnx", "persons", "cut-out"),
        description="Where a subject's mask may come from, the free ones first; leave one out to switch it off. "
        "`persons` are cut out around their faces (`Subject: FACES`).",
    )
    onnx_model: Path | None = Field(None, description="Your own ONNX matting model (extra `masks`).")
    sam_endpoint: str = Field("", description="SageMaker endpoint of a SAM model, for `Subject: FACES`.")
    sam_form: str = Field("", description="The endpoint's request and answer form, as JSON; see the README.")
    feather: Annotated[float, Field(ge=0, le=50)] = Field(
        1.5, description="Width in source pixels of the soft edge around the subject."
    )

    first_date: date = Field(date(2024, 1, 1), description="The first upload date that is a partition.")
    open_dates: int = Field(
        3, ge=1, le=31, description="Newest dates that the sensor looks at in every tick."
    )
    lookback_days: int = Field(30, ge=0, le=3650, description="Older dates that the sensor looks at hourly.")
    settle_seconds: int = Field(
        300, ge=0, le=86_400, description="Quiet time after which a folder without a request is a batch."
    )
    queue_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="SQS queue with the bucket's event notifications; with it there is the sensor `upload_events`.",
    )
    key_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="Prefix of asset keys and group names, beside other code."
    )
    keep_payloads: bool = Field(
        False, description="Keep the exact request and answer of each model call under `model-payloads/`."
    )
    state_dir: Path = Field(Path(".bg_pipeline"), description="Where `demo` and `up` keep their local state.")
    report_link_seconds: int = Field(
        86_400,
        ge=60,
        le=604_800,
        description="Life of a presigned report link, if the credentials live as long.",
    )
    html_report_images: int = Field(
        500,
        ge=0,
        le=10_000,
        description="Batches of up to so many images get a report as HTML with each run; that of a larger one is "
        "made by `bg-pipeline report --format html`.",
    )
    auto_approve: bool = Field(
        True, description="Results that passed every check are approved by themselves, without a person."
    )
    review_share: Share = Field(
        0.05, description="Share of those, chosen by their keys, that wait for a person all the same."
    )
    oidc_issuer: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Who signs people in to the HTTP API and the web page (OpenID Connect), such as a Cognito user "
        "pool's address.",
    )
    oidc_audience: str = Field(
        "", description="The audience that tokens for the HTTP API must name: the client id of the API."
    )
    oidc_client_id: str = Field(
        "",
        description="Client of the issuer with which people sign in to the web page; without it the page serves "
        "this machine only. Its callback address is `BG_PAGE_ADDRESS`/oauth2callback.",
    )
    oidc_client_secret: SecretStr = Field(SecretStr(""), description="The secret of that client.")
    page_address: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+)?$",
        description="Where browsers find the web page that people sign in to, such as `https://photos.example.com`.",
    )
    page_cookie_secret: SecretStr = Field(
        SecretStr(""),
        description="Signs the page's cookie of who has signed in, the same in all of its processes; "
        "empty: a new one with each start, after which everybody signs in again.",
    )
    api_requests_per_minute: int = Field(
        120, ge=1, le=100_000, description="Requests that each caller of the HTTP API may make a minute."
    )
    api_max_upload_mb: int = Field(
        30, ge=1, le=1000, description="Size of a photo, in MB, up to which the HTTP API takes it."
    )
    api_wait_seconds: Annotated[float, Field(ge=0, le=900)] = Field(
        280, description="How long a call of the HTTP API waits for its picture."
    )
    stale_hours: Annotated[float, Field(gt=0, le=8760)] = Field(
        24.0, description="Age of an upload from which a check warns where no report tells of it."
    )
    sns_topic_arn: str = Field(
        "",
        pattern=r"^(arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+(\.fifo)?)?$",
        description="SNS topic that is told of every finished batch, and of runs that left one unfinished.",
    )
    webhook_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Web hook that is told the same by a signed POST of JSON.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        description="What those are signed with (HMAC-SHA256); needed with a web hook.",
    )
    postgres_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL database (`postgresql://user:password@host/name`) in which `up` and `demo` keep "
        "Dagster's history (extra `postgres`); empty: SQLite.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the log.")

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

    @field_validator("image_models", "caption_models")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
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
        return getattr(self, f"quota_{operation.lower()}_rpm", None)


def settings(**overrides: Any) -> Settings:
    """The settings of this process: the environment's ``BG_*`` variables, then ``overrides``.

    Raises `SettingsError`, naming each variable, for a value that does not fit and for a name that is no
    setting.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{name} is not a setting{hint}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = (
            f"{PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}: "
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
