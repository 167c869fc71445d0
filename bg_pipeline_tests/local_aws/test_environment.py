"""A program in the stand-in's environment reaches only the stand-in, whatever AWS settings the machine has."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bg_pipeline_local_aws.launcher import LocalAws

PROGRAM = """
import json, boto3
from botocore.exceptions import ClientError

def code(call):
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "ok"

session = boto3.session.Session()
print(json.dumps({
    "profile": session.profile_name,
    "region": session.region_name,
    "key": session.get_credentials().access_key,
    "account": boto3.client("sts").get_caller_identity()["Account"],
    "s3": code(boto3.client("s3").list_buckets),
    "sqs": code(boto3.client("sqs").list_queues),
    "bedrock": code(boto3.client("bedrock").list_foundation_models),
    "iam": code(boto3.client("iam").list_users),
    "ec2": code(boto3.client("ec2").describe_instances),
    "lambda": code(boto3.client("lambda").list_functions),
    "route53": code(boto3.client("route53").list_hosted_zones),
    "secretsmanager": code(boto3.client("secretsmanager").list_secrets),
    "textract": code(lambda: boto3.client("textract").detect_document_text(Document={"Bytes": b"x"})),
}))
"""


@dataclass
class Trap:
    """A server that must not be reached."""

    address: str
    visits: list[str] = field(default_factory=list)


@pytest.fixture
def trap() -> Iterator[Trap]:
    """A listening server on loopback to which all AWS settings of `trapped` point."""

    class Visit(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.visits.append(f"{self.command} {self.path}")
            self.send_error(500)

        do_POST = do_PUT = do_CONNECT = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Visit)
    found = Trap(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def trapped(trap: Trap, tmp_path: Path) -> dict[str, str]:
    """An environment with every AWS setting that could lead to a real account."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    called = tmp_path / "credential-process-was-called"
    (home / ".aws" / "config").write_text(
        f"[default]\nregion = eu-west-1\nendpoint_url = {trap.address}\nca_bundle = /no/such/file\n"
        f"[profile work]\nregion = eu-central-1\nendpoint_url = {trap.address}\ncredential_process = touch {called}\n"
        f"services = traps\n[services traps]\ns3 =\n  endpoint_url = {trap.address}\n"
        f"sts =\n  endpoint_url = {trap.address}\n"
    )
    (home / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAREALREALREALREAL\naws_secret_access_key = real\n"
        "[work]\naws_access_key_id = AKIAREALREALREALREAL\naws_secret_access_key = real\n"
    )
    (tmp_path / "token").write_text("a.web.identity")
    return {
        **os.environ,
        "HOME": str(home),
        "AWS_CONFIG_FILE": str(home / ".aws" / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / ".aws" / "credentials"),
        "AWS_PROFILE": "work",
        "AWS_DEFAULT_PROFILE": "work",
        "AWS_ACCESS_KEY_ID": "AKIAREALREALREALREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_SESSION_TOKEN": "real",
        "AWS_BEARER_TOKEN_BEDROCK": "real",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": trap.address,
        "AWS_ENDPOINT_URL_S3": trap.address,
        "AWS_ENDPOINT_URL_TEXTRACT": trap.address,
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": trap.address,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{trap.address}/container",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/container",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{trap.address}/metadata",
        "AWS_EC2_METADATA_DISABLED": "false",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/real",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_CA_BUNDLE": "/no/such/file",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
        "HTTP_PROXY": trap.address,
        "HTTPS_PROXY": trap.address,
        "ALL_PROXY": trap.address,
        "http_proxy": trap.address,
        "https_proxy": trap.address,
        "no_proxy": "example.com",
    }


def test_no_setting_leads_away_from_the_stand_in(
    stand_in: LocalAws, trapped: dict[str, str], trap: Trap, tmp_path: Path
) -> None:
    environment = stand_in.environment(trapped)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    unknown = dict.fromkeys(
        ("iam", "ec2", "lambda", "route53", "secretsmanager", "textract"), "UnknownOperationException"
    )
    assert json.loads(answer.stdout) == {
        "profile": "default",
        "region": "us-east-1",
        "key": "local-aws",
        "account": "000000000000",
        "s3": "ok",
        "sqs": "ok",
        "bedrock": "ok",
        **unknown,
    }
    assert trap.visits == []
    assert not (tmp_path / "credential-process-was-called").exists()


def test_the_traps_are_effective_without_the_stand_ins_environment(
    trapped: dict[str, str], trap: Trap
) -> None:
    program = "import boto3; boto3.client('s3', endpoint_url='http://198.51.100.1').list_buckets()"
    environment = {**trapped, "AWS_MAX_ATTEMPTS": "1"}
    subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=60
    )
    assert trap.visits


def test_other_variables_are_kept(stand_in: LocalAws) -> None:
    environment = stand_in.environment({"PATH": "/bin", "BG_BUCKET": "shop", "aws_profile": "x"})
    assert environment["PATH"] == "/bin"
    assert environment["BG_BUCKET"] == "shop"
    assert "aws_profile" not in environment
