"""The report as one page: what it shows, that nothing in it can run, and where its small pictures come from."""

import html
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Output, Row, Status, complete_row
from bg_pipeline.imaging.thumbnail import MAX_BYTES, SIDE, thumbnail
from bg_pipeline.reports import html as report_html
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.reports.report import Report
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.state import thumbnails
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.reports.sample_rows import cat, dog

AT = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\u202etxt.exe\x00'

CAT = cat(Caption="A cat on a sofa. It sleeps.")
DOG = dog()


class Elements(HTMLParser):
    """The tags of a page with their attributes, as a browser would take them."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def rendered(*rows: Row, **more: object) -> bytes:
    known: dict[str, Any] = {
        "title": "2026/11/20/101530",
        "made_at": AT,
        "source": lambda image: f"image-files/{image}",
        "thumbnail": lambda key: b"jpeg",
        "alt_texts": {},
    }
    return b"".join(report_html.render(Report(rows), **(known | more)))


# What it shows


def test_every_image_has_status_cause_cost_labels_caption_and_pictures() -> None:
    found = Elements(rendered(CAT, DOG, alt_texts={"cat.jpg": "A sleeping cat."}))
    for words in (
        "cat.jpg",
        "SKU 7",
        "Cat, Sofa",
        "It sleeps.",
        "0.0812",
        "the model was busy",
        "unknown USD",
    ):
        assert words in found.text, words
    alts = [image["alt"] for image in found.of("img")]
    assert alts == ["Before: A sleeping cat.", *["After: A sleeping cat."] * 2, "Before: dog.jpg"]


def test_a_caption_is_the_alternative_text_where_there_is_no_shorter_one() -> None:
    (before, *_) = Elements(rendered(CAT)).of("img")
    assert before["alt"] == "Before: A cat on a sofa. It sleeps."


def test_counts_costs_and_seconds_are_charts_that_can_be_heard() -> None:
    labels = [svg["aria-label"] for svg in Elements(rendered(CAT, DOG)).of("svg")]
    assert labels == [
        "Images by status: Succeeded 1, Failed 1",
        "Cost by model, USD: stability 0.0700, titan-v2 0.0100, other calls 0.0012",
        "Images by seconds of work: 10 to 30 1",
    ]


def test_what_another_image_paid_for_is_no_cost_of_the_model_again() -> None:
    reused = complete_row(
        Row(
            Id="621f",
            ImageName="b.jpg",
            Status=Status.SUCCEEDED,
            Outputs=CAT.Outputs,
            CostUSD=0.001,
            Reused=True,
        )
    )
    bars = report_html.charts(Report((CAT, reused)))["Cost by model, USD"]
    assert [(bar.name, bar.value) for bar in bars] == [
        ("stability", "0.0700"),
        ("titan-v2", "0.0100"),
        ("other calls", "0.0022"),
    ]


def test_pictures_that_are_not_shown_are_counted_and_more_results_than_fit_are_named() -> None:
    outputs = tuple(Output(f"out/cat_{number}.jpg", Status.SUCCEEDED) for number in range(1, 9))
    row = complete_row(Row(Id="621f", ImageName="cat.jpg", Status=Status.SUCCEEDED, Outputs=outputs))
    found = Elements(rendered(row, thumbnail=lambda key: b"jpeg" if key != "out/cat_2.jpg" else None))
    assert len(found.of("img")) == thumbnails.RESULTS
    assert "1 picture is not shown" in found.text
    assert "out/cat_8.jpg" in found.text


def test_links_say_when_they_end_and_without_links_nothing_is_said() -> None:
    linked = Elements(rendered(CAT, link=lambda key: f"https://s3.example/{key}?Signature=x", links_end=AT))
    assert "2026-11-21 at 10:15 UTC" in linked.text
    addresses = {anchor["href"] for anchor in linked.of("a")}
    assert addresses == {
        f"https://s3.example/{key}?Signature=x"
        for key in ("image-files/cat.jpg", "out/cat_1.jpg", "out/cat_2.jpg")
    }
    assert "links" not in Elements(rendered(CAT)).text


def test_a_request_that_cannot_be_read_is_a_card_without_pictures() -> None:
    row = complete_row(
        Row(Id="621f", ImageName="request.json", Status=Status.FAILED, Cause="Mode: must be 'PRECISE'")
    )
    found = Elements(rendered(row, source=lambda image: ""))
    assert not found.of("img")
    assert "Mode: must be 'PRECISE'" in found.text


def test_a_report_without_images_is_a_page() -> None:
    assert "0 images" in Elements(rendered()).text


# That nothing in it can run


def test_whatever_names_captions_and_causes_hold_is_text() -> None:
    row = complete_row(
        Row(
            Id=EVIL,
            ImageName=EVIL,
            Status=Status.SUCCEEDED,
            Ref=EVIL,
            Cause=EVIL,
            Labels=EVIL,
            Caption=EVIL,
            Outputs=(Output(EVIL, Status.SUCCEEDED, EVIL, EVIL, EVIL),),
        )
    )
    data = rendered(row, title=EVIL, alt_texts={EVIL: EVIL}, link=lambda key: "https://s3.example/?a=1&b=2")
    found = Elements(data)
    assert not found.of("script")
    assert all(not name.startswith("on") for _, attributes in found.found for name in attributes)
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in found.of("img"))
    assert "{{ 7*7 }}" in found.text
    assert b"\x00" not in data


@given(st.text(max_size=60))
def test_any_text_is_shown_as_it_is_and_adds_no_element(text: str) -> None:
    plain = [tag for tag, _ in Elements(rendered(CAT)).found]
    row = complete_row(
        Row(Id="621f", ImageName=f"x{text}", Status=Status.SUCCEEDED, Labels=f"x{text}", Outputs=CAT.Outputs)
    )
    found = Elements(rendered(row, source=lambda image: f"image-files/{image}"))
    assert {tag for tag, _ in found.found} <= set(plain)


def test_the_page_needs_nothing_from_outside_and_its_policy_allows_nothing() -> None:
    data = rendered(CAT, DOG)
    found = Elements(data)
    (policy,) = (meta["content"] for meta in found.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not found.of("link")
    assert not re.search(rb"(src|href)=\"(?!data:)", data)
    assert all("style" not in attributes for _, attributes in found.found)


# Small pictures


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(size, 100).convert(mode)


@pytest.mark.parametrize("picture", [noise((3000, 2000)), noise((40, 900), "RGBA"), photo(size=(1200, 800))])
def test_a_small_picture_is_small(picture: Image.Image | bytes) -> None:
    data = thumbnail(picture)
    assert len(data) <= MAX_BYTES * 1.5
    with Image.open(io.BytesIO(data)) as small:
        assert small.format == "JPEG"
        assert max(small.size) == SIDE


def test_what_is_transparent_is_white_in_a_small_picture() -> None:
    with Image.open(io.BytesIO(thumbnail(Image.new("RGBA", (300, 300), (255, 0, 0, 0))))) as small:
        assert small.getpixel((50, 50)) == (255, 255, 255)


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def stored_page(bench: Bench, batch: Batch) -> Elements | None:
    content = bench.store.read(s3_keys.report_key(batch.status_prefix, f"id-{batch.name}", "html"))
    if content is None:
        return None
    assert content.media_type == "text/html; charset=utf-8"
    return Elements(content.data)


def test_a_run_stores_a_page_with_every_picture_before_and_after(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1), "b <b>.png": photo(2, format="PNG"), "c.jpg": b"no picture"})
    bench.run()
    found = stored_page(bench, batch)
    assert found is not None
    assert len(found.of("img")) == 4
    assert "1 picture is not shown" in found.text  # the one that is none
    stored = bench.store.read(batch.thumbnails_key)
    assert stored is not None
    assert len(stored.data.splitlines()) == 4


def test_a_run_without_a_report_makes_no_small_pictures(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    add = Thumbnails._make
    monkeypatch.setattr(
        Thumbnails, "_make", lambda self, key, *rest: made.append(key) or add(self, key, *rest)
    )
    bench.submit({"a.jpg": photo(1)})
    bench.run(stages=("labels", "captions"))
    assert not made
    bench.run()
    assert made


def test_a_later_run_shows_the_pictures_that_an_earlier_one_made(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)})
    bench.run()
    bench.submit(
        {"c.jpg": photo(3)},
        Prompt="a forest",
        Images=[{"ImageName": "a.jpg", "Prompt": "a sunny beach"}, {"ImageName": "c.jpg"}],
    )
    bench.run()
    found = stored_page(bench, batch)
    assert found is not None
    assert [heading["id"] for heading in found.of("li")] == ["image-1", "image-2"]
    assert len(found.of("img")) == 4
    stored = bench.store.read(batch.thumbnails_key)
    assert stored is not None
    assert b"b.jpg" not in stored.data


def test_the_page_of_a_large_batch_is_made_when_it_is_asked_for(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)})
    bench.run(html_report_images=1)
    assert stored_page(bench, batch) is None
    assert not bench.keys("pipeline-state/thumbnails/")
    chosen = bench.settings(html_report_images=1)
    found = Elements(html_report(open_batch(bench.store, chosen, batch)))
    assert len(found.of("img")) == 4
    assert bench.keys("pipeline-state/thumbnails/") == [batch.thumbnails_key]


def test_a_batch_that_outgrew_the_limit_has_no_page_of_its_past(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    bench.run()
    assert stored_page(bench, batch) is not None
    bench.put(batch.upload_key("b.jpg"), photo(2))
    bench.run(html_report_images=1)
    assert stored_page(bench, batch) is None


def test_links_of_a_page_lead_to_the_pictures(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    bench.run()
    found = Elements(html_report(open_batch(bench.store, bench.settings(), batch), link_seconds=600))
    links = [html.unescape(anchor["href"] or "") for anchor in found.of("a")]
    assert any("/generated-image-files/2025/11/20/101530/a.jpg?" in link for link in links)
    assert "end on" in found.text


def test_photos_that_were_moved_to_the_archive_are_shown_and_linked(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    moves: dict[str, Any] = {"html_report_images": 0, "archive_to": "archive"}
    bench.run(**moves)
    assert bench.store.head(batch.upload_key("a.jpg")) is None
    found = Elements(html_report(open_batch(bench.store, bench.settings(**moves), batch), link_seconds=600))
    assert len(found.of("img")) == 2
    assert any(f"/{batch.archive_key('a.jpg')}?" in (anchor["href"] or "") for anchor in found.of("a"))


def test_no_small_picture_is_kept_beyond_the_budget(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "BUDGET", 1)
    batch = bench.submit(3)
    bench.run()
    found = stored_page(bench, batch)
    assert found is not None
    shown = len(found.of("img"))
    assert 1 <= shown < 6  # threads that are making one finish it
    assert f"{6 - shown} picture" in found.text


def test_small_pictures_are_stored_while_threads_add_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Thumbnails(bench.store, Batch(AT.date(), "x"))
    for key in ("a", "b"):
        kept.add(key, "etag", lambda: photo(1))
    dumps = orjson.dumps

    def dump_while_another_is_added(line: object, option: int) -> bytes:
        kept.add(f"later {line}", "etag", lambda: photo(2))
        return bytes(dumps(line, option=option))

    monkeypatch.setattr(orjson, "dumps", dump_while_another_is_added)
    kept.save(["a", "b"])
    monkeypatch.undo()
    stored = Thumbnails(bench.store, Batch(AT.date(), "x"))
    stored.load()
    assert [stored.get(key, "etag") is not None for key in ("a", "b")] == [True, True]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1, 2]\n{}\nnull", b'["key", "etag", "?"]'])
def test_small_pictures_that_cannot_be_read_are_passed_over(bench: Bench, data: bytes) -> None:
    batch = Batch(AT.date(), "x")
    bench.put(batch.thumbnails_key, data)
    kept = Thumbnails(bench.store, batch)
    kept.load()
    assert kept.get("key", "etag") is None
