"""Dagster's home in the state folder, and one tick of the sensor for a program that brings no daemon.

Its database is SQLite in that folder, or the PostgreSQL of ``BG_POSTGRES_URL``.

The one module outside the lineage's own that imports Dagster, and only when it is asked to look for uploads.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.settings import settings

if TYPE_CHECKING:
    import dagster as dg

SENSOR = "new_uploads"
LOCATION = "bg_pipeline"
_CURSOR = "sensor_cursor.json"
_READY = "ready"
_STORAGE = """\
# Because BG_POSTGRES_URL is set; `up` takes this away when it is not.
storage:
  postgres:
    postgres_url: {env: BG_POSTGRES_URL}
"""


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keeps a second daemon off ``home``, where it would start everything twice; raises `UsageError` for it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Dagster is up already on {home}; end that one or name another --state-dir"
            ) from None
        yield


def prepare(home: Path) -> None:
    """Makes ``home`` a Dagster home: its settings, unless there are some, and its database, once for each release.

    Several processes must not meet an empty home at once, so this goes before any of them starts. Raises
    `UsageError` for a ``BG_POSTGRES_URL`` that cannot be used, `BgPipelineError` where no database can be made.
    """
    postgres = settings().postgres_url.get_secret_value()
    if postgres:
        _reach(postgres)
    home.mkdir(parents=True, exist_ok=True)
    yaml = home / "dagster.yaml"
    if not yaml.exists():
        yaml.write_text(resources.files("bg_pipeline.defs").joinpath("dagster.yaml").read_text("utf-8"))
    _choose_storage(yaml, postgres=bool(postgres))
    (home / "workspace.yaml").write_text(
        f"load_from:\n  - python_module: {{module_name: bg_pipeline.definitions, location_name: {LOCATION}}}\n"
    )
    release = importlib.metadata.version("dagster")
    if postgres:
        # Another database is made ready anew; which one it was is not kept in the open.
        release += f" {hashlib.sha256(postgres.encode()).hexdigest()[:16]}"
    ready = home / _READY
    if ready.exists() and ready.read_text() == release:
        return
    command = [sys.executable, "-m", "dagster", "instance", "migrate"]
    made = subprocess.run(
        command, env=os.environ | {"DAGSTER_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    if made.returncode:
        words = (made.stderr or made.stdout).strip().splitlines()
        raise BgPipelineError(
            f"Dagster's database in {home} cannot be made: {words[-1] if words else 'no reason'}"
        )
    ready.write_text(release)


def _choose_storage(yaml: Path, *, postgres: bool) -> None:
    """Adds the PostgreSQL storage to a home's settings or takes it away; a ``storage`` of the user's own stays."""
    before = yaml.read_text("utf-8")
    own = before.replace(_STORAGE, "")
    if any(line.startswith("storage:") for line in own.splitlines()):
        if postgres:
            raise UsageError(f"{yaml} has a `storage` of its own; take that away, or BG_POSTGRES_URL")
        return
    after = f"{own.rstrip()}\n\n{_STORAGE}" if postgres else f"{own.rstrip()}\n"
    if after != before:
        yaml.write_text(after, "utf-8")


def _reach(address: str) -> None:
    """Opens and closes one connection, so that what is wrong is told in words and without the password."""
    try:
        import psycopg2
    except ImportError:
        raise UsageError(
            "BG_POSTGRES_URL is set and dagster-postgres is not installed: "
            'pip install "bg-pipeline[postgres]", or take the setting away for SQLite'
        ) from None
    try:
        psycopg2.connect(address, connect_timeout=10).close()
    except psycopg2.OperationalError as error:
        words = str(error).strip().splitlines()
        raise BgPipelineError(
            f"the PostgreSQL server of BG_POSTGRES_URL cannot be used: {words[0] if words else 'no reason'}"
        ) from None
    except (psycopg2.Error, UnicodeError):
        raise UsageError(
            "BG_POSTGRES_URL is not an address of a PostgreSQL database: postgresql://user:password@host:port/name"
        ) from None


class Dagster:
    """A Dagster instance and the pipeline's definitions, for one process; made with `opened`."""

    def __init__(self, home: Path, instance: "dg.DagsterInstance", definitions: "dg.Definitions") -> None:
        self._home = home
        self._instance = instance
        self._resources = definitions.resources
        self._repository = definitions.get_repository_def()

    def tick(self) -> "list[dg.RunRequest]":
        """What the sensor asks for now; what it was asked before is remembered in the home."""
        import dagster as dg

        cursor = self._home / _CURSOR
        with dg.build_sensor_context(
            instance=self._instance,
            repository_def=self._repository,
            resources=self._resources,
            cursor=cursor.read_text() if cursor.exists() else None,
        ) as context:
            found = self._repository.get_sensor_def(SENSOR).evaluate_tick(context)
        if found.cursor:
            cursor.write_text(found.cursor)
        return list(found.run_requests or ())

    def run(self, date: UploadDate, request: "dg.RunRequest | None" = None) -> bool:
        """Runs the whole date in this process, as the daemon would for the sensor's request.

        False where nothing worked on that date. Ctrl-C is a `KeyboardInterrupt`, once calls under way have ended.
        """
        import dagster as dg

        tags = {**request.tags, "dagster/run_key": request.run_key or ""} if request else {}
        try:
            self._repository.get_job(_whole_date()).execute_in_process(
                instance=self._instance,
                partition_key=date.isoformat(),
                tags=tags,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        except dg.Failure:
            return False
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        return True


def _whole_date() -> str:
    prefix = settings().key_prefix
    return f"{prefix}_whole_date" if prefix else "whole_date"


@contextmanager
def opened(home: Path, definitions: "Callable[[], dg.Definitions]") -> Iterator[Dagster]:
    """The Dagster of a prepared home, with what ``definitions`` loads once the home is set."""
    os.environ["DAGSTER_HOME"] = str(home.absolute())
    with warnings.catch_warnings():
        # Dagster warns of its own beta features; nobody at the terminal can do anything about that.
        warnings.filterwarnings("ignore", module=r"dagster|bg_pipeline")
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            yield Dagster(home, instance, definitions())
