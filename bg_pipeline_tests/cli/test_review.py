"""The commands of the review, of the delivery and of the captions, as a person gives them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.run import finishing
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.cli.test_cli import bg, refused
from bg_pipeline_tests.pictures import photo


@pytest.fixture
def bench(
    s3,
    bucket: str,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    in_process: None,
) -> Bench:
    """A bucket that the commands find; a picture of a prompt with "odd" in it does not pass."""

    def faults(fidelity: Any, prompt: str = "") -> tuple[str, ...]:
        return ("the background did not change",) if "odd" in prompt else ()

    control.switch(canned=True)
    monkeypatch.setattr(finishing, "failed_checks", faults)
    for name, value in {
        "BUCKET": bucket,
        "QUOTA_TITAN_V2_RPM": "60000",
        "MAX_REGENERATIONS": "0",
        "REVIEW_SHARE": "0",
        "STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(f"BG_{name}", value)
    return Bench(Store(s3, bucket), {"max_regenerations": 0})


@pytest.fixture
def batch(bench: Bench) -> Batch:
    made = bench.submit(
        {"good.jpg": photo(1), "odd.jpg": photo(2)},
        Images=[{"ImageName": "good.jpg"}, {"ImageName": "odd.jpg", "Prompt": "an odd place"}],
    )
    bench.run()
    return made


@pytest.mark.parametrize(
    "words",
    [
        "review",
        "review list",
        "review approve",
        "review reject",
        "review apply",
        "review redo",
        "publish",
        "captions",
    ],
)
def test_every_command_explains_itself(words: str) -> None:
    result = bg(*words.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_the_queue_is_listed_decided_and_delivered(bench: Bench, batch: Batch) -> None:
    listed = bg("review", "list", batch.path)
    assert listed.exit_code == 1
    assert "odd.jpg" in listed.stdout
    assert "good.jpg" not in listed.stdout
    assert "1 result approved, 0 rejected, 1 waiting" in listed.stderr
    assert bg("publish", "--batch", batch.path).exit_code == 1
    approved = bg("review", "approve", batch.path, "--all", "--by", "ann", "--reason", "it is meant so")
    assert "1 result approved." in approved.stderr
    assert bg("review", "list", batch.path).exit_code == 0
    done = bg("publish", "--date", DATE)
    assert done.exit_code == 0
    assert bench.keys("published/") == [f"published/{batch.path}/{name}.jpg" for name in ("good", "odd")]
    assert bg("review", "reject", batch.path, "good.jpg", "--by", "bob").exit_code == 0
    assert bg("publish", "--date", DATE).exit_code == 0
    assert bench.keys("published/") == [f"published/{batch.path}/odd.jpg"]
    everything = bg("review", "list", batch.path, "--all").stdout
    assert "approved by ann: it is meant so" in everything
    assert "rejected by bob" in everything


def test_decisions_are_taken_in_from_a_table(bench: Bench, batch: Batch, tmp_path: Path) -> None:
    data = bg("review", "list", batch.path, "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(data))
    file = tmp_path / "review.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, row.keys())
        writer.writeheader()
        writer.writerow(row | {"Decision": "reject", "Reason": "too odd"})
    assert "1 new decision." in bg("review", "apply", batch.path, file, "--by", "ann").stderr
    assert "0 new decisions." in bg("review", "apply", batch.path, file, "--by", "ann").stderr
    assert bg("review", "list", batch.path).exit_code == 0


def test_redo_prints_the_new_batch_and_runs_it(bench: Bench, batch: Batch) -> None:
    done = bg("review", "redo", batch.path, "odd.jpg", "--prompt", "a quiet lake", "--run", "--by", "ann")
    assert done.exit_code == 0, done.output
    again = find_batch(done.stdout.splitlines()[0])
    assert again is not None
    assert bench.keys(again.output_prefix + "/odd.jpg") != []
    assert "rejected by ann: asked for again as" in bg("review", "list", batch.path, "--all").stdout


def test_a_picture_that_was_made_again_is_published_with_its_originals_batch(
    bench: Bench, batch: Batch
) -> None:
    done = bg("review", "redo", batch.path, "odd.jpg", "--prompt", "a lake", "--run", "--by", "ann")
    again = find_batch(done.stdout.splitlines()[0])
    assert again is not None
    bg("review", "approve", again.path, "odd.jpg", "--by", "ann")
    # Whichever of the two is named.
    assert bg("publish", "--batch", again.path).exit_code == 0
    assert f"published/{batch.path}/odd.jpg" in bench.keys("published/")
    assert bench.keys(f"published/{again.path}") == []
    assert bg("publish", "--batch", batch.path).exit_code == 0


def test_redo_given_twice_leads_to_the_same_batch_and_in_other_words_it_is_refused(
    bench: Bench, batch: Batch
) -> None:
    first, second = (bg("review", "redo", batch.path, "odd.jpg", "--by", by).stdout for by in ("ann", "bob"))
    assert first == second
    told = refused("review", "redo", batch.path, "odd.jpg", "--prompt", "a lake", "--by", "bob")
    assert f"as batch {first.strip().partition('/')[2]}" in told
    assert "nothing in batch" in refused("review", "redo", batch.path, "--all")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("review", "approve"), "name results or images"),
        (("review", "approve", "odd.jpg", "--all"), "name results or images"),
        (("review", "reject", "other.jpg"), "'other.jpg' is neither"),
        (("review", "approve", "odd.jpg", "--by", ""), "who decides"),
        (("review", "redo", "odd.jpg", "--seed", "99999999999"), "Seed"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    bench: Bench, batch: Batch, words: tuple[str, ...], told: str
) -> None:
    assert told in refused(*words[:2], batch.path, *words[2:])
    assert not bench.keys("reviews/")


def test_a_batch_that_is_not_there_is_told(bench: Bench) -> None:
    assert "there is no batch 2026/11/20/none" in refused("review", "list", "2026/11/20/none")
    assert "None of these batches was run yet" in bg("publish", "--date", DATE).stderr


def test_captions_are_printed_exported_and_searched(bench: Bench, batch: Batch) -> None:
    assert "odd.jpg" in bg("captions", "--date", DATE).stdout
    found = json.loads(bg("captions", "--from", DATE, "--to", DATE, "--format", "json").stdout)
    assert [each["ImageName"] for each in found] == ["good.jpg", "odd.jpg"]
    table = list(csv.DictReader(io.StringIO(bg("captions", "--batch", batch.path, "--format", "csv").stdout)))
    assert [row["AltText"] for row in table] == [found[0]["AltText"]] * 2
    hits = json.loads(bg("captions", "--date", DATE, "--search", "plain object", "--format", "json").stdout)
    assert len(hits) == 2
    nothing = bg("captions", "--date", DATE, "--search", "zebra")
    assert (nothing.exit_code, "Nothing was found for: zebra" in nothing.stderr) == (0, True)


def test_the_report_is_printed_as_a_page_with_links_if_they_are_wanted(bench: Bench, batch: Batch) -> None:
    plain = bg("report", batch.path, "--format", "html")
    assert plain.exit_code == 1
    assert plain.stdout.startswith("<!DOCTYPE html>")
    assert plain.stdout.count("data:image/jpeg;base64,") == 4
    assert "Signature" not in plain.stdout
    linked = bg("report", batch.path, "--format", "html", "--links").stdout
    assert "Signature=" in linked
    assert "end on" in linked
    assert "--links needs" in refused("report", batch.path, "--links")
