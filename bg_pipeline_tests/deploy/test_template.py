"""What the template has for given parameters, and what it costs each month."""

import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bg_pipeline.cli.main import main
from bg_pipeline.deploy import template as templates
from bg_pipeline.deploy.price import idle_price
from bg_pipeline.errors import UsageError
from bg_pipeline_tests.deploy.templates import SHAPES, WEB, parameters

ROOT = Path(__file__).parents[2]
TEMPLATE = templates.load()


def stack(region: str = "us-east-1", **given: str) -> dict[str, Any]:
    return templates.for_stack(TEMPLATE, parameters(**given), region)


def resources_of(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: each["Properties"] for name, each in template["Resources"].items() if each["Type"] == kind}


def references(node: Any) -> set[str]:
    """The names that intrinsic functions refer to."""
    if isinstance(node, list):
        return {name for each in node for name in references(each)}
    if not isinstance(node, dict):
        return set()
    found = {name for each in node.values() for name in references(each)}
    if "Ref" in node:
        found.add(node["Ref"])
    if "Fn::GetAtt" in node:
        found.add(node["Fn::GetAtt"][0])
    if "Fn::Sub" in node:
        text, own = (node["Fn::Sub"], {}) if isinstance(node["Fn::Sub"], str) else node["Fn::Sub"]
        found |= {name.partition(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text)} - own.keys()
    return {name for name in found if not name.startswith("AWS::")}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("region", templates.regions(TEMPLATE))
def test_what_is_sent_fits_into_a_request_and_refers_to_nothing_that_is_left_out(
    shape: str, region: str
) -> None:
    template = stack(region, **SHAPES[shape])
    assert len(templates.body(template)) <= 51_200
    known = template["Resources"].keys() | template["Parameters"].keys()
    assert references([template["Resources"], template["Outputs"]]) <= known
    assert "Fn::If" not in json.dumps(template)
    for each in template["Resources"].values():
        assert set(each.get("DependsOn", [])) <= template["Resources"].keys()


def test_the_small_shape_is_one_task_without_a_database() -> None:
    template = stack(Shape="small")
    assert len(resources_of(template, "AWS::ECS::Service")) == 1
    assert not resources_of(template, "AWS::RDS::DBInstance")
    assert not resources_of(template, "AWS::ElasticLoadBalancingV2::LoadBalancer")
    (task,) = resources_of(template, "AWS::ECS::TaskDefinition").values()
    assert [each["Name"] for each in task["ContainerDefinitions"]] == [
        "migrate",
        "code",
        "daemon",
        "webserver",
    ]


