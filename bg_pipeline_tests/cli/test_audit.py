"""`bg-pipeline audit`: who did what, filtered, in three formats, and harmless in a terminal and in a spreadsheet."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from bg_pipeline.cli.main import main
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.state.audit import Act, AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates

BATCH = Batch(DATE, "101530")
HOSTILE = "ann\x1b]0;owned\x07\x9b2J\u202egnp\n=HYPERLINK(1)"


@pytest.fixture
def bench(bucket: str, monkeypatch: pytest.MonkeyPatch, control: ControlClient) -> Bench:
    control.switch(canned=True)
    monkeypatch.setenv("BG_BUCKET", bucket)
    # Without the network, as in `Bench`.
    monkeypatch.setenv("BG_MASK_SOURCES", "alpha,studio,cut-out")
    return Bench(Store(aws().s3(bucket), bucket))


def audit(*options: str) -> Result:
    return CliRunner().invoke(main, ["audit", *options])


def found(*options: str) -> list[dict[str, Any]]:
    result = audit("--format", "json", *options)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def record(bench: Bench, by: Person, act: Act, batch: Batch = BATCH, **details: Any) -> None:
    with AuditLog(bench.store).act(by, act, batch, **details) as result:
        result["Done"] = True


def test_every_command_that_acts_is_in_the_log(bench: Bench, tmp_path, control: ControlClient) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    (tmp_path / "b.jpg").write_bytes(photo(2))

    def call(*words: str, by: str = "") -> str:
        result = CliRunner().invoke(main, [*words, *(["--by", by] if by else [])])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""

    photos = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    batch = call("submit", *photos, "--prompt", "a beach", "--sample", "1").removeprefix("image-files/")
    call("run", "--batch", batch)
    call("approve", batch, "--run", by="carol")
    call("review", "reject", batch, "--all", "--reason", "too dark", by="carol")
    call("review", "redo", batch, "a.jpg", by="dan")
    call("publish", "--batch", batch, by="eve")
    call("retry", batch)
    lines = found("--batch", batch)
    acts = [(line["Act"], line["Via"]) for line in lines]
    assert acts == [
        ("Submit", "local"),
        ("Spend", "run"),
        ("ApproveSample", "local"),
        ("Spend", "run"),
        ("Decide", "local"),
        ("Redo", "local"),
        ("Publish", "local"),
    ]
    names = {line["Act"]: line["By"]["Name"] for line in lines}
    assert (names["Decide"], names["Redo"], names["Publish"]) == ("carol", "dan", "eve")
    assert {line["Outcome"] for line in lines} == {"Done"}
    redone = next(line for line in lines if line["Act"] == "Redo")["Result"]["NewBatch"]
    assert [line["Act"] for line in found("--batch", redone)] == ["Redo"]
    etag = bench.store.head(f"image-files/{batch}/request.json").etag
    assert {line["RequestETag"] or line["Result"]["RequestETag"] for line in lines} == {etag}


def test_a_named_batch_and_a_watched_folder_are_in_the_log(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    name = ["submit", str(tmp_path / "a.jpg"), "--prompt", "a beach", "--name", "spring"]
    assert [CliRunner().invoke(main, name).exit_code for _ in range(2)] == [0, 2]
    watched = CliRunner().invoke(
        main, ["watch", str(tmp_path), "--prompt", "a beach", "--once", "--settle", "0.1"]
    )
    assert watched.exit_code == 0, watched.output
    lines = found()
    assert [(line["Act"], line["Via"], line["Outcome"]) for line in lines] == [
        ("Submit", "local", "Done")
    ] * 2
    assert lines[0]["Batch"].endswith("/spring")
    assert f"image-files/{lines[1]['Batch']}" == watched.stdout.strip().splitlines()[-1]


def test_a_watched_folder_submits_nothing_that_has_no_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: AuditLog, key: str, document: Any) -> bool:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    (tmp_path / "a.jpg").write_bytes(photo(1))
    watch = ["watch", str(tmp_path), "--prompt", "a beach", "--once", "--settle", "0.1"]
    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "_append", denied)
        assert CliRunner().invoke(main, watch).exit_code != 0
    assert not [key for key in bench.keys("image-files/") if key.endswith("/request.json")]
    assert CliRunner().invoke(main, watch).exit_code == 0
    assert [(line["Act"], line["Outcome"]) for line in found()] == [("Discard", "Done"), ("Submit", "Done")]


def test_lines_are_filtered_by_person_act_and_day(bench: Bench) -> None:
    record(bench, Person("ann@example", Via.PAGE, issuer="i", subject="4711"), Act.PUBLISH)
    record(bench, local_person("Ann@example"), Act.DECIDE)
    record(bench, local_person("bob"), Act.DECIDE, Batch(DATE, "other"))
    assert [line["Act"] for line in found("--by", "ANN@example")] == ["Publish", "Decide"]
    assert [line["By"]["Subject"] for line in found("--by", "4711")] == ["4711"]
    assert len(found("--act", "decide")) == 2
    assert len(found("--batch", BATCH.path)) == 2
    today = datetime.now(UTC).date()
    assert found("--date", (today - timedelta(3)).isoformat()) == []
    assert audit("--from", "2026-01-02", "--to", "2026-01-01").exit_code == 2
    assert audit("--date", "today", "--to", "2026-01-01").exit_code == 2


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_hostile_text_controls_neither_terminal_nor_spreadsheet(bench: Bench, form: str) -> None:
    batch = Batch(DATE, "evil\x1b[2J\nname")
    record(bench, local_person(HOSTILE), Act.DECIDE, batch, Reason=HOSTILE)
    result = audit("--format", form, "--from", "2025-01-01")
    assert result.exit_code == 0
    text = result.stdout
    for char in text:
        assert char in "\n\r" or (char.isprintable() and char not in "\u202e"), repr(char)
    if form == "json":
        assert len(text.splitlines()) == 1
    if form == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert len(rows) == 2
        assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)


def test_an_act_without_an_end_is_shown_as_unknown(bench: Bench) -> None:
    AuditLog(bench.store).begin(local_person("ann"), Act.PUBLISH, BATCH, details={})
    assert [line["Outcome"] for line in found()] == ["Unknown"]
    assert "Unknown" in audit().stdout


def test_what_cannot_be_read_is_shown_whatever_is_asked_for(bench: Bench) -> None:
    day = datetime.now(UTC)
    key = f"audit/page/{day:%Y/%m/%d}/000000.000000-0f.json"
    bench.put(key, b"not a line")
    for form in ("table", "json", "csv"):
        result = audit("--by", "nobody", "--format", form)
        assert result.exit_code == 1
        assert key in result.stdout


def test_a_run_that_may_not_write_its_line_pays_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, control: ControlClient
) -> None:
    write = Store.write

    def denied(self: Store, key: str, *args: Any, **more: Any) -> str:
        if key.startswith("audit/"):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
        return write(self, key, *args, **more)

    monkeypatch.setattr(Store, "write", denied)
    bench.submit(3)
    day = bench.run()
    assert control.paid() == []
    assert "audit/run/" in day.stopped
    monkeypatch.undo()
    monkeypatch.setenv("BG_BUCKET", bench.store.bucket)
    assert bench.run().counts == {"Succeeded": 3}


def test_a_killed_run_leaves_the_line_that_it_began_to_pay(bench: Bench, monkeypatch) -> None:
    from bg_pipeline.budget.spend_log import SpendLog

    monkeypatch.setattr(SpendLog, "close", lambda self: None)
    bench.submit(2)
    bench.run()
    assert [(line["Act"], line["Outcome"]) for line in found()] == [("Spend", "Unknown")]


def test_a_run_that_pays_nothing_has_no_line(bench: Bench) -> None:
    bench.submit(2)
    bench.run()
    bench.run()
    (line,) = found()
    assert line["Result"]["Calls"] >= 4
    paid = sum(row.CostUSD for row in bench.rows(BATCH).values())
    assert line["Result"]["CostUSD"] == pytest.approx(paid, abs=1e-5)
