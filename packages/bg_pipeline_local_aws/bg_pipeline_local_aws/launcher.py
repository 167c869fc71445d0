"""Starts and ends the stand-in's two servers, and the clean environment that leads boto3 to them and nowhere else."""

import contextlib
import fcntl
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bg_pipeline_local_aws.child import GRACE_SECONDS

REGION = "us-east-1"
# MiniStack reads what it stored before it listens: 10 s for 100,000 objects.
START_SECONDS = 90

_RUNNING = "running.json"

STORED_SERVICES = ("S3", "SQS", "SNS", "STS", "SSM", "DYNAMODB", "EVENTBRIDGE")
MODEL_SERVICES = ("BEDROCK", "BEDROCK_RUNTIME", "REKOGNITION", "SAGEMAKER_RUNTIME", "SERVICE_QUOTAS")

_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY"})


class LocalAwsError(RuntimeError):
    """The stand-in cannot be started; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class LocalAws:
    """A running stand-in: where S3 and its like (``storage``) and the models listen, and its Region."""

    storage: str
    models: str
    region: str

    def variables(self) -> dict[str, str]:
        """The variables that lead boto3 here and keep it from any profile, key, role or server of its user's."""
        endpoints = {f"AWS_ENDPOINT_URL_{service}": self.storage for service in STORED_SERVICES}
        endpoints |= {f"AWS_ENDPOINT_URL_{service}": self.models for service in MODEL_SERVICES}
        return {
            **endpoints,
            # Services that nobody offers are answered, with an error, by the models' server.
            "AWS_ENDPOINT_URL": self.models,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
            "AWS_ACCESS_KEY_ID": "local-aws",
            "AWS_SECRET_ACCESS_KEY": "local-aws",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """``base`` (default: this process's environment) without AWS settings and proxies, with `variables`."""
        kept = os.environ if base is None else base
        return {name: value for name, value in kept.items() if not _leads_elsewhere(name)} | self.variables()


def _leads_elsewhere(name: str) -> bool:
    return name.upper().startswith("AWS_") or name.upper() in _PROXIES


@contextlib.contextmanager
def local_aws(state_dir: Path | str, *, region: str = REGION, workers: int = 0) -> Iterator[LocalAws]:
    """The stand-in, running for as long as the context is open.

    What is put into S3 and its like stays in ``state_dir``; so do the ports, so that addresses survive a restart.
    ``workers`` processes do picture work (0: one for each core). One stand-in at a time may use a folder: a second
    one raises `LocalAwsError`. The servers listen on 127.0.0.1 only and end with this process, even if it is killed.
    """
    if importlib.util.find_spec("ministack") is None or importlib.util.find_spec("cv2") is None:
        raise LocalAwsError("The stand-in for AWS is not installed: pip install 'bg-pipeline[local]'")
    folder = Path(state_dir).resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with _locked(folder) as lock, contextlib.ExitStack() as servers:
        before = _read(folder)

        def start(name: str, health: str, environment: dict[str, str], *arguments: str) -> str:
            last_port = int(before.get(name, "").rpartition(":")[2] or 0)
            return servers.enter_context(
                _server(name, health, folder, lock, last_port, environment, *arguments)
            )

        storage = start("storage", "/_ministack/health", LocalAws("", "", region).environment())
        # The models' server reads pictures that lie in S3.
        models = start(
            "models", "/_control/health", LocalAws(storage, "", region).environment(), str(workers)
        )
        stand_in = LocalAws(storage, models, region)
        _write(folder, {**asdict(stand_in), "pid": os.getpid()})
        try:
            yield stand_in
        finally:
            _write(folder, asdict(stand_in))


def running(state_dir: Path | str) -> LocalAws | None:
    """The stand-in that another process keeps running on this folder, if there is one."""
    found = _read(Path(state_dir))
    if "pid" not in found or not _alive(found["pid"]):
        return None
    return LocalAws(found["storage"], found["models"], found["region"])


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _RUNNING).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(folder: Path, found: dict[str, Any]) -> None:
    temporary = folder / f"{_RUNNING}.new"
    temporary.write_text(json.dumps(found))
    temporary.replace(folder / _RUNNING)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder's lock, which the servers inherit: it is free only when the last of them has written its state."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        patience = time.monotonic() + GRACE_SECONDS + 5
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _read(folder).get("pid", 0)
                if _alive(holder) or time.monotonic() > patience:
                    raise LocalAwsError(
                        f"The stand-in's folder {folder} is in use{f' by process {holder}' if holder else ''}; "
                        "end that one first or choose another folder."
                    ) from None
                # Its launcher is gone; the servers are about to follow.
                time.sleep(0.1)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def _server(
    name: str,
    health: str,
    folder: Path,
    lock: int,
    last_port: int,
    environment: dict[str, str],
    *arguments: str,
) -> Iterator[str]:
    """The address of a server process that answers, on the port it had before if that is free."""
    log = folder / "logs" / f"{name}.log"
    program = [sys.executable, "-m", "bg_pipeline_local_aws", name]
    # Between finding a free port and listening on it somebody else may take it.
    for wanted in (last_port, 0, 0):
        port = _free_port(wanted)
        with _process([*program, str(port), str(folder), *arguments], environment, lock, log) as process:
            if _comes_up(process, port, health):
                yield f"http://127.0.0.1:{port}"
                return
    words = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(words) if line.strip()), "it said nothing")
    raise LocalAwsError(f"The stand-in's {name} server did not start ({last.strip()}); see {log}.")


@contextlib.contextmanager
def _process(
    command: list[str], environment: dict[str, str], lock: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            # Ctrl-C is for the launcher, which ends the servers when it no longer needs them.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise LocalAwsError("No port is free on 127.0.0.1.")


def _comes_up(process: subprocess.Popen[bytes], port: int, health: str) -> bool:
    """True once the server answers, False if it ended (as when somebody else took its port) or takes too long."""
    patience = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < patience:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", health)
            if connection.getresponse().status == 200 and process.poll() is None:
                return True
        except (OSError, http.client.HTTPException):
            time.sleep(0.03)
        finally:
            connection.close()
    return False
