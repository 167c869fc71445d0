"""The template is made, changed and deleted, and the pipeline works with what it made."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from click.testing import CliRunner

from bg_pipeline.aws.clients import Aws
from bg_pipeline.cli.main import main
from bg_pipeline.definitions import definitions
from bg_pipeline.deploy import stack as stacks
from bg_pipeline.deploy import template as templates
from bg_pipeline.deploy.stack import Stack
from bg_pipeline.doctor.policy import PolicyInputs, Role, policy
from bg_pipeline.settings import settings
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.deploy.templates import IMAGE, MODEL, SHAPES, parameters, without
from bg_pipeline_tests.pictures import photo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ACCOUNT = "000000000000"
NOT_IN_MINISTACK = ("AWS::Budgets::Budget",)


@pytest.fixture
def aws(account: str, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """Clients of the account."""
    for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account)
    return Aws()


def made(aws: Aws, name: str, region: str = "us-east-1", **given: str) -> Stack:
    """A new stack with these parameters."""
    stack = Stack(aws, name, sleep=lambda seconds: None)
    values = parameters(**given)
    template = without(templates.for_stack(templates.load(), values, region), NOT_IN_MINISTACK)
    identity, changes = stack.prepare(templates.body(template), values)
    assert {each.action for each in changes} == {"Add"}
    assert len(changes) == len(template["Resources"])
    assert all("FAILED" not in event.status for event in stack.execute(identity))
    assert stack.state().status == "CREATE_COMPLETE"
    return stack


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stack_is_made_changed_and_deleted_and_its_bucket_stays(aws: Aws, shape: str) -> None:
    name = f"shape-{list(SHAPES).index(shape)}"
    stack = made(aws, name, **SHAPES[shape])
    bucket = stack.state().outputs["BucketName"]
    assert bucket == stacks.bucket_name(name, parameters(**SHAPES[shape]), ACCOUNT, "us-east-1")
    aws.client("s3").put_object(Bucket=bucket, Key="published/a.jpg", Body=b"a picture")

    values = parameters(**SHAPES[shape], MaxCostUsd="40")
    template = without(templates.for_stack(templates.load(), values, "us-east-1"), NOT_IN_MINISTACK)
    identity, changes = stack.prepare(templates.body(template), values)
    assert any(each.action == "Modify" and each.kind == "AWS::ECS::TaskDefinition" for each in changes)
    assert not [each for each in changes if each.kind in ("AWS::S3::Bucket", "AWS::RDS::DBInstance")]
    list(stack.execute(identity))
    assert stack.state().status == "UPDATE_COMPLETE"

    list(stack.delete())
    assert not stack.state().exists
    answer = aws.client("s3").get_object(Bucket=bucket, Key="published/a.jpg")
    assert answer["Body"].read() == b"a picture"
    assert stacks.bucket_is_ours(aws, bucket)
    assert list(stacks.delete_bucket(aws, bucket)) == [1]
    assert not stacks.bucket_is_ours(aws, bucket)


def rights(documents: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """What policies allow, as (action, resource, condition); an action on ``*`` may have several conditions."""
    found = set()
    for document in documents:
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            condition = json.dumps(statement.get("Condition", {}), sort_keys=True).replace(
                '["us-east-1"]', '"us-east-1"'
            )
            for action in as_list(statement["Action"]):
                found |= {(action, each, condition) for each in as_list(statement["Resource"])}
    return found


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def role_policies(
    aws: Aws, resources: dict[str, str], role: str, ignored: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """The policy documents of a role as IAM has them, but those that only Dagster and ECS need."""
    iam = aws.client("iam")
    name = resources[role]
    for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        yield iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"][
            "Document"
        ]
    for inline in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        if inline not in ignored:
            yield iam.get_role_policy(RoleName=name, PolicyName=inline)["PolicyDocument"]


def test_the_roles_may_what_the_doctor_prints_and_nothing_else(aws: Aws) -> None:
    stack = made(aws, "rights", **SHAPES["page and API"])
    try:
        outputs = stack.state().outputs
        configured = settings(
            bucket=outputs["BucketName"],
            queue_url=f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/{outputs['QueueUrl'].rpartition('/')[2]}",
            sns_topic_arn=outputs["TopicArn"],
            custom_labels_arn=MODEL,
        )
        pages = aws.client("cloudformation").list_stack_resources(StackName="rights")[
            "StackResourceSummaries"
        ]
        physical = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in pages}
        # The template's mapping cannot know the account of an inference profile; only one's own can be called.
        inputs = PolicyInputs(ACCOUNT, "aws")
        expected_of: dict[str, Role] = {"PipelineRole": "pipeline", "PageRole": "page", "ApiRole": "api"}
        for role, printed in expected_of.items():
            expected = rights([policy(configured, aws, printed, inputs)])
            expected = {
                (a, r.replace(f":{ACCOUNT}:inference-profile", ":*:inference-profile"), c)
                for a, r, c in expected
            }
            assert rights(role_policies(aws, physical, role, ("dagster",))) == expected, role
    finally:
        list(stack.delete())


@pytest.mark.parametrize("region", templates.regions(templates.load()))
def test_models_rights_of_every_region_are_those_of_the_doctor(
    region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    document = policy(settings(bucket="photos"), Aws(), "pipeline", PolicyInputs("*", "aws"))
    (statement,) = (each for each in document["Statement"] if each["Sid"] == "CallModels")
    assert templates.load()["Mappings"]["Models"][region]["Callable"] == statement["Resource"]


def test_an_upload_becomes_a_report_and_a_notice_through_what_the_stack_made(
    aws: Aws, account: str, stand_in: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = made(aws, "whole", Shape="small")
    outputs = stack.state().outputs
    for name, value in stand_in.variables().items():
        monkeypatch.setenv(name, value)
    for service in ("S3", "SQS", "SNS", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", account)
    monkeypatch.setattr("bg_pipeline.aws.sqs.WAIT_SECONDS", 0)
    bucket, s3, sqs, sns = outputs["BucketName"], boto3.client("s3"), boto3.client("sqs"), boto3.client("sns")
    inbox = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=inbox, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=outputs["TopicArn"], Protocol="sqs", Endpoint=arn)

    day = datetime.now(UTC).date()
    prefix = f"image-files/{day:%Y/%m/%d}/101530"
    s3.put_object(Bucket=bucket, Key=f"{prefix}/bus.jpg", Body=photo(1))
    request = {"Id": "deployed", "Prompt": "a sunny beach", "Images": [{"ImageName": "bus.jpg"}]}
    s3.put_object(Bucket=bucket, Key=f"{prefix}/request.json", Body=json.dumps(request).encode())

    configured = settings(
        bucket=bucket,
        queue_url=outputs["QueueUrl"],
        sns_topic_arn=outputs["TopicArn"],
        caption_models=(),
        image_models="stability",
    )
    made_definitions = definitions(configured)
    repository = made_definitions.get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        (asked,) = tick(repository, made_definitions, instance, "upload_events", day).run_requests
        assert asked.partition_key == day.isoformat()
        result = repository.get_job("whole_date").execute_in_process(
            instance=instance, partition_key=asked.partition_key, tags=asked.tags
        )
        assert result.success
        tick(repository, made_definitions, instance, "notices", day)

    key = f"status-report-files/{day:%Y/%m/%d}/101530/status_report_deployed.json"
    (row,) = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert (row["ImageName"], row["Status"]) == ("bus.jpg", "Succeeded")
    assert s3.head_object(Bucket=bucket, Key=row["Results"][0])["ContentLength"] > 1000
    notices = sqs.receive_message(QueueUrl=inbox, MaxNumberOfMessages=10)["Messages"]
    assert any("101530" in each["Body"] for each in notices)


def tick(
    repository: dg.RepositoryDefinition,
    made: dg.Definitions,
    instance: dg.DagsterInstance,
    sensor: str,
    day: date,
) -> Any:
    with dg.build_sensor_context(
        instance=instance, repository_def=repository, resources=made.resources
    ) as context:
        return repository.get_sensor_def(sensor).evaluate_tick(context)


def test_the_template_has_no_findings_of_cfn_lint(tmp_path: Path) -> None:
    whole = resources.files("bg_pipeline.deploy") / "bg-pipeline.yaml"
    assert lint(str(whole)) == ""
    # What the command sends is a part of it without conditions: parameters that only these used are unused, and
    # values of empty ones are looked at.
    needed = templates.for_stack(templates.load(), parameters(**SHAPES["page and API"]), "us-east-1")
    (tmp_path / "sent.json").write_text(json.dumps(needed))
    assert (
        lint("--ignore-checks", "W2001", "W1030", "W1031", "W1035", "--", str(tmp_path / "sent.json")) == ""
    )


def lint(*arguments: str) -> str:
    """The findings, errors and warnings; as a program of its own, as its Python interface adds optional rules."""
    program = "import sys; from cfnlint.runner.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode in (0, 2, 4, 6), done.stderr
    return done.stdout


def test_a_run_gets_the_image_the_settings_and_the_size_that_its_tags_ask_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Dagster's launcher, with the stack's task definition, on moto's ECS."""
    pytest.importorskip("moto")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        launch_on_moto(monkeypatch, tmp_path)
    finally:
        server.stop()


