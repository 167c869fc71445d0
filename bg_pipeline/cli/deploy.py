"""``bg-pipeline deploy``: the pipeline on AWS, as one CloudFormation stack."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click
from botocore.exceptions import ClientError

from bg_pipeline.aws.clients import Aws, make_aws
from bg_pipeline.cli.terminal import confirm, console, counted, dollars, print_message, stopped_by_user, table
from bg_pipeline.deploy import image as images
from bg_pipeline.deploy import stack as stacks
from bg_pipeline.deploy import template as templates
from bg_pipeline.deploy.price import idle_price
from bg_pipeline.deploy.stack import Event, Stack, StackState
from bg_pipeline.doctor.account import examine
from bg_pipeline.doctor.findings import Level
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.settings import settings

NAME = re.compile("[a-z][a-z0-9-]{0,29}")
NO_IMAGE = "image-is-built-by-this-command"
PLAN_REGION = "us-east-1"


@click.command()
@click.option("--stack", "name", default="bg-pipeline", show_default=True, help="Name of the stack.")
@click.option(
    "--plan", is_flag=True, help="Only print what would be made and its monthly price. Needs no account."
)
@click.option(
    "--parameter",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the template, such as Shape=small or NotificationEmail=me@example.com; repeat it for more. "
    "On a stack that exists, the others keep their values.",
)
@click.option("--image", help="Container image to run; without it one is built here and pushed to ECR.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--destroy", is_flag=True, help="Delete the stack. The bucket, with all pictures, stays.")
@click.option(
    "--delete-bucket",
    metavar="BUCKET",
    help="With --destroy: delete the stack's bucket as well, with everything in it; write its name.",
)
def deploy(
    name: str,
    plan: bool,
    given: tuple[str, ...],
    image: str | None,
    yes: bool,
    destroy: bool,
    delete_bucket: str | None,
) -> None:
    """Put the pipeline on AWS, in boto3's default Region, or change or delete what is there.

    It checks rights, shows what changes and what it costs at idle, asks, makes it, and runs the doctor on it. A
    creation that fails is undone. The template is deploy/aws/bg-pipeline.yaml; deploy/aws/README.md explains it.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--stack '{name}': use a small letter, then small letters, digits and hyphens, at most 30"
        )
    if delete_bucket and not destroy:
        raise UsageError("--delete-bucket needs --destroy")
    if destroy and (given or image or plan):
        raise UsageError("--destroy takes no --plan, --parameter and --image")
    values = _parameters(given)
    if image:
        values["Image"] = image
    if plan:
        _plan(name, values)
        return
    aws = make_aws(settings())
    try:
        account = aws.client("sts", aws.own_region).get_caller_identity()["Account"]
    except ClientError as error:
        raise BgPipelineError(f"these credentials are not accepted by AWS: {error}") from error
    stack = Stack(aws, name)
    with stopped_by_user():
        try:
            if destroy:
                _destroy(aws, stack, delete_bucket, yes=yes)
            else:
                _deploy(aws, stack, account, values, yes=yes)
        except KeyboardInterrupt:
            if stack.state().under_way:
                print_message(
                    f"CloudFormation goes on with stack {name}; the same command, given again, waits for it."
                )
            raise


def _parameters(given: Iterable[str]) -> dict[str, str]:
    values = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise UsageError(f"--parameter '{each}' is not NAME=VALUE")
        if name == "Image":
            raise UsageError("the image is given with --image")
        values[name] = value
    return values


def _plan(name: str, given: Mapping[str, str]) -> None:
    """Prints what a new stack would have. It asks nobody, so that it works without an account."""
    template = templates.load()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or PLAN_REGION
    values = templates.parameter_values(template, {"Image": NO_IMAGE, **given})
    needed = templates.for_stack(template, values, region)
    templates.body(needed)
    kinds: dict[str, list[str]] = {}
    for logical, resource in needed["Resources"].items():
        kinds.setdefault(resource["Type"].removeprefix("AWS::"), []).append(logical)
    click.echo(f"Stack {name} in {region}, as a new one; nothing was asked or changed.")
    console().print(
        table(("Kind", "Resources"), [(kind, ", ".join(names)) for kind, names in sorted(kinds.items())])
    )
    _print_price(needed, values, region)


def _print_price(template: Mapping[str, Any], values: Mapping[str, str], region: str) -> None:
    price = idle_price(template, values)
    rows = [(line.what, line.number, dollars(line.usd)) for line in price.lines]
    click.echo("")
    console().print(
        table(
            ("Billed each month", "Number", "USD"),
            [*rows, ("in all, without photos", "", dollars(price.usd))],
            right=("Number", "USD"),
        )
    )
    elsewhere = "" if region == PLAN_REGION else f" In {region} it may be up to 30 % more."
    print_message(
        f"Prices of us-east-1 on {price.as_of}, without taxes and free tiers.{elsewhere} Runs, models, storage and "
        "logs come on top, by use."
    )


