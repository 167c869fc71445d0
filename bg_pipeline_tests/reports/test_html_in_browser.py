"""The report's page in a real browser: nothing runs, everything is reached, on a desk, on a phone, in the dark."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from bg_pipeline.domain.rows import Output, Row, Status, complete_row
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.reports import html as report_html
from bg_pipeline.reports.report import Report
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.slow

EVIL = "<script>document.title='taken'</script>\"><img src=x onerror=\"document.title='taken'\">"
AT = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with images of every status, and texts that would like to be more than that."""
    small = {number: thumbnail(photo(number, size=(900, 600))) for number in range(3)}
    rows = []
    for number, status in enumerate(Status):
        outputs = tuple(
            Output(f"out/{number}_{each}.jpg", status, "", "titan-v2", "us-east-1", 7, 0.01)
            for each in (1, 2)
        )
        for name in (f"photo-{number}.jpg", f"{'folder/' * 20}{EVIL}{number}.jpg"):
            made = outputs if status in (Status.SUCCEEDED, Status.NEEDS_REVIEW) else ()
            rows.append(
                complete_row(
                    Row(
                        Id="id",
                        ImageName=name,
                        Status=status,
                        Ref=EVIL,
                        Cause=EVIL if status != Status.SUCCEEDED else "",
                        Labels="Bus, Person",
                        Caption=f"A bus in the rain. {EVIL}" * 3,
                        Outputs=made,
                        CostUSD=0.0234,
                        Seconds=3.0 * number,
                    )
                )
            )
    page = report_html.render(
        Report(tuple(rows)),
        title="2026/11/20/101530",
        made_at=AT,
        source=lambda image: f"image-files/{image}",
        thumbnail=lambda key: None if "photo-4" in key else small[len(key) % 3],
        alt_texts={"photo-0.jpg": "A red bus."},
        link=lambda key: f"https://bucket.example/{len(key)}",
        links_end=AT,
    )
    written = tmp_path_factory.mktemp("report") / "report.html"
    written.write_bytes(b"".join(page))
    return written


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    """Opens the page in a window of a kind; whatever it asks of the network or complains of fails the test."""
    contexts = []
    complaints: list[str] = []

    def open_in(width: int = 1280, **kind: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **kind)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "request", lambda request: complaints.append(request.url) if "http" in request.url[:4] else None
        )
        page.goto(file.as_uri())
        return page

    yield open_in
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it_on_a_desk_on_a_phone_and_in_the_dark(
    opened: Opened, width: int, scheme: str
) -> None:
    page = opened(width, color_scheme=scheme)
    assert page.title() == "2026/11/20/101530"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["impact"]) for each in found] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


def test_every_picture_is_seen_beside_what_became_of_it(opened: Opened) -> None:
    page = opened()
    broken = page.locator("img").evaluate_all("images => images.filter(image => !image.naturalWidth).length")
    assert broken == 0
    first = page.locator("#image-1")
    before, after = first.get_by_alt_text("Before: A red bus."), first.get_by_alt_text("After: A red bus.")
    assert after.count() == 2
    left, right = before.bounding_box(), after.first.bounding_box()
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]


def test_images_are_filtered_by_status_with_the_keyboard(opened: Opened) -> None:
    page = opened()
    cards = page.locator(".card")
    assert sum(card.is_visible() for card in cards.all()) == 10
    page.get_by_role("radio", name="all").focus()
    for status in Status:
        page.keyboard.press("ArrowRight")
        shown = {card.locator(".status").inner_text() for card in cards.all() if card.is_visible()}
        assert shown == {status.value}
    page.get_by_role("radio", name="all").check()
    assert sum(card.is_visible() for card in cards.all()) == 10


def test_the_filter_works_without_scripts(opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    page.get_by_role("radio", name="Failed").check()
    assert sum(card.is_visible() for card in page.locator(".card").all()) == 2


def test_it_is_printed_dark_on_white_without_the_filter(opened: Opened) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator(".filter").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
