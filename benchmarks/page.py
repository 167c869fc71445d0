"""The web page in headless Chromium: reviewing by keys, scrolling thousands of results, submitting photos.

    python -m benchmarks.page [--results 8000] [--keys 400] [--photos 12]

S3 is `memory_s3`. Needs Chromium (`chromium` in PATH) and Playwright.
"""

import argparse
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks import rig as rigs
from benchmarks.rig import Rig, environment_variables, jpeg, rig, table
from bg_pipeline.cli.page import served
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store

MILLISECONDS = 120_000
VIEW = {"width": 1280, "height": 900}

KEY_TIMES = """
async (keys) => {
  const host = [...document.querySelectorAll('*')].find((each) => each.shadowRoot?.querySelector('.review'));
  const root = host.shadowRoot.querySelector('.review');
  const shown = () => root.querySelector('.layers img.result');
  const frame = () => new Promise((resume) => requestAnimationFrame(resume));
  const times = [], sharp = [];
  const began = performance.now();
  for (let number = 0; number < keys; number++) {
    const before = root.querySelector('.position').textContent + root.querySelector('.about').textContent;
    const start = performance.now();
    const key = number % 10 === 9 ? 'x' : 'a';
    document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    if (root.querySelector('.viewer').hidden) break;
    await frame();
    times.push(performance.now() - start);
    for (let wait = 0; wait < 2000; wait++) {
      const image = shown();
      if (image && image.complete && image.naturalWidth > 250) break;
      await new Promise((resume) => setTimeout(resume, 5));
    }
    sharp.push(performance.now() - start);
  }
  return { times, sharp, seconds: (performance.now() - began) / 1000 };
}
"""

SCROLL = """
async (seconds) => {
  const host = [...document.querySelectorAll('*')].find((each) => each.shadowRoot?.querySelector('.review'));
  const grid = host.shadowRoot.querySelector('.grid');
  const end = grid.scrollHeight - grid.clientHeight;
  const frames = [];
  let last = performance.now();
  const began = last;
  await new Promise((resume) => {
    const step = (now) => {
      frames.push(now - last);
      last = now;
      const part = (now - began) / (seconds * 1000);
      grid.scrollTop = end * Math.min(part, 1);
      part < 1 ? requestAnimationFrame(step) : resume();
    };
    requestAnimationFrame(step);
  });
  return frames.slice(2);
}
"""


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def page_at(store: Store, log: Path, more: dict[str, Any]) -> Iterator[str]:
    """The page of a bucket in a process of its own; its address."""
    os.environ.update(environment_variables(bucket=store.bucket, max_cost_usd=0, settle_seconds=0, **more))
    port = free_port()
    with served(port, log):
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):  # noqa: S310
                    break
            except OSError:
                time.sleep(0.1)
        yield address


def today() -> date:
    return datetime.now(UTC).date()


