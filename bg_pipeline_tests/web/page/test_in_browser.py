"""The web page in a real browser: from dropped photos to published results; on a phone; in the dark."""

import http.client
import io
import re
import socket
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect
from playwright.sync_api import TimeoutError as NotThere

from bg_pipeline import review
from bg_pipeline.cli.page import served
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.text import counted
from bg_pipeline.masks import Mask
from bg_pipeline.run import subject_mask
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.state.sign_ins import LOOK_SECONDS
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.cli.test_demo import until
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.openid import AUDIENCE, SECRET, openid_provider

pytestmark = pytest.mark.slow

SECONDS = 60_000
TRIES = 6
APPROVE = re.compile(r"Approve \(a\)")


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


@contextmanager
def running(port: int, log: Path) -> Iterator[str]:
    """The page, once it answers, and its address."""
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    with served(port, log):
        until(answers, 60)
        yield address


@pytest.fixture
def settings_of_the_page(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_BUCKET", bench.store.bucket)
    monkeypatch.setenv("BG_REVIEW_SHARE", "1")
    monkeypatch.setenv("BG_MASK_SOURCES", ",".join(bench.settings().mask_sources))
    monkeypatch.setenv("BG_STATE_DIR", str(tmp_path))


@pytest.fixture
def address(settings_of_the_page: None, tmp_path: Path) -> Iterator[str]:
    with running(free_port(), tmp_path / "page.log") as address:
        yield address


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def drop(page: Page, tmp_path: Path, count: int = 2) -> None:
    files = []
    for number in range(count):
        files.append(tmp_path / f"shoe {number}.jpg")
        files[-1].write_bytes(photo(number, size=(600, 450)))
    zone = page.locator("input[type=file]").first
    try:
        zone.wait_for(state="attached", timeout=SECONDS)
    except NotThere:
        raise AssertionError(
            f"there is no place to drop photos on: {page.locator('body').inner_text()}"
        ) from None
    zone.set_input_files(files)
    page.get_by_role("heading", name=counted(count, "photo")).wait_for(timeout=SECONDS)


def test_from_dropped_photos_to_published_results(
    bench: Bench, control: ControlClient, address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(address)
    drop(page, tmp_path)
    name = page.get_by_role("textbox", name="Name of the batch")
    name.fill("a/b")
    name.press("Enter")
    page.get_by_text("a batch cannot be named").wait_for()
    name.fill("spring & summer")
    name.press("Enter")
    expect(page.get_by_placeholder("spring & summer")).to_be_visible(timeout=SECONDS)
    page.get_by_role("button", name="Find what is in 2 photos").click()
    expect(page.get_by_role("button", name="Find what is in")).to_have_count(0, timeout=SECONDS)
    page.get_by_placeholder("london city background").fill("a sandy beach")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("2 photos: up to").first).to_be_visible(timeout=SECONDS)
    labelled = control.paid()
    assert {call["operation"] for call in labelled} == {"DetectLabels"}
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("is submitted").wait_for()
    (request,) = [
        found.key for found in bench.store.list("image-files/") if found.key.endswith("request.json")
    ]
    batch = find_batch(request.rpartition("/")[0])
    assert batch is not None
    assert batch.name == "spring & summer"
    page.get_by_role("link", name="Batches").click()
    page.get_by_text("2 waiting").wait_for()
    page.get_by_text("a sandy beach").wait_for()
    assert bench.run(batch.date).counts == {"Succeeded": 2}
    page.get_by_text("finished: 2 good").wait_for()
    page.get_by_role("link", name="Review").click()
    page.get_by_role("button", name="Waiting 2").wait_for()
    results = page.get_by_role("listbox", name="Results")
    results.press("Enter")
    page.get_by_text("1 of 2: shoe 0.jpg").wait_for()
    page.get_by_role("button", name=APPROVE).click()
    page.get_by_text("1 of 1: shoe 1.jpg").wait_for()
    page.keyboard.press("e")
    page.keyboard.type("blurred, axzn")  # keys that mean something elsewhere
    page.keyboard.press("Enter")
    page.keyboard.press("x")
    page.get_by_text("Nothing waits for review.").wait_for()
    expect(page.get_by_role("button", name="Approved 1")).to_be_visible()
    page.get_by_text("Deliver", exact=True).click()
    page.get_by_role("button", name="Publish what is approved").click()
    page.get_by_text("1 result published").wait_for()
    assert len([found for found in bench.store.list("published/") if found.key.endswith(".jpg")]) == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="ZIP of what is approved").click()
    with zipfile.ZipFile(download.value.path()) as pack:
        assert pack.namelist() == ["shoe 0.jpg"]
    items = review.items(open_batch(bench.store, bench.settings(), batch), bench.settings(review_share=1))
    assert [item.decision and item.decision.reason for item in items] == ["", "blurred, axzn"]
    page.close()