def launch_on_moto(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from dagster_aws.ecs import EcsRunLauncher
    from dagster_aws.ecs import launcher as ecs_launcher
    from dagster_aws.ecs.tasks import CurrentEcsTaskMetadata

    ec2, ecs = boto3.client("ec2"), boto3.client("ecs")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"] if each["VpcId"] == vpc][:2]
    values = parameters(VpcId=vpc, SubnetIds=",".join(subnets), RunCpu="2048", RunMemory="8192")
    template = templates.for_stack(templates.load(), values, "us-east-1")
    # moto makes the parts that a run's task consists of; the others have their test on MiniStack.
    kept = ("AWS::ECS::Cluster", "AWS::ECS::TaskDefinition", "AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::SNS::Topic",
            "AWS::Logs::LogGroup")  # fmt: skip
    kinds = {each["Type"] for each in template["Resources"].values()} - set(kept)
    template = {**without(template, kinds), "Outputs": {}}
    # moto looks for the queue's policy, which it cannot make.
    del template["Resources"]["Bucket"]["Properties"]["NotificationConfiguration"]
    stack = Stack(Aws(), "moto", sleep=lambda seconds: None)
    identity, _ = stack.prepare(templates.body(template), values)
    list(stack.execute(identity))
    (definition,) = ecs.list_task_definitions(familyPrefix="moto-run")["taskDefinitionArns"]
    described = ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]
    (container,) = described["containerDefinitions"]
    assert container["image"] == IMAGE
    environment = {each["name"]: each["value"] for each in container["environment"]}
    assert (
        environment["BG_BUCKET"] == f"moto-{boto3.client('sts').get_caller_identity()['Account']}-us-east-1"
    )
    assert environment["DAGSTER_HOME"] == "/opt/bg-pipeline/share/dagster/ecs"
    assert environment["BG_MAX_COST_USD_PER_DAY"] == "100"
    assert [each["name"] for each in container["secrets"]] == ["DAGSTER_POSTGRES_PASSWORD"]

    # moto keeps no CPU and memory of a definition that CloudFormation makes, and starts no task without.
    run = template["Resources"]["RunTask"]["Properties"]
    assert (run["Cpu"], run["Memory"]) == ({"Ref": "RunCpu"}, {"Ref": "RunMemory"})
    registered = ecs.register_task_definition(
        family="moto-run",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        containerDefinitions=[{**container, "cpu": 2048, "memory": 8192}],
        cpu=values["RunCpu"],
        memory=values["RunMemory"],
    )
    definition = registered["taskDefinition"]["taskDefinitionArn"]

    monkeypatch.setenv("DAGSTER_RUN_TASK_DEFINITION", definition)
    groups = [
        each["GroupId"] for each in ec2.describe_security_groups()["SecurityGroups"] if each["VpcId"] == vpc
    ]
    network = {
        "awsvpcConfiguration": {"subnets": subnets, "securityGroups": groups[:1], "assignPublicIp": "ENABLED"}
    }
    # What the launcher asks about the daemon's own task, which is no task here.
    monkeypatch.setattr(
        ecs_launcher, "get_current_ecs_task_metadata", lambda: CurrentEcsTaskMetadata("moto", "arn")
    )
    monkeypatch.setattr(ecs_launcher, "get_current_ecs_task", lambda *_: {})
    monkeypatch.setattr(
        ecs_launcher,
        "get_task_kwargs_from_current_task",
        lambda *_: {"cluster": "moto", "launchType": "FARGATE", "networkConfiguration": network},
    )
    launcher = EcsRunLauncher(task_definition={"env": "DAGSTER_RUN_TASK_DEFINITION"}, secrets_tag=None)
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        launcher.register_instance(instance)
        started = {
            len(tags): launched(ecs, launcher, instance, tags)
            for tags in ({}, {"ecs/cpu": "1024", "ecs/memory": "4096"})
        }
    assert started[0]["taskDefinitionArn"] == definition
    (override,) = started[0]["overrides"]["containerOverrides"]
    assert override["name"] == "run"
    assert override["command"][:3] == ["dagster", "api", "execute_run"]
    assert "cpu" not in started[0]["overrides"]
    assert (started[2]["overrides"]["cpu"], started[2]["overrides"]["memory"]) == ("1024", "4096")