def _deploy(aws: Aws, stack: Stack, account: str, given: Mapping[str, str], *, yes: bool) -> None:
    template = templates.load()
    region = aws.own_region
    if region not in templates.regions(template):
        # Says what to do, before anything is asked.
        templates.for_stack(template, templates.parameter_values(template, {"Image": NO_IMAGE}), region)
    state = _settled(stack, yes=yes)
    known = {name: value for name, value in state.parameters.items() if name in template["Parameters"]}
    values = templates.parameter_values(template, {"Image": NO_IMAGE, **known, **given})
    needed = templates.for_stack(template, values, region)
    bucket = stacks.bucket_name(stack.name, values, account, region)
    ours = not state.exists and stacks.bucket_is_ours(aws, bucket)
    if ours:
        print_message(
            f"Bucket {bucket} exists in this account; it becomes part of the stack, with what is in it."
        )
    if values["VpcId"] == "" and (not state.exists or state.parameters.get("VpcId")):
        stacks.check_vpc_quota(aws)
    missing = stacks.missing_rights(aws, needed)
    if missing:
        raise UsageError(
            f"these credentials lack rights for the stack: {', '.join(missing)}; use a role that has them"
        )
    if missing is None:
        print_message("IAM does not tell whether these credentials may make all of it; CloudFormation will.")
    if values["Image"] == NO_IMAGE:
        images.checkout(), images.tool()
        _print_price(needed, values, region)
        confirm(f"Build the image and push it to ECR in account {account}?", yes=yes)
        values["Image"] = images.build_and_push(aws, account, values["CpuArchitecture"], print_message)
        needed = templates.for_stack(template, values, region)
    print_message(f"CloudFormation prepares the changes of stack {stack.name} in {region} …")
    identity, changes = stack.prepare(templates.body(needed), values, take_bucket=ours)
    if changes:
        rows = [
            (each.action, each.kind.removeprefix("AWS::"), each.name, "replaced" if each.replaced else "")
            for each in changes
        ]
        console().print(table(("Change", "Kind", "Resource", ""), rows))
        _print_price(needed, values, region)
        try:
            confirm(f"Make {counted(len(changes), 'change')} in account {account}?", yes=yes)
        except (UsageError, click.Abort):
            stack.discard(identity)
            raise
        _follow(stack.execute(identity))
        state = stack.state()
    else:
        print_message(f"Stack {stack.name} is as it should be; nothing changes.")
    click.echo("")
    for output, value in state.outputs.items():
        click.echo(f"{output + ':':18} {value}")
    healthy = _examine(state, values)
    print_message(
        "New uploads are worked on, and paid for, once somebody turns the sensor upload_events on in Dagster's UI; "
        "deploy/aws/README.md says how to reach it. Confirm the mail of NotificationEmail, if you gave one."
    )
    click.get_current_context().exit(0 if healthy else 1)


def _settled(stack: Stack, *, yes: bool) -> StackState:
    """The stack's state once it can be changed: a change under way is waited for, a half-made stack is deleted."""
    state = stack.state()
    if state.under_way:
        print_message(f"Stack {stack.name} is being changed ({state.status}); waiting for its end …")
        _follow(stack.wait())
        state = stack.state()
    if state.status == "UPDATE_ROLLBACK_FAILED":
        confirm(f"The last update of stack {stack.name} could not be undone. Try to undo it again?", yes=yes)
        _follow(stack.continue_rollback())
        state = stack.state()
    if state.half_made:
        confirm(
            f"Stack {stack.name} is {state.status}, left by a creation or deletion that failed. Delete what is left "
            "of it (a bucket stays) and begin anew?",
            yes=yes,
        )
        _follow(stack.delete())
        state = stack.state()
    return state


def _follow(events: Iterable[Event]) -> None:
    """Prints what CloudFormation does, a line for each resource that is done or failed."""
    for event in events:
        if event.status.endswith(("_COMPLETE", "_FAILED")):
            reason = f": {event.reason}" if event.reason else ""
            print_message(f"{event.status:22} {event.kind.removeprefix('AWS::'):32} {event.name}{reason}")


def _examine(state: StackState, values: Mapping[str, str]) -> bool:
    """Runs the free checks of `doctor` with the new stack's settings; False if one failed."""
    outputs = state.outputs
    configured = settings(
        bucket=outputs["BucketName"],
        queue_url=outputs["QueueUrl"],
        sns_topic_arn=outputs["TopicArn"],
        custom_labels_arn=values["CustomLabelsArn"],
    )
    click.echo("")
    failed = False
    for finding in examine(configured, make_aws(configured)):
        failed = failed or finding.level is Level.FAILED
        if finding.level is not Level.OK:
            click.echo(f"{finding.level.value:9} {finding.subject}: {printable(finding.words)}")
            if finding.advice:
                click.echo(f"{'':9} → {printable(finding.advice)}")
    if not failed:
        print_message(
            "The doctor found nothing that would stop a run (`bg-pipeline doctor` prints all it looks at)."
        )
    return not failed


def _destroy(aws: Aws, stack: Stack, delete_bucket: str | None, *, yes: bool) -> None:
    state = stack.state()
    if state.under_way:
        _follow(stack.wait())
        state = stack.state()
    if not state.exists:
        raise UsageError(f"there is no stack {stack.name} in {aws.own_region}")
    bucket = state.outputs.get("BucketName", "")
    if delete_bucket and delete_bucket != bucket:
        raise UsageError(f"--delete-bucket {delete_bucket}: the stack's bucket is {bucket or 'not made'}")
    kept = (
        "is deleted, with every photo, picture and report"
        if delete_bucket
        else "stays, with all that is in it"
    )
    print_message(
        f"Stack {stack.name} in {aws.own_region} is deleted, with Dagster's history. Bucket {bucket} {kept}."
    )
    cluster = state.outputs.get("ClusterName", "")
    runs = stacks.running_runs(aws, cluster, stack.name) if cluster else []
    if runs:
        print_message(f"{counted(len(runs), 'run')} under way would be stopped; what they paid for is kept.")
    confirm(f"Delete stack {stack.name}?", yes=yes)
    stacks.stop_runs(aws, cluster, runs)
    _follow(stack.delete())
    if delete_bucket:
        for deleted in stacks.delete_bucket(aws, bucket):
            print_message(f"{deleted:,} objects deleted from {bucket}")
        print_message(f"Bucket {bucket} is deleted.")
    elif bucket:
        print_message(
            f"Bucket {bucket} is kept; `bg-pipeline deploy --stack {stack.name}` would use it again."
        )
