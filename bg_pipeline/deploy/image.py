"""The container image of a stack: built from a checkout and pushed to ECR, with whatever container tool is there."""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.errors import BgPipelineError, UsageError

REPOSITORY: Final = "bg-pipeline"
TOOLS: Final = ("docker", "podman", "buildah")
_PLATFORMS: Final = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def checkout() -> Path:
    """The folder with the Containerfile: this one, or that of the package. Raises `UsageError` if there is none."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        if (folder / "Containerfile").is_file() and (folder / "requirements" / "run.txt").is_file():
            return folder
    raise UsageError(
        "there is no Containerfile here to build the image from: run the command in a checkout, or name an image "
        "that exists with --image"
    )


def tool() -> str:
    """The container tool to use. Raises `UsageError` if none is installed."""
    for name in TOOLS:
        if shutil.which(name):
            return name
    raise UsageError(
        f"none of {', '.join(TOOLS)} is installed, with which the image would be built: install one, or name an "
        "image that exists with --image"
    )


def build_and_push(aws: Aws, account: str, architecture: str, report: Callable[[str], None]) -> str:
    """Builds the image of the checkout, pushes it to the account's ECR, and returns its name.

    The repository is made if it does not exist. Each push has a tag of its own: what runs is never replaced silently.
    Raises `BgPipelineError` with the tool's last line if it fails.
    """
    folder, program = checkout(), tool()
    ecr = aws.client("ecr", aws.own_region)
    try:
        uri = ecr.describe_repositories(registryId=account, repositoryNames=[REPOSITORY])["repositories"][0][
            "repositoryUri"
        ]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "RepositoryNotFoundException":
            raise
        report(f"Making the ECR repository {REPOSITORY} …")
        uri = ecr.create_repository(
            repositoryName=REPOSITORY,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "AES256"},
        )["repository"]["repositoryUri"]
    name = f"{uri}:{version('bg-pipeline')}-{datetime.now(UTC):%Y%m%d%H%M%S}"
    report(f"Building {name} with {program}; this takes some minutes …")
    _run(program, "build", "--platform", _PLATFORMS[architecture], "--tag", name, str(folder))
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    # Through standard input: a command line can be read by every user of the machine.
    _run(program, "login", "--username", user, "--password-stdin", uri.partition("/")[0], secret=password)
    report(f"Pushing {name} …")
    _run(program, "push", name)
    return name


def _run(program: str, *arguments: str, secret: str | None = None) -> None:
    done = subprocess.run(
        [program, *arguments],
        env=os.environ | {"BUILDAH_FORMAT": "docker"},
        input=secret,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no reason given"]
        raise BgPipelineError(f"{program} {arguments[0]} failed: {lines[-1]}")