def launched(ecs: Any, launcher: Any, instance: dg.DagsterInstance, tags: dict[str, str]) -> Any:
    """The task that the launcher starts for a run with these tags, with what it asked ECS to override."""
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.launcher import LaunchRunContext
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._core.test_utils import create_run_for_test

    pointer = ModuleCodePointer("bg_pipeline.definitions", "defs", None)
    repository = RepositoryPythonOrigin("python", pointer, IMAGE, ["dagster"], {})
    origin = JobPythonOrigin("whole_date", repository)
    run = create_run_for_test(instance, job_name="whole_date", tags=tags, job_code_origin=origin)
    asked: list[dict[str, Any]] = []
    original = launcher.ecs.run_task

    def run_task(**given: Any) -> Any:
        asked.append(given)
        return original(**given)

    launcher.ecs.run_task = run_task
    try:
        launcher.launch_run(LaunchRunContext(run, None))
    finally:
        launcher.ecs.run_task = original
    arn = instance.get_run_by_id(run.run_id).tags["ecs/task_arn"]
    (task,) = ecs.describe_tasks(cluster="moto", tasks=[arn])["tasks"]
    return {**task, "overrides": asked[0]["overrides"]}


def test_the_command_makes_finds_and_deletes_a_stack(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = templates.load()
    monkeypatch.setattr(templates, "load", lambda: without(complete, NOT_IN_MINISTACK))
    monkeypatch.setattr(stacks, "POLL_SECONDS", 0.0)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["deploy", "--stack", "by-command", *arguments])

    asked = run("--image", IMAGE, "--parameter", "Shape=small")
    assert asked.exit_code == 2, asked.output
    assert "Nobody answered; use --yes" in asked.output
    assert not Stack(aws, "by-command").state().exists

    first = run("--image", IMAGE, "--parameter", "Shape=small", "--yes")
    assert "in all, without photos" in first.output, first.output
    bucket = f"by-command-{ACCOUNT}-us-east-1"
    assert f"BucketName:        {bucket}" in first.output
    again = run("--yes")
    assert Stack(aws, "by-command").state().parameters["Shape"] == "small", again.output

    aws.client("s3").put_object(Bucket=bucket, Key="published/a.jpg", Body=b"a")
    wrong = run("--destroy", "--yes", "--delete-bucket", "another")
    assert (wrong.exit_code, "the stack's bucket is" in wrong.output) == (2, True)
    gone = run("--destroy", "--yes")
    assert (gone.exit_code, f"Bucket {bucket} is kept" in gone.output) == (0, True), gone.output
    assert stacks.bucket_is_ours(aws, bucket)
    assert run("--destroy", "--yes").exit_code == 2
