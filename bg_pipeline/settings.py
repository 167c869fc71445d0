"""Every setting of the pipeline: type, default, environment variable and description.

Credentials and endpoints are not settings: they come only from boto3's own configuration chain.
``python -m bg_pipeline.settings`` prints the README's settings table.
"""

import base64
import binascii
import difflib
import ipaddress
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
    """The settings of a process; make them with `settings()`, which reports errors by environment variable.

    Each field's annotation declares what the setting affects (`bg_pipeline.domain.effects`).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    bucket: Annotated[str, Affects.RUN] = Field(
        "", description="S3 bucket for photos, results and the pipeline's state."
    )
    allowed_buckets: Annotated[Words, Affects.RUN] = Field(
        (), description="Other S3 buckets that a request or a manifest may name, comma-separated."
    )
    regions: Annotated[Words, Affects.RUN] = Field(
        (),
        description="AWS Regions for model calls, comma-separated. Empty: boto3's default Region; for an "
        "image model that does not exist there, a Region that has it, which the log names.",
    )
    image_models: Annotated[Words, Affects.RUN] = Field(
        ("titan-v2", "nova-canvas", "stability"),
        description="Image models in order of preference, comma-separated; the first one that is available "
        "and allowed is used. `package.module:Class` is a generator class of your own.",
    )
    scene_models: Annotated[Words, Affects.RUN] = Field(
        ("stable-image-ultra", "stable-image-core", "sd3-5-large"),
        description="Models that paint the scenes of requests with `Scene`, in order of preference, comma-separated.",
    )
    caption_models: Annotated[Words, Affects.RUN] = Field(
        ("us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0", "us.amazon.nova-lite-v1:0"),
        description="Caption models in order of preference, comma-separated; an empty value switches captions"
        " off. The default models are called through the inference profiles of the Region in use "
        "(`us.`, `eu.`, `apac.` …); model ids that you set are used unchanged.",
    )
    caption_regions: Annotated[Words, Affects.RUN] = Field(
        (), description="AWS Regions for caption calls, comma-separated. Empty: those of `BG_REGIONS`."
    )
    caption_tier: Annotated[Literal["default", "flex"], Affects.NOTHING] = Field(
        "default",
        description="Bedrock service tier for caption calls. `flex` costs half for models that offer it, and "
        "may be slower.",
    )
    caption_prompt: Annotated[str, Effect(Affects.CAPTION_CALL, "prompt")] = Field(
        "Generate a detailed description of the image.",
        description="Instruction that is sent to the caption model with each photo.",
    )
    # Only 0 or not 0 changes the caption call; for a smaller length, the stored text is shortened.
    alt_text_length: Annotated[
        int, Effect(Affects.CAPTION_CALL, "alt_text", bool, needs="alt_text_length"), Affects.CAPTION
    ] = Field(
        125,
        ge=0,
        le=1000,
        description="Maximum number of characters of the alternative text (for people who cannot see the "
        "picture), which the caption call writes too; 0: no alternative text.",
    )
    default_prompt: Annotated[str, Affects.RUN] = Field(
        "",
        description="Background prompt for upload folders without a request. Empty: their images are skipped.",
    )

    max_cost_usd: Annotated[Dollars, Affects.RUN] = Field(
        25.0, description="Spending cap of one run in US dollars; 0: no cap."
    )
    max_cost_usd_per_day: Annotated[Dollars, Affects.RUN] = Field(
        0.0, description="Spending cap of one calendar day (UTC) over all runs, in US dollars; 0: no cap."
    )
    max_concurrency: Annotated[int, Affects.NOTHING] = Field(
        64,
        ge=1,
        le=512,
        description="Number of images that are processed at the same time, including those that wait for a "
        "model call.",
    )
    runs_per_date: Annotated[int, Affects.NOTHING] = Field(
        1,
        ge=1,
        le=100,
        description="Number of runs that work on one upload date at once, on as many machines as your launcher "
        "gives them: the sensors request as many for a date that is large enough, and its large batches are divided "
        "among them. Set it for all of them alike.",
    )
    part_images: Annotated[int, Affects.NOTHING] = Field(
        500,
        ge=1,
        le=100_000,
        description="Number of images in a part of a batch, which one run works on at a time (`BG_RUNS_PER_DATE`).",
    )
    max_decoded_images: Annotated[int, Affects.NOTHING] = Field(
        0,
        ge=0,
        le=64,
        description="Number of worker processes that decode and finish photos; 0: one for each core.",
    )
    max_failed_share: Annotated[Share, Affects.RUN] = Field(
        0.5,
        description="Share of a batch's images (0 to 1) whose calls failed that stops the batch, measured after its "
        "first 20 images; 1: never stop.",
    )
    max_regenerations: Annotated[int, Affects.NOTHING] = Field(
        1,
        ge=0,
        le=5,
        description="Number of times that a picture which failed its checks is generated again with another "
        "seed.",
    )
    attempts: Annotated[int, Affects.NOTHING] = Field(
        3,
        ge=1,
        le=10,
        description="Number of times that a call is tried in all when it fails with a temporary error.",
    )

    model_facts: Annotated[Path | None, Affects.RUN] = Field(
        None,
        description="TOML file with prices and quotas of your own image models, or with values that replace "
        "the built-in ones; see the README.",
    )

    quota_titan_v1_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Titan Image Generator v1, in requests per minute, if it differs"
        " from the AWS default.",
    )
    quota_titan_v2_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Titan Image Generator v2, in requests per minute, if it differs"
        " from the AWS default.",
    )
    quota_nova_canvas_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Nova Canvas, in requests per minute, if it differs from the AWS"
        " default.",
    )
    quota_stability_inpaint_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Stability inpainting, in requests per minute, if it differs "
        "from the AWS default.",
    )
    quota_stability_remove_background_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Stability background removal, in requests per minute, if it "
        "differs from the AWS default.",
    )
    quota_caption_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Your account's quota for the caption model, in requests per minute, if it differs from "
        "the AWS default.",
    )
    quota_detect_labels_tps: Annotated[float | None, Field(gt=0, le=10_000), Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Rekognition DetectLabels, in requests per second, if it differs"
        " from the AWS default.",
    )
    quota_detect_faces_tps: Annotated[float | None, Field(gt=0, le=10_000), Affects.NOTHING] = Field(
        None,
        description="Your account's quota for Rekognition DetectFaces, in requests per second, if it differs "
        "from the AWS default.",
    )
    quota_sam_rpm: Annotated[RequestsPerMinute, Affects.NOTHING] = Field(
        None,
        description="Requests per minute that your SAM endpoint (`BG_SAM_ENDPOINT`) can answer; unset: 60.",
    )

    label_confidence: Annotated[
        float, Field(ge=0, le=100), Effect(Affects.LABELS_CALL, "min_confidence", unless="custom_labels_arn")
    ] = Field(
        55.0, description="Minimum confidence (0 to 100) of a Rekognition label; labels below it are dropped."
    )
    custom_labels_arn: Annotated[str, Effect(Affects.LABELS_CALL, "model", needs="custom_labels_arn")] = (
        Field(
            "",
            pattern=r"^(arn:[a-z0-9-]+:rekognition:[a-z0-9-]+:[0-9]+:project/[A-Za-z0-9_.-]+/version/[A-Za-z0-9_.-]+/[0-9]+)?$",
            description="ARN of the Rekognition Custom Labels model version that labels the photos instead of "
            "DetectLabels. The job `custom_labels_window` starts the model when photos wait for it, "
            "and stops it afterwards.",
        )
    )
    custom_labels_units: Annotated[int, Affects.NOTHING] = Field(
        1,
        ge=1,
        le=100,
        description="Inference units of the Custom Labels model; each is billed by the hour while the model "
        "runs.",
    )
    custom_labels_confidence: Annotated[
        float, Field(ge=0, le=100), Effect(Affects.LABELS_CALL, "min_confidence", needs="custom_labels_arn")
    ] = Field(
        70.0,
        description="Minimum confidence (0 to 100) of a Custom Labels label; labels below it are dropped.",
    )
    custom_labels_start_minutes: Annotated[float, Field(gt=0, le=720), Affects.NOTHING] = Field(
        30.0, description="Minutes after which the start of the Custom Labels model is given up."
    )
    archive_to: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="Where photos are moved once all their results have succeeded: `archive` is the prefix of"
        " that name in the bucket, any other value is another bucket. Empty: photos stay where "
        "they are.",
    )
    mask_sources: Annotated[Words, Affects.MASK] = Field(
        ("alpha", "studio", "onnx", "network", "persons", "cut-out"),
        description="Sources of the subject's mask, in the order in which they are tried; leave one out to switch it "
        "off: the photo's own transparency, a plain background, `BG_ONNX_MODEL`, the built-in network, people around "
        "their faces (`Subject: FACES`), a paid cut-out.",
    )
    onnx_model: Annotated[Path | None, Affects.MASK] = Field(
        None,
        description="ONNX file of your own salient-object or matting network (U²-Net, IS-Net, BiRefNet, MODNet …), "
        "asked before the built-in one (extra `masks`).",
    )
    sam_endpoint: Annotated[str, Effect(Affects.SAM_CALL, "endpoint", needs="sam_endpoint")] = Field(
        "", description="SageMaker endpoint of a SAM model, used for `Subject: FACES`."
    )
    sam_form: Annotated[str, Effect(Affects.SAM_CALL, "form", needs="sam_endpoint")] = Field(
        "",
        description="JSON description of the SAM endpoint's request and response format; see docs/masks.md.",
    )
    feather: Annotated[float, Field(ge=0, le=50), Affects.RESULT] = Field(
        1.5, description="Width of the soft edge around the subject, in pixels of the photo."
    )
    scene_colour_matching: Annotated[
        float, Field(ge=0, le=1), Effect(Affects.RESULT, needs="scene_colour_matching")
    ] = Field(
        0.0,
        description="How far (0 to 1) the subject's colours are drawn to those of its `Scene`, with `Mode: DEFAULT` "
        "only; 0: not at all.",
    )
    # A certificate is renewed; results that exist keep the signature that they have, or none.
    c2pa_certificate: Annotated[Path | None, Affects.NOTHING] = Field(
        None,
        description="PEM file with your C2PA certificate and its chain (extra `c2pa`); results that are made from "
        "now on are signed. Empty: results are not signed.",
    )
    c2pa_key: Annotated[Path | None, Affects.NOTHING] = Field(
        None,
        validate_default=True,
        description="PEM file (PKCS #8, no pass phrase) with the private key of `BG_C2PA_CERTIFICATE`; required with "
        "it.",
    )

    first_date: Annotated[date, Affects.NOTHING] = Field(
        date(2024, 1, 1), description="First upload date that is a Dagster partition."
    )
    open_dates: Annotated[int, Affects.NOTHING] = Field(
        3,
        ge=1,
        le=31,
        description="Number of newest upload dates that the sensor `new_uploads` lists in every tick.",
    )
    lookback_days: Annotated[int, Affects.NOTHING] = Field(
        30,
        ge=0,
        le=3650,
        description="Number of days back that the sensor `new_uploads` looks for older upload dates, once an "
        "hour.",
    )
    settle_seconds: Annotated[int, Affects.NOTHING] = Field(
        300,
        ge=0,
        le=86_400,
        description="Seconds without a new upload after which a folder without a request is run as a batch.",
    )
    draft_days: Annotated[int, Affects.NOTHING] = Field(
        0,
        ge=0,
        le=3650,
        description="Days without a change after which the sensor `draft_expiry` deletes a draft (photos that were "
        "uploaded on the page or through the API and not submitted); 0: never.",
    )
    queue_url: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="URL of the SQS queue that gets the bucket's event notifications; with it the sensor "
        "`upload_events` exists.",
    )
    key_prefix: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^[A-Za-z0-9_]*$",
        description="Prefix of Dagster asset keys and group names, to keep them apart from those of other "
        "code.",
    )
    asset_owners: Annotated[Words, Affects.NOTHING] = Field(
        (),
        description="Owners of the assets in Dagster, comma-separated: e-mail addresses, or teams such as "
        "`team:photos`.",
    )
    automation_conditions: Annotated[bool, Affects.NOTHING] = Field(
        False,
        description="Give the assets automation conditions: when `raw_images` of a date was materialized, Dagster's "
        "automation sensor requests the others. An alternative to the sensor `new_uploads`.",
    )
    fresh_hours: Annotated[float, Field(ge=0, le=8760), Affects.NOTHING] = Field(
        0.0,
        description="Hours after which Dagster calls an asset stale that was materialized for no date; 0: never, for "
        "photos that do not come every day.",
    )
    keep_payloads: Annotated[bool, Affects.NOTHING] = Field(
        False,
        description="Store the exact request and response of each model call under `model-payloads/`, for audits: "
        "some 4 MB for each photo, 0.1 USD a month for 1,000 of them. Off, because it stores people's photos once "
        "more; the answers are kept in any case.",
    )
    state_dir: Annotated[Path, Affects.NOTHING] = Field(
        Path(".bg_pipeline"), description="Folder in which `demo` and `up` keep their local state."
    )
    report_link_seconds: Annotated[int, Affects.NOTHING] = Field(
        86_400,
        ge=60,
        le=604_800,
        description="Lifetime in seconds of a presigned report link; it ends earlier if the credentials that "
        "signed it expire.",
    )
    html_report_images: Annotated[int, Affects.REPORT] = Field(
        500,
        ge=0,
        le=10_000,
        description="Largest number of images for which each run writes the HTML report; `bg-pipeline report "
        "--format html` makes it for larger batches.",
    )
    auto_approve: Annotated[bool, Affects.NOTHING] = Field(
        True, description="Approve results that passed every check automatically, without a person."
    )
    approval_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        description="Secret that signs approvals of samples; the same value for the page, the API, `bg-pipeline "
        "approve` and the runs. With it, an approval that somebody without it wrote to `image-files/` does not "
        "count, nor do earlier ones. Empty: whoever may write there may approve.",
    )
    review_share: Annotated[Share, Affects.NOTHING] = Field(
        0.05,
        description="Share (0 to 1) of the automatically approvable results that a person has to review "
        "anyway; drawn by their keys, more of those whose mask is less sure.",
    )
    oidc_issuer: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="OpenID Connect issuer that signs people in to the HTTP API and the web page, for example"
        " the address of a Cognito user pool.",
    )
    oidc_audience: Annotated[str, Affects.NOTHING] = Field(
        "", description="Audience that tokens for the HTTP API must contain: the API's client id."
    )
    oidc_acr: Annotated[Words, Affects.NOTHING] = Field(
        (),
        description="Values of the claim `acr` (how somebody signed in) that HTTP API and page accept, "
        "comma-separated, for example one that stands for two factors. Empty: any, also none.",
    )
    oidc_client_id: Annotated[str, Affects.NOTHING] = Field(
        "",
        description="OpenID Connect client id with which people sign in to the web page; without it the page "
        "serves this machine only. Its callback address is `BG_PAGE_ADDRESS`/oauth2callback.",
    )
    oidc_client_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""), description="Secret of the OpenID Connect client in `BG_OIDC_CLIENT_ID`."
    )
    oidc_logout_url: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Address of the sign-in service's own sign-out, for example "
        "`https://<domain>.auth.<region>.amazoncognito.com/logout`. Empty: the `end_session_endpoint` of its "
        "discovery document. Allow `BG_PAGE_ADDRESS`/oauth2callback as a sign-out address there.",
    )
    oidc_groups_claim: Annotated[str, Affects.NOTHING] = Field(
        "cognito:groups",
        min_length=1,
        description="Claim of the sign-in token that names a person's groups, as a list; a text is one group.",
    )
    submitter_groups: Annotated[Words, Affects.NOTHING] = Field(
        (),
        description="Groups whose people may submit batches, and see and continue their own, comma-separated. If "
        "this and the next three settings are empty, everybody who signs in may do everything. Names must be equal "
        "to the letter.",
    )
    reviewer_groups: Annotated[Words, Affects.NOTHING] = Field(
        (), description="Groups whose people see all batches, approve and reject results, and redo pictures."
    )
    publisher_groups: Annotated[Words, Affects.NOTHING] = Field(
        (), description="Groups whose people see all batches and publish approved results."
    )
    admin_groups: Annotated[Words, Affects.NOTHING] = Field(
        (), description="Groups whose people may do everything, with everybody's batches."
    )
    page_sign_in_hours: Annotated[float, Field(gt=0, le=720), Affects.NOTHING] = Field(
        12.0,
        description="Hours after which people must sign in to the web page again; changes of their groups count "
        "from then on.",
    )
    page_idle_minutes: Annotated[float, Field(ge=0, le=43_200), Affects.NOTHING] = Field(
        60.0,
        description="Minutes without use after which people must sign in to the web page again; a list that "
        "refreshes itself is no use. 0: only `BG_PAGE_SIGN_IN_HOURS` counts.",
    )
    page_address: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://[^\s/]+)?$",
        description="Address at which browsers reach the web page with sign-in, for example "
        "`https://photos.example.com`.",
    )
    page_cookie_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        description="Secret that signs the web page's sign-in cookie; use the same value in all of its "
        "processes. Empty: a new secret at each start, after which everybody has to sign in "
        "again.",
    )
    trusted_proxies: Annotated[Words, Affects.NOTHING] = Field(
        (),
        description="Addresses or networks of the reverse proxies in front of the web page whose `X-Forwarded-*` "
        "headers are used, comma-separated, for example `10.0.0.0/16`. Headers from elsewhere are ignored.",
    )
    api_requests_per_minute: Annotated[int, Affects.NOTHING] = Field(
        120, ge=1, le=100_000, description="Requests per minute that each caller of the HTTP API may make."
    )
    api_access_tokens_only: Annotated[bool, Affects.NOTHING] = Field(
        False,
        description="Refuse ID tokens at the HTTP API: only tokens that say that they are access tokens are taken "
        "(`typ: at+jwt`, Cognito's `token_use: access`, Keycloak's `typ: Bearer`).",
    )
    api_max_upload_mb: Annotated[int, Affects.NOTHING] = Field(
        30, ge=1, le=1000, description="Largest photo, in MB, that the HTTP API accepts."
    )
    api_wait_seconds: Annotated[float, Field(ge=0, le=900), Affects.NOTHING] = Field(
        280, description="Seconds that a call of the HTTP API waits for its picture."
    )
    api_link_seconds: Annotated[int, Affects.NOTHING] = Field(
        3600,
        ge=60,
        le=604_800,
        description="Lifetime in seconds of the HTTP API's links to pictures; they end earlier if the credentials "
        "that signed them expire.",
    )
    api_allowed_origins: Annotated[Words, Affects.NOTHING] = Field(
        (),
        description="Web sites whose pages may call the HTTP API from a browser (CORS), comma-separated, for example "
        "`https://shop.example.com`.",
    )
    api_removal_by_url: Annotated[bool, Affects.NOTHING] = Field(
        False,
        description="Without sign-in: answer `GET /image-bg-removal` without the header `X-Bg-Client` too, as "
        "clients of an earlier system send it. Requests that a browser makes for another web site stay refused.",
    )
    stale_hours: Annotated[float, Field(gt=0, le=8760), Affects.NOTHING] = Field(
        24.0, description="Age in hours of an upload that is in no report, from which a check warns."
    )
    sns_topic_arn: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+(\.fifo)?)?$",
        description="ARN of the SNS topic that is notified of every finished batch, and of runs that left one"
        " unfinished.",
    )
    webhook_url: Annotated[str, Affects.NOTHING] = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="URL of a web hook that is notified of every finished batch, and of runs that left one "
        "unfinished, by a signed POST of JSON.",
    )
    webhook_secret: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        validate_default=True,
        description="Secret for the HMAC-SHA256 signature of the requests to `BG_WEBHOOK_URL`; required with "
        "it.",
    )
    notice_digest_minutes: Annotated[int, Field(ge=0, le=1440), Affects.NOTHING] = Field(
        0,
        description="Collect the notices about finished batches for so many minutes and send them as one. Runs that "
        "failed are told at once. 0: a notice for each batch.",
    )
    postgres_url: Annotated[SecretStr, Affects.NOTHING] = Field(
        SecretStr(""),
        description="PostgreSQL database (`postgresql://user:password@host/name`) in which `up` and `demo` "
        "keep Dagster's history (needs the extra `postgres`). Empty: SQLite.",
    )
    s3_client: Annotated[Literal["auto", "boto3"], Affects.NOTHING] = Field(
        "auto",
        description="Client for small reads and writes of S3: `auto` tries obstore first, which needs a sixth of "
        "boto3's CPU, and boto3 where obstore cannot; `boto3` never uses obstore.",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Affects.NOTHING] = Field(
        "INFO", description="Level of the log."
    )

    _own_quotas: dict[str, float | None] = PrivateAttr(default_factory=dict)

    @field_validator(
        "allowed_buckets",
        "regions",
        "image_models",
        "scene_models",
        "caption_models",
        "caption_regions",
        "mask_sources",
        "submitter_groups",
        "reviewer_groups",
        "publisher_groups",
        "admin_groups",
        "oidc_acr",
        "trusted_proxies",
        "api_allowed_origins",
        "asset_owners",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("onnx_model", "model_facts", "c2pa_certificate", "c2pa_key", mode="before")
    @classmethod
    def _empty_as_none(cls, value: Any) -> Any:
        return value if value != "" else None

    @field_validator("bucket", "allowed_buckets")
    @classmethod
    def _names_only(cls, value: Any) -> Any:
        for name in (value,) if isinstance(value, str) else value:
            address = re.match(r"(?:s3a?://|arn:aws[\w-]*:s3:::|https?://)?([^/]*)", name)
            is_access_point = name.startswith("arn:") and ":::" not in name
            if address and address[1] != name and not is_access_point:
                meant = "" if name.startswith("http") else f", '{address[1]}'"
                raise ValueError(f"'{name}' is an address: write the bucket's name only{meant}")
        return value

    @field_validator("image_models", "scene_models")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one model")
        return value

    @field_validator("default_prompt")
    @classmethod
    def _valid_prompt(cls, value: str) -> str:
        try:
            read_image_fields({"Prompt": value})
        except RequestError as error:
            raise ValueError("; ".join(text for _, text in error.problems)) from None
        return value

    @field_validator("mask_sources")
    @classmethod
    def _known_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = ("alpha", "studio", "onnx", "network", "persons", "cut-out")
        for word in value:
            if word not in known:
                raise ValueError(f"'{word}' is not one of {', '.join(known)}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            try:
                ipaddress.ip_network(word)
            except ValueError as error:
                raise ValueError(f"{error}; write an address or a network, such as 10.0.0.0/16") from None
        return value

    @field_validator("asset_owners")
    @classmethod
    def _owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not re.fullmatch(r"team:[A-Za-z0-9_.-]+|[^@\s]+@[^@\s]+\.[^@\s]+", word):
                raise ValueError(f"'{word}' is neither an e-mail address nor a team such as team:photos")
        return value

    @field_validator("api_allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", word):
                raise ValueError(
                    f"'{word}' is not an origin such as https://shop.example.com, without a path or *"
                )
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _with_webhook(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if info.data.get("webhook_url") and not value.get_secret_value():
            raise ValueError("is required with BG_WEBHOOK_URL: it signs the requests to that address")
        encoded = value.get_secret_value().partition("whsec_")
        if encoded[1] and not encoded[0]:
            try:
                base64.b64decode(encoded[2], validate=True)
            except binascii.Error:
                raise ValueError("begins with whsec_ and does not go on with base64") from None
        return value

    @field_validator("c2pa_key")
    @classmethod
    def _with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("c2pa_certificate") is None):
            raise ValueError("and BG_C2PA_CERTIFICATE belong together: set both, or neither")
        return value

    @property
    def use_obstore(self) -> bool:
        """Whether small objects are read and written with obstore first."""
        return self.s3_client == "auto"

    def quota(self, operation: str) -> float | None:
        """The configured quota of an operation such as ``TITAN_V2`` in requests per minute; None if not set."""
        if operation.startswith("DETECT_"):
            per_second = getattr(self, f"quota_{operation.lower()}_tps", None)
            return None if per_second is None else per_second * 60
        name = quota_name(operation)
        return self._own_quotas.get(name, getattr(self, name, None))


def quota_name(operation: str) -> str:
    """The setting for an operation's requests per minute; it is ``quota_acme_paint_rpm`` for ``ACME_PAINT``."""
    return f"quota_{re.sub('[^a-z0-9]+', '_', operation.lower())}_rpm"


