"""The command line: what each command prints, how it ends, and that no user's mistake shows a traceback."""

import json
import os
import re
import shlex
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageOps

from bg_pipeline import pipeline
from bg_pipeline.cli import submit as submitting
from bg_pipeline.cli.arguments import today
from bg_pipeline.cli.main import main
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo, photo_and_mask

pytestmark = pytest.mark.dates


def bg(*words: object, input: str | None = None) -> Result:
    """A command as a person gives it; an exception that would have been a traceback fails the test."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def refused(*words: object) -> str:
    """The one line that a wrong usage gets."""
    result = bg(*words)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bucket that the commands find in their environment."""
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


def submitted(*words: object) -> Batch:
    result = bg("submit", *words)
    assert result.exit_code == 0, result.output
    batch = find_batch(result.stdout.strip())
    assert batch is not None
    return batch


@pytest.mark.parametrize(
    "command",
    ["", "demo", "up", "submit", "plan", "run", "status", "report", "retry", "approve", "discard", "doctor"],
)
def test_every_command_explains_itself(command: str) -> None:
    result = bg(*filter(None, [command, "--help"]))
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_photos_become_a_batch_that_runs_and_is_reported(bench: Bench, photos: Path) -> None:
    before = today()
    batch = submitted(photos, "--prompt", "a sunny beach", "--ref", "SKU-7")
    assert before <= batch.date <= today()
    done = bg("run", "--batch", batch.path)
    assert done.exit_code == 0, done.output
    rows = json.loads(bg("report", batch.path, "--format", "json").stdout)
    assert [(row["ImageName"], row["Status"], row["Ref"]) for row in rows] == [
        ("photo 0.jpg", "Succeeded", "SKU-7"),
        ("photo 1.jpg", "Succeeded", "SKU-7"),
    ]
    table = bg("report", batch.input_prefix)
    assert f"{batch.output_prefix}/photo 0.jpg" in table.stdout
    assert (
        bg("report", f"s3://{bench.store.bucket}/{batch.input_prefix}/", "--format", "csv").stdout.count("\n")
        == 3
    )
    assert "finished" in bg("status", batch.path).stdout


def test_a_second_run_does_nothing_and_succeeds(bench: Bench, photos: Path, control: ControlClient) -> None:
    batch = submitted(photos, "--prompt", "a sunny beach")
    bg("run", "--batch", batch.path)
    control.mark()
    assert bg("run", "--date", batch.date).exit_code == 0
    assert control.paid() == []
    assert bg("run", "--date", batch.date, "--again", "generated_images").exit_code == 0
    assert len(control.paid(operation="InvokeModel")) == 2


