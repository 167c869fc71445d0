"""Captions and alternative texts: made by one call, exported, and found again."""

import csv
import io
import json
import sqlite3
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.reports.captions import CaptionedImage, CaptionIndex, as_csv, as_json, captions
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo

SAID = "The image shows an object in front of a plain background."


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def document(bench: Bench, batch: Batch, image: str) -> dict[str, str]:
    found = bench.store.read_json(batch.caption_key(image))
    assert isinstance(found, dict)
    return found


# One call for both


def test_an_alternative_text_comes_with_the_caption_from_one_call(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run()
    assert len(control.paid(operation="Converse")) == 1
    assert document(bench, batch, "photo-0.jpg")["AltText"] == SAID


def test_without_alternative_texts_the_caption_model_is_asked_for_the_caption_alone(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run(alt_text_length=0)
    (call,) = control.paid(operation="Converse")
    assert call["prompt"] == bench.settings().caption_prompt
    assert "AltText" not in document(bench, batch, "photo-0.jpg")


def test_another_length_of_alternative_texts_costs_nothing(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(1)
    bench.run()
    control.mark()
    bench.run(alt_text_length=30)
    assert document(bench, batch, "photo-0.jpg")["AltText"] == "The image shows an object in…"
    bench.run()
    assert document(bench, batch, "photo-0.jpg")["AltText"] == SAID
    assert not control.paid()


def test_turning_alternative_texts_on_asks_again_for_captions_and_for_nothing_else(
    bench: Bench, control: ControlClient
) -> None:
    bench.submit(1)
    bench.run(alt_text_length=0)
    control.mark()
    bench.run()
    assert [call["operation"] for call in control.paid()] == ["Converse"]


# The export


def test_captions_are_exported_with_what_a_shop_needs_to_use_them(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1), "broken.jpg": b"nothing"}, Ref="SKU 7")
    bench.submit(1, batch="other", requested=False)  # never run, for it has no prompt and no ledger
    bench.run()
    (found,) = [each for each in captions(bench.store, bench.settings(), [DATE]) if each.Batch == batch.path]
    assert (found.ImageName, found.Ref, found.AltText, found.Caption) == ("a.jpg", "SKU 7", SAID, SAID)
    assert found.Source == batch.upload_key("a.jpg")
    assert found.Results == (f"{batch.output_prefix}/a.jpg",)
    assert json.loads(b"".join(as_json([found])))[0]["AltText"] == SAID
    (line,) = csv.DictReader(io.StringIO(b"".join(as_csv([found])).decode()))
    assert line["Results"] == f"{batch.output_prefix}/a.jpg"


def test_only_the_batches_that_are_named_are_exported(bench: Bench) -> None:
    first, second = bench.submit(1), bench.submit(2, batch="second")
    bench.run()
    found = list(captions(bench.store, bench.settings(), [DATE], [second]))
    assert [each.Batch for each in found] == [second.path] * 2
    assert len(list(captions(bench.store, bench.settings(), [DATE]))) == 3
    assert first != second


def captioned(name: str = "a.jpg", caption: str = "", labels: str = "", **more: str) -> CaptionedImage:
    return CaptionedImage(name, more.get("ref", ""), more.get("alt_text", ""), caption, labels, "b", "s", ())


def test_nothing_said_is_an_empty_list_and_a_head() -> None:
    assert json.loads(b"".join(as_json([]))) == []
    assert b"".join(as_csv([])).startswith(b'"ImageName","Ref","AltText","Caption"')


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=3))
def test_whatever_is_said_every_image_is_one_line_and_no_formula(said: list[str]) -> None:
    rows = [captioned(caption=text) for text in said]
    assert [each["Caption"] for each in json.loads(b"".join(as_json(rows)))] == said
    found = list(csv.DictReader(io.StringIO(b"".join(as_csv(rows)).decode(), newline="")))
    assert len(found) == len(said)
    assert all(line["Caption"][:1] not in ("=", "+", "-", "@", "\t", "\r", "\n") for line in found)


# Search


def write_ledger(bench: Bench, batch: Batch, *entries: Entry) -> None:
    """The ledger as a run would have left it."""
    for entry in entries:
        bench.put(batch.upload_key(entry.image), b"a photo")
    bench.put(batch.request_key, json.dumps({"Id": batch.name, "Prompt": "a beach", "Ref": "SKU-9"}).encode())
    ledger = Ledger(bench.store, batch)
    for entry in entries:
        ledger.put(entry)
    ledger.finish(LeasedWriter(None))


