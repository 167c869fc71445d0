"""The screen *Batches*: the state of each batch, the approval of samples, and retries."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import streamlit as st

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.rows import WAITING_FOR_APPROVAL, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import BgPipelineError, NotAllowed, UsageError
from bg_pipeline.reports import words as phrases
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.reports.overview import BatchState
from bg_pipeline.web.page import user
from bg_pipeline.web.page.batches import BatchCard, BatchService, PendingPhotos, dagster_at_work
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.widgets import escape_markdown

_NUMBERED = re.compile(r"[0-9]{6}-[0-9a-f]{8}|(api-)?[0-9]{6}-[0-9a-f]{16}|[0-9]{2}:?[0-9]{2}:?[0-9]{2}")
"""Names that programs give to batches."""
REFRESH_SECONDS = 3
OLDER_SECONDS = 20
"""How often dates before yesterday are looked at."""
DEFAULT_DAYS = 7
MOST_DAYS = 31
CARDS = 30
"""Batches that are shown at first."""


def show(
    service: BatchService, drafts: DraftService, dagster: str, resume: Callable[[Batch], object]
) -> None:
    """The screen.

    ``dagster`` is the address of Dagster's UI, empty if unknown. ``resume`` opens a draft on the screen *New batch*.
    """
    st.title("Batches", anchor=False)
    _dagster_status(dagster)
    days = _days()
    # Not in the fragment that refreshes itself, since a fragment cannot switch to another screen.
    if draft := st.session_state.pop("resume", None):
        with st.spinner("Opening the photos"):
            resume(draft)
    _cards(service, drafts, days)


def _days() -> list[UploadDate] | None:
    """The dates that were chosen; None for the last week, which goes on with the calendar."""
    with st.expander("Other dates than the last 7 days"):
        # The key keeps chosen dates when midnight changes the default.
        chosen = st.date_input("Uploaded (UTC), from and to", [], key="batches-dates")
    if not isinstance(chosen, tuple) or not chosen:
        return None
    first, last = chosen[0], chosen[-1]
    if (last - first).days >= MOST_DAYS:
        st.caption(f"The last {MOST_DAYS} of these days are shown.")
        first = last - timedelta(MOST_DAYS - 1)
    return [last - timedelta(back) for back in range((last - first).days + 1)]


def _dagster_status(dagster: str) -> None:
    if not dagster:
        st.info(
            "Batches are processed by Dagster (`bg-pipeline up`) or by `bg-pipeline run`. "
            "This page was not told where Dagster runs."
        )
    elif (healthy := dagster_at_work(dagster)) is None:
        st.warning(
            f"Dagster does not answer at {dagster}. Nothing is processed until it runs (`bg-pipeline up`)."
        )
    elif not healthy:
        st.warning(
            "Dagster's daemon is not running: new batches wait for it. `bg-pipeline up` starts it with the page."
        )
    else:
        st.caption(f"Dagster is running: [open its page]({dagster})")


@st.fragment(run_every=REFRESH_SECONDS)
def _cards(service: BatchService, drafts: DraftService, days: list[UploadDate] | None) -> None:
    try:
        person = _visitor(service)
    except NotAllowed as error:
        st.error(escape_markdown(str(error)))
        return
    today = datetime.now(UTC).date()
    # One day ahead, for uploads from places where it is tomorrow already.
    dates = days or [today - timedelta(back) for back in range(-1, DEFAULT_DAYS)]
    cards = []
    for date in dates:
        recent = abs((today - date).days) <= 1
        cards += service.batches(person, date, max_age=0.0 if recent else OLDER_SECONDS)
    if not cards:
        st.caption(
            "Nothing was uploaded on these days." if days else "Nothing was uploaded in the last 7 days."
        )
    shown = cards if st.session_state.get("all-batches") else cards[:CARDS]
    for card in shown:
        with st.container(border=True):
            _card(service, drafts, person, card, today)
    if len(shown) < len(cards):
        st.checkbox(f"Show all {len(cards):,} batches", key="all-batches")


def _visitor(service: BatchService) -> Person:
    """Asked at each act and in each refresh of the list, because the screen may be open for longer than a sign-in."""
    return user.visitor(service.settings, service.acts.authorization)


def _card(
    service: BatchService, drafts: DraftService, person: Person, card: BatchCard, today: UploadDate
) -> None:
    batch, rights = card.batch, service.acts.authorization
    with st.container(horizontal=True, vertical_alignment="center"):
        if picture := service.card_picture(card):
            st.image(picture, alt="", width=102 * len(card.first_photos) - 6)
        with st.container():
            st.markdown(f"**{escape_markdown(title(card))}**")
            st.caption(
                escape_markdown(f"{when(card, today)} · {counted(card.images, 'photo')} · {batch.path}")
            )
            st.text(words(card, service.minutes_left(card)))
    if card.draft:
        if rights.may_change(person, batch):
            _draft(service, drafts, batch)
        return
    if card.kind is BatchState.WORKING and card.images:
        st.progress(card.done / card.images, f"{card.done:,} of {card.images:,} photos done")
    with st.container(horizontal=True, vertical_alignment="center"):
        # The keys keep a popover open while buttons beside it appear or disappear.
        with st.popover("Report", icon=":material/description:", key=f"files-{batch.path}"):
            _report(service, batch)
        if card.to_approve.photos and rights.may(person, Right.REVIEW):
            with st.popover("Approve the sample", icon=":material/done_all:", key=f"sample-{batch.path}"):
                _approve(service, card)
        if card.to_retry.photos and rights.may_change(person, batch):
            with st.popover("Retry what failed", icon=":material/refresh:", key=f"failed-{batch.path}"):
                _retry(service, card)
        if card.complete and card.kind is not BatchState.WAITING:
            st.caption(escape_markdown(f"Cost: {card.costs.in_words(4)}"))


def title(card: BatchCard) -> str:
    """What people recognise a batch by: the name that somebody gave it, and the first words of its background."""
    named = "" if _NUMBERED.fullmatch(card.batch.name) else card.batch.name
    if card.draft:
        first_words = f"Draft: {card.title}" if card.title else "Draft"
    else:
        first_words = f"Made again: {card.title}" if card.redo_of else card.title
    return " · ".join(filter(None, [named, first_words])) or card.batch.name


def when(card: BatchCard, today: UploadDate) -> str:
    """``today 14:05 UTC``, ``yesterday``, or the date."""
    days = {0: "today", 1: "yesterday"}
    text = days.get((today - card.batch.date).days, f"{card.batch.date:%A, %d %B %Y}")
    return (
        f"{text} {card.changed:%H:%M} UTC"
        if card.changed and card.changed.date() == card.batch.date
        else text
    )


def words(card: BatchCard, minutes_left: float | None = None) -> str:
    """How the batch stands, in words that frighten nobody."""
    if card.kind is BatchState.DRAFT:
        return card.state
    if card.kind is BatchState.WAITING:
        return f"{card.images:,} waiting"
    if card.kind is BatchState.WORKING:
        if minutes_left is None:
            return phrases.WORKING
        return f"{phrases.WORKING}, about {max(1, round(minutes_left)):,} min left"
    if card.kind is BatchState.REFUSED:
        return f"{phrases.REFUSED}; the report says why"
    waiting = min(card.to_approve.photos, card.counts.get(Status.SKIPPED.value, 0))
    reasons = {**card.reasons, WAITING_FOR_APPROVAL: waiting}
    counts = phrases.Outcomes(card.counts, reasons).in_words
    begin = phrases.SAMPLE_FINISHED if waiting else phrases.TO_DO
    begin = begin if card.to_do else phrases.FINISHED
    return f"{begin}: {', '.join(counts)}" if counts else begin


def _approve(service: BatchService, card: BatchCard) -> None:
    """The button that lets the rest of a batch run, once its sample was reviewed on the screen *Review*."""
    pending, batch = card.to_approve, card.batch
    error_key = f"not-approved-{batch.path}"
    st.text(f"Waiting: {counted(pending.photos, 'photo')}. {_price(pending)}")
    # A callback gets the ETag that was on the screen when the button was pressed, not a newer one.
    st.button(
        "Run the rest",
        key=f"approve-{batch.path}",
        type="primary",
        on_click=_approve_seen,
        args=(service, batch, card.request_etag, error_key),
    )
    if error_key in st.session_state:
        st.error(escape_markdown(st.session_state.pop(error_key)))


def _approve_seen(service: BatchService, batch: Batch, seen: str, error_key: str) -> None:
    try:
        service.approve_sample(_visitor(service), batch, seen=seen)
    except BgPipelineError as error:
        st.session_state[error_key] = str(error)


def _retry(service: BatchService, card: BatchCard) -> None:
    retried: dict[Batch, str] = st.session_state.setdefault("retried", {})
    note = "They become a new batch. What is stored is not paid for again."
    if earlier := retried.get(card.batch):
        note = (
            f"Submitted again as batch {escape_markdown(earlier)}. "
            "Pressing the button before that batch has its report adds nothing."
        )
    pending = card.to_retry
    st.text(f"Failed or skipped: {counted(pending.photos, 'photo')}. {_price(pending)}")
    st.caption(note)  # always one caption: a new line would move the button
    if st.button("Retry", key=f"retry-{card.batch.path}", type="primary"):
        try:
            retried[card.batch] = service.retry(_visitor(service), card.batch).path
            st.rerun()
        except BgPipelineError as error:
            st.error(escape_markdown(str(error)))


def _price(pending: PendingPhotos) -> str:
    return (
        f"Up to {counted(pending.pictures, 'picture')} will be paid for."
        if pending.pictures
        else "No picture has to be paid for."
    )


def _draft(service: BatchService, drafts: DraftService, batch: Batch) -> None:
    """The buttons that continue or delete a draft."""
    buttons = st.container(horizontal=True)
    if buttons.button("Continue", key=f"resume-{batch.path}", icon=":material/edit:"):
        st.session_state.resume = batch
        st.rerun()
    with buttons.popover("Discard", icon=":material/delete:", key=f"draft-{batch.path}"):
        st.text("This deletes its photos. Somebody else may be preparing it right now.")
        if st.button("Delete the draft", key=f"discard-{batch.path}", type="primary"):
            try:
                drafts.discard(_visitor(service), batch)
                st.rerun()
            except UsageError as error:
                st.error(escape_markdown(str(error)))


def _report(service: BatchService, batch: Batch) -> None:
    if not st.toggle("Prepare the files", key=f"report-{batch.path}"):
        return
    try:
        report = service.status(_visitor(service), batch).report()
    except UsageError as error:
        st.text(str(error))
        return
    if report is None:
        st.text("There is no report yet: it is written when the batch is processed.")
        return
    name = archive_path(f"report {batch.date} {batch.name}")
    st.download_button("CSV", report.csv(), f"{name}.csv", "text/csv", key=f"csv-{batch.path}")
    st.download_button("JSON", report.json(), f"{name}.json", "application/json", key=f"json-{batch.path}")
    html = html_report(service.open(batch))
    st.download_button("Page with pictures", html, f"{name}.html", "text/html", key=f"html-{batch.path}")