def test_a_batch_that_could_not_be_reported_is_told_and_the_exit_code_is_1(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(photos, "--prompt", "a sunny beach")
    run = pipeline.run

    def spoil(*args: Any, **named: Any) -> dict[date, Any]:
        days: dict[date, Any] = dict(run(*args, **named))
        for day in days.values():
            day.problems = ["batch 101530: its report could not be written: AccessDenied"]
        return days

    monkeypatch.setattr(pipeline, "run", spoil)
    result = bg("run", "--date", str(batch.date))
    assert result.exit_code == 1
    assert "batch 101530: its report could not be written: AccessDenied" in result.stderr


def test_an_image_that_failed_is_told_with_its_cause_and_exit_code_1(bench: Bench, photos: Path) -> None:
    (photos / "page.jpg").write_text("<html>404</html>")
    batch = submitted(photos, "--prompt", "a sunny beach")
    result = bg("run", "--batch", batch.path)
    assert result.exit_code == 1
    assert "page.jpg" in result.stdout
    assert "not a photo" in result.stdout
    for command in ("report", "status"):
        assert bg(command, batch.path).exit_code == 1


def test_what_failed_is_asked_for_again_as_a_new_batch(bench: Bench, photos: Path) -> None:
    (photos / "empty.png").touch()
    batch = submitted(photos, "--prompt", "a sunny beach")
    assert bg("retry", batch.path).exit_code == 2, "there is no report yet"
    bg("run", "--batch", batch.path)
    again = find_batch(bg("retry", batch.path).stdout.strip())
    assert again is not None
    assert again != batch
    request = bench.store.read_json(again.request_key)
    assert [image["ImageName"] for image in request["Images"]] == ["empty.png"]
    twice = bg("retry", batch.path)
    assert find_batch(twice.stdout.strip()) == again
    assert "already submitted again" in twice.stderr
    bench.put(batch.upload_key("empty.png"), photo(5))
    assert bg("run", "--batch", again.path).exit_code == 0
    assert "Nothing in batch" in bg("retry", again.path).stderr


def test_a_sample_runs_and_the_rest_follows_its_approval(
    bench: Bench, photos: Path, control: ControlClient
) -> None:
    batch = submitted(photos, "--prompt", "a sunny beach", "--sample", 1)
    planned = bg("plan", "--batch", batch.path).stdout
    assert "1 of them wait for the approval" in planned
    assert bg("run", "--batch", batch.path).exit_code == 1
    assert len(control.paid(operation="InvokeModel")) == 1
    assert bg("approve", batch.path, "--run").exit_code == 0
    assert len(control.paid(operation="InvokeModel")) == 2
    assert "was approved before" in bg("approve", batch.path).stderr


def test_the_report_tells_how_the_sample_that_was_seen_is_approved_and_no_other(
    bench: Bench, photos: Path, control: ControlClient
) -> None:
    batch = submitted(photos, "--prompt", "a sunny beach", "--sample", 1)
    bg("run", "--batch", batch.path)
    told = bg("report", batch.path).stderr
    (command,) = re.findall(r"`bg-pipeline (approve .*?)`", told)
    other = {"Id": "another", "Prompt": "a dark forest", "Sample": 1}
    bench.store.write_json(batch.request_key, other)
    bg("run", "--batch", batch.path)
    assert "replaced since you looked" in refused(*shlex.split(command))
    assert len(control.paid(operation="InvokeModel")) == 2
    (command,) = re.findall(r"`bg-pipeline (approve .*?)`", bg("report", batch.path).stderr)
    assert bg(*shlex.split(command), "--run").exit_code == 0
    assert "waits for the approval" not in bg("report", batch.path).stderr


def test_where_the_machine_knows_no_name_whoever_approves_has_to_say_one(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as in a container that runs as any user
    batch = submitted(photos, "--prompt", "a sunny beach", "--sample", 1)
    assert "name the person who approves (--by)" in refused("approve", batch.path)
    assert bg("approve", batch.path, "--by", "ann").exit_code == 0


def test_approving_what_asked_for_no_sample_is_refused(bench: Bench, photos: Path) -> None:
    batch = submitted(photos, "--prompt", "a sunny beach")
    assert "asked for no sample" in refused("approve", batch.path)


def test_a_plan_names_calls_time_and_dollars_and_spends_nothing(
    bench: Bench, photos: Path, control: ControlClient
) -> None:
    batch = submitted(photos, "--prompt", "x", "--prompt", "y", "--variants", 3)
    before = bench.keys("")
    control.mark()
    result = bg("plan", "--batch", batch.path)
    assert result.exit_code == 0
    assert "2 images asked for, 2 with something to do" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("TITAN_V2")]
    # 2 photos of 2 prompts in one call of 3 variants each; at worst a new attempt of each picture and a cut-out.
    assert line.split()[4:6] == ["4", "18"]
    assert line.split()[-1] == "0.31"
    assert control.paid() == []
    assert bench.keys("") == before


def test_a_plan_says_that_pictures_leave_the_region(bench: Bench, photos: Path, monkeypatch) -> None:
    monkeypatch.setenv("BG_IMAGE_MODELS", "stability")
    batch = submitted(photos, "--prompt", "x")
    assert "processed in the US" in bg("plan", "--date", batch.date).stdout


def test_a_plan_names_the_profile_of_its_region(bench: Bench, photos: Path, monkeypatch) -> None:
    monkeypatch.setenv("BG_REGIONS", "eu-west-1")
    batch = submitted(photos, "--prompt", "x")
    planned = bg("plan", "--date", batch.date)
    assert "using eu.amazon.nova-pro-v1:0 in eu-west-1" in planned.output
    assert "us.amazon" not in planned.output


def test_a_plan_without_a_model_says_why_and_fails(
    bench: Bench, photos: Path, control: ControlClient
) -> None:
    batch = submitted(photos, "--prompt", "x")
    for model in ("amazon.titan-image-generator-v2:0", "amazon.nova-canvas-v1:0"):
        control.model(model, lifecycle="RETIRED")
    control.model("stability.stable-image-inpaint-v1:0", lifecycle="RETIRED")
    result = bg("plan", "--date", batch.date)
    assert result.exit_code == 1
    assert "titan-v2: " in result.stderr


def test_more_than_fifty_paid_pictures_are_asked_about(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "ASK_BEYOND", 1)
    for answer, code in (("n\n", 2), ("", 2), ("y\n", 0)):
        result = bg("submit", photos, "--prompt", "x", input=answer)
        assert result.exit_code == code
        assert "2 photos will need 2 paid pictures" in result.stderr
    assert bg("submit", photos, "--prompt", "x", "--yes").exit_code == 0
    assert len([key for key in bench.keys("image-files/") if key.endswith("request.json")]) == 2


def test_a_date_to_come_is_taken_for_tomorrow_only(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bg_pipeline.cli.submit.today", lambda: date(2026, 12, 31))
    assert submitted(photos, "--prompt", "x", "--date", "2027-01-01").date == date(2027, 1, 1)
    assert "in the future" in refused("submit", str(photos), "--prompt", "x", "--date", "2027-01-02")


def test_today_is_a_date_like_any_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bg_pipeline.cli.arguments.today", lambda: date(2027, 1, 1))
    bench.submit(1, day=date(2026, 12, 31), batch="yesterday")
    bench.submit(1, day=date(2027, 1, 1), batch="new-year")
    status = bg("status", "--date", "today")
    assert "new-year" in status.stdout
    assert "yesterday" not in status.stdout


@pytest.mark.parametrize(
    ("days", "queue", "said"),
    [
        (0, "", "If no sensor is on, run it"),
        (10, "", "within the hour"),
        (10, "https://sqs.us-east-1.amazonaws.com/1/uploads", "If no sensor is on, run it"),
        (60, "", "does not look at dates as old"),
    ],
)
def test_a_submission_under_an_old_date_says_when_a_sensor_will_see_it(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch, days: int, queue: str, said: str
) -> None:
    monkeypatch.setenv("BG_QUEUE_URL", queue)
    result = bg("submit", photos, "--prompt", "x", "--date", today() - timedelta(days))
    assert result.exit_code == 0
    assert said in " ".join(result.stderr.split())


def test_a_backdrop_of_this_machine_goes_with_the_batch(bench: Bench, photos: Path, tmp_path: Path) -> None:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "wall.png")
    batch = submitted(photos, "--backdrop", tmp_path / "wall.png")
    request = bench.store.read_json(batch.request_key)
    assert request["Backdrop"] == f"{batch.input_prefix}/.backdrop.png"
    done = bg("run", "--batch", batch.path)
    assert done.exit_code == 0, done.output
    assert len(bench.keys(f"{batch.output_prefix}/")) == 4, "two pictures and their provenance"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.jpg", "--prompt", "x"], "missing.jpg"),
        (["PHOTOS"], "Prompt: is required"),
        (["PHOTOS", "--prompt", "x", "--variants", "9"], "Variants: must be at most 5"),
        (["PHOTOS", "--prompt", "x", "--manifest", "a.csv"], "not both"),
        (["PHOTOS", "--prompt", "x", "--preset", "nope"], '"nope" is not a preset'),
        (["PHOTOS", "--prompt", "x", "--date", "2020-01-01"], "earlier than BG_FIRST_DATE"),
        (["PHOTOS", "--prompt", "x", "--date", "2999-01-01"], "in the future"),
        (["PHOTOS", "--prompt", "x", "--date", "21.11.2026"], "not a date"),
        (["PHOTOS", "--prompt", "x", "--backdrop", "reports/x.png"], "Backdrop"),
        (["PHOTOS", "--preset", "marketplace-white", "--backdrop", "#f0f0f0"], "Backdrop"),
        (
            ["PHOTOS", "--preset", "marketplace-white", "--backdrop", "#f0f0f0", "--task", "REPLACE"],
            "Backdrop",
        ),
        (["PHOTOS", "--prompt", "{nme} on a beach"], "unknown placeholder {nme}; did you mean {name}?"),
        (["PHOTOS", "--prompt", "x", "--shadow", "hard"], "Shadow: must be 'none'"),
        ([], "not both"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_before_anything_is_uploaded(
    bench: Bench, photos: Path, words: list[str], said: str
) -> None:
    assert said in refused("submit", *[str(photos) if word == "PHOTOS" else word for word in words])
    assert bench.keys("") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "choose a date"),
        (["run", "--date", "today", "--from", "2026-11-01"], "either --date, or --from"),
        (["run", "--to", "2026-11-01"], "--to needs --from"),
        (["run", "--from", "2026-11-02", "--to", "2026-11-01"], "is later than"),
        (["run", "--date", "2026-11-02", "--batch", "2026/11/01/a"], "not on the chosen dates"),
        (["run", "--date", "today", "--again", "nope"], "nope"),
        (["status", "2026/11/01/a", "--date", "today"], "either a batch or --date"),
        (["report", "nonsense"], "is not a batch"),
        (["report", "2026/02/31/a"], "is not a batch"),
        (["report", "2026/11/01/a"], "there is no batch 2026/11/01/a"),
        (["nonsense"], "No such command"),
        (["demo", "--prompt", "x"], "--prompt needs photos"),
        (["demo", "missing.jpg", "--prompt", "x"], "missing.jpg"),
    ],
)
def test_wrong_usage_is_told_in_words(bench: Bench, words: list[str], said: str) -> None:
    assert said in refused(*words)