def review_of(bench: Bench, address: str, browser: Browser, photos: int, **request: Any) -> Page:
    """The review of a batch of today with this number of waiting results."""
    day = datetime.now(UTC).date()
    bench.submit(photos, day=day, **request)
    bench.run(day)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(SECONDS)
    page.goto(f"{address}/review")
    page.get_by_role("button", name=f"Waiting {photos}").wait_for()
    return page


@pytest.fixture
def reviewed(bench: Bench, address: str, browser: Browser) -> Iterator[Page]:
    """The review of five waiting results, the first one open."""
    page = review_of(bench, address, browser, 5)
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_text("1 of 5: photo-0.jpg").wait_for()
    yield page
    page.close()


def reviewed_batch(bench: Bench) -> Batch:
    """The batch of `review_of`, whose date may be yesterday by now."""
    batches = map(find_batch, bench.keys("image-files/"))
    return next(batch for batch in batches if batch and batch.name == "101530")


def states_of(bench: Bench) -> list[str]:
    batch = reviewed_batch(bench)
    settings = bench.settings(review_share=1)
    return [item.state.value for item in review.items(open_batch(bench.store, settings, batch), settings)]


def settled(page: Page, bench: Bench, expected: list[str]) -> None:
    """Waits until these are the stored states."""
    until(lambda: states_of(bench) == expected, 30)


