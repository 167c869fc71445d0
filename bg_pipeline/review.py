"""What people say of results: which wait for a person, who approved or rejected what, and what is delivered.

What passed every check is approved by itself, but for a share chosen by the keys; what was flagged waits for a
person. A decision lies beside its result and is about exactly the bytes that the person saw: once a result is
made anew, it is as if nobody had decided. Functions over a store and a batch as `open_work` gives it; who is
asking, and whether they may, is for the caller to know.
"""

import csv
import hashlib
import io
import secrets
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import orjson
from pydantic import ValidationError

from bg_pipeline import layout
from bg_pipeline.batch import MAX_SEED, BatchRequest, ImageEntry, write
from bg_pipeline.errors import PreconditionFailed, RequestError, UsageError
from bg_pipeline.flow.work import Work
from bg_pipeline.layout import Batch
from bg_pipeline.reports.building import rows
from bg_pipeline.reports.report import Report, Row, Status, spreadsheet_text, text_of_cell
from bg_pipeline.settings import Settings
from bg_pipeline.store import Content, Store
from bg_pipeline.uploads.submitting import check_request, new_batch, submit

THREADS: Final = 16
"""Decisions read or written, or results copied, at a time."""
LONGEST_REASON: Final = 1000
MOST_VARIANTS: Final = 5


class State(StrEnum):
    """Where a result stands; a person's decision is one of the first two."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said of one version of a result: ``state`` is approved or rejected, ``at`` is ISO 8601 in UTC.

    ``redone_as`` is the batch that was asked for in its place, if one was.
    """

    result: str
    etag: str
    state: State
    by: str
    at: str
    reason: str = ""
    redone_as: str = ""

    def document(self) -> dict[str, str]:
        """As it is stored."""
        said = {
            "Result": self.result,
            "ResultETag": self.etag,
            "Decision": self.state.value,
            "By": self.by,
            "At": self.at,
            "Reason": self.reason,
            "RedoneAs": self.redone_as,
        }
        return {name: value for name, value in said.items() if value or name == "Reason"}


