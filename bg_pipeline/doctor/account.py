"""What works in the account and settings in use, and what to do about what does not.

Nothing here is billed but `live`, and that only after it was agreed to.
"""

import importlib.util
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from bg_pipeline import layout
from bg_pipeline.aws import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.errors import PreconditionFailed, SettingsError
from bg_pipeline.generators import Operation, generator
from bg_pipeline.labelers import rekognition
from bg_pipeline.models import choice as models
from bg_pipeline.models.facts import as_of, facts_of
from bg_pipeline.pipeline import open_bucket
from bg_pipeline.quotas.account import AccountQuotas
from bg_pipeline.settings import Settings
from bg_pipeline.store import Store

_UNREACHED = (ClientError, BotoCoreError)


class Level(StrEnum):
    """How good a finding is; only what failed keeps the pipeline from working."""

    OK = "OK"
    ATTENTION = "attention"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do where it is not OK."""

    level: Level
    subject: str
    words: str
    advice: str = ""


def examine(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """Everything that can be known without spending anything."""
    who = credentials(aws)
    yield who
    if who.level is not Level.FAILED:
        yield from bucket(settings, aws)
        yield from image_models(settings, aws)
        yield from caption_models(settings, aws)
        yield rekognition_regions(aws)
        yield from quotas(settings, aws)
    yield from extras()
    yield from dagster_home(os.environ.get("DAGSTER_HOME", ""))


def credentials(aws: Aws) -> Finding:
    """Who AWS takes this process for."""
    try:
        who = aws.client("sts").get_caller_identity()
    except NoCredentialsError:
        return Finding(
            Level.FAILED,
            "credentials",
            "there are none",
            "set them up as for the AWS CLI (`aws configure`, AWS_PROFILE, a role), or try `bg-pipeline demo`",
        )
    except ClientError as error:
        return Finding(
            Level.FAILED,
            "credentials",
            f"AWS does not accept them: {_told(error)}",
            "renew them; check AWS_PROFILE",
        )
    except BotoCoreError as error:
        return Finding(
            Level.ATTENTION,
            "credentials",
            f"STS cannot be reached: {error}",
            "harmless if the bucket can be used",
        )
    return Finding(Level.OK, "credentials", f"{who['Arn']} in account {who['Account']}")


def bucket(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """Whether the bucket is there, can be listed, written, and written on conditions."""
    try:
        store = open_bucket(settings, aws)
        next(store.list(f"{layout.UPLOADS}/"), None)
    except SettingsError as error:
        yield Finding(Level.FAILED, "bucket", str(error), "set BG_BUCKET; check the policy's s3:ListBucket")
        return
    except _UNREACHED as error:
        yield Finding(
            Level.FAILED, "bucket", f"cannot be listed: {_told(error)}", "grant s3:ListBucket on it"
        )
        return
    region = store.client.meta.region_name
    yield Finding(Level.OK, "bucket", f"{store.bucket} in {region} can be listed")
    yield conditional_writes(store)


def conditional_writes(store: Store) -> Finding:
    """Leases, claims and caps are kept by conditional writes; this tries them on an object of its own."""
    key = f"{layout.STATE}/doctor/{uuid.uuid4()}.json"
    try:
        etag = store.write_json(key, {"Made": datetime.now(UTC).isoformat()}, if_absent=True)
        refused = 0
        for condition in ({"if_absent": True}, {"if_etag": "another"}):
            try:
                store.write_json(key, {}, **condition)
            except PreconditionFailed:
                refused += 1
        store.write_json(key, {}, if_etag=etag) if refused == 2 else None
        store.delete(key)
    except _UNREACHED as error:
        return Finding(
            Level.FAILED,
            "bucket",
            f"cannot be written: {_told(error)}",
            "grant s3:PutObject, s3:GetObject and s3:DeleteObject on its objects",
        )
    if refused < 2:
        return Finding(
            Level.FAILED,
            "bucket",
            "takes no notice of If-None-Match or If-Match, on which leases and spending caps lean",
            "use Amazon S3 or another store with conditional writes",
        )
    return Finding(Level.OK, "bucket", "can be written, also on conditions")


def image_models(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """Each image model's lifecycle and access in each Region; one that works is enough."""
    generators = [generator(name) for name in settings.image_models]
    wanted = [
        (f"image model {each.name}", tuple(dict.fromkeys(op for op in (each.replaces, each.removes) if op)))
        for each in generators
    ]
    yield from _first_usable(aws, wanted, "BG_IMAGE_MODELS")


