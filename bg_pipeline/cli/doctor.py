"""``bg-pipeline doctor``: checks the account and the settings, or prints an IAM policy."""

import json

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import local
from bg_pipeline.cli.terminal import confirm, print_message, stopped_by_user
from bg_pipeline.doctor import policy as policies
from bg_pipeline.doctor import trials
from bg_pipeline.doctor.account import Finding, Level, examine
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import settings

_STYLE = {Level.OK: "green", Level.ATTENTION: "yellow", Level.FAILED: "red"}


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Also call each model once with a small picture. This costs money; it asks first.",
)
@click.option("--yes", is_flag=True, help="With --live: do not ask.")
@click.option(
    "--policy",
    type=click.Choice(policies.ROLES),
    is_flag=False,
    flag_value="pipeline",
    help="Instead of checking, print the IAM policy that this kind of process needs with your settings.",
)
@local
def doctor(live: bool, yes: bool, policy: policies.Role | None) -> None:
    """Check what works in your account and settings, and print what to do about what does not.

    Nothing is billed without --live. Ends with 0 unless something failed.
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
    failed = False
    with stopped_by_user():
        for finding in examine(configured, aws):
            _print_finding(finding)
            failed = failed or finding.level is Level.FAILED
        if live:
            context = trials.open_context(configured, aws, print_message)
            try:
                calls = trials.trials(context)
                prices = [trial.worst_usd for trial in calls]
                cost = f"at most {sum(price or 0.0 for price in prices):.3f} USD"
                if None in prices:
                    cost += f" and {prices.count(None)} calls of unknown price"
                print_message(f"{len(calls)} calls, {cost}: {', '.join(trial.subject for trial in calls)}.")
                confirm("Make them?", yes=yes)
                for trial in calls:
                    finding = trials.live(trial)
                    _print_finding(finding)
                    failed = failed or finding.level is Level.FAILED
            finally:
                context.close()
    click.get_current_context().exit(1 if failed else 0)


def _print_finding(finding: Finding) -> None:
    level = click.style(f"{finding.level.value:9}", fg=_STYLE[finding.level])
    click.echo(f"{level} {finding.subject}: {printable(finding.words)}")
    if finding.advice and finding.level is not Level.OK:
        click.echo(f"{'':9} → {printable(finding.advice)}")
