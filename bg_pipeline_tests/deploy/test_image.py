"""The container image is small, has no rights and no tools, and everything runs in it."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bg_pipeline_local_aws.launcher import LocalAws

ROOT = Path(__file__).parents[2]
SLIM_MB = 125
"""Size of python:3.11-slim-bookworm, which is the base where a registry of images can be reached."""
TARGET_MB = 900


def pins(file: Path) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", file.read_text("utf-8"), re.MULTILINE)
    return {name.replace(".", "-").replace("_", "-"): version for name, version in found}


def test_the_image_installs_the_pinned_versions_with_hashes() -> None:
    image, constraints = pins(ROOT / "requirements" / "run.txt"), pins(ROOT / "constraints.txt")
    # The resolution is for all platforms; these are for Windows.
    others = {"colorama", "psutil", "pyreadline3", "pywin32"}
    differing = {
        name: version
        for name, version in image.items()
        if constraints.get(name) != version and name not in others
    }
    assert not differing, "run `make requirements`"
    assert {"obstore", "dagster-aws", "dagster-postgres", "streamlit", "fastapi", "ministack"} <= image.keys()
    assert not {"pytest", "moto", "mypy", "cfn-lint"} & image.keys()
    for name in ("run.txt", "build.txt"):
        entries = (ROOT / "requirements" / name).read_text("utf-8").replace("\\\n", " ").splitlines()
        assert all("--hash=sha256:" in line for line in entries if "==" in line), name


def test_the_image_has_every_package_that_its_extras_declare() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(each for name in ("api", "masks", "postgres", "ui") for each in extras[name]),
    ]
    stand_in = tomllib.loads((ROOT / "packages/bg_pipeline_local_aws/pyproject.toml").read_text("utf-8"))
    declared += stand_in["project"]["dependencies"]
    names = {re.split(r"[\[<>=~! ;]", each)[0].lower().replace("_", "-") for each in declared}
    assert names <= pins(ROOT / "requirements" / "run.txt").keys(), "run `make requirements`"


def test_the_base_is_pinned_by_digest_and_the_image_runs_without_rights() -> None:
    file = (ROOT / "Containerfile").read_text("utf-8")
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", file, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", file, re.MULTILINE)
    assert (ROOT / "Dockerfile").read_text("utf-8") == file
    assert (ROOT / ".dockerignore").read_text("utf-8") == (ROOT / ".containerignore").read_text("utf-8")


NO_SETTINGS: Mapping[str, str] = {}


READ_ONLY = """
set -e
root=$1; state=$2; shift 2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 scratch "$root/tmp"
mount --bind "$state" "$root/var/lib/bg-pipeline"
mount -o remount,bind,ro "$root"
exec chroot --userspec=10001:10001 "$root" "$@"
"""


class Image:
    """A built image, whose commands run as its user with this machine's network and a read-only root.

    Only ``/tmp``, which is empty for each command, and the folder ``state`` at ``/var/lib/bg-pipeline`` can be
    written, as in the task definitions of the template.
    """

    def __init__(self, variables: Mapping[str, str], mount: Path, state: Path) -> None:
        self._variables = variables
        self.mount = mount
        self.state = state
        state.mkdir(parents=True)
        shutil.chown(state, 10001, 10001)

    def start(self, *command: str, environment: Mapping[str, str] = NO_SETTINGS) -> "Process":
        variables = {**self._variables, **environment}
        return Process(
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh"),
                *(str(self.mount), str(self.state)),
                *("env", "-i", "-C", "/var/lib/bg-pipeline"),
                *(f"{name}={value}" for name, value in variables.items()),
                *command,
            ]
        )

    def run(
        self, *command: str, seconds: float = 120, environment: Mapping[str, str] = NO_SETTINGS
    ) -> tuple[int, str]:
        """The exit code and the output of a command."""
        process = self.start(*command, environment=environment)
        try:
            return process.wait(seconds), process.output()
        finally:
            process.kill()


class Process:
    """A process in a container. Its output goes to a file, as a pipe that nobody reads would stop it."""

    def __init__(self, command: list[str]) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._text = ""
        # The programs before the container's own replace themselves with it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
        )

    def output(self) -> str:
        if self._output.closed:
            return self._text
        self._output.seek(0)
        return self._output.read()

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.output()[-3000:]
            assert time.monotonic() < deadline, f"it did not get ready: {self.output()[-3000:]}"
            time.sleep(0.5)

    def terminate(self) -> None:
        """Sends SIGTERM, as a platform does that stops a container."""
        self._process.terminate()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)
        if not self._output.closed:
            self._text = self.output()
            self._output.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of this checkout, built as CONTRIBUTING.md says, and a container of it."""
    if shutil.which("buildah") is None or shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        pytest.skip("building needs root, buildah and mmdebstrap; .ci/run installs them")
    folder = tmp_path_factory.mktemp("images")
    environment = os.environ | {
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )

    def buildah(*arguments: str, seconds: float = 1200) -> str:
        done = subprocess.run(
            ["buildah", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    base = debian_base(folder, buildah)
    # A proxy of this machine may present a certificate of its own to the package installer.
    buildah(
        "bud",
        f"--build-arg=BASE={base}",
        "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
        "--tag=bg-pipeline",
        str(ROOT),
    )
    container = buildah("from", "bg-pipeline")
    # pytest's own folders are closed to other users.
    state = Path(tempfile.gettempdir()) / f"bg-pipeline-{os.getpid()}" / "state"
    mount = Path(buildah("mount", container))
    try:
        variables = buildah("inspect", "--format={{range .OCIv1.Config.Env}}{{.}}|{{end}}", container)
        yield Image(dict(each.split("=", 1) for each in variables.split("|") if each), mount, state)
    finally:
        shutil.rmtree(state, ignore_errors=True)
        buildah("umount", container)
        buildah("rm", container)
        shutil.rmtree(folder, ignore_errors=True)


def debian_base(folder: Path, buildah: Callable[..., str]) -> str:
    """A base with Debian's Python, as no registry of images may be in reach."""
    script = [
        *("--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
        *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("man", "doc", "locale")),
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*',
        "bookworm",
    ]
    archive = folder / "base.tar"
    subprocess.run(["mmdebstrap", *script, str(archive)], check=True, capture_output=True, timeout=900)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    buildah("commit", "--quiet", container, "base")
    buildah("rm", container)
    archive.unlink()
    return "localhost/base"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


SHARE = "/opt/bg-pipeline/share"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_is_built_small_and_everything_runs_in_it(
    image: Image, stand_in: LocalAws, bucket: str
) -> None:
    """One test, because building takes minutes."""
    packages = image.mount / "opt/bg-pipeline"
    size = sum(each.lstat().st_size for each in packages.rglob("*") if not each.is_dir()) / 1e6
    assert size + SLIM_MB < TARGET_MB, f"{size:.0f} MB without the base"

    # No build tools, no tools to install more, one OpenCV.
    found = {
        each.name
        for folder in ("usr/bin", "usr/local/bin", "opt/bg-pipeline/bin")
        for each in (image.mount / folder).glob("*")
    }
    assert not found & {"cc", "gcc", "g++", "make", "uv", "pip", "pip3", "git"}
    assert len(list(packages.rglob("cv2*.so"))) == 1
    bill = json.loads((packages / "sbom.cdx.json").read_text("utf-8"))
    listed = {each["name"].lower().replace("_", "-"): each["version"] for each in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert listed["obstore"] == pins(ROOT / "constraints.txt")["obstore"]
    assert {"bg-pipeline", "bg-pipeline-local-aws", "dagster"} <= listed.keys()

    # The container's user may write its state and scratch files, and nothing else.
    code, output = image.run(
        "python",
        "-c",
        "import os; print(os.getuid(), [p for p in ('/', '/opt/bg-pipeline', '/etc', '/usr/bin', "
        "'/opt/bg-pipeline/share') if os.access(p, os.W_OK)], os.access('/var/lib/bg-pipeline', os.W_OK), "
        "[bool(os.statvfs(p).f_flag & os.ST_RDONLY) for p in ('/', '/tmp', '/var/lib/bg-pipeline')])",
    )
    assert (code, output.strip()) == (0, "10001 [] True [True, False, False]")

    code, output = image.run("bg-pipeline", "demo", seconds=600)
    assert code == 0, output[-3000:]
    assert len(re.findall(r"\bSucceeded\b", output)) == 6
    assert (image.state / "pictures/contact_sheet.jpg").stat().st_size > 50_000

    aws = {name: value for name, value in stand_in.environment().items() if name.startswith("AWS_")}
    aws |= {"BG_BUCKET": bucket, "CODE_SERVER_HOST": "127.0.0.1", "DAGSTER_HOME": f"{SHARE}/dagster/single"}
    assert image.run("dagster", "instance", "migrate", environment=aws)[0] == 0
    api, page, webserver = free_port(), free_port(), free_port()
    workspace = ("--workspace", f"{SHARE}/dagster/single/workspace.yaml")
    code_server = ("--module-name", "bg_pipeline.definitions", "--host", "127.0.0.1", "--port", "4000")
    commands = {
        "grpc://127.0.0.1:4000": ("dagster", "api", "grpc", *code_server),
        f"http://127.0.0.1:{webserver}/server_info": (
            *("dagster-webserver", *workspace),
            *("--host", "127.0.0.1", "--port", str(webserver)),
        ),
        f"http://127.0.0.1:{api}/docs": ("bg-pipeline", "api", "--port", str(api)),
        f"http://127.0.0.1:{page}/_stcore/health": ("bg-pipeline", "page", "--port", str(page)),
    }
    started: dict[str, Process] = {}
    try:
        for address, command in commands.items():
            started[address] = image.start(*command, environment=aws)
        started["daemon"] = image.start("dagster-daemon", "run", *workspace, environment=aws)
        for address in commands:
            check = ("python", f"{SHARE}/healthcheck.py", address)
            started[address].wait_for(lambda check=check: image.run(*check)[0] == 0)  # type: ignore[misc]
        started["daemon"].wait_for(
            lambda: image.run("dagster-daemon", "liveness-check", environment=aws)[0] == 0
        )
        assert answers(f"http://127.0.0.1:{page}/")
        assert image.run("python", f"{SHARE}/healthcheck.py", "http://127.0.0.1:9/")[0] == 1
        for process in started.values():
            process.terminate()
        ended = {name: process.wait(60) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
    api_log = started[f"http://127.0.0.1:{api}/docs"].output()
    for name, process in started.items():
        assert "Traceback" not in process.output(), f"{name}: {process.output()[-3000:]}"
    # uvicorn ends its own process with the signal once it has shut down; 130 is Ctrl-C's.
    ended[f"http://127.0.0.1:{api}/docs"] = 0 if "Finished server process" in api_log else 1
    assert set(ended.values()) <= {0, 130}, ended