def test_nothing_reaches_dagsters_ui() -> None:
    """It has no sign-in: no load balancer leads to it, and no security group lets anybody in."""
    template = stack(**WEB)
    webserver = template["Resources"]["WebserverService"]["Properties"]
    assert "LoadBalancers" not in webserver
    groups = webserver["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
    assert groups == [{"Ref": "TaskGroup"}]
    assert "SecurityGroupIngress" not in template["Resources"]["TaskGroup"]["Properties"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_container_has_a_read_only_root_no_capabilities_and_an_init_process(shape: str) -> None:
    for task in resources_of(stack(**SHAPES[shape]), "AWS::ECS::TaskDefinition").values():
        for container in task["ContainerDefinitions"]:
            assert container["ReadonlyRootFilesystem"] is True
            assert container["LinuxParameters"]["InitProcessEnabled"] is True
            assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
            names = {each["Name"] for each in container["Environment"]}
            assert not [name for name in names if re.search("PASSWORD|SECRET", name)], (
                "secrets are no plain settings"
            )


def test_every_right_on_everything_has_its_reason_beside_it() -> None:
    lines = (resources.files("bg_pipeline.deploy") / "bg-pipeline.yaml").read_text("utf-8").splitlines()
    unexplained = []
    for number, line in enumerate(lines):
        if re.search(r"Resource: \[?\"\*\"", line):
            statement = lines[max(0, number - 14) : number + 1]
            if not any(each.strip().startswith("#") for each in statement):
                unexplained.append(number + 1)
    assert not unexplained
    policies = json.dumps(
        [each for each in TEMPLATE["Resources"].values() if each["Type"].startswith("AWS::IAM::")]
    )
    assert not re.findall(r'"(?:[a-z0-9-]+:)?\*"', policies.replace('"Resource": ["*"]', "")), (
        "no action is a wildcard"
    )


def test_the_bucket_outlives_its_stack_and_is_closed() -> None:
    bucket = TEMPLATE["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}


def test_no_lifecycle_rule_deletes_what_was_paid_for() -> None:
    rules = TEMPLATE["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = {each["Prefix"] for each in rules if "ExpirationInDays" in each}
    assert expiring == {
        "pipeline-state/sign-ins/",
        "pipeline-state/thumbnails/",
        "model-payloads/",
        "dagster-logs/",
        "outputs/",
        "photo/",
    }


def test_parameters_are_checked_before_anybody_is_asked() -> None:
    with pytest.raises(UsageError, match="Shape is 'tiny', which is not one of full, small"):
        templates.parameter_values(TEMPLATE, {"Image": "x", "Shape": "tiny"})
    with pytest.raises(UsageError, match="Shap is not a parameter of the template"):
        templates.parameter_values(TEMPLATE, {"Image": "x", "Shap": "small"})
    with pytest.raises(UsageError, match="parameter Image is missing"):
        templates.parameter_values(TEMPLATE, {})
    with pytest.raises(UsageError, match=r"does not support Region eu-north-1.*us-east-1"):
        stack("eu-north-1")


def test_prices_at_idle() -> None:
    def usd(**given: str) -> float:
        return idle_price(stack(**given), parameters(**given)).usd

    # Three tasks of 0.25 vCPU and 1 GB with an address each, PostgreSQL with 20 GB, a secret, a DNS zone, alarms.
    task = (0.25 * 0.04048 + 0.004445 + 0.005) * 730
    assert usd() == pytest.approx(3 * task + 0.016 * 730 + 20 * 0.115 + 0.40 + 0.50 + 3 * 0.10)
    assert usd(Shape="small") < 20
    assert usd(CpuArchitecture="ARM64") < usd()
    assert usd(AssignPublicIp="DISABLED") == pytest.approx(usd() - 3 * 0.005 * 730)
    assert usd(**WEB) > usd() + 20


def test_the_readme_has_the_prices_of_the_dated_file() -> None:
    page = (ROOT / "deploy" / "aws" / "README.md").read_text("utf-8")
    for given in ({}, {"Shape": "small"}, WEB):
        price = idle_price(stack(**given), parameters(**given))
        assert f"{price.usd:.0f} USD" in page, given
        assert str(price.as_of) in page
    dated = tomllib.loads((resources.files("bg_pipeline.deploy") / "prices.toml").read_text("utf-8"))
    assert dated["sources"]


def test_a_plan_needs_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(main, ["deploy", "--plan", "--parameter", "Shape=small"])
    assert done.exit_code == 0, done.output
    assert "in all, without photos" in done.output
    assert "18.13" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stack", "Photos"], "use a small letter"),
        (["--parameter", "Shape"], "is not NAME=VALUE"),
        (["--parameter", "Image=x"], "the image is given with --image"),
        (["--delete-bucket", "b"], "needs --destroy"),
        (["--destroy", "--plan"], "--destroy takes no --plan"),
        (["--plan", "--parameter", "Shape=tiny"], "is not one of full, small"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(arguments: list[str], expected: str) -> None:
    done = CliRunner().invoke(main, ["deploy", *arguments])
    assert (done.exit_code, expected in done.output) == (2, True), done.output


def test_the_file_in_deploy_aws_is_the_packages() -> None:
    in_package = resources.files("bg_pipeline.deploy") / "bg-pipeline.yaml"
    assert (ROOT / "deploy" / "aws" / "bg-pipeline.yaml").read_text("utf-8") == in_package.read_text("utf-8")
