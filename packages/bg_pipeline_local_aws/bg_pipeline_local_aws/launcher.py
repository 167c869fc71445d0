"""Starts and stops the stand-in's two servers, and builds the environment that makes boto3 use only them."""

import contextlib
import fcntl
import http.client
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"
# MiniStack reads its stored objects before it listens: 10 s for 100,000 objects.
START_SECONDS = 90

# MiniStack writes its state on SIGTERM; after this many seconds a process that has not ended is killed.
GRACE_SECONDS = 15

_RUNNING = "running.json"

STORED_SERVICES = ("S3", "SQS", "SNS", "STS", "SSM", "DYNAMODB", "EVENTBRIDGE")
MODEL_SERVICES = ("BEDROCK", "BEDROCK_RUNTIME", "REKOGNITION", "SAGEMAKER_RUNTIME", "SERVICE_QUOTAS")

_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY"})


class LocalAwsError(RuntimeError):
    """The stand-in cannot be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class LocalAws:
    """A running stand-in: the addresses of S3, SQS, SNS etc. (``storage``) and of the models, and its Region."""

    storage: str
    models: str
    region: str

    def variables(self) -> dict[str, str]:
        """Environment variables that direct boto3 to the stand-in and hide the user's profiles, keys, endpoints."""
        endpoints = {f"AWS_ENDPOINT_URL_{service}": self.storage for service in STORED_SERVICES}
        endpoints |= {f"AWS_ENDPOINT_URL_{service}": self.models for service in MODEL_SERVICES}
        return {
            **endpoints,
            # The models' server answers calls of all other services with an error.
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
        """``base`` (default: os.environ) without AWS settings and proxies, plus `variables`."""
        base = os.environ if base is None else base
        return {
            name: value for name, value in base.items() if not _affects_aws_calls(name)
        } | self.variables()


def _affects_aws_calls(name: str) -> bool:
    return name.upper().startswith("AWS_") or name.upper() in _PROXIES


@contextlib.contextmanager
def local_aws(state_dir: Path | str, *, region: str = REGION, workers: int = 0) -> Iterator[LocalAws]:
    """Runs the stand-in while the context is open.

    ``state_dir`` keeps the content of S3, SQS, SNS etc. and the ports, so that addresses survive a restart.
    ``workers`` processes do image operations (0: one per CPU). A folder can be used by one stand-in at a time: a
    second one raises `LocalAwsError`. The servers listen on 127.0.0.1 only and end with this process, even if it is
    killed.
    """
    if importlib.util.find_spec("ministack") is None or importlib.util.find_spec("cv2") is None:
        raise LocalAwsError("The stand-in for AWS is not installed: pip install 'bg-pipeline[local]'")
    folder = Path(state_dir).resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with _lock_folder(folder) as lock, contextlib.ExitStack() as servers:
        before = _read_state(folder)

        def start(name: str, health: str, environment: dict[str, str], *arguments: str) -> str:
            last_port = int(before.get(name, "").rpartition(":")[2] or 0)
            return servers.enter_context(
                _run_server(name, health, folder, lock, last_port, environment, *arguments)
            )

        storage = start("storage", "/_ministack/health", LocalAws("", "", region).environment())
        # The models' server reads S3Object images from the stand-in's S3.
        models = start(
            "models", "/_control/health", LocalAws(storage, "", region).environment(), str(workers)
        )
        stand_in = LocalAws(storage, models, region)
        _write_state(folder, {**asdict(stand_in), "pid": os.getpid()})
        try:
            yield stand_in
        finally:
            _write_state(folder, asdict(stand_in))


def running(state_dir: Path | str) -> LocalAws | None:
    """The stand-in that another process runs on this folder, or None."""
    state = _read_state(Path(state_dir))
    if "pid" not in state or not _alive(state["pid"]):
        return None
    return LocalAws(state["storage"], state["models"], state["region"])


def end_with_parent() -> None:
    """Makes this process end when its parent does: SIGTERM first, a hard exit after `GRACE_SECONDS`.

    The parent has ended when standard input is closed or the parent's process id has changed. The id is checked too,
    because a process that the parent forked would keep the other end of standard input open.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(sys.stdin.fileno(), 4096):
                break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / _RUNNING).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    temporary = folder / f"{_RUNNING}.new"
    temporary.write_text(json.dumps(state))
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
def _lock_folder(folder: Path) -> Iterator[int]:
    """Holds the folder's lock; the servers inherit it, so it is released when the last of them has ended."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + GRACE_SECONDS + 5
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _read_state(folder).get("pid", 0)
                if _alive(holder) or time.monotonic() > deadline:
                    raise LocalAwsError(
                        f"The stand-in's folder {folder} is in use{f' by process {holder}' if holder else ''}; "
                        "end that one first or choose another folder."
                    ) from None
                # The launcher has ended; its servers are about to end.
                time.sleep(0.1)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def _run_server(
    name: str,
    health: str,
    folder: Path,
    lock: int,
    last_port: int,
    environment: dict[str, str],
    *arguments: str,
) -> Iterator[str]:
    """Runs a server process and yields its address once it is healthy; uses ``last_port`` again if it is free."""
    log = folder / "logs" / f"{name}.log"
    program = [sys.executable, "-m", "bg_pipeline_local_aws", name]
    # Retry on another port: another process may take the port before the server listens on it.
    for preferred_port in (last_port, 0, 0):
        port = _free_port(preferred_port)
        with _run_process([*program, str(port), str(folder), *arguments], environment, lock, log) as process:
            if _wait_until_healthy(process, port, health):
                yield f"http://127.0.0.1:{port}"
                return
    lines = log.read_text(errors="replace").split("\n")
    last_line = next((line for line in reversed(lines) if line.strip()), "its log is empty")
    raise LocalAwsError(f"The stand-in's {name} server did not start ({last_line.strip()}); see {log}.")


@contextlib.contextmanager
def _run_process(
    command: list[str], environment: dict[str, str], lock: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            # Ctrl-C must reach only the launcher, which then ends the servers.
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


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise LocalAwsError("No port is free on 127.0.0.1.")


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, health: str) -> bool:
    """True once the server answers; False if it ended (e.g. its port was taken) or exceeds `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
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
