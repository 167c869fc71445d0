"""A CloudFormation stack of the template: looked at, changed, waited for, deleted.

Nothing is changed without a change set that was shown before. A creation that fails leaves nothing behind.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.errors import BgPipelineError, UsageError

POLL_SECONDS: Final = 5.0
_CREATION_FAILED: Final = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
"""States out of which a stack can only be deleted."""
_CHANGEABLE: Final = (
    *("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"),
    *("IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"),
)

_MADE: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
_GONE: Final = ("DELETE_COMPLETE", "")

_VPC_QUOTA: Final = "L-F678F1CE"
_DEFAULT_VPC_QUOTA: Final = 5

_ACTIONS: Final = {
    "AWS::Budgets::Budget": ("budgets:ModifyBudget",),
    "AWS::CloudWatch::Alarm": ("cloudwatch:PutMetricAlarm",),
    "AWS::Cognito::UserPool": ("cognito-idp:CreateUserPool",),
    "AWS::EC2::SecurityGroup": ("ec2:CreateSecurityGroup", "ec2:AuthorizeSecurityGroupIngress"),
    "AWS::EC2::VPC": ("ec2:CreateVpc", "ec2:CreateSubnet", "ec2:CreateInternetGateway"),
    "AWS::ECS::Cluster": ("ecs:CreateCluster",),
    "AWS::ECS::Service": ("ecs:CreateService",),
    "AWS::ECS::TaskDefinition": ("ecs:RegisterTaskDefinition",),
    "AWS::EFS::FileSystem": ("elasticfilesystem:CreateFileSystem",),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("elasticloadbalancing:CreateLoadBalancer",),
    "AWS::IAM::ManagedPolicy": ("iam:CreatePolicy",),
    "AWS::IAM::Role": ("iam:CreateRole", "iam:PutRolePolicy", "iam:PassRole"),
    "AWS::Logs::LogGroup": ("logs:CreateLogGroup", "logs:PutRetentionPolicy"),
    "AWS::RDS::DBInstance": ("rds:CreateDBInstance",),
    "AWS::S3::Bucket": ("s3:CreateBucket", "s3:PutBucketNotification"),
    "AWS::SNS::Topic": ("sns:CreateTopic",),
    "AWS::SQS::Queue": ("sqs:CreateQueue",),
    "AWS::Scheduler::Schedule": ("scheduler:CreateSchedule",),
    "AWS::SecretsManager::Secret": ("secretsmanager:CreateSecret",),
    "AWS::ServiceDiscovery::PrivateDnsNamespace": ("servicediscovery:CreatePrivateDnsNamespace",),
}
"""What the person who deploys has to be allowed, for the kinds of resources that need it most."""


@dataclass(frozen=True)
class StackState:
    """A stack as CloudFormation describes it; ``status`` is empty if there is none."""

    status: str = ""
    stack_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """Whether it was made; a stack that has only a change set was not."""
        return self.status not in ("", "REVIEW_IN_PROGRESS", "DELETE_COMPLETE")

    @property
    def under_way(self) -> bool:
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def half_made(self) -> bool:
        """Whether its creation or deletion failed, so that it has to be deleted before anything else."""
        return self.status in _CREATION_FAILED


@dataclass(frozen=True)
class Change:
    """One line of a change set: ``Add``, ``Modify``, ``Remove`` or ``Import`` a resource."""

    action: str
    kind: str
    name: str
    replaced: bool


@dataclass(frozen=True)
class Event:
    """What happened to a resource of the stack; ``reason`` is AWS's, for a failure."""

    name: str
    kind: str
    status: str
    reason: str


