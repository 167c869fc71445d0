"""What commands print for programs and for pasting; names, ranges, downloads, watched folders, completion."""

import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bg_pipeline.cli.arguments import today
from bg_pipeline.cli.main import main
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.text import COMMAND_OPTIONS, run_command
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.cli.test_cli import bg, refused, submitted
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch) -> Bench:
    control.switch(canned=True)
    monkeypatch.setenv("BG_BUCKET", bucket)
    # Without the network, as in `Bench`.
    monkeypatch.setenv("BG_MASK_SOURCES", "alpha,studio,cut-out")
    monkeypatch.setenv("BG_QUOTA_TITAN_V2_RPM", "60000")
    return Bench(Store(s3, bucket))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        (folder / f"photo {number}.jpg").write_bytes(photo(number))
    return folder


def all_commands(group: click.Group, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*words, name))
        if isinstance(command, click.Group):
            found += all_commands(command, (*words, name))
    return found


@pytest.mark.parametrize("words", all_commands(main), ids=" ".join)
def test_every_example_of_every_command_is_one_that_the_program_takes(words: tuple[str, ...]) -> None:
    text = bg(*words, "--help").stdout
    for line in text.splitlines():
        example = line.strip()
        if not example.startswith("bg-pipeline ") or "`" in example:
            continue
        arguments = shlex.split(example.split("|")[0].split(">")[0])[1:]
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        named = [arguments.index(each) for each in arguments if each.startswith("--")]
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        assert {arguments[at] for at in named} <= options, example


def test_a_batch_is_submitted_run_brought_home_and_told_as_json(bench: Bench, photos: Path) -> None:
    result = bg("submit", photos, "--prompt", "a beach", "--name", "spring shoes", "--seed", 7, "--run")
    assert result.exit_code == 0, result.output
    batch = find_batch(result.stdout.splitlines()[0])
    assert batch.name == "spring shoes"
    assert result.stdout.splitlines()[0] == batch.input_prefix
    assert bench.store.read_json(batch.request_key)["Seed"] == 7
    (told,) = json.loads(bg("status", batch.path, "--format", "json").stdout)
    assert (told["Batch"], told["State"], told["Counts"], told["Prompt"]) == (
        batch.path,
        "Reported",
        {"Succeeded": 2},
        "a beach",
    )
    done = bg("download", batch.path, "-o", photos.parent / "home")
    assert done.exit_code == 0, done.output
    assert "2 pictures downloaded" in done.stderr
    assert {path.name for path in (photos.parent / "home").glob("*.jpg")} == {"photo 0.jpg", "photo 1.jpg"}
    again = bg("download", batch.path, "-o", photos.parent / "home", "--format", "json")
    assert [file["State"] for file in json.loads(again.stdout)] == ["kept", "kept"]
    hyphens = f"{batch.date}/{batch.name}"
    assert bg("report", hyphens).exit_code == 0, "the form of the HTTP API's paths"


def test_what_was_brought_home_and_is_not_approved_any_more_is_listed_and_stays(
    bench: Bench, tmp_path: Path
) -> None:
    batch = bench.submit(2)
    bench.run(batch.date)
    download = ("download", batch.path, "-o", tmp_path / "home", "--approved")
    assert bg(*download).exit_code == 0
    assert (
        bg("review", "reject", batch.path, "photo-0.jpg", "--by", "ann", "--reason", "blurred").exit_code == 0
    )
    told = bg(*download)
    assert told.exit_code == 1
    assert "photo-0.jpg" in told.stdout
    assert "1 file of an earlier download is not approved any more" in told.stderr
    assert "--overwrite" not in told.stderr
    files = json.loads(bg(*download, "--format", "json").stdout)
    assert [(file["Image"], file["State"]) for file in files] == [
        ("photo-1.jpg", "kept"),
        ("photo-0.jpg", "withdrawn"),
    ]
    assert "blurred" in files[1]["Cause"]
    assert (tmp_path / "home" / "photo-0.jpg").exists()
    assert bg("review", "reject", batch.path, "photo-1.jpg", "--by", "ann").exit_code == 0
    assert "2 files of an earlier download are not approved any more" in bg(*download).stderr
    nothing = bg("download", batch.path, "-o", tmp_path / "new", "--approved")
    assert (nothing.exit_code, "is approved" in nothing.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


def test_a_name_is_submitted_once_a_date(bench: Bench, photos: Path) -> None:
    day = today()
    submitted(photos, "--prompt", "x", "--name", "spring", "--date", day)
    before = bench.keys("")
    again = refused("submit", photos, "--prompt", "y", "--name", "spring", "--date", day)
    assert "choose another name" in again
    assert bench.keys("") == before
    bench.put(Batch(day, "drafted").draft_key, b"{}")
    drafted = refused("submit", photos, "--prompt", "y", "--name", "drafted", "--date", day)
    assert "bg-pipeline discard" in drafted


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", ".a", "a\nb", "con", "x" * 101, "api-101530-0123456789abcdef", "a\\b"]
)
def test_names_that_lead_elsewhere_are_refused(bench: Bench, photos: Path, name: str) -> None:
    assert "--name" in refused("submit", photos, "--prompt", "x", "--name", name)
    assert bench.keys("") == []


