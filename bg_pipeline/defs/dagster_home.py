"""Prepares a Dagster home (DAGSTER_HOME) in the state folder; evaluates a sensor and runs dates without a daemon.

Its database is SQLite in that folder, or the PostgreSQL of ``BG_POSTGRES_URL``. Dagster is imported in functions,
since the import takes long and most commands do not need it.
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
    """Locks ``home``, since a second daemon would start every run twice; `UsageError` if it is locked already."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Dagster is already running on {home}; end it, or choose another --state-dir"
            ) from None
        yield


def prepare(home: Path) -> None:
    """Makes ``home`` a Dagster home: writes its settings, unless they exist, and migrates its database once per
    release.

    Call this before Dagster's processes start, since several of them must not initialize an empty home at once.
    Raises `UsageError` if ``BG_POSTGRES_URL`` is invalid, `BgPipelineError` if the database cannot be reached or
    created.
    """
    postgres = settings().postgres_url.get_secret_value()
    if postgres:
        _check_connection(postgres)
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
        # Another database has to be migrated again. Only a hash of its address is stored, as that has a password.
        release += f" {hashlib.sha256(postgres.encode()).hexdigest()[:16]}"
    ready = home / _READY
    if ready.exists() and ready.read_text() == release:
        return
    command = [sys.executable, "-m", "dagster", "instance", "migrate"]
    result = subprocess.run(
        command, env=os.environ | {"DAGSTER_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise BgPipelineError(
            f"Dagster's database in {home} cannot be created: {lines[-1] if lines else 'no reason given'}"
        )
    ready.write_text(release)


def _choose_storage(yaml: Path, *, postgres: bool) -> None:
    """Adds the PostgreSQL storage to a home's settings or removes it; a ``storage`` that the user wrote is kept."""
    before = yaml.read_text("utf-8")
    without = before.replace(_STORAGE, "")
    if any(line.startswith("storage:") for line in without.splitlines()):
        if postgres:
            raise UsageError(f"{yaml} has a `storage` of its own; remove either that or BG_POSTGRES_URL")
        return
    after = f"{without.rstrip()}\n\n{_STORAGE}" if postgres else f"{without.rstrip()}\n"
    if after != before:
        yaml.write_text(after, "utf-8")


def _check_connection(address: str) -> None:
    """Opens and closes one connection; an error becomes a sentence without the password."""
    try:
        import psycopg2
    except ImportError:
        raise UsageError(
            "BG_POSTGRES_URL is set, but dagster-postgres is not installed: "
            'pip install "bg-pipeline[postgres]", or remove the setting to use SQLite'
        ) from None
    try:
        psycopg2.connect(address, connect_timeout=10).close()
    except psycopg2.OperationalError as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else "no reason given"
        raise BgPipelineError(f"the PostgreSQL server of BG_POSTGRES_URL cannot be used: {reason}") from None
    except (psycopg2.Error, UnicodeError):
        raise UsageError(
            "BG_POSTGRES_URL is not an address of a PostgreSQL database, such as "
            "postgresql://user:password@host:port/name"
        ) from None


class Dagster:
    """A Dagster instance with the pipeline's definitions, in this process; opened with `opened`."""

    def __init__(self, home: Path, instance: "dg.DagsterInstance", definitions: "dg.Definitions") -> None:
        self._home = home
        self._instance = instance
        self._resources = definitions.resources
        self._repository = definitions.get_repository_def()

    def tick(self) -> "list[dg.RunRequest]":
        """The runs that the sensor `SENSOR` asks for now. Its cursor is kept in the home."""
        import dagster as dg

        cursor = self._home / _CURSOR
        with dg.build_sensor_context(
            instance=self._instance,
            repository_def=self._repository,
            resources=self._resources,
            cursor=cursor.read_text() if cursor.exists() else None,
        ) as context:
            result = self._repository.get_sensor_def(SENSOR).evaluate_tick(context)
        if result.cursor:
            cursor.write_text(result.cursor)
        return list(result.run_requests or ())

    def run(self, date: UploadDate, request: "dg.RunRequest | None" = None) -> bool:
        """Runs all assets of a date in this process, with the tags that the daemon would set for the sensor's
        request.

        False if the run failed. Ctrl-C raises `KeyboardInterrupt` after current calls were answered.
        """
        import dagster as dg

        tags = {**request.tags, "dagster/run_key": request.run_key or ""} if request else {}
        try:
            self._repository.get_job(_job_name()).execute_in_process(
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


def _job_name() -> str:
    prefix = settings().key_prefix
    return f"{prefix}_whole_date" if prefix else "whole_date"


@contextmanager
def opened(home: Path, definitions: "Callable[[], dg.Definitions]") -> Iterator[Dagster]:
    """Dagster with a prepared home; ``definitions`` is called after DAGSTER_HOME is set."""
    os.environ["DAGSTER_HOME"] = str(home.absolute())
    with warnings.catch_warnings():
        # Dagster warns about its beta features; a user of the command line cannot change that.
        warnings.filterwarnings("ignore", module=r"dagster|bg_pipeline")
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            yield Dagster(home, instance, definitions())
