"""Dagster's home: SQLite by itself, PostgreSQL by one setting, and the user's own settings left alone."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bg_pipeline.defs.dagster_home import prepare
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline_tests.cli.test_demo import bg, until, up
from bg_pipeline_tests.pictures import photo


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of its own, with an empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed; .ci/run installs it")
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="bg-pipeline-postgres-"))
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *words: str) -> None:
        command = [str(programs[-1] / program), *words]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "dagster", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://dagster:geheim@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def storage(home: Path) -> object:
    return yaml.safe_load((home / "dagster.yaml").read_text()).get("storage")


def test_a_server_that_is_not_there_is_told_in_words_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"postgresql://dagster:geheim@127.0.0.1:{taken.getsockname()[1]}/x"
        monkeypatch.setenv("BG_POSTGRES_URL", address)
        with pytest.raises(BgPipelineError, match=r"BG_POSTGRES_URL cannot be used: .*refused") as told:
            prepare(tmp_path)
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("address", ["geheim", "mysql://me:geheim@host/x"])
def test_what_is_no_address_is_told_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("BG_POSTGRES_URL", address)
    with pytest.raises(UsageError, match="not an address of a PostgreSQL database") as told:
        prepare(tmp_path)
    assert "geheim" not in str(told.value)


@pytest.mark.slow
def test_postgres_comes_and_goes_with_the_setting(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    before = (tmp_path / "dagster.yaml").read_text()
    assert storage(tmp_path) is None
    monkeypatch.setenv("BG_POSTGRES_URL", postgres)
    prepare(tmp_path)
    assert storage(tmp_path) == {"postgres": {"postgres_url": {"env": "BG_POSTGRES_URL"}}}
    assert "geheim" not in (tmp_path / "dagster.yaml").read_text() + (tmp_path / "ready").read_text()
    monkeypatch.delenv("BG_POSTGRES_URL")
    prepare(tmp_path)
    assert (tmp_path / "dagster.yaml").read_text() == before


@pytest.mark.slow
def test_a_storage_of_ones_own_is_left_alone(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "storage:\n  sqlite:\n    base_dir: elsewhere\n"
    (tmp_path / "dagster.yaml").write_text(own)
    monkeypatch.setenv("BG_POSTGRES_URL", postgres)
    with pytest.raises(UsageError, match="has a `storage` of its own"):
        prepare(tmp_path)
    assert (tmp_path / "dagster.yaml").read_text() == own


@pytest.mark.slow
def test_up_keeps_its_runs_in_postgres(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    (tmp_path / "a.jpg").write_bytes(photo(size=(600, 450)))
    state = tmp_path / "state"
    monkeypatch.setenv("BG_STATE_DIR", str(state))
    monkeypatch.setenv("BG_POSTGRES_URL", postgres)
    with up(state) as (process, _):
        batch = bg("submit", "--local", tmp_path / "a.jpg", "--prompt", "snowy mountains").stdout.strip()
        until(lambda: bg("status", "--local", batch).returncode == 0, 200)

        def runs() -> list[tuple[str]]:
            with psycopg2.connect(postgres) as connection, connection.cursor() as cursor:
                cursor.execute("select status from runs")
                return list(cursor.fetchall())

        until(lambda: runs() == [("SUCCESS",)], 60)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not list(state.rglob("runs.db"))
