"""Colours and transparency as Chromium shows them, for every file of the corpus that it shows."""

import base64
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from bg_pipeline.imaging import open_photo
from bg_pipeline_tests.corpus import COMPLAINTS, Case, corpus
from bg_pipeline_tests.odd_writers import odd_writers
from bg_pipeline_tests.unusual import unusual

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(COMPLAINTS)]

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

LEVELS = 6

# What is shown otherwise here on purpose, and why.
_NUMBER = "Chromium takes an EXIF orientation of this type of number for none"
_PAPER = "Chromium darkens paper to half its light, to make room for highlights; here it stays white"
OTHERWISE = {
    "pq by cicp.png": _PAPER,
    "hlg by cicp.png": _PAPER,
    "pq.avif": _PAPER,
    "held 6 as a byte.jpg": _NUMBER,
    "held 6 as a long.jpg": _NUMBER,
    "held 6 as a signed short.jpg": _NUMBER,
    "held 6 as a signed long.jpg": _NUMBER,
    "held 6 as a long.png": _NUMBER,
    "held 6 as a long.webp": _NUMBER,
    "held 6.webp": "Chromium reads no EXIF in WebP",
    "held 6 as text.png": "Chromium reads no EXIF in the texts of a PNG",
    "held 8, said at the end.png": "Chromium has drawn the pixels by then",
    "no end marker.jpg": "Chromium leaves the last rows of an unfinished file clear",
    "half an end marker.jpg": "Chromium leaves the last rows of an unfinished file clear",
    "alpha of zero.bmp": "Chromium shows nothing",
}

_SHOW = """async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([bytes]));
  try { await image.decode(); } catch { return null; }
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let letters = "";
  for (let at = 0; at < pixels.length; at += 8192) {
    letters += String.fromCharCode(...pixels.subarray(at, at + 8192));
  }
  return [canvas.width, canvas.height, btoa(letters)];
}"""


@pytest.fixture(scope="module")
def show() -> Iterator[Callable[[bytes], Pixels | None]]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed; .ci/run installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()

        def shown(data: bytes) -> Pixels | None:
            answer = page.evaluate(_SHOW, base64.b64encode(data).decode())
            if answer is None:
                return None
            pixels = np.frombuffer(base64.b64decode(answer[2]), np.uint8)
            return pixels.reshape(answer[1], answer[0], 4).astype(np.float32)

        yield shown
        browser.close()


def test_what_chromium_shows_is_shown_alike(show: Callable[[bytes], Pixels | None]) -> None:
    compared, wrong = 0, []
    for case in (*corpus(), *unusual(), *odd_writers()):
        if case.outcome != "opens" or case.name in OTHERWISE:
            continue
        theirs = show(case.data)
        if theirs is None:
            continue
        compared += 1
        ours = np.asarray(open_photo(case.data).image.convert("RGBA"), np.float32)
        difference = _difference(ours, theirs)
        if difference > LEVELS:
            wrong.append(f"{case.name}: {difference:.1f}")
    assert not wrong
    assert compared >= 125


def test_every_exception_is_one(show: Callable[[bytes], Pixels | None]) -> None:
    cases: dict[str, Case] = {case.name: case for case in (*corpus(), *unusual(), *odd_writers())}
    for name in OTHERWISE:
        theirs = show(cases[name].data)
        ours = np.asarray(open_photo(cases[name].data).image.convert("RGBA"), np.float32)
        assert theirs is None or _difference(ours, theirs) > LEVELS, name


def _difference(ours: Pixels, theirs: Pixels) -> float:
    """The largest difference in levels of 99 % of the pixels; colours of transparent pixels do not count."""
    if ours.shape != theirs.shape:
        return 255.0
    first, second = (
        np.dstack([each[..., :3] * each[..., 3:] / 255, each[..., 3:]]) for each in (ours, theirs)
    )
    return float(np.quantile(np.abs(first - second).max(axis=2), 0.99))