def test_a_range_shows_what_there_is(bench: Bench) -> None:
    bench.submit(1, day=date(2026, 1, 31), batch="a")
    bench.submit(1, day=date(2026, 2, 1), batch="b")
    result = bg("run", "--from", "2025-12-31", "--to", "2026-03-01")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["2026-01-31", "2026-02-01"]
    assert "there is no complete batch" not in result.stderr
    shown = bg("status", "--from", "2025-12-31", "--to", "2026-03-01", "--format", "csv").stdout
    assert [row["Batch"] for row in csv.DictReader(io.StringIO(shown))] == ["2026/01/31/a", "2026/02/01/b"]
    nothing = bg("run", "--from", "2026-03-01", "--to", "2026-03-31")
    assert nothing.exit_code == 0
    assert nothing.stderr.count("\n") == 1
    assert "There are no batches from 2026-03-01 to 2026-03-31" in nothing.stderr


@pytest.mark.parametrize("command", ["plan", "run", "publish", "captions", "status"])
def test_what_is_told_can_be_read_by_programs(bench: Bench, command: str) -> None:
    day = today()
    batch = bench.submit(1, day=day, batch="=1+1", Id="a")
    bg("run", "--batch", batch.path)
    words = (command, "--date", day.isoformat())
    told = bg(*words, "--format", "json")
    assert json.loads(told.stdout)
    rows = list(csv.reader(io.StringIO(bg(*words, "--format", "csv").stdout)))
    assert all(len(row) == len(rows[0]) for row in rows)
    assert not any(cell.startswith("=") for row in rows for cell in row)


def test_a_review_and_a_report_with_links_are_told_as_json(bench: Bench) -> None:
    batch = bench.submit(1, day=today())
    bg("run", "--batch", batch.path)
    (item,) = json.loads(bg("review", "list", batch.path, "--all", "--format", "json").stdout)
    assert item["Result"] == f"{batch.output_prefix}/photo-0.jpg"
    (row,) = json.loads(bg("report", batch.path, "--format", "json", "--links").stdout)
    assert row["Links"][0].startswith("http")
    assert len(row["Links"]) == len(row["Results"])


def test_commands_that_are_proposed_keep_the_stand_in_and_survive_a_shell() -> None:
    before = COMMAND_OPTIONS.set(("--local",))
    try:
        assert run_command(Batch(date(2026, 1, 2), "a b'c")) == (
            """bg-pipeline run --batch '2026/01/02/a b'"'"'c' --local"""
        )
    finally:
        COMMAND_OPTIONS.reset(before)
    assert "--local" not in run_command(Batch(date(2026, 1, 2), "a"))


def test_an_approval_says_who_runs_the_rest(bench: Bench, photos: Path) -> None:
    batch = submitted(
        photos, "--prompt", "x", "--sample", 1, "--date", today() - timedelta(60), "--name", "old"
    )
    bg("run", "--batch", batch.path)
    told = bg("approve", batch.path).stderr
    assert "does not look at dates as old" in told
    assert "the sensor runs the rest" not in told.lower()


def test_a_sample_that_waits_is_not_counted_as_done(bench: Bench, photos: Path) -> None:
    batch = submitted(photos, "--prompt", "x", "--sample", 1)
    assert "1 of 2 images made, 0 failed, 1 waiting" in bg("run", "--batch", batch.path).stderr