def _decision(document: Any) -> Decision | None:
    """The decision in a stored document; None for what is none."""
    try:
        decision = Decision(
            str(document["Result"]),
            str(document["ResultETag"]),
            State(document["Decision"]),
            str(document["By"]),
            str(document["At"]),
            str(document.get("Reason", "")),
            str(document.get("RedoneAs", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return None if decision.state is State.WAITING else decision


@dataclass(frozen=True, slots=True)
class Item:
    """One result and where it stands; ``key`` is empty where there is none to look at and a person has to act.

    ``number`` counts the image's outputs from 1; ``why`` says in words why it is in this ``state``; ``decision`` is
    the person's, if it is about this version of the result.
    """

    image: str
    ref: str
    number: int
    key: str
    etag: str
    status: Status
    cause: str
    labels: str
    caption: str
    alt_text: str
    cost_usd: float | None
    state: State
    why: str
    decision: Decision | None = None


def chosen(key: str, share: float) -> bool:
    """Whether a result is of the ``share`` (0 to 1) that a person looks at although it passed; by its key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < share * 2**64


class Reviews:
    """The decisions stored in a bucket. Safe for threads; what was read is not read again before it changes."""

    def __init__(self, data: Store) -> None:
        self._data = data
        self._read: dict[str, tuple[str, Decision | None]] = {}

    def of(self, results: Iterable[str], output_prefix: str) -> dict[str, Decision]:
        """The latest decisions by result, for results under a prefix."""
        stored = {found.key: found.etag for found in self._data.list(layout.reviews_of(output_prefix))}
        wanted = {result: key for result in results if (key := layout.review_key(result)) in stored}
        with ThreadPoolExecutor(THREADS, "review") as pool:
            list(pool.map(lambda key: self._fetch(key, stored[key]), wanted.values()))
        found = {result: self._read[key][1] for result, key in wanted.items()}
        return {result: decision for result, decision in found.items() if decision is not None}

    def _fetch(self, key: str, etag: str) -> None:
        if self._read.get(key, ("",))[0] != etag:
            self._read[key] = (etag, _decision(self._data.read_json(key)))


def items(work: Work, settings: Settings, reviews: Reviews | None = None) -> list[Item]:
    """Every result of a batch with where it stands, in the order of the report.

    An image that was flagged before it had a result is an item without a key. ``reviews`` may be kept by a page
    that asks again and again; its bucket is that of the batch's results.
    """
    reviews = reviews or Reviews(work.place.data)
    found: list[Item] = []
    for row in rows(work):
        found += _unjudged(work, row)
    decisions = reviews.of((item.key for item in found if item.key), work.place.output_prefix)
    return [_judged(item, decisions.get(item.key), settings) for item in found]


def _unjudged(work: Work, row: Row) -> list[Item]:
    entry = work.ledger.get(row.ImageName)
    if entry is None:
        return []

    def item(number: int, key: str, status: Status, cause: str, cost: float | None) -> Item:
        return Item(
            image=row.ImageName,
            ref=row.Ref,
            number=number,
            key=key,
            etag=entry.files.get(key, ""),
            status=status,
            cause=cause,
            labels=row.Labels,
            caption=row.Caption,
            alt_text=entry.alt_text,
            cost_usd=cost,
            state=State.WAITING,
            why="",
        )

    made = [
        item(each["Number"], each["Key"], Status(each["Status"]), each["Cause"], each["CostUSD"])
        for each in entry.outputs
        if each["Key"]
    ]
    if not made and row.Status == Status.NEEDS_REVIEW:
        return [item(1, "", row.Status, row.Cause, row.CostUSD)]
    return made


def _judged(item: Item, decision: Decision | None, settings: Settings) -> Item:
    if decision is not None and decision.etag == item.etag:
        words = f"{decision.state} by {decision.by}" + (f": {decision.reason}" if decision.reason else "")
        return replace(item, state=decision.state, why=words, decision=decision)
    if item.status != Status.SUCCEEDED:
        why = item.cause or "it did not pass the checks"
    elif not settings.auto_approve:
        why = "every result waits for a person (BG_AUTO_APPROVE)"
    elif chosen(item.key, settings.review_share):
        why = "it passed every check and is of the share that a person looks at (BG_REVIEW_SHARE)"
    else:
        return replace(item, state=State.APPROVED, why="it passed every check")
    if decision is not None:
        why += f"; an earlier version of it was {decision.state} by {decision.by}"
    return replace(item, state=State.WAITING, why=why)


def queue(found: Iterable[Item]) -> list[Item]:
    """What waits for a person: first what was flagged, then what was chosen, each in the report's order."""
    waiting = [item for item in found if item.state is State.WAITING]
    return sorted(waiting, key=lambda item: item.status == Status.SUCCEEDED)


def named(found: Iterable[Item], names: Iterable[str], output_prefix: str) -> list[Item]:
    """The items that ``names`` mean: keys of results, their names under the prefix, or images (all their results).

    Raises `UsageError` for a name that means none.
    """
    by_name: dict[str, list[Item]] = {}
    by_image: dict[str, list[Item]] = {}
    for item in found:
        by_image.setdefault(item.image, []).append(item)
        if item.key:
            by_name[item.key] = by_name[item.key.removeprefix(f"{output_prefix}/")] = [item]
    meant: dict[tuple[str, int], Item] = {}
    for name in names:
        items = by_name.get(name) or by_image.get(name)
        if items is None:
            raise UsageError(f"'{name}' is neither a result nor an image with one; nothing was done")
        meant |= {(item.image, item.number): item for item in items}
    return list(meant.values())


def decide(
    data: Store, found: Iterable[Item], state: State, *, by: str, reason: str = "", redone_as: str = ""
) -> list[Decision]:
    """Stores one person's decision on results; what was decided before is kept in the same document.

    ``by`` is who decides, as the caller knows them. Raises `UsageError`, and stores nothing, if an item has no
    result, if ``by`` is empty or if the reason has more than `LONGEST_REASON` characters.
    """
    found = list(found)
    if state is State.WAITING:
        raise UsageError("a decision is to approve or to reject")
    if not by.strip():
        raise UsageError("say who decides")
    if len(reason) > LONGEST_REASON:
        raise UsageError(f"the reason has {len(reason):,} characters and may have {LONGEST_REASON:,}")
    for item in found:
        if not item.key:
            raise UsageError(f"{item.image} has no result to decide about; ask for it again (redo)")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    decisions = [Decision(item.key, item.etag, state, by, at, reason, redone_as) for item in found]
    with ThreadPoolExecutor(THREADS, "review") as pool:
        list(pool.map(lambda decision: _keep(data, decision), decisions))
    return decisions


def _keep(data: Store, decision: Decision) -> None:
    key = layout.review_key(decision.result)
    before: Content | None = None
    while True:
        document: dict[str, Any] = decision.document()
        if before is not None:
            document["Earlier"] = _earlier(before.data)
        try:
            data.write_json(key, document, if_absent=before is None, if_etag=before.etag if before else None)
            return
        except PreconditionFailed:
            # Decided before, or by somebody else at this moment: theirs is kept as the earlier one.
            before = data.read(key)


def _earlier(data: bytes) -> list[Any]:
    try:
        document = orjson.loads(data)
        return [document, *document.pop("Earlier", [])]
    except (AttributeError, TypeError, ValueError):
        return []


@dataclass(frozen=True, slots=True)
class Summary:
    """Where a batch's review stands: results by state, and what an image with an approved result cost.

    ``cost_usd`` is all that was billed for the batch, failures and rejected results included; None where a part
    of it is not known. ``cost_per_image`` is None as well while nothing is approved.
    """

    images: int
    approved_images: int
    approved: int
    rejected: int
    waiting: int
    cost_usd: float | None

    @property
    def cost_per_image(self) -> float | None:
        if self.cost_usd is None or not self.approved_images:
            return None
        return self.cost_usd / self.approved_images


def summary(work: Work, found: Collection[Item]) -> Summary:
    """How the review of a batch stands."""
    report = Report(tuple(rows(work)))
    states = Counter(item.state for item in found)
    return Summary(
        images=len(report.rows),
        approved_images=len({item.image for item in found if item.state is State.APPROVED}),
        approved=states[State.APPROVED],
        rejected=states[State.REJECTED],
        waiting=states[State.WAITING],
        cost_usd=report.cost_usd,
    )


# As a table

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


def as_csv(found: Iterable[Item]) -> bytes:
    """The items as a table in UTF-8 that `read_csv` takes back once ``Decision`` and ``Reason`` are filled in."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in found:
        cost = "unknown" if item.cost_usd is None else item.cost_usd
        # In quotation marks, without which a spreadsheet may take a tag such as 12e34 for a number.
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


def read_csv(data: bytes, found: Iterable[Item]) -> dict[tuple[State, str], list[Item]]:
    """The new decisions in a table, as items by decision and reason; lines without one, or with the old one, are not.

    Read are the columns Result, ResultETag (which may be left out), Decision (approve, approved, reject, rejected,
    in any case) and Reason; the separator may be a comma, a semicolon or a tab. Raises `UsageError` with every
    line that is wrong: then no line counts.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the file is not UTF-8; save it as “CSV UTF-8”") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
    by_key = {item.key: item for item in found if item.key}
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
                problems.append(f"{place}: '{key[:200]}' is no result of the batch")
            elif cells.get("ResultETag", "").strip('"') not in ("", item.etag):
                problems.append(f"{place}: {key} was made anew since; look at it again")
            elif len(reason) > LONGEST_REASON:
                problems.append(f"{place}: the reason has more than {LONGEST_REASON:,} characters")
            elif key in lines:
                problems.append(f"{place}: {key} is decided in line {lines[key]} already")
            else:
                lines[key] = reader.line_num
                decided = item.decision and (item.decision.state, item.decision.reason)
                if decided != (_VERBS[verb], reason):
                    wanted.setdefault((_VERBS[verb], reason), []).append(item)
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UsageError(f"{'; '.join(problems[:20])}{more}. Nothing was decided")
    return wanted


# Delivery


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` did; ``stale`` are results that changed or went away meanwhile and are not delivered."""

    copied: int = 0
    kept: int = 0
    removed: int = 0
    stale: tuple[str, ...] = ()


def publish(work: Work, found: Iterable[Item]) -> Published:
    """Copies the approved results of a batch under ``published/``, and takes away what is approved no more.

    What is there already is left alone, so that doing it again costs a read and a listing. Only what this function
    put there is ever taken away. Raises `UsageError` if somebody else is publishing the same batch right now.
    """
    data, key = work.place.data, work.place.batch.published_list_key
    content = data.read(key)
    before = _published(content.data) if content else {}
    approved = {layout.published_key(item.key): item for item in found if item.state is State.APPROVED}
    prefix = layout.published_key(f"{work.place.output_prefix}/")
    there = {each.key: each.etag for each in data.list(prefix)}
    fresh = {
        target: item
        for target, item in approved.items()
        if target not in there or before.get(target) != (item.etag, there[target])
    }
    gone = [target for target in before if target not in approved]
    if not fresh and not gone:
        return Published(kept=len(approved))
    try:
        # First what will be ours, so that nothing is left behind that nobody knows if this process dies.
        planned = before | {target: (item.etag, "") for target, item in fresh.items()}
        etag = _list_published(data, key, planned, content.etag if content else None)
        copied = _copy(data, fresh)
        for target in gone:
            if target in there and before[target][1] in ("", there[target]):
                data.delete(target)
        after = {target: etags for target, etags in before.items() if target in approved} | copied
        _list_published(data, key, after, etag)
    except PreconditionFailed:
        raise UsageError(
            f"somebody else is publishing batch {work.place.batch.path} right now; do it again"
        ) from None
    stale = tuple(item.key for target, item in fresh.items() if target not in copied)
    return Published(len(copied), len(approved) - len(fresh), len(gone), stale)


def _copy(data: Store, wanted: Mapping[str, Item]) -> dict[str, tuple[str, str]]:
    """Copies results that are still what was approved; the tags of each result and of its copy, by the copy's key."""

    def copy(pair: tuple[str, Item]) -> tuple[str, tuple[str, str]] | None:
        target, item = pair
        try:
            return target, (item.etag, data.copy(item.key, target, if_etag=item.etag))
        except PreconditionFailed:
            return None

    with ThreadPoolExecutor(THREADS, "publish") as pool:
        return dict(done for done in pool.map(copy, wanted.items()) if done)


def _published(data: bytes) -> dict[str, tuple[str, str]]:
    """What was published by key: the tags of the result and of its copy, empty while it is being copied."""
    try:
        document = orjson.loads(data)
        return {
            str(target): (str(each["ResultETag"]), str(each["ETag"])) for target, each in document.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _list_published(
    data: Store, key: str, published: Mapping[str, tuple[str, str]], if_etag: str | None
) -> str:
    document = {target: {"ResultETag": etag, "ETag": copied} for target, (etag, copied) in published.items()}
    return data.write_json(key, document, if_absent=if_etag is None, if_etag=if_etag)


# Doing it again


def redo_request(
    work: Work, found: Sequence[Item], *, prompt: str = "", seed: int | None = None
) -> BatchRequest:
    """The request that asks for the pictures of ``found`` again, with a new seed, and with ``prompt`` if it is said.

    It reads the same uploads and writes to the folders of the batch it becomes, with ``RetryOf``; labels, captions
    and masks are there already and cost nothing. Without ``seed`` one is chosen at random. Raises `UsageError`
    for a picture that no model paints, which would become the same, and `RequestError` for a prompt or a seed that
    no request may hold.
    """
    if work.request is None:
        raise UsageError(f"the request of batch {work.place.batch.path} cannot be read: {work.problem}")
    if not found:
        raise UsageError("name what is to be done again")
    numbers: dict[str, set[int]] = {}
    for item in found:
        numbers.setdefault(item.image, set()).add(item.number)
    seed = secrets.randbelow(MAX_SEED - MOST_VARIANTS) if seed is None else seed
    entries = []
    for image, some in numbers.items():
        asked = work.asked(image)
        if not asked.needs_prompt:
            raise UsageError(f"no model paints the background of {image}, so it would become the same again")
        files = len(asked.renditions) or 1
        outputs = {wanted.position: wanted.template for wanted in asked.outputs}
        positions = {(number - 1) // files + 1 for number in some}
        templates = Counter(outputs[position] for position in positions & outputs.keys())
        if not templates:
            raise UsageError(f"the request asks for no such picture of {image} any more; run the batch first")
        entry = work.request.entries.get(image) or ImageEntry(ImageName=image)
        prompts = (prompt,) if prompt else tuple(templates)
        try:
            entries.append(
                replace(entry, Prompt=None, Prompts=prompts, Variants=max(templates.values()), Seed=seed)
            )
        except ValidationError as error:
            raise RequestError(
                [(str(each["loc"][0]), each["msg"].removeprefix("Value error, ")) for each in error.errors()]
            ) from None
    return replace(
        work.request,
        Id=str(uuid.uuid4()),
        OutputS3Prefix="",
        StatusS3Prefix="",
        Sample=None,
        RetryOf=work.request.Id,
        Images=tuple(entries),
    )


def redo(
    store: Store,
    settings: Settings,
    work: Work,
    found: Sequence[Item],
    *,
    by: str,
    prompt: str = "",
    seed: int | None = None,
) -> Batch:
    """Asks for pictures again as a new batch of today, which the next run makes, and rejects what there is of them.

    Arguments and errors are those of `redo_request`; a `RequestError` by field if the prompt or seed does not do.
    """
    data = write(redo_request(work, found, prompt=prompt, seed=seed))
    batch = new_batch()
    check_request(settings, batch, data)
    submit(store, batch, [], data)
    made = [item for item in found if item.key]
    decide(
        work.place.data,
        made,
        State.REJECTED,
        by=by,
        reason=f"asked for again as {batch.path}",
        redone_as=batch.path,
    )
    return batch