def test_keys_decide_undo_and_move_wherever_the_focus_is(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    page.get_by_label("Part of the original").fill("30")
    page.get_by_label("Part of the original").focus()
    page.keyboard.press("a")
    page.get_by_text("1 of 4: photo-1.jpg").wait_for()
    page.keyboard.press("x")
    page.get_by_text("1 of 3: photo-2.jpg").wait_for()
    page.get_by_role("button", name="Mask").focus()
    page.keyboard.press("a")
    page.get_by_text("1 of 2: photo-3.jpg").wait_for()
    page.keyboard.press("z")
    page.get_by_text("1 of 3: photo-2.jpg").wait_for()
    settled(page, bench, ["approved", "rejected", "waiting", "waiting", "waiting"])
    page.keyboard.press("z")
    page.get_by_text("1 of 4: photo-1.jpg").wait_for()
    settled(page, bench, ["approved", "waiting", "waiting", "waiting", "waiting"])
    # The screen is drawn anew after the answer, and the focus goes back to where it was.
    page.wait_for_timeout(1000)
    page.get_by_role("group", name="Picture").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("2 of 4: photo-2.jpg").wait_for()
    # Another filter has a position of its own.
    page.get_by_role("button", name="Approved 1").click()
    page.get_by_text("1 of 1: photo-0.jpg").wait_for()
    page.get_by_role("button", name="Waiting 4").click()
    page.get_by_text("2 of 4: photo-2.jpg").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("listbox", name="Results").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("photo-4")
    expect(page.get_by_role("listbox", name="Results").get_by_role("option")).to_have_count(1)


def test_space_shows_the_original_1_every_pixel_and_m_the_mask(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    layers = page.locator(".layers")
    expect(page.get_by_role("img", name="Photo photo-0.jpg")).to_have_count(1)
    page.keyboard.down(" ")
    expect(layers).to_have_class("layers original-only")
    page.keyboard.up(" ")
    expect(layers).to_have_class("layers")
    page.keyboard.press("m")
    expect(page.get_by_role("img", name="What the mask replaces")).to_have_count(1)
    page.keyboard.press("1")
    page.get_by_text("Full size:").wait_for()
    shown, wide = page.evaluate(
        "(image => [image.clientWidth, image.naturalWidth])(document.querySelectorAll('*').values()"
        ".map(each => each.shadowRoot?.querySelector('.layers img.result')).find(Boolean))"
    )
    assert shown == wide


def test_many_are_decided_about_after_a_question_and_undone_with_one_key(
    bench: Bench, address: str, browser: Browser
) -> None:
    page = review_of(bench, address, browser, 24)
    page.get_by_role("listbox", name="Results").press("Control+a")
    page.get_by_role("button", name="Reject 24").click()
    page.get_by_text("Reject 24 results?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Waiting 24").wait_for()
    page.keyboard.press("x")
    page.get_by_role("button", name="Yes").click()
    page.get_by_role("button", name="Rejected 24").wait_for()
    settled(page, bench, ["rejected"] * 24)
    page.keyboard.press("z")
    page.get_by_role("button", name="Waiting 24").wait_for()
    settled(page, bench, ["waiting"] * 24)
    page.close()


def test_a_double_click_on_another_picture_pays_once_and_the_new_one_takes_its_place(
    bench: Bench, reviewed: Page, control: ControlClient
) -> None:
    page = reviewed
    page.keyboard.press("n")
    page.get_by_role("button", name=re.compile(r"Make 1 picture: [0-9.]+ USD")).dblclick()
    expect(page.get_by_role("dialog")).to_have_count(0)
    # It stays on the same picture, which is being made.
    page.get_by_role("heading", name="Another picture is being made").wait_for()
    page.get_by_text("1 of 5: photo-0.jpg").wait_for()
    until(lambda: len([key for key in bench.keys("image-files/") if key.endswith("/request.json")]) == 2, 30)
    paid = len(control.paid(operation="InvokeModel"))
    bench.run(datetime.now(UTC).date())
    assert len(control.paid(operation="InvokeModel")) == paid + 1
    page.reload()
    page.get_by_role("button", name="Waiting 5").wait_for()
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_text("1 of 5: photo-0.jpg").wait_for()
    page.get_by_role("button", name="1. picture").wait_for()
    assert serious(page) == []


def draw(page: Page, *points: tuple[float, float]) -> None:
    """Draws with the mouse on the mask's board; points are shares of its width and height."""
    box = (
        page.get_by_role("application", name="The photo. What is replaced is blue.")
        .locator(".sheet")
        .bounding_box()
    )
    assert box is not None
    at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def test_a_mask_is_mended_with_brush_and_undo_and_made_anew_once_without_a_call(
    bench: Bench, reviewed: Page, control: ControlClient
) -> None:
    page = reviewed
    page.keyboard.press("b")
    page.get_by_role("heading", name="Mend the mask of photo-0.jpg").wait_for()
    expect(page.get_by_role("button", name="Make the result anew")).to_be_disabled()
    draw(page, (0.05, 0.05), (0.2, 0.05), (0.2, 0.2))
    free = page.get_by_role("button", name="Make the result anew: 0 USD")
    free.wait_for()
    page.get_by_text("No model is called").wait_for()
    page.keyboard.press("r")
    draw(page, (0.5, 0.4), (0.55, 0.5))
    page.get_by_role("button", name=re.compile(r"Make the result anew: 0\.[0-9]+ USD")).wait_for()
    page.get_by_text("the painted picture shows the old background").wait_for()
    page.keyboard.press("z")
    free.wait_for()
    assert serious(page) == []
    free.dblclick()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("heading", name="Another picture is being made").wait_for()
    until(lambda: len([key for key in bench.keys("image-files/") if key.endswith("/request.json")]) == 2, 30)
    paid = len(control.paid(operation="InvokeModel"))
    bench.run(datetime.now(UTC).date())
    assert len(control.paid(operation="InvokeModel")) == paid
    page.reload()
    page.get_by_role("button", name="Waiting 5").wait_for()
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_role("button", name="1. picture").wait_for()
    (mask,) = [key for key in bench.keys("image-files/") if "/.mended-" in key]
    content = bench.store.read(mask)
    assert content is not None
    with Image.open(io.BytesIO(content.data)) as drawn:
        grey = drawn.convert("L")
        assert grey.size == (240, 180)
        assert grey.getpixel((12, 9)) == 0, "the stroke is kept"
        assert grey.getpixel((235, 20)) == 255, "the background is replaced"
        assert grey.getpixel((120, 80)) == 0, "the stroke that was undone changed nothing"


def test_a_mask_that_is_not_mended_in_the_end_changes_nothing(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    keys = bench.keys("")
    page.get_by_role("button", name="Mend (b)").click()
    page.get_by_role("heading", name="Mend the mask of").wait_for()
    draw(page, (0.05, 0.05), (0.2, 0.2))
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()
    page.keyboard.press("+")
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_text("1 of 5: photo-0.jpg").wait_for()
    assert bench.keys("") == keys
    # What was painted is not lost: it can be gone on with, or taken back.
    page.keyboard.press("b")
    page.get_by_role("heading", name="Mend the mask of").wait_for()
    page.get_by_text("Your changes to this mask are still here").wait_for()
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()
    page.keyboard.press("z")
    expect(page.get_by_role("button", name="Undo (z)").last).to_be_disabled()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.get_by_text("of the photo is kept").wait_for()
    expect(page.get_by_role("button", name="Undo (z)").last).to_be_disabled()


def told(page: Page) -> Locator:
    return page.locator("dialog.mend .told")


def kept_share(page: Page) -> int:
    """The share of the photo that is kept, in percent, as it is told."""
    found = re.search(r"(\d+) % of the photo is kept", told(page).inner_text())
    assert found is not None
    return int(found[1])


def test_a_mask_is_mended_with_the_keyboard_alone_and_every_step_is_told(reviewed: Page) -> None:
    page = reviewed
    page.keyboard.press("b")
    expect(page.get_by_role("application", name="The photo")).to_be_focused()
    expect(told(page)).to_contain_text("of the photo is kept")
    before = kept_share(page)
    for _ in range(60):
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")
    expect(told(page)).to_have_text("0 % across, 0 % down: replaced")
    page.keyboard.press("ArrowRight")
    small = across(page, above=0)
    page.keyboard.press("Shift+ArrowRight")
    assert across(page, above=small) > 4 * small
    expect(page.locator("dialog.mend .ring")).to_be_visible()
    for _ in range(6):
        page.keyboard.press("]")
    page.keyboard.press("Enter")
    expect(told(page)).to_contain_text("Kept here.")
    page.keyboard.press("p")
    expect(told(page)).to_contain_text("The brush is down")
    for _ in range(10):
        page.keyboard.press("Shift+ArrowRight")
    expect(told(page)).to_contain_text("kept, keeping")
    page.keyboard.press("p")
    expect(told(page)).to_contain_text("The brush is up.")
    assert kept_share(page) > before
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()
    # Escape lifts the brush, and only then closes.
    page.keyboard.press("p")
    page.keyboard.press("Escape")
    expect(told(page)).to_contain_text("The brush is up.")
    page.keyboard.press("n")
    expect(told(page)).to_have_text("No place in this mask is marked as doubtful.")
    # Tab leads from the photo to the buttons beneath it, and back to the tools.
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Make the result anew: 0 USD")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Photo (hold space)")).to_be_focused()
    assert serious(page) == []


def across(page: Page, *, above: float) -> float:
    """How far from the left the cursor is, in percent, once it is told that it is farther than ``above``."""

    def where() -> float:
        found = re.match(r"([0-9.]+) % across", told(page).inner_text())
        return float(found[1]) if found else 0.0

    for _ in range(50):
        if where() > above:
            break
        page.wait_for_timeout(200)
    return where()


def test_a_click_finds_a_region_that_counts_only_when_it_is_kept(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("of the photo is kept")
    before = kept_share(page)
    page.keyboard.press("g")
    page.keyboard.press("r")
    for _ in range(5):
        page.keyboard.press("[")  # the subject is of one colour: a part of it
    click(page, 0.5, 0.5)
    expect(told(page)).to_contain_text("Found a region", timeout=SECONDS)
    expect(page.locator("dialog.mend .found")).to_have_count(1)
    expect(page.get_by_role("button", name="Undo (z)").last).to_be_enabled()
    page.keyboard.press("Escape")
    expect(told(page)).to_have_text("The region is not used.")
    expect(page.locator("dialog.mend .found")).to_have_count(0)
    expect(page.get_by_role("button", name="Make the result anew")).to_be_disabled()
    # A double click looks once, and does not take what it has not shown.
    click(page, 0.5, 0.5, times=2)
    expect(told(page)).to_contain_text("Found a region")
    page.get_by_role("button", name="Replace it").click()
    expect(told(page)).to_have_text("The region is replaced.")
    page.get_by_role("button", name=re.compile(r"Make the result anew: 0\.[0-9]+ USD")).wait_for()
    assert serious(page) == []
    # Nothing is looked for where the mask is so already.
    click(page, 0.5, 0.5)
    expect(told(page)).to_contain_text("replaced already")
    # The same with the keyboard, and undone.
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(told(page)).to_contain_text("Found a region")
    page.keyboard.press("Enter")
    expect(told(page)).to_have_text("The region is kept.")
    page.keyboard.press("z")
    page.keyboard.press("z")
    expect(told(page)).to_have_text("Undone.")
    expect(page.get_by_role("button", name="Make the result anew")).to_be_disabled()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("of the photo is kept")
    assert kept_share(page) == before


def click(page: Page, x: float, y: float, times: int = 1) -> None:
    box = page.locator("dialog.mend .sheet").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y, click_count=times)


def test_a_search_that_fails_or_finds_nothing_says_so_and_the_mask_stays(reviewed: Page) -> None:
    page = reviewed
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("of the photo is kept")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.route("**/review-service/region", lambda route: route.fulfill(status=200, json={"region": ""}))
    click(page, 0.5, 0.5)
    expect(told(page)).to_contain_text("No region stands out here.")
    page.route(
        "**/review-service/region", lambda route: route.fulfill(status=401, body="your sign-in has ended")
    )
    click(page, 0.5, 0.55)
    expect(told(page)).to_have_text("your sign-in has ended")
    page.route("**/review-service/region", lambda route: route.abort())
    click(page, 0.5, 0.5)
    expect(told(page)).to_have_text("the page's server does not answer")
    expect(page.get_by_role("button", name="Make the result anew")).to_be_disabled()
    expect(page.locator("dialog.mend .found")).to_have_count(0)


def test_a_mask_that_was_refused_is_not_lost(reviewed: Page) -> None:
    page = reviewed
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("of the photo is kept")
    draw(page, (0.05, 0.05), (0.2, 0.05))
    page.route(
        "**/review-service/mend",
        lambda route: route.fulfill(status=422, body="the price for photo-0.jpg is another one by now"),
    )
    page.get_by_role("button", name="Make the result anew: 0 USD").dblclick()
    page.get_by_text("Your mask was not used: the price for photo-0.jpg is another one by now").wait_for()
    page.get_by_role("alert").get_by_role("button", name="Close").click()
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("Your changes to this mask are still here")
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()


def doubted_twice(image: Image.Image, mask: Mask, boxes: object = (), **_: Any) -> Mask:
    """In place of `examine`: two places are doubtful, the larger one on the right."""
    where = Image.new("L", (32, 24))
    where.paste(255, (2, 2, 6, 6))
    where.paste(255, (22, 10, 31, 20))
    return replace(mask, doubt="the mask is doubtful: it was made for a test", where=where, confidence=0.2)


def test_the_doubtful_places_are_visited_with_a_key_the_largest_first(
    bench: Bench, address: str, browser: Browser, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.setattr(subject_mask, "examine", doubted_twice)
    bench.overrides["mask_sources"] = "alpha,studio,network,cut-out"
    page = review_of(bench, address, browser, 1, Subject="SALIENT")
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_text("1 of 1: photo-0.jpg").wait_for()
    page.keyboard.press("b")
    expect(told(page)).to_contain_text("of the photo is kept")
    page.keyboard.press("n")
    expect(told(page)).to_contain_text("Doubtful place 1 of 2. 8")
    page.get_by_role("button", name="Next doubt").click()
    expect(told(page)).to_contain_text("Doubtful place 2 of 2. 1")
    expect(page.get_by_role("application", name="The photo")).to_be_focused()
    page.keyboard.press("n")
    expect(told(page)).to_contain_text("Doubtful place 1 of 2. 8")
    assert serious(page) == []
    page.close()


def test_a_finger_paints_and_taps_on_a_phone(bench: Bench, address: str, browser: Browser) -> None:
    day = datetime.now(UTC).date()
    bench.submit(1, day=day)
    bench.run(day)
    phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(f"{address}/review")
    page.get_by_role("button", name="Waiting 1").wait_for()
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_role("button", name="Mend").tap()
    expect(told(page)).to_contain_text("of the photo is kept")
    box = page.locator("dialog.mend .sheet").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 8, box["y"] + 8)
    page.get_by_role("button", name="Make the result anew: 0 USD").wait_for()
    page.get_by_role("button", name="Region").tap()
    page.get_by_role("button", name="Replace", exact=True).tap()
    page.get_by_label("How far a region may reach").fill("16")
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_role("button", name="Replace it").tap()
    page.get_by_role("button", name=re.compile(r"Make the result anew: 0\.[0-9]+ USD")).wait_for()
    width = page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= 390
    assert serious(page) == []
    phone.close()


def test_a_decision_whose_answer_is_lost_is_sent_again_and_stored_once(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    sent: list[str] = []

    def lose_the_first_answer(route: Route) -> None:
        sent.append(str(route.request.post_data))
        if len(sent) == 1:
            route.fetch()  # the server carries it out, and the browser never hears of it
            route.abort()
        else:
            route.continue_()

    page.route("**/review-service/decide", lose_the_first_answer)
    page.keyboard.press("a")
    page.get_by_text("1 of 4: photo-1.jpg").wait_for()
    for _ in range(TRIES):  # the browser's requests are handled while the page waits
        if len(sent) < 2:
            page.wait_for_timeout(2000)
    assert len(sent) == 2
    assert sent[0] == sent[1]
    settled(page, bench, ["approved", *["waiting"] * 4])
    page.wait_for_timeout(500)
    expect(page.get_by_role("alert")).to_have_count(0)
    (document,) = [bench.store.read_json(key) for key in bench.keys("reviews/")]
    assert "Earlier" not in document


def test_what_somebody_else_decided_meanwhile_stays_and_is_told(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    batch = reviewed_batch(bench)
    settings = bench.settings(review_share=1)
    items = review.items(open_batch(bench.store, settings, batch), settings)
    review.decide(bench.store, items[:1], review.State.REJECTED, by="bob", reason="too dark")
    page.keyboard.press("a")
    page.get_by_text("somebody decided meanwhile (rejected by bob: too dark)").wait_for()
    page.get_by_role("button", name="Rejected 1").wait_for()
    assert states_of(bench)[0] == "rejected"
    assert serious(page) == []


def test_a_session_that_has_ended_loses_no_decision_in_silence(bench: Bench, reviewed: Page) -> None:
    page = reviewed
    page.route(
        "**/review-service/decide",
        lambda route: route.fulfill(
            status=401, body="your sign-in has ended; reload the page and sign in again"
        ),
    )
    page.keyboard.press("a")
    page.get_by_text("1 decision not stored: your sign-in has ended").wait_for()
    page.get_by_role("button", name="Waiting 5").wait_for()
    assert states_of(bench) == ["waiting"] * 5


def test_the_page_works_with_its_own_server_only(
    bench: Bench, address: str, browser: Browser, tmp_path: Path
) -> None:
    """No script, font, icon or picture is asked of another host, and the page's policy blocks nothing it needs."""
    today = datetime.now(UTC).date()
    bench.submit(1, day=today)
    bench.run(today)
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(SECONDS)
    foreign: list[str] = []
    blocked: list[str] = []
    page.on("request", lambda asked: foreign.append(asked.url) if _is_foreign(asked.url, address) else None)
    page.on("console", lambda line: blocked.append(line.text) if "Content Security" in line.text else None)
    for place in ("", "batches", "search", "review"):
        answer = page.goto(f"{address}/{place}")
        assert answer is not None
        assert answer.headers["x-frame-options"] == "DENY"
        page.wait_for_load_state("networkidle")
        if not place:
            drop(page, tmp_path)
            page.get_by_text("Settings of single photos", exact=True).click()
            page.get_by_test_id("stDataFrame").first.wait_for()
    page.get_by_role("button", name="Waiting 1").wait_for()
    page.get_by_role("listbox", name="Results").press("Enter")
    page.get_by_label("Part of the original").fill("20")
    assert "20%" in str(page.locator(".layers").get_attribute("style"))
    page.wait_for_timeout(2000)
    assert foreign == []
    assert blocked == []
    page.close()


def _is_foreign(url: str, address: str) -> bool:
    return not url.startswith((f"{address}/", f"{address.replace('http', 'ws', 1)}/", "data:", "blob:"))


def test_a_photo_that_is_refused_is_told_and_the_others_are_taken(
    bench: Bench, address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    (tmp_path / "data.json").write_bytes(b"{}")
    files = [tmp_path / "data.json", *(tmp_path / f"{number}.jpg" for number in range(20))]
    for number, file in enumerate(files[1:]):
        file.write_bytes(photo(number))
    page.locator("input[type=file]").first.set_input_files(files)
    page.get_by_role("heading", name="20 photos").wait_for()
    page.get_by_text("rename it").wait_for()
    names = {found.key.rpartition("/")[2] for found in bench.store.list("image-files/")}
    assert names == {"draft.json", *(file.name for file in files[1:])}
    page.close()


def test_folders_and_the_clipboard_are_taken_too(
    bench: Bench, address: str, browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "shoes"
    (folder / "red").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "red/b.jpg", "red/.hidden.jpg")):
        (folder / name).write_bytes(photo(number))
    (folder / "notes.txt").write_text("no photo")
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    page.get_by_text("up to 30 MB each").wait_for()
    page.locator("input[webkitdirectory]").set_input_files(folder)
    page.get_by_role("heading", name="2 photos").wait_for()
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
        }""",
        list(photo(7, format="PNG")),
    )
    page.get_by_role("heading", name="3 photos").wait_for()
    names = {found.key.rpartition("/")[2] for found in bench.store.list("image-files/")} - {"draft.json"}
    assert {"a.jpg", "b.jpg"} < names
    assert any(name.startswith("pasted ") for name in names)
    page.close()


def test_a_sample_is_approved_and_what_failed_is_asked_for_again_where_batches_are_watched(
    bench: Bench, address: str, browser: Browser
) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1), "c.jpg": photo(2)}, day=day, Sample=2)
    bench.run(day)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(f"{address}/batches")
    page.get_by_text("1 waiting until the sample is approved").wait_for()
    page.get_by_role("button", name="Approve the sample").click()
    page.get_by_text("Waiting: 1 photo. Up to 1 picture will be paid for.").wait_for()
    assert serious(page) == []
    page.get_by_role("button", name="Run the rest").click()
    expect(page.get_by_role("button", name="Approve the sample")).to_have_count(0, timeout=SECONDS)
    page.get_by_text("something to do").wait_for()
    assert bench.run(day).counts == {"Failed": 1, "Succeeded": 2}
    page.get_by_text("finished: 2 good, 1 failed").wait_for()
    page.get_by_role("button", name="Retry what failed").click()
    ask = page.get_by_role("button", name="Retry", exact=True)
    ask.click()
    page.get_by_text("Submitted again as batch").wait_for()
    # The new batch takes a place in the list: until the page is painted, an old place shows beside a new one.
    expect(ask).to_have_count(1, timeout=SECONDS)
    ask.click()
    page.get_by_text("Submitted again as batch").wait_for()
    bench.put(batch.upload_key("a.jpg"), photo(3))
    assert bench.run(day).counts == {"Succeeded": 4}
    page.close()


def test_photos_of_a_page_that_was_closed_are_gone_on_with_or_deleted(
    bench: Bench, address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(address)
    drop(page, tmp_path)
    page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(f"{address}/batches")
    page.get_by_text("draft, last changed").wait_for()
    assert serious(page) == []
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("heading", name="2 photos").wait_for()
    page.get_by_placeholder("london city background").fill("a sandy beach")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled(timeout=SECONDS)
    page.get_by_role("link", name="Batches").click()
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Delete the draft").click()
    page.get_by_text("Nothing was uploaded in the last 7 days").wait_for()
    assert bench.keys("image-files") == []
    page.close()


def pictures_cell_of_first_photo(page: Page) -> Locator:
    """The open editor of a cell, reached by keyboard: the grid is drawn on a canvas.

    While the page is still being drawn the grid may move under the mouse, or be drawn anew and forget the click:
    then once more.
    """
    table = page.locator("[data-testid=stDataFrame] canvas").first
    editor = page.locator("#portal input")
    for _ in range(TRIES):
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        if box is not None:
            page.mouse.click(box["x"] + 150, box["y"] + 50)
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
            with suppress(NotThere):
                editor.wait_for(timeout=SECONDS / TRIES)
                return editor
            page.keyboard.press("Escape")
    raise AssertionError("the table's cell does not open")


def test_what_was_typed_for_single_photos_stays_when_the_table_is_closed(
    address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(SECONDS)
    page.goto(address)
    drop(page, tmp_path)
    page.get_by_placeholder("london city background").fill("a beach")
    page.keyboard.press("Control+Enter")
    cost = page.get_by_text(re.compile("2 photos: up to")).first
    cost.wait_for()
    before = cost.inner_text()
    toggle = page.get_by_text("Settings of single photos", exact=True)
    toggle.click()
    pictures_cell_of_first_photo(page).fill("3")
    page.keyboard.press("Enter")
    expect(cost).not_to_have_text(before, timeout=SECONDS)  # three pictures of one photo, one of the other
    dearer = cost.inner_text()
    toggle.click()
    expect(page.get_by_test_id("stDataFrame")).to_have_count(0, timeout=SECONDS)
    toggle.click()
    page.get_by_test_id("stDataFrame").first.wait_for()
    page.get_by_placeholder("low quality, text").fill("people")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=SECONDS)
    expect(cost).to_have_text(dearer, timeout=SECONDS)
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_screen_fits_and_is_for_everyone(
    bench: Bench, address: str, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    today = datetime.now(UTC).date()
    bench.submit(2, day=today)
    bench.run(today)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(SECONDS)
    for place, heading in (
        ("", "New backgrounds for photos"),
        ("batches", "Batches"),
        ("review", "Review"),
        ("search", "Search"),
    ):
        page.goto(f"{address}/{place}")
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        if not place:
            drop(page, tmp_path)
            page.get_by_placeholder("london city background").fill("a sandy beach")
            page.keyboard.press("Control+Enter")
            expect(page.get_by_role("button", name="Submit")).to_be_enabled(timeout=SECONDS)
        if place == "review":
            page.get_by_role("button", name="Waiting 2").wait_for()
            page.wait_for_timeout(1000)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert serious(page) == []
            page.get_by_role("listbox", name="Results").press("Enter")
            page.get_by_text("1 of 2").wait_for()
        # Chromium counts an answered upload as open, so its network is never idle.
        page.wait_for_timeout(2000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious(page) == []
    page.close()


def test_a_bucket_that_is_gone_is_a_sentence(
    address: str, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_BUCKET", "no-such-bucket-anywhere")
    with running(free_port(), tmp_path / "other.log") as other:
        page = browser.new_page()
        page.goto(f"{other}/batches")
        page.get_by_text("there is no bucket").wait_for(timeout=SECONDS)
        assert page.get_by_text("Traceback").count() == 0
        page.close()


# Who is let in


@pytest.mark.parametrize("upgrade", [{}, {"Connection": "Upgrade", "Upgrade": "websocket"}])
def test_without_sign_in_a_name_that_only_leads_here_is_not_answered(
    address: str, upgrade: dict[str, str]
) -> None:
    """What a page of evil.example sends when that name resolves to 127.0.0.1."""
    for host, refused in (("evil.example", True), ("localhost", False)):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        named = f"{host}:{address.rpartition(':')[2]}"
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        path = "/_stcore/stream" if upgrade else "/"
        sent = {"Host": named, "Origin": f"http://{named}", **upgrade, **(key if upgrade else {})}
        connection.request("GET", path, headers=sent)
        assert (connection.getresponse().status >= 400) is refused
        connection.close()


def test_the_review_offers_what_a_visitors_role_allows(
    bench: Bench,
    settings_of_the_page: None,
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = bench.submit(1, day=datetime.now(UTC).date())
    bench.run(batch.date)
    port = free_port()
    with openid_provider() as provider:
        monkeypatch.setenv("BG_OIDC_ISSUER", provider.issuer)
        monkeypatch.setenv("BG_OIDC_CLIENT_ID", AUDIENCE)
        monkeypatch.setenv("BG_OIDC_CLIENT_SECRET", SECRET)
        monkeypatch.setenv("BG_PAGE_ADDRESS", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("BG_SUBMITTER_GROUPS", "studio")
        monkeypatch.setenv("BG_PUBLISHER_GROUPS", "shop")
        with running(port, tmp_path / "page.log") as address:

            def enter(group: str) -> Page:
                provider.user = {"sub": f"somebody of {group}", "cognito:groups": [group]}
                page = browser.new_context().new_page()
                page.set_default_timeout(SECONDS)
                page.goto(f"{address}/review")
                page.get_by_role("button", name="Sign in").click()
                page.get_by_text(f"Signed in as somebody of {group}").wait_for()
                page.get_by_role("link", name="Review").click()
                return page

            page = enter("shop")
            page.get_by_role("button", name="Waiting 1").wait_for()
            page.get_by_text("Deliver", exact=True).click()
            page.get_by_role("button", name="Publish what is approved").wait_for()
            for name in (
                APPROVE,
                re.compile(r"Reject \(x\)"),
                re.compile("Another picture"),
                re.compile("Undo"),
            ):
                assert page.get_by_role("button", name=name).count() == 0
            page.get_by_role("listbox", name="Results").press("a")
            page.get_by_text("needs the role reviewer").wait_for()
            page.get_by_role("button", name="Waiting 1").wait_for()
            assert serious(page) == []
            page.context.close()

            # The batch came from S3, so it belongs to no submitter.
            page = enter("studio")
            page.get_by_text("No batch of these days has results yet.").wait_for()
            page.get_by_text("Deliver", exact=True).click()
            page.get_by_role("button", name="ZIP of what is approved").wait_for()
            assert page.get_by_role("button", name="Publish what is approved").count() == 0
            page.context.close()
    assert bench.keys("reviews/") == []


def test_people_sign_in_and_their_decisions_bear_their_name(
    bench: Bench,
    settings_of_the_page: None,
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = bench.submit(1, day=datetime.now(UTC).date())
    bench.run(batch.date)
    log, port = tmp_path / "page.log", free_port()
    with openid_provider() as provider:
        provider.user = {"sub": "4711", "email": "ada@example.com", "email_verified": True}
        monkeypatch.setenv("BG_OIDC_ISSUER", provider.issuer)
        monkeypatch.setenv("BG_OIDC_CLIENT_ID", AUDIENCE)
        monkeypatch.setenv("BG_OIDC_CLIENT_SECRET", SECRET)
        monkeypatch.setenv("BG_PAGE_ADDRESS", f"http://127.0.0.1:{port}")
        with running(port, log) as address:
            visitor = browser.new_context()
            page = visitor.new_page()
            page.set_default_timeout(SECONDS)
            page.goto(f"{address}/review")
            page.get_by_role("button", name="Sign in").wait_for()
            assert page.locator("input").count() == 0, "nothing but the way in"
            assert serious(page) == []
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("Signed in as ada@example.com").wait_for()
            page.get_by_role("link", name="Review").click()
            page.get_by_role("button", name="Waiting 1").wait_for()
            page.get_by_role("listbox", name="Results").press("a")
            page.get_by_text("Nothing waits for review.").wait_for()
            until(lambda: bool(bench.keys("reviews/")), 30)
            (item,) = review.items(open_batch(bench.store, bench.settings(), batch), bench.settings())
            assert item.decision is not None
            assert (item.decision.state, item.decision.by) == (review.State.APPROVED, "ada@example.com")
            # A field of Streamlit's own takes a file from somebody who has signed in.
            page.get_by_role("link", name="New batch").click()
            drop(page, tmp_path, count=1)
            page.get_by_text("A picture", exact=True).click()
            field = page.get_by_test_id("stFileUploader").filter(has_text="The picture behind the subjects")
            (tmp_path / "beach.jpg").write_bytes(photo(5))
            field.locator("input[type=file]").set_input_files(tmp_path / "beach.jpg")
            page.get_by_alt_text("The picture behind the subjects").wait_for()
            thief = browser.new_context()
            thief.add_cookies(visitor.cookies())  # type: ignore[arg-type]
            stolen = thief.new_page()
            stolen.set_default_timeout(SECONDS)
            stolen.goto(address)
            stolen.get_by_text("Signed in as ada@example.com").wait_for()
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("button", name="Sign in").wait_for()
            stolen.wait_for_timeout(LOOK_SECONDS * 1000)
            stolen.goto(address)
            stolen.get_by_role("button", name="Sign in").wait_for()
            assert stolen.get_by_text("Signed in as").count() == 0
            thief.close()

            # A token that was made for another client is no sign-in.
            monkeypatch.setattr(provider, "token", partial(provider.token, aud="another"))
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("button", name="Sign in").wait_for()
            assert page.get_by_text("Signed in as").count() == 0
            visitor.close()
    assert provider.asked[0]["code_challenge_method"] == "S256"
    assert SECRET not in log.read_text()
