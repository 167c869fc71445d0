"""Results and decisions as a CSV table that people fill in and that is read again."""

import csv
import io
from collections.abc import Iterable
from typing import Any, Final

from bg_pipeline.domain.text import spreadsheet_text, text_of_cell
from bg_pipeline.errors import UsageError
from bg_pipeline.review.decisions import LONGEST_REASON, State
from bg_pipeline.review.items import Item

COLUMNS: Final = (
    *("Result", "ResultETag", "ImageName", "Ref", "Status", "State", "Why", "CostUSD", "Labels", "AltText"),
    *("Caption", "Decision", "Reason"),
)
_VERBS: Final = {
    "approve": State.APPROVED,
    "approved": State.APPROVED,
    "reject": State.REJECTED,
    "rejected": State.REJECTED,
}


def record(item: Item) -> dict[str, Any]:
    """An item as JSON, with the names of `COLUMNS`; ``Decision`` and ``Reason`` are those of a person, if any."""
    return {
        "Result": item.key,
        "ResultETag": item.etag,
        "ImageName": item.image,
        "Number": item.number,
        "Ref": item.ref,
        "Status": item.status.value,
        "State": item.state.value,
        "Why": item.why,
        "CostUSD": item.cost_usd,
        "Labels": item.labels,
        "AltText": item.alt_text,
        "Caption": item.caption,
        "Decision": item.decision.state.value if item.decision else "",
        "Reason": item.decision.reason if item.decision else "",
    }


def as_csv(items: Iterable[Item]) -> bytes:
    """The items as CSV in UTF-8; `read_csv` reads it after people have filled in ``Decision`` and ``Reason``."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in items:
        cost = "unknown" if item.cost_usd is None else item.cost_usd
        # The ETag gets quotation marks; without them a spreadsheet may read 12e34 as a number.
        texts = [
            item.key,
            f'"{item.etag}"',
            item.image,
            item.ref,
            item.status.value,
            item.state.value,
            item.why,
        ]
        more = [item.labels, item.alt_text, item.caption]
        decided = [item.decision.state.value, item.decision.reason] if item.decision else ["", ""]
        safe = [spreadsheet_text(text) for text in (*texts, *more, *decided)]
        writer.writerow([*safe[:7], cost, *safe[7:]])
    return out.getvalue().encode()


def read_csv(data: bytes, items: Iterable[Item]) -> dict[tuple[State, str], list[Item]]:
    """The new decisions in a table, as items by (decision, reason); lines without a new decision are skipped.

    Uses the columns Result, ResultETag (optional), Decision (approve, approved, reject, rejected, in any case) and
    Reason; the separator may be a comma, a semicolon or a tab. Raises `UsageError` with all wrong lines; then no
    decision is returned.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the file is not UTF-8; save it as “CSV UTF-8”") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
    by_key = {item.key: item for item in items if item.key}
    wanted: dict[tuple[State, str], list[Item]] = {}
    problems = []
    lines: dict[str, int] = {}
    try:
        if missing := {"Result", "Decision"} - set(reader.fieldnames or ()):
            raise UsageError(f"the file has no column {' and no column '.join(sorted(missing))}")
        for line in reader:
            cells = {name: text_of_cell(cell) for name, cell in line.items() if isinstance(cell, str)}
            verb, key, reason = cells["Decision"].strip().lower(), cells["Result"], cells.get("Reason", "")
            if not verb:
                continue
            place = f"line {reader.line_num}"
            item = by_key.get(key)
            if verb not in _VERBS:
                problems.append(f"{place}: Decision '{verb[:40]}' is neither approve nor reject")
            elif item is None:
                problems.append(f"{place}: '{key[:200]}' is not a result of the batch")
            elif cells.get("ResultETag", "").strip('"') not in ("", item.etag):
                problems.append(
                    f"{place}: {key} was made again since this table was written; look at it again"
                )
            elif len(reason) > LONGEST_REASON:
                problems.append(f"{place}: the reason has more than {LONGEST_REASON:,} characters")
            elif key in lines:
                problems.append(f"{place}: {key} is already decided in line {lines[key]}")
            else:
                lines[key] = reader.line_num
                decided = item.decision and (item.decision.state, item.decision.reason)
                if decided != (_VERBS[verb], reason):
                    wanted.setdefault((_VERBS[verb], reason), []).append(item)
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UsageError(f"{'; '.join(problems[:20])}{more}. No decision was stored")
    return wanted