def test_settings_that_cannot_be_are_named(monkeypatch: pytest.MonkeyPatch, stand_in: object) -> None:
    assert "BG_BUCKET is not set" in refused("status")
    monkeypatch.setenv("BG_BUCKET", "no-such-bucket")
    assert "there is no bucket 'no-such-bucket'" in refused("run", "--date", "today")
    monkeypatch.setenv("BG_BUKET", "x")
    assert "did you mean BG_BUCKET" in refused("status")


def test_without_credentials_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("BG_BUCKET", "any")
    assert "bg-pipeline demo" in refused("status")


def test_a_request_that_cannot_be_read_is_a_state_and_a_row(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo()}, day=today(), Promt="typo")
    status = bg("status", "--date", batch.date)
    assert "request refused" in status.stdout
    assert bg("run", "--batch", batch.path).exit_code == 1
    result = bg("report", batch.path)
    assert result.exit_code == 1
    assert "did you mean 'Prompt'" in result.stdout


def test_a_draft_is_told_left_alone_and_deleted_only_after_a_question(bench: Bench) -> None:
    batch = Batch(today(), "drafted")
    bench.put(batch.upload_key("a.jpg"), photo())
    bench.put(batch.draft_key, b"{}")
    status = bg("status")
    assert status.exit_code == 1
    (photo_,) = bench.store.list(batch.upload_key("a.jpg"))
    assert f"draft of {photo_.modified:%Y-%m-%d %H:%M} UTC" in status.stdout
    result = bg("run", "--date", batch.date)
    assert result.exit_code == 0
    assert "still being uploaded" in result.stderr
    assert "use --yes" in refused("discard", batch.path)
    assert bench.keys("image-files")
    assert bg("discard", batch.path, "--yes").exit_code == 0
    assert bench.keys("image-files") == []


