"""The web page in a real browser: from dropped photos to published results; on a phone; in the dark."""

import http.client
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as NotThere

from bg_pipeline import review
from bg_pipeline.cli.page import served
from bg_pipeline.domain.batches import find_batch
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.cli.test_demo import until
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.openid import AUDIENCE, SECRET, openid_provider

pytestmark = pytest.mark.slow

SECONDS = 60_000
TRIES = 6
APPROVE = re.compile(r"Approve\b")
"""The button, and not those about what is approved."""


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
    page.get_by_role("heading", name=f"{count} photos").wait_for(timeout=SECONDS)


def test_from_dropped_photos_to_published_results(
    bench: Bench, control: ControlClient, address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(address)
    drop(page, tmp_path)
    page.get_by_role("button", name="Find what is in 2 photos").click()
    expect(page.get_by_role("button", name="Find what is in")).to_have_count(0, timeout=SECONDS)
    page.get_by_placeholder("london city background").fill("a sandy beach")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("USD at worst").first).to_be_visible(timeout=SECONDS)
    labelled = control.paid()
    assert {call["operation"] for call in labelled} == {"DetectLabels"}
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("is submitted").wait_for()
    (request,) = [
        found.key for found in bench.store.list("image-files/") if found.key.endswith("request.json")
    ]
    batch = find_batch(request.rpartition("/")[0])
    assert batch is not None
    page.get_by_role("link", name="Batches").click()
    page.get_by_text("waiting for a run").wait_for()
    assert bench.run(batch.date).counts == {"Succeeded": 2}
    page.get_by_text("2 Succeeded").wait_for()
    page.get_by_role("link", name="Review").click()
    page.get_by_text("1 of 2").wait_for()
    expect(page.frame_locator("iframe").get_by_role("slider")).to_have_count(1, timeout=SECONDS)
    page.get_by_role("button", name=APPROVE).last.click()
    page.get_by_text("1 of 1").wait_for()
    page.get_by_label("Reason").last.fill("blurred")
    # A reason is sent when its field is left; a press that meets the page being drawn anew for it is lost.
    reject, done = page.get_by_role("button", name="Reject", exact=False), page.get_by_text("Nothing waits")
    for _ in range(6):
        if not done.count() and reject.count():
            reject.last.click()
        page.wait_for_timeout(3000)
        if done.count():
            break
    done.wait_for()
    page.get_by_role("button", name="Publish approved photos").click()
    page.get_by_text("1 result published").wait_for()
    assert len([found for found in bench.store.list("published/") if found.key.endswith(".jpg")]) == 1
    page.get_by_role("button", name="Make a ZIP of approved photos").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the ZIP").click()
    assert download.value.path().stat().st_size > 1000
    page.close()


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
    slider = page.frame_locator("iframe").get_by_role("slider")
    slider.fill("20")
    assert "20%" in str(slider.evaluate("handle => handle.parentNode.getAttribute('style')"))
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


def test_a_sample_is_approved_and_what_failed_is_asked_for_again_where_batches_are_watched(
    bench: Bench, address: str, browser: Browser
) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1), "c.jpg": photo(2)}, day=day, Sample=2)
    bench.run(day)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(f"{address}/batches")
    page.get_by_text("its sample waits for approval").wait_for()
    page.get_by_role("button", name="Approve the sample").click()
    page.get_by_text("Waiting: 1 photo. Up to 1 picture will be paid for.").wait_for()
    assert serious(page) == []
    page.get_by_role("button", name="Run the rest").click()
    expect(page.get_by_role("button", name="Approve the sample")).to_have_count(0, timeout=SECONDS)
    page.get_by_text("something to do").wait_for()
    assert bench.run(day).counts == {"Failed": 1, "Succeeded": 2}
    page.get_by_text("2 Succeeded, 1 Failed").wait_for()
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
    page.get_by_text("Nothing was uploaded on").wait_for()
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
    cost = page.get_by_test_id("stMetricValue").last
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
        if place == "review":
            page.get_by_text("1 of 2").wait_for()
        page.wait_for_load_state("networkidle")
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
            page.get_by_text("1 of 1").wait_for()
            page.get_by_role("button", name=APPROVE).last.click()
            page.get_by_text("Nothing waits for review.").wait_for()
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
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("button", name="Sign in").wait_for()

            # A token that was made for another client is no sign-in.
            monkeypatch.setattr(provider, "token", partial(provider.token, aud="another"))
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("button", name="Sign in").wait_for()
            assert page.get_by_text("Signed in as").count() == 0
            visitor.close()
    assert provider.asked[0]["code_challenge_method"] == "S256"
    assert SECRET not in log.read_text()
