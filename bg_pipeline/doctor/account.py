"""Free checks of the AWS account and the settings, with advice about what does not work.

Calls that are billed are in `bg_pipeline.doctor.trials`.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import yaml
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from bg_pipeline.authorization import groups_by_role, in_words, uses_groups
from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.doctor.bucket import bucket
from bg_pipeline.doctor.findings import Finding, Level, error_text
from bg_pipeline.domain.model_facts import FRESH, as_of, facts_of, outdated
from bg_pipeline.errors import NothingUsable, SettingsError
from bg_pipeline.generators import Operation, generator
from bg_pipeline.generators.scenes import scene_painter
from bg_pipeline.imaging import signing
from bg_pipeline.labelers import rekognition
from bg_pipeline.masks.local_cutout import NETWORK, check_network
from bg_pipeline.models import selection as models
from bg_pipeline.models.geography import callable_regions, runs_outside_region
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline.run.context import signing_of
from bg_pipeline.settings import Settings


def examine(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """All findings that cost nothing."""
    identity = credentials(aws)
    yield identity
    if identity.level is not Level.FAILED:
        yield from bucket(settings, aws)
        yield from image_models(settings, aws)
        yield from caption_models(settings, aws)
        yield scene_models(settings, aws)
        yield rekognition_regions(aws)
        yield from quotas(settings, aws)
    yield access(settings)
    yield from figures(datetime.now(UTC).date())
    yield from extras()
    yield from networks(settings)
    yield from signatures(settings)
    yield from dagster_home(os.environ.get("DAGSTER_HOME", ""))


def access(settings: Settings) -> Finding:
    """Who may do what on the page and through the API."""
    words = in_words(settings, signs_in=bool(settings.oidc_issuer))
    groups = groups_by_role(settings)
    if not uses_groups(settings):
        # One person on one machine needs no groups.
        level = Level.ATTENTION if settings.oidc_issuer else Level.OK
        advice = (
            "to give people different rights, name the groups of each role: see BG_ADMIN_GROUPS in the README"
        )
        return Finding(level, "access", words, advice)
    if not settings.oidc_issuer:
        return Finding(
            Level.FAILED, "access", "groups have rights, but there is no sign-in", "set BG_OIDC_ISSUER"
        )
    without = [role.value for role, names in groups.items() if not names]
    if without:
        text = f"{words}. Only admins can do what needs the role {' or '.join(without)}"
        return Finding(Level.ATTENTION, "access", text, "give every role a group, unless that is meant")
    return Finding(Level.OK, "access", words)


def credentials(aws: Aws) -> Finding:
    """The identity behind this process's AWS credentials."""
    try:
        identity = aws.client("sts").get_caller_identity()
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
            f"AWS does not accept them: {error_text(error)}",
            "renew them; check AWS_PROFILE",
        )
    except BotoCoreError as error:
        return Finding(
            Level.ATTENTION,
            "credentials",
            f"STS cannot be reached: {error}",
            "harmless if the bucket can be used",
        )
    return Finding(Level.OK, "credentials", f"{identity['Arn']} in account {identity['Account']}")