def caption_models(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The same of each caption model."""
    if not settings.caption_models:
        yield Finding(Level.OK, "captions", "switched off, as BG_CAPTION_MODELS is empty")
        return
    wanted = [(f"caption model {name}", (nova.operation(name),)) for name in settings.caption_models]
    yield from _first_usable(aws, wanted, "BG_CAPTION_MODELS")


def _first_usable(
    aws: Aws, wanted: Sequence[tuple[str, Sequence[Operation]]], setting: str
) -> Iterator[Finding]:
    """A finding for each model and Region; what cannot be used fails only if nothing can."""
    verdicts = [
        (name, operation, models.look(aws, operation, region))
        for name, operations in wanted
        for region in aws.regions
        for operation in operations
    ]
    bad = {(name, verdict.region) for name, _, verdict in verdicts if not verdict.usable}
    usable = [(name, verdict.region) for name, _, verdict in verdicts if (name, verdict.region) not in bad]
    in_use = usable[0][0] if usable else ""
    for name, operation, verdict in verdicts:
        words = f"{operation.invoke_id} in {verdict.region}"
        if not verdict.usable:
            level = Level.ATTENTION if usable else Level.FAILED
            advice = (
                ""
                if usable
                else f"ask for access, or name another model in {setting} or Region in BG_REGIONS"
            )
            yield Finding(level, name, f"{words}: {verdict.reason}", advice)
            continue
        facts = facts_of(operation.name, operation.invoke_id)
        notes = ["in use" if name == in_use else "in reserve"]
        if not verdict.asked:
            notes.append(f"{verdict.reason}, so whether it is alive is not known")
            if facts.retired(datetime.now(UTC).date()):
                notes.append(f"by the table of {as_of()} it was retired on {facts.end_of_life}")
        end = verdict.end_of_life
        if end:
            notes.append(f"ends on {end}")
        if facts.processed_in:
            notes.append(facts.processed_in)
        level = Level.ATTENTION if end or not verdict.asked else Level.OK
        yield Finding(level, name, f"{words}: {'; '.join(notes)}", "plan its successor" if end else "")


def rekognition_regions(aws: Aws) -> Finding:
    """Whether Rekognition is offered where it will be called; calling it costs, so only `live` does."""
    import boto3

    offered = boto3.session.Session().get_available_regions("rekognition")
    missing = [region for region in aws.regions if region not in offered]
    if missing:
        return Finding(
            Level.FAILED,
            "rekognition",
            f"not offered in {', '.join(missing)}",
            "name Regions that have it in BG_REGIONS",
        )
    price = facts_of(rekognition.OPERATION.name).price.image
    return Finding(
        Level.OK,
        "rekognition",
        f"offered in {', '.join(aws.regions)}; not called, because a call costs {price} USD (--live does)",
    )


def quotas(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The rates in use, and what Service Quotas says of this account where it can be asked."""
    operations = dict.fromkeys(
        operation
        for each in map(generator, settings.image_models)
        for operation in (each.replaces, each.removes)
        if operation
    )
    operations |= dict.fromkeys(nova.operation(name) for name in settings.caption_models)
    account = AccountQuotas(aws)
    for operation in operations:
        facts = facts_of(operation.name, operation.invoke_id)
        name, setting = f"quota {operation.name}", f"BG_QUOTA_{operation.name}_RPM"
        for region in aws.regions:
            if facts.regions and region not in facts.regions:
                continue
            words = f"{operation.invoke_id} in {region}"
            own = settings.quota(operation.name)
            applied = account.requests_per_minute(facts, region)
            if own and applied and own != applied:
                yield Finding(
                    Level.ATTENTION,
                    name,
                    f"{words}: {own:,.0f} a minute by {setting}, but {applied:,.0f} by Service Quotas",
                    f"take {setting} away, unless you know better",
                )
            elif own:
                yield Finding(Level.OK, name, f"{words}: {own:,.0f} a minute by {setting}")
            elif applied:
                yield Finding(Level.OK, name, f"{words}: {applied:,.0f} a minute by Service Quotas")
            else:
                rate = facts.requests_in(region)
                yield Finding(
                    Level.OK,
                    name,
                    f"{words}: {rate:,.0f} a minute by the table of {as_of()}; Service Quotas does not tell",
                )


def extras() -> Iterator[Finding]:
    """What was installed beside the pipeline itself."""
    for name, modules, use in (
        ("local", ("ministack", "cv2"), "`demo`, and `up` without an account, need it"),
        ("masks", ("cv2", "onnxruntime"), "subjects are cut out on this machine with it, without a call"),
    ):
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            advice = f"pip install 'bg-pipeline[{name}]'; {use}"
            yield Finding(Level.ATTENTION, f"extra {name}", "is not installed", advice)
        else:
            yield Finding(Level.OK, f"extra {name}", "is installed")


def dagster_home(home: str) -> Iterator[Finding]:
    """Which settings of the Dagster instance would help; the pipeline leans on none of them."""
    if not home:
        yield Finding(
            Level.OK, "dagster", "DAGSTER_HOME is not set; `bg-pipeline up` brings a home of its own"
        )
        return
    file = Path(home, "dagster.yaml")
    try:
        found = yaml.safe_load(file.read_text()) if file.exists() else {}
    except (OSError, yaml.YAMLError) as error:
        yield Finding(Level.ATTENTION, "dagster", f"{file} cannot be read: {error}", "mend it")
        return
    found = found if isinstance(found, dict) else {}
    retries = found.get("run_retries") or {}
    if not (found.get("run_monitoring") or {}).get("enabled"):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: killed runs stay 'started'",
            "set run_monitoring: {enabled: true}",
        )
    if retries.get("enabled") and retries.get("retry_on_asset_or_op_failure", True):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: dates that failed with a report are run again",
            "set run_retries: {retry_on_asset_or_op_failure: false}",
        )
    if not retries.get("enabled"):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: a crashed run is not taken up again",
            "set run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}",
        )
    if not any(found.get(name) for name in ("storage", "run_storage")):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: history is kept in SQLite",
            "use PostgreSQL where several runs write at a time",
        )


def _told(error: ClientError | BotoCoreError) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code', '')} {told.get('Message', '')}".strip()
    return str(error)