def test_a_watched_folder_is_submitted_once_and_run(bench: Bench, photos: Path) -> None:
    result = bg("watch", photos, "--prompt", "a beach", "--settle", "0.1", "--once", "--run")
    assert result.exit_code == 0, result.output
    batch = find_batch(result.stdout.splitlines()[0])
    assert batch is not None
    assert bg("report", batch.path).exit_code == 0
    again = bg("watch", photos, "--prompt", "a beach", "--settle", "0.1", "--once")
    assert (again.exit_code, again.stdout) == (0, "")


def test_a_wrong_option_of_a_watch_is_told_at_once(bench: Bench, photos: Path) -> None:
    assert "Prompt" in refused("watch", photos, "--settle", "0.1", "--once")
    assert "Variants" in refused("watch", photos, "--prompt", "x", "--variants", 9, "--once")
    assert list(photos.glob(".*")) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_it_can_read(shell: str, tmp_path: Path) -> None:
    script = bg("completion", shell).stdout
    assert "_BG_PIPELINE_COMPLETE" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script)
    subprocess.run([program, "-n", tmp_path / "script"], check=True)


def completions(*words: str) -> list[str]:
    environment = {
        "_BG_PIPELINE_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    result = CliRunner().invoke(
        main, [], env=environment, prog_name="bg-pipeline", complete_var="_BG_PIPELINE_COMPLETE"
    )
    return [line.split(",", 1)[1] for line in result.output.splitlines()]


def test_commands_options_and_choices_are_completed() -> None:
    assert completions("bg-pipeline", "do") == ["download", "doctor"]
    assert "--output" in completions("bg-pipeline", "download", "--")
    assert completions("bg-pipeline", "submit", "--mode", "P") == ["PRECISE"]


@pytest.mark.slow
def test_bash_completes_the_installed_program(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "bg-pipeline"
    program.write_text(
        f"#!{sys.executable}\nfrom bg_pipeline.cli.main import main\nmain(prog_name='bg-pipeline')\n"
    )
    program.chmod(0o755)
    script = (
        'eval "$(bg-pipeline completion bash)"; COMP_WORDS=(bg-pipeline down); COMP_CWORD=1; '
        '_bg_pipeline_completion bg-pipeline; echo "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    told = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "download"


@pytest.mark.slow
def test_a_watch_that_is_killed_while_it_uploads_submits_each_photo_once_in_the_end(
    bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.jpg").write_bytes(photo(number) + bytes(200_000))
    command = [sys.executable, "-m", "bg_pipeline.cli.main", "watch", str(folder), "--prompt", "x", "--yes"]
    command += ["--settle", "0.2"]
    for _ in range(3):
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
        deadline = time.monotonic() + 60
        count = len(bench.keys("image-files/"))
        while len(bench.keys("image-files/")) in (0, count) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert bg("watch", folder, "--prompt", "x", "--yes", "--settle", "0.2", "--once").exit_code == 0
    names = [key.rpartition("/")[2] for key in bench.keys("image-files/") if key.endswith(".jpg")]
    assert sorted(names) == sorted(f"{number}.jpg" for number in range(60))


@pytest.mark.slow
def test_with_the_stand_in_each_printed_command_works_as_it_is_pasted(tmp_path: Path) -> None:
    (tmp_path / "a photo.jpg").write_bytes(photo(1))
    program = [sys.executable, "-m", "bg_pipeline.cli.main"]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "BG_STATE_DIR": str(tmp_path / "state")}

    def run(words: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done

    submit = ["submit", "--local", "a photo.jpg", "--prompt", "x", "--name", "it's 1 & 2", "--sample", "1"]
    told = run(submit)
    line = next(line for line in told.stderr.splitlines() if "run it with: " in line)
    pasted = shlex.split(line.partition("run it with: ")[2])
    assert pasted[0] == "bg-pipeline"
    run(pasted[1:])
    run(["status", "--local", told.stdout.strip()])
    again = run(["submit", *submit[1:]], code=2)
    discard = shlex.split(again.stderr.rpartition("draft: ")[2])
    assert "was submitted" in run(discard[1:], code=2).stderr
