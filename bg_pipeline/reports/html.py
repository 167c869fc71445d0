"""A batch's report as one HTML page: counts, costs, and each image before and after with its outcome.

The page is self-contained: it embeds thumbnails, has no script, and escapes all names, captions and causes. It can
be filtered by status, printed, and read on a phone.
"""

import hashlib
from base64 import b64encode
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pybase64

from bg_pipeline.domain.rows import Row
from bg_pipeline.domain.text import printable
from bg_pipeline.reports.report import Report
from bg_pipeline.state import thumbnails

if TYPE_CHECKING:
    from jinja2 import Template

OTHER_CALLS: Final = "other calls"
"""Name of the cost of everything except kept pictures: labels, captions, cut-outs, repetitions."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page; ``small`` is its thumbnail, None if not shown; ``link`` is the URL of the full size."""

    name: str
    key: str
    alt: str
    small: bytes | None
    link: str

    @property
    def data(self) -> str:
        """The thumbnail as a data URL, empty if not shown; made each time, so that a page keeps one at a time."""
        return f"data:image/jpeg;base64,{pybase64.b64encode_as_string(self.small)}" if self.small else ""


@dataclass(frozen=True)
class Card:
    """One image: its row, its photo (None if the row has none) and its results."""

    row: Row
    alt_text: str
    before: Picture | None
    after: Sequence[Picture]


@dataclass(frozen=True)
class Bar:
    """One line of a chart; ``share`` is its length relative to the longest line, from 0 to 1."""

    name: str
    value: str
    share: float
    kind: str = ""


def render(
    report: Report,
    *,
    title: str,
    made_at: datetime,
    source: Callable[[str], str],
    thumbnail: Callable[[str], bytes | None],
    alt_texts: Mapping[str, str],
    link: Callable[[str], str] = lambda key: "",
    links_end: datetime | None = None,
) -> Iterator[bytes]:
    """The page in UTF-8, in parts: with its thumbnails it is megabytes.

    ``source`` returns the key of an image's photo, ``thumbnail`` the small JPEG of a key, ``link`` the URL of a key
    (empty: no link). ``links_end`` is when the links stop working. ``alt_texts`` are by image name.
    """
    cards = [_card(row, source, thumbnail, alt_texts.get(row.ImageName, ""), link) for row in report.rows]
    pictures = [picture for card in cards for picture in (card.before, *card.after) if picture]
    style = _style()
    parts = _template().generate(
        title=printable(title),
        made_at=made_at,
        style=style,
        style_hash=b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        cards=cards,
        statuses=[(status, number) for status, number in report.counts.items()],
        cost_usd=report.cost_usd,
        maybe_usd=report.maybe_usd,
        charts=charts(report),
        not_shown=sum(not picture.small for picture in pictures),
        linked=any(picture.link for picture in pictures),
        links_end=links_end,
        room=thumbnails.BUDGET,
        link=link,
        usd=usd,
        printable=printable,
    )
    return (part.encode() for part in parts)


def usd(amount: float | None) -> str:
    """A dollar amount for a person; None is ``unknown``."""
    return "unknown" if amount is None else f"{amount:,.4f}" if amount else "0"


def charts(report: Report) -> dict[str, list[Bar]]:
    """The lines of each chart by title; charts without lines are left out."""
    statuses: dict[str, float] = {status: number for status, number in report.counts.items() if number}
    costs = _cost_by_model(report)
    seconds = _images_by_seconds(report)
    bars_by_title = {
        "Images by status": _bars(statuses, lambda number: f"{number:,.0f}", kind=str),
        "Cost by model, USD": _bars(costs, usd),
        "Images by seconds of work": _bars(seconds, lambda number: f"{number:,.0f}"),
    }
    return {title: bars for title, bars in bars_by_title.items() if bars}


def _bars(
    values: Mapping[str, float], text: Callable[[float], str], kind: Callable[[str], str] = lambda name: ""
) -> list[Bar]:
    longest = max(values.values(), default=0) or 1
    return [Bar(name, text(value), value / longest, kind(name)) for name, value in values.items()]


def _cost_by_model(report: Report) -> dict[str, float]:
    """The known billed dollars by the model that painted, with `OTHER_CALLS` for the rest."""
    costs: dict[str, float] = defaultdict(float)
    for row in report.rows:
        rest = row.CostUSD or 0.0
        # If another image paid for the outputs, they cost this image nothing.
        if sum(output.CostUSD or 0.0 for output in row.Outputs) <= rest + 1e-9:
            for output in row.Outputs:
                costs[output.Model or OTHER_CALLS] += output.CostUSD or 0.0
                rest -= output.CostUSD or 0.0
        costs[OTHER_CALLS] += max(0.0, rest)
    ordered = sorted(costs.items(), key=lambda pair: -pair[1])
    return {name: cost for name, cost in ordered if cost > 0}


_SECONDS = (1, 2, 5, 10, 30, 60, 300, 1800)
_SPAN_NAMES = (
    f"under {_SECONDS[0]}",
    *(f"{low} to {high}" for low, high in pairwise(_SECONDS)),
    f"{_SECONDS[-1]} and more",
)


def _images_by_seconds(report: Report) -> dict[str, float]:
    """The number of images by processing time; images without any processing are left out."""
    spans = Counter(bisect_right(_SECONDS, row.Seconds) for row in report.rows if row.Seconds > 0)
    return {_SPAN_NAMES[span]: spans[span] for span in range(min(spans), max(spans) + 1)} if spans else {}


def _card(
    row: Row,
    source: Callable[[str], str],
    thumbnail: Callable[[str], bytes | None],
    alt_text: str,
    link: Callable[[str], str],
) -> Card:
    description = printable(alt_text or row.Caption or row.ImageName)

    def picture(name: str, key: str, alt: str) -> Picture:
        return Picture(name, printable(key), alt, thumbnail(key), link(key))

    key = source(row.ImageName)
    before = picture("Before", key, f"Before: {description}") if key else None
    several = len(row.Results) > 1
    after = [
        picture(f"After {number}" if several else "After", result, f"After: {description}")
        for number, result in enumerate(row.Results[: thumbnails.RESULTS], 1)
    ]
    return Card(row, printable(alt_text), before, after)


@cache
def _template() -> "Template":
    import jinja2  # Imported here so that runs without an HTML report do not load it.

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


@cache
def _style() -> str:
    return (resources.files(__package__) / "templates" / "report.css").read_text("utf-8")
