"""The screen *Batches*: the state of each batch, the approval of samples, and retries."""

from collections.abc import Callable
from datetime import UTC, date, datetime

import streamlit as st

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import BgPipelineError, NotAllowed, UsageError
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.web.page import user
from bg_pipeline.web.page.batches import BatchCard, BatchService, PendingPhotos, dagster_at_work
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.widgets import escape_markdown

REFRESH_SECONDS = 3


def show(
    service: BatchService, drafts: DraftService, dagster: str, resume: Callable[[Batch], object]
) -> None:
    """The screen.

    ``dagster`` is the address of Dagster's UI, empty if unknown. ``resume`` opens a draft on the screen *New batch*.
    """
    st.title("Batches")
    today = datetime.now(UTC).date()
    # The key keeps a chosen date when midnight changes the default.
    picked = st.date_input("Upload date (UTC)", today, key="batches-date")
    _dagster_status(dagster)
    day = picked if isinstance(picked, date) else today
    # Not in the fragment that refreshes itself, since a fragment cannot switch to another screen.
    if draft := st.session_state.pop("resume", None):
        with st.spinner("Opening the photos"):
            resume(draft)
    _cards(service, drafts, day)


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
def _cards(service: BatchService, drafts: DraftService, day: date) -> None:
    try:
        person = _visitor(service)
    except NotAllowed as error:
        st.error(escape_markdown(str(error)))
        return
    cards = service.batches(person, day)
    if not cards:
        st.caption(f"Nothing was uploaded on {day}.")
    for card in cards:
        with st.container(border=True):
            _card(service, drafts, person, card)


def _visitor(service: BatchService) -> Person:
    """Asked at each act and in each refresh of the list, because the screen may be open for longer than a sign-in."""
    return user.visitor(service.settings, service.acts.authorization)


def _card(service: BatchService, drafts: DraftService, person: Person, card: BatchCard) -> None:
    batch, rights = card.batch, service.acts.authorization
    name, numbers = st.columns([3, 2])
    name.markdown(f"**{escape_markdown(batch.name)}**")
    name.caption(f"{escape_markdown(card.state)} · {card.costs.in_words(4)}")
    numbers.text(
        ", ".join(f"{number:,} {status}" for status, number in card.counts.items())
        or f"{card.images:,} photos"
    )
    if card.draft:
        if rights.may_change(person, batch):
            _draft(service, drafts, batch)
        return
    if card.images and card.complete:
        st.progress(card.done / card.images, f"{card.done:,} of {card.images:,} photos done")
    with st.container(horizontal=True):
        # The keys keep a popover open while buttons beside it appear or disappear.
        with st.popover("Report", icon=":material/description:", key=f"files-{batch.path}"):
            _report(service, batch)
        if card.to_approve.photos and rights.may(person, Right.REVIEW):
            with st.popover("Approve the sample", icon=":material/done_all:", key=f"sample-{batch.path}"):
                _approve(service, card)
        if card.to_retry.photos and rights.may_change(person, batch):
            with st.popover("Retry what failed", icon=":material/refresh:", key=f"failed-{batch.path}"):
                _retry(service, card)


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
    left, right = st.columns([1, 3])
    if left.button("Continue", key=f"resume-{batch.path}", icon=":material/edit:"):
        st.session_state.resume = batch
        st.rerun()
    with right.popover("Discard", icon=":material/delete:"):
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