def test_old_drafts_are_deleted_together_after_a_question(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        batch = Batch(today() - timedelta(40), name)
        bench.put(batch.upload_key("a.jpg"), photo())
        bench.put(batch.draft_key, b"{}")
    submitted = bench.submit(1, day=today() - timedelta(40))
    assert "There is no draft older than 3 days" in bg("discard", "--older-than", 3).stderr

    class InAWeek(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(7)

    monkeypatch.setattr(submitting, "datetime", InAWeek)
    asked = refused("discard", "--older-than", 3)
    assert "one: 1 photo" in asked
    assert "two: 1 photo" in asked
    assert "use --yes" in asked
    assert len(bench.keys("image-files")) == 6
    assert bg("discard", "--older-than", 3, "--yes").exit_code == 0
    assert set(bench.keys("image-files")) == {submitted.request_key, submitted.upload_key("photo-0.jpg")}


@pytest.mark.parametrize("words", [(), ("2026/11/20/101530", "--older-than", "3"), ("--older-than", "0")])
def test_a_discard_names_one_draft_or_an_age(bench: Bench, words: tuple[str, ...]) -> None:
    assert "--older-than" in refused("discard", *words)


def test_names_that_could_steer_the_terminal_are_shown_as_what_they_are(bench: Bench) -> None:
    batch = bench.submit({"\x1b[31mred[bold].jpg": b"no picture"}, day=today())
    result = bg("run", "--batch", batch.path)
    assert "\x1b[31m" not in result.stdout
    assert "\\x1b[31mred[bold].jpg" in result.stdout


def test_the_readmes_table_of_settings_is_the_settings_own() -> None:
    from bg_pipeline.settings import table

    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    assert table() in readme, "put the output of `python -m bg_pipeline.settings` into README.md"


def test_a_manifest_becomes_a_batch_and_comes_back_with_what_became_of_each_row(
    bench: Bench, photos: Path
) -> None:
    (photos / "page.jpg").write_text("<html>404</html>")
    bench.put("assets/shoe.jpg", photo(7))
    manifest = photos / "catalogue.csv"
    manifest.write_text(
        "source;ref;prompt;price\n"
        "photo 1.jpg;SKU-1;a sunny beach;9,90\n"
        f"s3://{bench.store.bucket}/assets/shoe.jpg;SKU-2;;19,90\n"
        "page.jpg;SKU-3;;5\n"
    )
    result = bg("submit", "--manifest", manifest, "--prompt", "a street")
    assert result.exit_code == 0, result.output
    assert "copied to the report: price" in result.stderr
    batch = find_batch(result.stdout.strip())
    assert batch is not None
    assert "has no report yet" in refused("report", batch.path, "--format", "manifest")
    assert bg("run", "--batch", batch.path).exit_code == 1
    told = bg("report", batch.path, "--format", "manifest").stdout
    lines = [line.split(";") for line in told.splitlines()]
    assert lines[0] == [
        *("source", "ref", "prompt", "price"),
        *("status", "files", "cost_usd", "cause", "image"),
    ]
    assert [line[1] for line in lines[1:]] == ["SKU-1", "SKU-2", "SKU-3"]
    assert lines[1][4:6] == ["Succeeded", f"{batch.output_prefix}/photo 1.jpg"]
    assert float(lines[1][6]) > 0
    assert lines[2][3:6] == ["19,90", "Succeeded", f"{batch.output_prefix}/shoe.jpg"]
    assert lines[3][4:6] == ["Failed", ""]
    (stored,) = [key for key in bench.keys(batch.status_prefix) if "/manifest_" in key]
    content = bench.store.read(stored)
    assert content is not None
    assert content.data.decode() == told


def test_the_problems_of_a_manifest_are_told_one_a_line_and_nothing_is_uploaded(
    bench: Bench, tmp_path: Path
) -> None:
    manifest = tmp_path / "catalogue.csv"
    manifest.write_text("source,seed,prompt\nmissing.jpg,x,beach\n")
    told = refused("submit", "--manifest", manifest).splitlines()
    assert told[0].startswith("line 2, column source: there is no file")
    assert told[1] == "line 2, column seed: must be a whole number, not 'x'"
    assert "2 problems" in told[-1]
    assert bench.keys("") == []


def test_a_spreadsheets_damage_is_told_before_anything_is_uploaded(bench: Bench, photos: Path) -> None:
    manifest = photos / "catalogue.csv"
    manifest.write_text("source;ref;prompt\nphoto 0.jpg;4,00639E+12;x\nphoto 1.jpg;2;#NAME?\n")
    told = refused("submit", "--manifest", manifest).splitlines()
    assert told[0].startswith("line 2, column ref: '4,00639E+12' is a long number")
    assert told[1].startswith("line 3, column prompt: is #NAME?")
    assert bench.keys("") == []
    manifest.write_text("source;ref;prompt\nphoto 0.jpg;10.12.2026;x\n")
    result = bg("submit", "--manifest", manifest)
    assert result.exit_code == 0, result.output
    assert "Please check line 2, column ref: '10.12.2026' is a date" in result.stderr


def test_a_manifest_in_another_coding_is_refused_before_anything_is_uploaded(
    bench: Bench, photos: Path
) -> None:
    manifest = photos / "catalogue.csv"
    manifest.write_bytes("source,prompt\nphoto 0.jpg,ein Café\n".encode("cp1252"))
    assert "Windows-1252" in refused("submit", "--manifest", manifest)
    manifest.write_bytes("source,prompt\nphoto 0.jpg,ein Café\n".encode("utf-16-le"))
    assert "UTF-16" in refused("submit", "--manifest", manifest)
    assert bench.keys("") == []


def test_a_shadow_and_everything_that_stands_out_can_be_asked_for(bench: Bench, photos: Path) -> None:
    batch = submitted(photos, "--backdrop", "#f0f0f0", "--shadow", "soft", "--keep", "")
    request = bench.store.read_json(batch.request_key) or {}
    assert request["Shadow"] == "soft"
    assert [entry["Labels"] for entry in request["Images"]] == ["", ""]


def test_files_that_go_with_photos_are_told_once_and_not_submitted(bench: Bench, photos: Path) -> None:
    for name in ("photo 0.AAE", "photo 0.MOV", "Thumbs.db"):
        (photos / name).write_bytes(b"x")
    result = bg("submit", photos, "--prompt", "a beach")
    assert "are not photos are left out (3)" in result.stderr
    batch = find_batch(result.stdout.strip())
    assert batch is not None
    assert bg("run", "--batch", batch.path).exit_code == 0
    assert len(bench.keys(f"{batch.input_prefix}/")) == 3


def test_a_request_in_another_coding_is_reported_by_every_command(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo()}, day=today(), requested=False)
    bench.put(batch.request_key, '{"Id": "a", "Prompt": "ein Café"}'.encode("cp1252"))
    assert bg("run", "--batch", batch.path).exit_code == 1
    assert "request.json" in bg("report", batch.path).stdout
    assert "request refused" in bg("status", "--date", str(batch.date)).stdout
    assert bg("retry", batch.path).exit_code == 0


def test_without_caption_models_a_prompt_cannot_hold_a_caption(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_CAPTION_MODELS", "")
    assert "captions are switched off" in refused("submit", photos, "--prompt", "{caption} at sea")
    batch = submitted(photos, "--prompt", "a beach")
    planned = bg("plan", "--date", str(batch.date))
    assert planned.exit_code == 0, planned.output
    assert "CAPTION" not in planned.output
    assert bg("run", "--batch", batch.path).exit_code == 0


def test_a_batch_without_a_manifest_says_so(bench: Bench, photos: Path) -> None:
    batch = submitted(photos, "--prompt", "x")
    bg("run", "--batch", batch.path)
    assert "was not submitted with a manifest" in refused("report", batch.path, "--format", "manifest")


def test_a_command_that_is_proposed_can_be_pasted_whatever_the_batch_is_called(bench: Bench) -> None:
    batch = bench.submit(1, batch="späti & co 'x'", Id="odd")
    proposed = refused("report", batch.path).split("`")[1]
    ran = bg(*shlex.split(proposed)[1:])
    assert ran.exit_code == 0, ran.output


def test_masks_are_taken_from_a_sub_folder(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "shoes"
    (folder / "masks").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(photo(1))
    ImageOps.invert(photo_and_mask(1)[1]).save(folder / "masks" / "a.png")
    assert "lies in mask/" in refused("submit", str(folder), "--task", "REMOVE", "--masks", "mask")
    batch = submitted(
        folder, "--backdrop", "blur", "--shadow", "soft direction=90", "--masks", "masks", "--keep", "Dog"
    )
    request = bench.store.read_json(batch.request_key)
    assert request["MaskKey"] == f"{batch.input_prefix}/masks/"
    assert [entry["ImageName"] for entry in request["Images"]] == ["a.jpg"]
    done = bg("run", "--batch", batch.path)
    assert done.exit_code == 0, done.output
    assert len(bench.keys(f"{batch.output_prefix}/")) == 2, "a picture and its provenance"


def test_a_scene_is_submitted_planned_with_both_prices_and_run(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_REGIONS", "us-west-2")
    batch = submitted(photos, "--scene", "a sunlit oak table", "--keep", "")
    assert bench.store.read_json(batch.request_key)["Scene"] == "a sunlit oak table"
    planned = bg("plan", "--batch", batch.path)
    assert planned.exit_code == 0, planned.output
    words = " ".join(planned.output.split())
    assert (
        "2 pictures on shared scenes, which cost at most 0.28 USD; a background of its own for each" in words
    )
    done = bg("run", "--batch", batch.path)
    assert done.exit_code == 0, done.output