def settings(**overrides: Any) -> Settings:
    """The settings of this process: the ``BG_*`` environment variables, replaced by ``overrides``.

    Also loads the prices and quotas of the file in ``BG_MODEL_FACTS`` into this process, until the next call; each
    operation in it gets a setting ``BG_QUOTA_<NAME>_RPM``. Raises `SettingsError`, which names each variable, for an
    invalid value and for an unknown ``BG_*`` name; for an error in the file it names file, table and key.
    """
    fields = {PREFIX + name.upper() for name in Settings.model_fields}
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    given |= {PREFIX + name.upper(): value for name, value in overrides.items()}
    quotas = {name: given[name] for name in given if _QUOTA.fullmatch(name) and name not in fields}
    _refuse_unknown(given.keys() - quotas.keys(), fields)
    with _settings_errors():
        result = Settings(
            **{name: overrides[name] for name in overrides if PREFIX + name.upper() not in quotas}
        )
    model_facts.load_overrides(result.model_facts)
    # Quotas of Rekognition operations are given per second (…_TPS).
    operations = {name for name in model_facts.operations() if not name.startswith("DETECT_")}
    _refuse_unknown(quotas, fields | {PREFIX + quota_name(operation).upper() for operation in operations})
    for name, value in quotas.items():
        with _settings_errors(name):
            result._own_quotas[name.removeprefix(PREFIX).lower()] = _QUOTA_VALUE.validate_python(value)
    return result


_QUOTA: Final = re.compile(f"{PREFIX}QUOTA_.+_RPM")
_QUOTA_VALUE: Final = TypeAdapter[float | None](RequestsPerMinute)


def _refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    for name in sorted(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            if _QUOTA.fullmatch(name):
                hint += (
                    f"{'' if close else '.'} A model of your own has a quota setting once the file in "
                    "BG_MODEL_FACTS has a table for its operation"
                )
            raise SettingsError(f"{name} is not a setting{hint}")


@contextmanager
def _settings_errors(variable: str = "") -> Iterator[None]:
    """Turns a validation error into a `SettingsError` that names the environment variable."""
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
    """The settings as the README's Markdown table."""
    lines = ["| name | meaning | default |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        cell = "" if default is None or str(default) == "" else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {field.description} | {cell} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