@pytest.fixture
def batch(bench: Bench) -> Batch:
    made = Batch(DATE, "shop")
    write_ledger(
        bench,
        made,
        Entry("bus.jpg", caption="A red double-decker bus in the rain.", labels="Bus, Person"),
        Entry("dog.jpg", caption="A small dog sleeps on a café's chair.", alt_text="A dog.", labels="Dog"),
        Entry("dogs.jpg", caption="Two dogs run beside a bus.", labels="Dog, Bus"),
    )
    return made


@pytest.fixture
def index(bench: Bench, batch: Batch, tmp_path: Path) -> CaptionIndex:
    made = CaptionIndex(tmp_path / "search" / "index.sqlite")
    made.update(bench.store, bench.settings(), [DATE])
    return made


def names(found: list[CaptionedImage]) -> set[str]:
    return {each.ImageName for each in found}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("bus", {"bus.jpg", "dogs.jpg"}),
        ("dog", {"dog.jpg", "dogs.jpg"}),
        ("DOGS", {"dog.jpg", "dogs.jpg"}),
        ("bus dog", {"dogs.jpg"}),
        ("person", {"bus.jpg"}),
        ("cafe", {"dog.jpg"}),
        ("doub", {"bus.jpg"}),
        ("sku 9", {"bus.jpg", "dog.jpg", "dogs.jpg"}),
        ("zebra", set()),
        ("", set()),
        ('"?*-^():', set()),
        ('bus" OR "dog', set()),
        ("Caption:bus", set()),
    ],
)
def test_captions_and_labels_are_found_by_their_words(
    index: CaptionIndex, words: str, found: set[str]
) -> None:
    assert names(index.search(words)) == found


def test_what_is_found_is_what_was_said(index: CaptionIndex, batch: Batch) -> None:
    (found,) = index.search("chair")
    assert (found.AltText, found.Labels, found.Batch) == ("A dog.", "Dog", batch.path)
    assert found.Source == batch.upload_key("dog.jpg")


def test_the_index_follows_what_is_stored(bench: Bench, index: CaptionIndex, batch: Batch) -> None:
    write_ledger(bench, batch, Entry("bus.jpg", caption="A green tram."))
    other = Batch(DATE, "other")
    write_ledger(bench, other, Entry("tram.jpg", caption="A tram."))
    index.update(bench.store, bench.settings(), [DATE])
    assert names(index.search("tram")) == {"bus.jpg", "tram.jpg"}
    assert not index.search("dog")
    for key in bench.keys(f"image-files/{batch.path}/"):
        bench.store.delete(key)
    index.update(bench.store, bench.settings(), [DATE])
    assert names(index.search("tram")) == {"tram.jpg"}


def test_an_unchanged_ledger_is_not_read_again(
    bench: Bench, index: CaptionIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(self: Store, key: str) -> None:
        raise AssertionError(f"{key} was read")

    monkeypatch.setattr(Store, "read", unread)
    index.update(bench.store, bench.settings(), [DATE])
    assert names(index.search("bus")) == {"bus.jpg", "dogs.jpg"}


def test_a_search_can_be_narrowed_to_dates_and_batches(
    bench: Bench, index: CaptionIndex, batch: Batch
) -> None:
    later = Batch(DATE + timedelta(1), "later")
    write_ledger(bench, later, Entry("new-bus.jpg", caption="A bus."))
    index.update(bench.store, bench.settings(), [later.date])
    assert names(index.search("bus", first=later.date)) == {"new-bus.jpg"}
    assert names(index.search("bus", last=DATE)) == {"bus.jpg", "dogs.jpg"}
    assert names(index.search("bus", first=DATE, last=later.date)) == {"bus.jpg", "dogs.jpg", "new-bus.jpg"}
    assert names(index.search("bus", only=[later])) == {"new-bus.jpg"}
    assert len(index.search("bus", limit=1)) == 1
    assert not index.search("bus", last=date(2020, 1, 1))


@pytest.mark.parametrize("data", [b"this is no database, but a text that is long enough" * 40, b""])
def test_an_index_that_is_damaged_is_made_anew(
    bench: Bench, batch: Batch, tmp_path: Path, data: bytes
) -> None:
    file = tmp_path / "index.sqlite"
    file.write_bytes(data)
    index = CaptionIndex(file)
    index.update(bench.store, bench.settings(), [DATE])
    assert names(index.search("person")) == {"bus.jpg"}


def test_an_index_of_another_version_is_made_anew(bench: Bench, batch: Batch, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    connection = sqlite3.connect(file)
    connection.executescript("CREATE TABLE batches (other); PRAGMA user_version = 99;")
    connection.close()
    index = CaptionIndex(file)
    index.update(bench.store, bench.settings(), [DATE])
    assert names(index.search("person")) == {"bus.jpg"}


def test_an_index_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BgPipelineError, match="BG_STATE_DIR"):
        CaptionIndex(tmp_path).search("bus")