class Stack:
    """One stack by name, in the Region of ``aws``. Errors of AWS are raised as they are."""

    def __init__(self, aws: Aws, name: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name = name
        self._aws = aws
        self._cloudformation = aws.client("cloudformation", aws.own_region)
        self._sleep = sleep

    def state(self) -> StackState:
        """The stack as it is now."""
        return self._describe(self.name)

    def _describe(self, name: str) -> StackState:
        try:
            (found,) = self._cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return StackState()
            raise
        return StackState(
            found["StackStatus"],
            found["StackId"],
            {each["ParameterKey"]: each.get("ParameterValue", "") for each in found.get("Parameters", ())},
            {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", ())},
        )

    def prepare(
        self, body: str, values: Mapping[str, str], *, take_bucket: bool = False
    ) -> tuple[str, list[Change]]:
        """Makes a change set, which changes nothing yet; returns its id and its lines, none if nothing differs.

        ``take_bucket``: a bucket of that name in this account becomes part of the stack, with what is in it.
        Raises `UsageError` while another change is under way, and for a stack that has to be deleted first.
        """
        state = self.state()
        if state.under_way:
            raise UsageError(f"stack {self.name} is being changed ({state.status}); wait for its end")
        if state.exists and state.status not in _CHANGEABLE:
            raise UsageError(f"stack {self.name} is {state.status} and cannot be changed")
        options: dict[str, Any] = {}
        if not state.exists:
            # A failed creation is deleted, so that the next attempt is not refused.
            options["OnStackFailure"] = "DELETE"
        if take_bucket:
            options["ImportExistingResources"] = True
        made = self._cloudformation.create_change_set(
            StackName=self.name,
            ChangeSetName=f"bg-pipeline-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}",
            ChangeSetType="UPDATE" if state.exists else "CREATE",
            TemplateBody=body,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
            Tags=[{"Key": "application", "Value": "bg-pipeline"}],
            **options,
        )
        identity = made["Id"]
        while True:
            described = self._cloudformation.describe_change_set(ChangeSetName=identity, StackName=self.name)
            status, reason = described["Status"], described.get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                return identity, self._changes(identity)
            if status == "FAILED":
                self.discard(identity)
                if "didn't contain changes" in reason or "No updates are to be performed" in reason:
                    return "", []
                raise BgPipelineError(f"CloudFormation cannot prepare stack {self.name}: {explain(reason)}")
            self._sleep(POLL_SECONDS)

    def _changes(self, identity: str) -> list[Change]:
        changes: list[Change] = []
        token: dict[str, str] = {}
        while True:
            page = self._cloudformation.describe_change_set(
                ChangeSetName=identity, StackName=self.name, **token
            )
            for each in page.get("Changes", ()):
                change = each["ResourceChange"]
                changes.append(
                    Change(
                        change["Action"],
                        change["ResourceType"],
                        change["LogicalResourceId"],
                        change.get("Replacement", "False") != "False" and change["Action"] == "Modify",
                    )
                )
            if "NextToken" not in page:
                return changes
            token = {"NextToken": page["NextToken"]}

    def discard(self, identity: str) -> None:
        """Deletes a change set, and the empty stack that CloudFormation makes for a first one."""
        with suppress(ClientError):
            self._cloudformation.delete_change_set(ChangeSetName=identity, StackName=self.name)
        with suppress(ClientError):
            if self.state().status == "REVIEW_IN_PROGRESS":
                self._cloudformation.delete_stack(StackName=self.name)

    def execute(self, identity: str) -> Iterator[Event]:
        """Makes the changes; yields what happens until it has ended.

        Raises `BgPipelineError` with the first reason if it failed. CloudFormation has then undone it.
        """
        since = datetime.now(UTC)
        stack_id = self.state().stack_id
        self._cloudformation.execute_change_set(ChangeSetName=identity, StackName=self.name)
        yield from self._until_end(stack_id, since, _MADE)

    def wait(self) -> Iterator[Event]:
        """Yields what happens until a change that somebody began has ended; raises as `execute`."""
        yield from self._until_end(self.state().stack_id, datetime.now(UTC), (*_CHANGEABLE, *_GONE))

    def delete(self) -> Iterator[Event]:
        """Deletes the stack; yields what happens. Its bucket stays (its deletion policy says so)."""
        since = datetime.now(UTC)
        stack_id = self.state().stack_id
        self._cloudformation.delete_stack(StackName=self.name)
        yield from self._until_end(stack_id, since, _GONE)

    def _until_end(self, stack_id: str, since: datetime, good: Collection[str]) -> Iterator[Event]:
        """``good`` are the states in which it has succeeded. By the stack's id, as a deleted stack has no name."""
        seen: set[str] = set()
        failures: list[Event] = []
        while True:
            state = self._describe(stack_id)
            for event in self._events(stack_id, since, seen):
                if "FAILED" in event.status and "cancelled" not in event.reason.lower():
                    failures.append(event)
                yield event
            if not state.under_way:
                break
            self._sleep(POLL_SECONDS)
        if state.status in good:
            return
        first = failures[0] if failures else None
        detail = f"{first.name} ({first.kind}): {explain(first.reason)}" if first else "AWS gives no reason"
        undone = {
            "DELETE_COMPLETE": "what was made is deleted again",
            "": "what was made is deleted again",
            "UPDATE_ROLLBACK_COMPLETE": "it is as it was before",
        }.get(state.status, f"it is now {state.status}; the same command, given again, cleans up first")
        raise BgPipelineError(
            f"stack {self.name} could not be changed: {detail}. {undone[0].upper()}{undone[1:]}"
        )

    def _events(self, stack_id: str, since: datetime, seen: set[str]) -> list[Event]:
        found = []
        try:
            pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
            for page in pages:
                newer = [
                    each
                    for each in page["StackEvents"]
                    if each["Timestamp"].timestamp() >= since.timestamp() - 2
                ]
                found += [each for each in newer if each["EventId"] not in seen]
                if len(newer) < len(page["StackEvents"]):
                    break
        except ClientError as error:
            if "does not exist" not in str(error):
                raise
        seen |= {each["EventId"] for each in found}
        return [
            Event(
                each["LogicalResourceId"],
                each.get("ResourceType", ""),
                each["ResourceStatus"],
                each.get("ResourceStatusReason", ""),
            )
            for each in reversed(found)
        ]

    def continue_rollback(self) -> Iterator[Event]:
        """Tries again to undo an update whose undoing failed."""
        since = datetime.now(UTC)
        self._cloudformation.continue_update_rollback(StackName=self.name)
        yield from self._until_end(self.state().stack_id, since, ("UPDATE_ROLLBACK_COMPLETE",))


def explain(reason: str) -> str:
    """AWS's reason for a failure, with what to do about those that are expected."""
    lowered = reason.lower()
    for sign, advice in (
        (
            "vpclimitexceeded",
            "use one of your VPCs (VpcId and SubnetIds), or ask Service Quotas for more VPCs",
        ),
        (
            "maximum number of vpcs",
            "use one of your VPCs (VpcId and SubnetIds), or ask Service Quotas for more VPCs",
        ),
        ("maximum number of internet gateways", "use one of your VPCs (VpcId and SubnetIds)"),
        ("bucketalreadyexists", "the name is taken in some account: set BucketName"),
        ("accessdenied", "ask for this right, or deploy with a role that has it"),
        ("not authorized", "ask for this right, or deploy with a role that has it"),
        ("cannotpullcontainer", "check Image and that its architecture is CpuArchitecture"),
        (
            "circuit breaker",
            "the tasks of this service do not start or stay healthy: see its stopped tasks and its log in ECS",
        ),
    ):
        if sign in lowered.replace(" ", "") or sign in lowered:
            return f"{reason} → {advice}"
    return reason or "AWS gives no reason"


def bucket_name(stack: str, values: Mapping[str, str], account: str, region: str) -> str:
    """The name that the template gives the bucket. Raises `UsageError` if S3 does not allow it."""
    name = values["BucketName"] or f"{stack}-{account}-{region}"
    if len(name) > 63 or name != name.lower() or "_" in name:
        raise UsageError(
            f"the bucket would be called {name}, which S3 does not allow: choose a stack name in lower case of at "
            "most 30 characters, or set BucketName"
        )
    return name


def bucket_is_ours(aws: Aws, bucket: str) -> bool:
    """Whether a bucket of this name exists in this account and Region already, left by an earlier stack.

    Raises `UsageError` if the name is taken by somebody else, or in another Region.
    """
    try:
        answer = aws.client("s3", aws.own_region).head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("404", "NoSuchBucket", "NotFound"):
            return False
        if code in ("403", "AccessDenied"):
            raise UsageError(
                f"bucket {bucket} exists and is not yours, or you may not see it: choose another name (BucketName)"
            ) from None
        if code in ("301", "PermanentRedirect"):
            raise UsageError(
                f"bucket {bucket} exists in another Region: choose another name (BucketName)"
            ) from None
        raise
    region = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region", aws.own_region)
    if region != aws.own_region:
        raise UsageError(
            f"bucket {bucket} exists in {region}, not in {aws.own_region}: choose another name (BucketName)"
        )
    return True


def check_vpc_quota(aws: Aws) -> None:
    """Raises `UsageError` if the Region has no room for another VPC; passes if that cannot be asked."""
    try:
        count = sum(
            len(page["Vpcs"])
            for page in aws.client("ec2", aws.own_region).get_paginator("describe_vpcs").paginate()
        )
    except (ClientError, BotoCoreError):
        return
    try:
        quotas = aws.client("service-quotas", aws.own_region)
        quota = int(quotas.get_service_quota(ServiceCode="vpc", QuotaCode=_VPC_QUOTA)["Quota"]["Value"])
    except (ClientError, BotoCoreError):
        quota = _DEFAULT_VPC_QUOTA
    if count >= quota:
        raise UsageError(
            f"{aws.own_region} has {count} VPCs, of {quota} that this account may have: use one of them "
            "(--parameter VpcId=vpc-… --parameter SubnetIds=subnet-…,subnet-…), or ask Service Quotas for more"
        )


def missing_rights(aws: Aws, template: Mapping[str, Any]) -> list[str] | None:
    """The actions for this template that IAM's simulator says are denied to these credentials; None if it cannot say.

    It knows the identity's policies only, no service control policies of the organization.
    """
    caller = aws.client("sts", aws.own_region).get_caller_identity()["Arn"]
    kinds = {each["Type"] for each in template["Resources"].values()}
    actions = [
        "cloudformation:CreateChangeSet",
        "cloudformation:ExecuteChangeSet",
        "cloudformation:DescribeStacks",
    ]
    actions += [action for kind in sorted(kinds) for action in _ACTIONS.get(kind, ())]
    account = caller.split(":")[4]
    if caller.endswith(":root"):
        return []
    if ":assumed-role/" in caller:
        caller = f"arn:{aws.partition(aws.own_region)}:iam::{account}:role/{caller.split('/')[1]}"
    try:
        pages = aws.client("iam", aws.own_region).get_paginator("simulate_principal_policy")
        results = [
            result
            for page in pages.paginate(PolicySourceArn=caller, ActionNames=actions)
            for result in page["EvaluationResults"]
        ]
    except (ClientError, BotoCoreError):
        return None
    return [each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"]


def running_runs(aws: Aws, cluster: str, stack: str) -> list[str]:
    """The tasks of runs that are under way on the stack's cluster; they belong to no service."""
    ecs = aws.client("ecs", aws.own_region)
    try:
        pages = ecs.get_paginator("list_tasks").paginate(cluster=cluster, family=f"{stack}-run")
        return [arn for page in pages for arn in page["taskArns"]]
    except ClientError as error:
        if "ClusterNotFound" in str(error):
            return []
        raise


def stop_runs(aws: Aws, cluster: str, tasks: list[str]) -> None:
    """Sends SIGTERM to the runs. Each ends its calls and writes its report within two minutes."""
    ecs = aws.client("ecs", aws.own_region)
    for task in tasks:
        ecs.stop_task(cluster=cluster, task=task, reason="bg-pipeline deploy --destroy")


def delete_bucket(aws: Aws, bucket: str) -> Iterator[int]:
    """Deletes all versions of all objects, then the bucket; yields how many were deleted so far."""
    client = aws.client("s3", aws.own_region)
    deleted = 0
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        objects = [
            {"Key": each["Key"], "VersionId": each["VersionId"]}
            for part in ("Versions", "DeleteMarkers")
            for each in page.get(part, ())
        ]
        if objects:
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if problems := answer.get("Errors"):
                raise BgPipelineError(
                    f"{bucket}/{problems[0].get('Key')} cannot be deleted: {problems[0].get('Message')}"
                )
            deleted += len(objects)
            yield deleted
    client.delete_bucket(Bucket=bucket)
