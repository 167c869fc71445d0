"""What goes wrong with a stack is told with what to do, and nothing is left in the next attempt's way."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.deploy import stack as stacks
from bg_pipeline.deploy.stack import Stack, explain
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline_tests.deploy.templates import parameters


def refused(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


class CloudFormation:
    """Answers with the statuses given, one after the other; the last one stays."""

    def __init__(self, *statuses: str, reason: str = "", change_set: str = "CREATE_COMPLETE") -> None:
        self.statuses = list(statuses)
        self.reason = reason
        self.change_set = change_set
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(**asked: Any) -> dict[str, Any]:
            self.calls.append((name, asked))
            return {"Id": "change-set"}

        return call

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        status = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        if not status:
            raise refused("ValidationError", f"Stack with id {StackName} does not exist")
        return {"Stacks": [{"StackStatus": status, "StackId": "arn:stack"}]}

    def describe_change_set(self, **asked: Any) -> dict[str, Any]:
        return {"Status": self.change_set, "StatusReason": self.reason, "Changes": []}

    def get_paginator(self, name: str) -> Any:
        assert name == "describe_stack_events"
        return self

    def paginate(self, StackName: str) -> list[dict[str, Any]]:  # noqa: N803
        assert StackName == "arn:stack", "a deleted stack is found by its id only"
        event = {
            "EventId": "1",
            "Timestamp": datetime.now(UTC) + timedelta(seconds=1),
            "LogicalResourceId": "Vpc",
            "ResourceType": "AWS::EC2::VPC",
            "ResourceStatus": "CREATE_FAILED",
            "ResourceStatusReason": self.reason,
        }
        return [{"StackEvents": [event] if self.reason else []}]

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Clients:
    """Stands for `Aws`."""

    own_region = "us-east-1"

    def __init__(self, **clients: Any) -> None:
        self.clients = clients

    def client(self, service: str, region: str = "") -> Any:
        return self.clients[service.replace("-", "_")]

    def partition(self, region: str) -> str:
        return "aws"


def clients(**by_service: Any) -> Any:
    return Clients(**by_service)


def stack(cloudformation: CloudFormation) -> Stack:
    return Stack(clients(cloudformation=cloudformation), "photos", sleep=lambda seconds: None)


def test_a_creation_that_fails_is_undone_and_says_why() -> None:
    reason = "The maximum number of VPCs has been reached. (Service: Ec2, Error: VpcLimitExceeded)"
    cloudformation = CloudFormation(
        "REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "DELETE_COMPLETE", reason=reason
    )
    with pytest.raises(BgPipelineError) as raised:
        list(stack(cloudformation).execute("change-set"))
    assert "Vpc (AWS::EC2::VPC)" in str(raised.value)
    assert "use one of your VPCs" in str(raised.value)
    assert "What was made is deleted again" in str(raised.value)


def test_a_stack_that_was_deleted_meanwhile_is_no_success() -> None:
    cloudformation = CloudFormation("REVIEW_IN_PROGRESS", "DELETE_COMPLETE")
    with pytest.raises(BgPipelineError, match="AWS gives no reason"):
        list(stack(cloudformation).execute("change-set"))


def test_an_update_that_is_rolled_back_is_no_success() -> None:
    cloudformation = CloudFormation("UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", reason="no")
    with pytest.raises(BgPipelineError, match="It is as it was before"):
        list(stack(cloudformation).execute("change-set"))


def test_a_first_change_set_asks_for_the_deletion_of_what_fails() -> None:
    cloudformation = CloudFormation("")
    stack(cloudformation).prepare("{}", {}, take_bucket=True)
    ((name, asked),) = cloudformation.calls
    assert (name, asked["ChangeSetType"], asked["OnStackFailure"]) == (
        "create_change_set",
        "CREATE",
        "DELETE",
    )
    assert asked["ImportExistingResources"] is True


def test_an_update_keeps_what_there_is_when_it_fails() -> None:
    cloudformation = CloudFormation("UPDATE_COMPLETE")
    stack(cloudformation).prepare("{}", {})
    ((_, asked),) = cloudformation.calls
    assert asked["ChangeSetType"] == "UPDATE"
    assert not asked.keys() & {"OnStackFailure", "ImportExistingResources"}


@pytest.mark.parametrize(
    "reason", ["The submitted information didn't contain changes.", "No updates are to be performed."]
)
def test_a_stack_that_is_as_asked_is_no_error(reason: str) -> None:
    cloudformation = CloudFormation("UPDATE_COMPLETE", reason=reason, change_set="FAILED")
    assert stack(cloudformation).prepare("{}", {}) == ("", [])
    assert "delete_change_set" in cloudformation.names()


@pytest.mark.parametrize(
    "status", ["UPDATE_IN_PROGRESS", "ROLLBACK_COMPLETE", "DELETE_FAILED", "UPDATE_ROLLBACK_FAILED"]
)
def test_a_stack_in_another_state_gets_no_change_set(status: str) -> None:
    cloudformation = CloudFormation(status)
    with pytest.raises(UsageError, match=status):
        stack(cloudformation).prepare("{}", {})
    assert not cloudformation.calls


def test_an_empty_stack_of_a_discarded_change_set_is_deleted_but_no_other() -> None:
    for status, deleted in (("REVIEW_IN_PROGRESS", True), ("UPDATE_COMPLETE", False)):
        cloudformation = CloudFormation(status)
        stack(cloudformation).discard("change-set")
        assert ("delete_stack" in cloudformation.names()) is deleted


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("VpcLimitExceeded", "use one of your VPCs"),
        ("photos already exists (BucketAlreadyExists)", "set BucketName"),
        ("User: x is not authorized to perform: rds:CreateDBInstance", "ask for this right"),
        ("ECS Deployment Circuit Breaker was triggered", "stopped tasks"),
    ],
)
def test_an_expected_reason_comes_with_advice(reason: str, advice: str) -> None:
    assert advice in explain(reason)


class S3:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def head_bucket(self, Bucket: str) -> Any:  # noqa: N803
        if isinstance(self.answer, ClientError):
            raise self.answer
        return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": self.answer}}}


def test_a_bucket_is_free_ours_or_somebody_elses() -> None:
    assert not stacks.bucket_is_ours(clients(s3=S3(refused("404"))), "b")
    assert stacks.bucket_is_ours(clients(s3=S3("us-east-1")), "b")
    for answer, expected in (
        (refused("403"), "is not yours"),
        (refused("301"), "another Region"),
        ("eu-west-1", "exists in eu-west-1"),
    ):
        with pytest.raises(UsageError, match=expected):
            stacks.bucket_is_ours(clients(s3=S3(answer)), "b")


def test_a_bucket_name_that_s3_would_refuse_is_refused_first() -> None:
    values = parameters()
    assert (
        stacks.bucket_name("photos", values, "123456789012", "us-east-1") == "photos-123456789012-us-east-1"
    )
    with pytest.raises(UsageError, match="S3 does not allow"):
        stacks.bucket_name("p" * 41, values, "123456789012", "us-east-1")


class Quotas:
    def __init__(self, vpcs: int, quota: int | None) -> None:
        self.vpcs, self.quota = vpcs, quota

    def get_paginator(self, name: str) -> Any:
        return self

    def paginate(self) -> list[dict[str, Any]]:
        return [{"Vpcs": [{}] * self.vpcs}]

    def get_service_quota(self, **asked: Any) -> Any:
        if self.quota is None:
            raise refused("AccessDenied")
        return {"Quota": {"Value": float(self.quota)}}


@pytest.mark.parametrize(
    ("vpcs", "quota", "full"), [(4, 5, False), (5, 5, True), (5, 10, False), (5, None, True)]
)
def test_room_for_a_vpc_is_looked_for_before_anything_is_made(
    vpcs: int, quota: int | None, full: bool
) -> None:
    aws = clients(ec2=Quotas(vpcs, quota), service_quotas=Quotas(vpcs, quota))
    if not full:
        stacks.check_vpc_quota(aws)
        return
    with pytest.raises(UsageError, match="VpcId=vpc-"):
        stacks.check_vpc_quota(aws)


class Identity:
    def __init__(self, arn: str, denied: str | None) -> None:
        self.arn, self.denied = arn, denied
        self.asked: dict[str, Any] = {}

    def get_caller_identity(self) -> dict[str, str]:
        return {"Arn": self.arn}

    def get_paginator(self, name: str) -> Any:
        return self

    def paginate(self, **asked: Any) -> list[dict[str, Any]]:
        self.asked = asked
        if self.denied is None:
            raise refused("AccessDenied")
        results = [
            {"EvalActionName": each, "EvalDecision": "implicitDeny" if each == self.denied else "allowed"}
            for each in asked["ActionNames"]
        ]
        return [{"EvaluationResults": results}]


def test_missing_rights_are_named_if_iam_tells() -> None:
    template = {"Resources": {"Database": {"Type": "AWS::RDS::DBInstance"}}}
    role = "arn:aws:sts::123456789012:assumed-role/Deployer/me"
    identity = Identity(role, "rds:CreateDBInstance")
    assert stacks.missing_rights(clients(sts=identity, iam=identity), template) == ["rds:CreateDBInstance"]
    assert identity.asked["PolicySourceArn"] == "arn:aws:iam::123456789012:role/Deployer"
    identity = Identity(role, None)
    assert stacks.missing_rights(clients(sts=identity, iam=identity), template) is None
    identity = Identity("arn:aws:iam::123456789012:root", None)
    assert stacks.missing_rights(clients(sts=identity, iam=identity), template) == []