def threads_own_time(page: Page) -> CDPSession:
    """A session for `metrics_of` whose times do not grow while other programs have the core."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    return session


def metrics_of(session: CDPSession) -> dict[str, float]:
    """Chromium's own figures of the page: CPU seconds of its main thread, bytes of JavaScript's heap."""
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def renderer_rss() -> float:
    """Megabytes that the largest renderer of Chromium holds."""
    largest = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (folder / "cmdline").read_bytes():
                pages = int((folder / "statm").read_text().split()[1])
                shared = int((folder / "statm").read_text().split()[2])
                largest = max(largest, pages - shared)
        except OSError:
            continue
    return largest * 4096 / 1e6


def review_by_keys(rig: Rig, browser: Browser, results: int) -> list[Sequence[object]]:
    """Time of each key, and of all, for results of a megapixel."""
    store = rig.bucket()
    chosen = settings(bucket=store.bucket, regions="us-east-1", auto_approve=False)
    photo, result = jpeg((1200, 900), seed=1), jpeg((1200, 900), seed=2)
    rigs.finished(rig, store, chosen, results, day=today(), photo=photo, result=result)
    with (
        tempfile.TemporaryDirectory() as folder,
        page_at(store, Path(folder, "log"), {"auto_approve": False}) as at,
    ):
        page = browser.new_page(viewport=VIEW)  # type: ignore[arg-type]
        page.set_default_timeout(MILLISECONDS)
        page.goto(f"{at}/review")
        page.get_by_role("button", name=f"Waiting {results:,}").wait_for()
        page.get_by_role("listbox").press("Enter")
        page.wait_for_timeout(3000)
        session = threads_own_time(page)
        before = metrics_of(session)
        measured = page.evaluate(KEY_TIMES, results)
        work = 1000 * (metrics_of(session)["TaskDuration"] - before["TaskDuration"]) / results
        page.get_by_text("Nothing waits for review.").wait_for()
        page.wait_for_timeout(2000)
        page.close()
    times, sharp = measured["times"][:-1], measured["sharp"][:-1]
    return [
        (f"{results:,} results decided by keys, s", f"{measured['seconds']:.1f}"),
        ("key to the next result on the screen, median and 95 %, ms", spread(times)),
        ("main thread's work for a key, prefetched pictures included, ms", f"{work:.1f}"),
        ("key to its large picture, median and 95 %, ms", spread(sharp)),
    ]


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.0f}, {quantiles(values, n=20)[-1]:.0f}"


def scrolling(rig: Rig, browser: Browser, results: int) -> list[Sequence[object]]:
    """Frames while all results scroll by, and the memory afterwards."""
    store = rig.bucket()
    chosen = settings(bucket=store.bucket, regions="us-east-1", auto_approve=False)
    photo, result = jpeg((320, 240), seed=1), jpeg((320, 240), seed=2)
    rigs.finished(rig, store, chosen, results, day=today(), photo=photo, result=result)
    with (
        tempfile.TemporaryDirectory() as folder,
        page_at(store, Path(folder, "log"), {"auto_approve": False}) as at,
    ):
        page = browser.new_page(viewport=VIEW)  # type: ignore[arg-type]
        page.set_default_timeout(MILLISECONDS)
        page.goto(f"{at}/review")
        began = time.monotonic()
        page.get_by_role("button", name=f"Waiting {results:,}").wait_for()
        first = time.monotonic() - began
        page.wait_for_timeout(2000)
        session = threads_own_time(page)
        before = metrics_of(session)
        frames = page.evaluate(SCROLL, 10)
        after = metrics_of(session)
        heap, rss = after["JSHeapUsedSize"] / 1e6, renderer_rss()
        page.close()
    late = sum(frame > 34 for frame in frames) / len(frames)
    work = 1000 * (after["TaskDuration"] - before["TaskDuration"]) / len(frames)
    script = 1000 * (after["ScriptDuration"] - before["ScriptDuration"]) / len(frames)
    return [
        (f"{results:,} results listed after, s", f"{first:.1f}"),
        ("frame while scrolling, median and 95 %, ms", spread(frames)),
        ("main thread's work for a frame, of it script, ms", f"{work:.1f}, {script:.1f}"),
        ("frames that took more than two, %", f"{100 * late:.1f}"),
        ("JavaScript heap, renderer's own memory, MB", f"{heap:.0f}, {rss:.0f}"),
    ]


def submitting(rig: Rig, browser: Browser, photos: int) -> list[Sequence[object]]:
    """Seconds from the drop of photos to the sentence that they are submitted."""
    store = rig.bucket()
    with tempfile.TemporaryDirectory() as folder, page_at(store, Path(folder, "log"), {}) as at:
        files = [Path(folder, f"shoe {number}.jpg") for number in range(photos)]
        for number, file in enumerate(files):
            file.write_bytes(jpeg((2400, 1800), seed=number))
        page = browser.new_page(viewport=VIEW)  # type: ignore[arg-type]
        page.set_default_timeout(MILLISECONDS)
        page.goto(at)
        page.locator("input[type=file]").first.wait_for(state="attached")
        began = time.monotonic()
        page.locator("input[type=file]").first.set_input_files(files)
        page.get_by_role("heading", name=f"{photos} photos").wait_for()
        dropped = time.monotonic() - began
        page.get_by_placeholder("london city background").fill("a sandy beach")
        page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("is submitted").wait_for()
        seconds = time.monotonic() - began
        again = time.monotonic()
        page.goto(at)
        page.locator("input[type=file]").first.wait_for(state="attached")
        warm = time.monotonic() - again
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
        page.close()
    return [
        (f"{photos} photos of 4.3 megapixels from the drop to their cards, s", f"{dropped:.1f}"),
        ("… to submitted, s", f"{seconds:.1f}"),
        ("warm: first contentful paint, ms; place to drop, s", f"{paint:.0f}, {warm:.1f}"),
    ]


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=int, default=8000)
    parser.add_argument("--keys", type=int, default=400)
    parser.add_argument("--photos", type=int, default=12)
    options = parser.parse_args()
    executable = shutil.which("chromium")
    with rig() as services, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        rows: list[Sequence[object]] = []
        if options.photos:
            rows += submitting(services, browser, options.photos)
        if options.keys:
            rows += review_by_keys(services, browser, options.keys)
        if options.results:
            rows += scrolling(services, browser, options.results)
        browser.close()
    table(("measured", ""), rows)


if __name__ == "__main__":
    main()
