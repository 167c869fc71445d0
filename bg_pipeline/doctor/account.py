"""What works in the account and settings in use, and what to do about what does not.

Nothing here is billed but `live`, and that only after it was agreed to.
"""

import importlib.util
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.model_facts import FRESH, as_of, facts_of, outdated
from bg_pipeline.errors import PreconditionFailed, SettingsError
from bg_pipeline.generators import Operation, generator
from bg_pipeline.labelers import rekognition
from bg_pipeline.masks.local_cutout import NETWORK, check_network
from bg_pipeline.models import selection as models
from bg_pipeline.models.geography import callable_regions, runs_outside_region
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, open_bucket

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
    yield from figures(datetime.now(UTC).date())
    yield from extras()
    yield from networks(settings)
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
        next(store.list(f"{s3_keys.UPLOADS}/"), None)
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
    key = f"{s3_keys.STATE}/doctor/{uuid.uuid4()}.json"
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
    yield from _first_usable(aws, wanted, "BG_IMAGE_MODELS", "BG_REGIONS")


def caption_models(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The same of each caption model, as it is called from the Regions of captions."""
    if not settings.caption_models:
        yield Finding(Level.OK, "captions", "switched off, as BG_CAPTION_MODELS is empty")
        return
    wanted = [(f"caption model {name}", (nova.operation(name),)) for name in nova.models(settings, aws)]
    regions = nova.regions(settings, aws)
    yield from _first_usable(aws, wanted, "BG_CAPTION_MODELS", "BG_CAPTION_REGIONS", regions)


def _first_usable(
    aws: Aws,
    wanted: Sequence[tuple[str, Sequence[Operation]]],
    setting: str,
    region_setting: str,
    named: Sequence[str] = (),
) -> Iterator[Finding]:
    """A finding for each model and Region; what cannot be used fails only if nothing can."""

    def asked(regions: dict[str, Sequence[str]]) -> list[tuple[str, Operation, models.Availability]]:
        return [
            (name, operation, models.check_availability(aws, operation, region))
            for name, operations in wanted
            for region in regions[name]
            for operation in operations
        ]

    def working(found: list[tuple[str, Operation, models.Availability]]) -> list[tuple[str, str]]:
        bad = {(name, verdict.region) for name, _, verdict in found if not verdict.usable}
        return [(name, verdict.region) for name, _, verdict in found if (name, verdict.region) not in bad]

    verdicts = asked({name: named or aws.regions for name, _ in wanted})
    usable = working(verdicts)
    if not usable and not named:
        away = asked({name: runs_outside_region(aws, operations) for name, operations in wanted})
        usable = working(away)
        verdicts += away
    in_use = usable[0][0] if usable else ""
    for name, operation, verdict in verdicts:
        yield _finding(name, operation, verdict, in_use, f"{setting} or Region in {region_setting}")


def _finding(
    name: str, operation: Operation, verdict: models.Availability, in_use: str, settings: str
) -> Finding:
    words = f"{operation.invoke_id} in {verdict.region}"
    if not verdict.usable:
        level = Level.ATTENTION if in_use else Level.FAILED
        what_to_do = "" if in_use else f"ask for access, or name another model in {settings}"
        return Finding(level, name, f"{words}: {verdict.reason}", what_to_do)
    facts = facts_of(operation.name, operation.invoke_id)
    notes = ["in use" if name == in_use else "in reserve"]
    advice = []
    if not verdict.asked:
        notes.append(f"{verdict.reason}, so whether it is alive is not known")
        if facts.retired(datetime.now(UTC).date()):
            notes.append(f"by the table of {as_of()} it was retired on {facts.end_of_life}")
    if verdict.told:
        notes.append(verdict.told)
        advice.append(
            "only a call tells: `bg-pipeline doctor --live` makes one; the first one subscribes, for which the "
            "credentials need aws-marketplace:Subscribe and aws-marketplace:ViewSubscriptions"
        )
    if verdict.lifecycle():
        notes.append(verdict.lifecycle())
        advice.append("plan its successor")
    if facts.processed_in:
        notes.append(facts.processed_in)
    level = Level.OK if verdict.asked and not advice else Level.ATTENTION
    return Finding(level, name, f"{words}: {'; '.join(notes)}", "; ".join(advice))


def rekognition_regions(aws: Aws) -> Finding:
    """Whether Rekognition is offered where it will be called; calling it costs, so only `live` does."""
    missing = [region for region in aws.regions if not aws.offered("rekognition", region)]
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


def figures(today: date) -> Iterator[Finding]:
    """Whether the prices and quotas that come with this version were looked at lately."""
    old = list(outdated(today))
    if old:
        more = f" and {len(old) - 1} more" if len(old) > 1 else ""
        yield Finding(
            Level.ATTENTION,
            "prices and quotas",
            f"were last compared with their sources more than {FRESH.days} days ago: {old[0]}{more}",
            "use a newer version of bg-pipeline; caps count with these prices, so compare them with AWS's pages",
        )


def quotas(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The rates in use, and what Service Quotas says of this account where it can be asked."""
    operations: dict[Operation, Sequence[str]] = {
        operation: [*aws.regions, *runs_outside_region(aws, (operation,))]
        for each in map(generator, settings.image_models)
        for operation in (each.replaces, each.removes)
        if operation
    }
    captions = nova.regions(settings, aws)
    operations |= {nova.operation(name): captions for name in nova.models(settings, aws)}
    account = AccountQuotas(aws)
    asked: dict[str, None] = {}
    for operation, regions in operations.items():
        facts = facts_of(operation.name, operation.invoke_id)
        name, setting = f"quota {operation.name}", f"BG_QUOTA_{operation.name}_RPM"
        for region in regions:
            sources = callable_regions(operation)
            if sources and region not in sources:
                continue
            asked[region] = None
            yield from _tokens(account, operation, region, name)
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
    for region in asked:
        a_day = account.tokens_per_day(region)
        if a_day is not None:
            yield Finding(
                Level.OK if a_day else Level.ATTENTION,
                "quota tokens a day",
                f"{region}: {a_day:,.0f} for all models together by Service Quotas; a new account may get fewer",
                "ask AWS Support for more: no request in Service Quotas raises it",
            )


def _tokens(account: AccountQuotas, operation: Operation, region: str, name: str) -> Iterator[Finding]:
    """What limits a model besides its requests a minute."""
    facts = facts_of(operation.name, operation.invoke_id)
    words = f"{operation.invoke_id} in {region}"
    requests, tokens = account.told_requests(facts, region), account.told_tokens(facts, region)
    if 0.0 in (requests, tokens):
        yield Finding(
            Level.ATTENTION,
            name,
            f"{words}: Service Quotas says 0 a minute, as of new accounts: calls are likely to be refused",
            "open a case with AWS Support (Account and billing) to have the model enabled for the account",
        )
    elif tokens:
        yield Finding(Level.OK, name, f"{words}: {tokens:,.0f} tokens a minute by Service Quotas")


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


def networks(settings: Settings) -> Iterator[Finding]:
    """Whether the networks that make masks on this machine can be loaded."""
    named = {"network": None, "onnx": settings.onnx_model}
    for source, path in named.items():
        if source not in settings.mask_sources or (source == "onnx" and path is None):
            continue
        what = f"mask source {source}"
        try:
            check_network(path)
        except SettingsError as error:
            yield Finding(
                Level.ATTENTION,
                what,
                str(error),
                "without it the next source in BG_MASK_SOURCES makes the mask",
            )
        else:
            yield Finding(Level.OK, what, f"{(path or NETWORK).name} can be used")


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
