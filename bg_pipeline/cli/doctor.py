"""``bg-pipeline doctor``: checks the account and the settings, prints an IAM policy, or sets a CORS rule."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from bg_pipeline.aws.clients import Aws, make_aws
from bg_pipeline.cli.arguments import local, output_format, this_person
from bg_pipeline.cli.terminal import confirm, counted, print_message, print_records, stopped_by_user
from bg_pipeline.doctor import policy as policies
from bg_pipeline.doctor import trials
from bg_pipeline.doctor.account import examine
from bg_pipeline.doctor.bucket import cors_rules, set_cors
from bg_pipeline.doctor.findings import Finding, Level
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import SettingsError, UsageError
from bg_pipeline.rate_limits.calls import ACCESS_SECONDS
from bg_pipeline.settings import Settings, settings
from bg_pipeline.state.audit import Act, AuditLog
from bg_pipeline.storage.object_store import open_bucket

_STYLE = {Level.OK: "green", Level.ATTENTION: "yellow", Level.FAILED: "red"}


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Also call each model once with a small picture, subscribe to those that need it, and write "
    "doctor-live-<date>.json for bug reports. This costs money; it asks first.",
)
@click.option("--yes", is_flag=True, help="With --live and --fix: do not ask.")
@click.option(
    "--max-cost-usd",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    default=trials.MAX_COST_USD,
    show_default=True,
    help="With --live: the most that all calls together may cost.",
)
@click.option(
    "--fix",
    is_flag=True,
    help="Instead of checking, set the bucket's CORS rule with which web sites may upload by the HTTP API's links. "
    "It prints the rules and asks first.",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="With --fix: a web site that may upload, such as https://shop.example.com; by default BG_PAGE_ADDRESS.",
)
@click.option(
    "--policy",
    type=click.Choice(policies.ROLES),
    is_flag=False,
    flag_value="pipeline",
    help="Instead of checking, print the IAM policy that this kind of process needs with your settings.",
)
@output_format(help="Output format of the checks.")
@local
def doctor(
    live: bool,
    yes: bool,
    max_cost_usd: float,
    fix: bool,
    origins: tuple[str, ...],
    policy: policies.Role | None,
    form: str,
) -> None:
    """Check what works in your account and settings, and print what to do about what does not.

    Nothing is billed without --live. Ends with 0 unless something failed.

    \b
    Examples:
      bg-pipeline doctor
      bg-pipeline doctor --format json
      bg-pipeline doctor --policy submitter
      bg-pipeline doctor --live --max-cost-usd 0.5
    """
    configured = settings()
    aws = make_aws(configured)
    if policy:
        if not configured.bucket:
            raise SettingsError("BG_BUCKET is not set: the policy names the bucket")
        inputs, unknowns = policies.policy_inputs(configured, aws)
        for line in unknowns:
            print_message(line)
        document = policies.policy(configured, aws, policy, inputs)
        length = len("".join(json.dumps(document).split()))
        if length > policies.MANAGED_POLICY:
            print_message(
                f"This policy has {length:,} characters, too many for a managed policy: "
                "attach it as an inline policy of the role."
            )
        click.echo(json.dumps(document, indent=2))
        return
    if fix:
        _fix_cors(configured, aws, origins, yes=yes)
        return
    findings: list[Finding] = []
    with stopped_by_user():
        show = _print_finding if form == "table" else _ignore_finding
        for finding in examine(configured, aws):
            show(finding)
            findings.append(finding)
        if live:
            findings += _call_models(configured, aws, findings, show, yes=yes, max_cost_usd=max_cost_usd)
    if form != "table":
        columns = ("Level", "Subject", "Words", "Advice")
        records = [
            dict(zip(columns, (each.level.value, each.subject, each.words, each.advice), strict=True))
            for each in findings
        ]
        print_records(form, columns, records)
    failed = any(finding.level is Level.FAILED for finding in findings)
    click.get_current_context().exit(1 if failed else 0)


def _fix_cors(configured: Settings, aws: Aws, origins: tuple[str, ...], *, yes: bool) -> None:
    store = open_bucket(configured, aws)
    rules = cors_rules(store, origins or tuple(filter(None, (configured.page_address,))))
    click.echo(json.dumps({"CORSRules": rules}, indent=2))
    confirm(f"Make these the CORS rules of {store.bucket}?", yes=yes)
    set_cors(store, rules)


def _call_models(
    configured: Settings,
    aws: Aws,
    free: Sequence[Finding],
    show: Callable[[Finding], None],
    *,
    yes: bool,
    max_cost_usd: float,
) -> list[Finding]:
    """Asks, calls each model once, and writes the report file; returns the findings about the calls."""
    context = trials.open_context(configured, aws, print_message, max_cost_usd=max_cost_usd)
    try:
        calls = trials.trials(context)
        prices = [trial.worst_usd for trial in calls]
        cost = sum(price or 0.0 for price in prices)
        made = len(prices) - prices.count(None)
        print_message(
            f"{counted(made, 'call')}, at most {cost:.3f} USD in all; they stop at {max_cost_usd:.2f} USD "
            f"(--max-cost-usd): {', '.join(trial.subject for trial in calls if trial.worst_usd is not None)}."
        )
        if None in prices:
            print_message(f"{counted(prices.count(None), 'model')} of unknown price will not be called.")
        if cost > max_cost_usd:
            raise UsageError(
                f"the calls may cost {cost:.3f} USD, which is more than --max-cost-usd {max_cost_usd:.2f}: allow "
                "more, or name fewer models in BG_IMAGE_MODELS and BG_CAPTION_MODELS"
            )
        if new := list(dict.fromkeys(trial.operation.model_id for trial in calls if trial.subscribes)):
            print_message(
                f"The first call subscribes this account in the AWS Marketplace to {', '.join(new)} and so accepts "
                "the provider's terms (Bedrock console, Model catalog, the model's page). The subscription itself is "
                f"free; AWS needs up to {ACCESS_SECONDS / 60:.0f} minutes for it, which are waited for."
            )
        confirm("Subscribe and make the calls?" if new else "Make them?", yes=yes)
        results = []
        line = AuditLog(context.store).act(
            this_person(), Act.SPEND, None, For="doctor --live", Calls=made, WorstUSD=round(cost, 6)
        )
        with line, closing(trials.run_trials(context, calls)) as running:
            for result in running:
                show(result.finding)
                results.append(result)
    finally:
        context.close()
    findings = [result.finding for result in results]
    file = Path(f"doctor-live-{datetime.now(UTC).date()}.json")
    file.write_bytes(trials.report([*free, *findings], results, configured))
    print_message(
        f"What was called and what came back is in {file}, without account numbers, pictures, links and the names of "
        "your buckets: send it with a bug report."
    )
    return findings


def _ignore_finding(finding: Finding) -> None:
    """Prints nothing: all findings are printed together at the end."""


def _print_finding(finding: Finding) -> None:
    level = click.style(f"{finding.level.value:9}", fg=_STYLE[finding.level])
    click.echo(f"{level} {finding.subject}: {printable(finding.words)}")
    if finding.advice and finding.level is not Level.OK:
        click.echo(f"{'':9} → {printable(finding.advice)}")