def image_models(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The lifecycle and the access of each image model in each Region; one usable model is enough."""
    generators = [generator(name) for name in settings.image_models]
    operations = [
        (f"image model {each.name}", tuple(dict.fromkeys(op for op in (each.replaces, each.removes) if op)))
        for each in generators
    ]
    yield from _model_findings(aws, operations, "BG_IMAGE_MODELS", "BG_REGIONS")


def scene_models(settings: Settings, aws: Aws) -> Finding:
    """Which model paints the scenes of requests with ``Scene``; without one only such requests fail."""
    lines: list[str] = []
    candidates = [
        models.ModelCandidate(each.name, (each.paints,), each)
        for each in map(scene_painter, settings.scene_models)
    ]
    try:
        models.ModelSelector(aws, candidates, lines.append).current()
    except NothingUsable as error:
        return Finding(
            Level.ATTENTION,
            "scenes",
            str(error),
            "needed only for requests with Scene: name a model in BG_SCENE_MODELS, or its Region in BG_REGIONS",
        )
    return Finding(Level.OK, "scenes", "; ".join(lines))


def caption_models(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """As `image_models`, for each caption model in the Regions of captions."""
    if not settings.caption_models:
        yield Finding(Level.OK, "captions", "switched off, as BG_CAPTION_MODELS is empty")
        return
    operations = [(f"caption model {name}", (nova.operation(name),)) for name in nova.models(settings, aws)]
    regions = nova.regions(settings, aws)
    yield from _model_findings(aws, operations, "BG_CAPTION_MODELS", "BG_CAPTION_REGIONS", regions)


def _model_findings(
    aws: Aws,
    models_and_operations: Sequence[tuple[str, Sequence[Operation]]],
    setting: str,
    region_setting: str,
    required_regions: Sequence[str] = (),
) -> Iterator[Finding]:
    """A finding for each model and Region. An unusable model is a failure only if no model can be used.

    Without ``required_regions`` the account's Regions are checked and then, if no model is usable there, others.
    """

    def check(regions: dict[str, Sequence[str]]) -> list[tuple[str, Operation, models.Availability]]:
        return [
            (name, operation, models.check_availability(aws, operation, region))
            for name, operations in models_and_operations
            for region in regions[name]
            for operation in operations
        ]

    def usable_models(
        checked: list[tuple[str, Operation, models.Availability]],
    ) -> list[tuple[str, str]]:
        unusable = {(name, result.region) for name, _, result in checked if not result.usable}
        return [(name, result.region) for name, _, result in checked if (name, result.region) not in unusable]

    results = check({name: required_regions or aws.regions for name, _ in models_and_operations})
    usable = usable_models(results)
    if not usable and not required_regions:
        elsewhere = check(
            {name: runs_outside_region(aws, operations) for name, operations in models_and_operations}
        )
        usable = usable_models(elsewhere)
        results += elsewhere
    in_use = usable[0][0] if usable else ""
    for name, operation, result in results:
        yield _model_finding(name, operation, result, in_use, f"{setting} or Region in {region_setting}")


def _model_finding(
    name: str, operation: Operation, availability: models.Availability, in_use: str, settings: str
) -> Finding:
    subject = f"{operation.invoke_id} in {availability.region}"
    if not availability.usable:
        level = Level.ATTENTION if in_use else Level.FAILED
        what_to_do = "" if in_use else f"ask for access, or name another model in {settings}"
        return Finding(level, name, f"{subject}: {availability.reason}", what_to_do)
    facts = facts_of(operation.name, operation.invoke_id)
    notes = ["in use" if name == in_use else "in reserve"]
    advice = []
    if not availability.confirmed:
        notes.append(f"{availability.reason}, so whether it is still offered is unknown")
        if facts.retired(datetime.now(UTC).date()):
            notes.append(f"according to the table of {as_of()} it was retired on {facts.end_of_life}")
    if availability.access_note:
        notes.append(availability.access_note)
        advice.append(
            "only a call can show whether it works: `bg-pipeline doctor --live` makes one. The first one subscribes; "
            "the credentials then need aws-marketplace:Subscribe and aws-marketplace:ViewSubscriptions"
        )
    if availability.lifecycle():
        notes.append(availability.lifecycle())
        advice.append("plan its successor")
    if facts.processed_in:
        notes.append(facts.processed_in)
    level = Level.OK if availability.confirmed and not advice else Level.ATTENTION
    return Finding(level, name, f"{subject}: {'; '.join(notes)}", "; ".join(advice))


def rekognition_regions(aws: Aws) -> Finding:
    """Whether Rekognition is offered in the Regions where it will be called. It is not called: that costs money."""
    missing = [region for region in aws.regions if not aws.offered("rekognition", region)]
    if missing:
        return Finding(
            Level.FAILED,
            "rekognition",
            f"not offered in {', '.join(missing)}",
            "set BG_REGIONS to Regions that have it",
        )
    price = facts_of(rekognition.OPERATION.name).price.image
    return Finding(
        Level.OK,
        "rekognition",
        f"offered in {', '.join(aws.regions)}; not called, since a call costs {price} USD (--live makes one)",
    )


def figures(today: date) -> Iterator[Finding]:
    """Whether the prices and quotas in this version were compared with their sources recently."""
    old = list(outdated(today))
    if old:
        more = f" and {len(old) - 1} more" if len(old) > 1 else ""
        yield Finding(
            Level.ATTENTION,
            "prices and quotas",
            f"were last compared with their sources more than {FRESH.days} days ago: {old[0]}{more}",
            "use a newer version of bg-pipeline, or compare the prices with AWS's pages: caps are computed with them",
        )


def quotas(settings: Settings, aws: Aws) -> Iterator[Finding]:
    """The request rates in use, and this account's values in Service Quotas if they can be read."""
    operations: dict[Operation, Sequence[str]] = {
        operation: [*aws.regions, *runs_outside_region(aws, (operation,))]
        for each in map(generator, settings.image_models)
        for operation in (each.replaces, each.removes)
        if operation
    }
    scenes: dict[Operation, Sequence[str]] = {
        operation: [*aws.regions, *runs_outside_region(aws, (operation,))]
        for operation in (scene_painter(name).paints for name in settings.scene_models)
    }
    captions = nova.regions(settings, aws)
    operations |= {nova.operation(name): captions for name in nova.models(settings, aws)}
    account = AccountQuotas(aws)
    regions_in_use: dict[str, None] = {}
    for operation, regions in (operations | scenes).items():
        facts = facts_of(operation.name, operation.invoke_id)
        name, setting = f"quota {operation.name}", f"BG_QUOTA_{operation.name}_RPM"
        for region in regions:
            sources = callable_regions(operation)
            if sources and region not in sources:
                continue
            if operation not in scenes:
                regions_in_use[region] = None
            yield from _token_quotas(account, operation, region, name)
            subject = f"{operation.invoke_id} in {region}"
            configured = settings.quota(operation.name)
            applied = account.requests_per_minute(facts, region)
            if configured and applied and configured != applied:
                yield Finding(
                    Level.ATTENTION,
                    name,
                    f"{subject}: {configured:,.0f} a minute by {setting}, but {applied:,.0f} by Service Quotas",
                    f"remove {setting}, unless you know that it is right",
                )
            elif configured:
                yield Finding(Level.OK, name, f"{subject}: {configured:,.0f} a minute by {setting}")
            elif applied:
                yield Finding(Level.OK, name, f"{subject}: {applied:,.0f} a minute by Service Quotas")
            else:
                rate = facts.requests_in(region)
                yield Finding(
                    Level.OK,
                    name,
                    f"{subject}: {rate:,.0f} a minute by the table of {as_of()}; Service Quotas has no value",
                )
    for region in regions_in_use:
        tokens = account.tokens_per_day(region)
        if tokens is not None:
            yield Finding(
                Level.OK if tokens else Level.ATTENTION,
                "quota tokens a day",
                f"{region}: {tokens:,.0f} for all models together by Service Quotas; a new account may get fewer",
                "ask AWS Support for more: it cannot be raised in Service Quotas",
            )


def _token_quotas(account: AccountQuotas, operation: Operation, region: str, name: str) -> Iterator[Finding]:
    """The account's tokens per minute for a model; attention if these or its requests per minute are 0."""
    facts = facts_of(operation.name, operation.invoke_id)
    subject = f"{operation.invoke_id} in {region}"
    requests, tokens = account.reported_requests(facts, region), account.reported_tokens(facts, region)
    if 0.0 in (requests, tokens):
        yield Finding(
            Level.ATTENTION,
            name,
            f"{subject}: the quota is 0 a minute by Service Quotas, as in new accounts: calls will likely be refused",
            "open a case with AWS Support (Account and billing) to have the model enabled for the account",
        )
    elif tokens:
        yield Finding(Level.OK, name, f"{subject}: {tokens:,.0f} tokens a minute by Service Quotas")


def extras() -> Iterator[Finding]:
    """Which extras are installed."""
    for name, modules, use in (
        ("local", ("ministack", "cv2"), "`demo`, and `up` without an account, need it"),
        ("masks", ("cv2", "onnxruntime"), "it cuts out subjects on this machine, without paid calls"),
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


def signatures(settings: Settings) -> Iterator[Finding]:
    """Whether results can be signed with the user's certificate, which a trial picture shows."""
    chosen = signing_of(settings)
    if chosen is None:
        return
    try:
        words = signing.check(chosen)
    except SettingsError as error:
        yield Finding(
            Level.FAILED, "C2PA", str(error), "correct it, or unset BG_C2PA_CERTIFICATE and BG_C2PA_KEY"
        )
    else:
        yield Finding(Level.OK, "C2PA", f"results are signed by {words}")


def dagster_home(home: str) -> Iterator[Finding]:
    """Settings of the Dagster instance that would help; the pipeline requires none of them."""
    if not home:
        yield Finding(Level.OK, "dagster", "DAGSTER_HOME is not set; `bg-pipeline up` uses its own")
        return
    file = Path(home, "dagster.yaml")
    try:
        config = yaml.safe_load(file.read_text()) if file.exists() else {}
    except (OSError, yaml.YAMLError) as error:
        yield Finding(Level.ATTENTION, "dagster", f"{file} cannot be read: {error}", "correct the file")
        return
    config = config if isinstance(config, dict) else {}
    retries = config.get("run_retries") or {}
    if not (config.get("run_monitoring") or {}).get("enabled"):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: killed runs stay in the state 'started'",
            "set run_monitoring: {enabled: true}",
        )
    if retries.get("enabled") and retries.get("retry_on_asset_or_op_failure", True):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: dates that failed and have a report are run again",
            "set run_retries: {retry_on_asset_or_op_failure: false}",
        )
    if not retries.get("enabled"):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: a crashed run is not continued",
            "set run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}",
        )
    if not any(config.get(name) for name in ("storage", "run_storage")):
        yield Finding(
            Level.ATTENTION,
            "dagster",
            f"{file}: history is kept in SQLite",
            "use PostgreSQL if several runs write at a time",
        )
