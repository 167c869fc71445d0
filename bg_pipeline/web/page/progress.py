"""The screen that shows how batches stand, where a sample is approved and what failed is asked for again."""

from collections.abc import Callable
from datetime import UTC, date, datetime

import streamlit as st

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import BgPipelineError, UsageError
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.reports.overview import load_status
from bg_pipeline.web.page import user
from bg_pipeline.web.page.markdown import escape_markdown
from bg_pipeline.web.page.service import ApprovedShare, BatchCard, PageService, dagster_at_work

LOOK_SECONDS = 3


def show(desk: PageService, dagster: str, go_on: Callable[[Batch], object]) -> None:
    """The screen; ``dagster`` is the address of its UI, empty where it is not known. ``go_on`` leads to a draft."""
    st.title("Batches")
    today = datetime.now(UTC).date()
    # With a key the date that a person chose stays when midnight changes the default.
    picked = st.date_input("Upload date (UTC)", today, key="batches-date")
    _who_runs(dagster)
    day = picked if isinstance(picked, date) else today
    # Decided outside of the part that looks again by itself, which cannot lead to another screen.
    if draft := st.session_state.pop("go_on", None):
        with st.spinner("Looking at the photos"):
            go_on(draft)
    _standings(desk, day)


def _who_runs(dagster: str) -> None:
    if not dagster:
        st.info(
            "Batches are worked on by Dagster (`bg-pipeline up`) or by `bg-pipeline run`; this page does not know "
            "where Dagster is."
        )
    elif (healthy := dagster_at_work(dagster)) is None:
        st.warning(
            f"Dagster does not answer at {dagster}: nothing is worked on until it runs (`bg-pipeline up`)."
        )
    elif not healthy:
        st.warning(
            "Dagster's daemon is not at work: new batches wait until it is. `bg-pipeline up` starts both."
        )
    else:
        st.caption(f"Dagster is at work: [its own view]({dagster})")


@st.fragment(run_every=LOOK_SECONDS)
def _standings(desk: PageService, day: date) -> None:
    found = desk.batches(day)
    if not found:
        st.caption(f"Nothing was uploaded on {day}.")
    for standing in found:
        with st.container(border=True):
            _standing(desk, standing)


def _standing(desk: PageService, standing: BatchCard) -> None:
    batch = standing.batch
    name, numbers = st.columns([3, 2])
    name.markdown(f"**{escape_markdown(batch.name)}**")
    name.caption(f"{escape_markdown(standing.state)} · {standing.costs.in_words(4)}")
    numbers.text(
        ", ".join(f"{number:,} {status}" for status, number in standing.counts.items())
        or f"{standing.images:,} photos"
    )
    if standing.draft:
        _draft(desk, batch)
        return
    if standing.images and standing.complete:
        st.progress(standing.done / standing.images, f"{standing.done:,} of {standing.images:,} photos done")
    with st.container(horizontal=True):
        # With a key each stays open where the buttons beside it come or go.
        with st.popover("Report", icon=":material/description:", key=f"files-{batch.path}"):
            _report(desk, batch)
        if standing.to_approve.photos:
            with st.popover("Approve the sample", icon=":material/done_all:", key=f"sample-{batch.path}"):
                _approve(desk, standing)
        if standing.to_retry.photos:
            with st.popover(
                "Ask again for what failed", icon=":material/refresh:", key=f"failed-{batch.path}"
            ):
                _retry(desk, standing)


def _approve(desk: PageService, standing: BatchCard) -> None:
    """What lets the rest of a batch run once its sample was looked at, on the screen for reviews."""
    share, batch = standing.to_approve, standing.batch
    problem = f"not-approved-{batch.path}"
    st.text(f"Waiting: {counted(share.photos, 'photo')}. {_price(share)}")
    # Called with what was on the screen when the button was pressed, not with what has come since.
    st.button(
        "Run the rest",
        key=f"approve-{batch.path}",
        type="primary",
        on_click=_approve_seen,
        args=(desk, batch, standing.request_etag, problem),
    )
    if problem in st.session_state:
        st.error(escape_markdown(st.session_state.pop(problem)))


def _approve_seen(desk: PageService, batch: Batch, seen: str, problem: str) -> None:
    try:
        desk.approve_sample(batch, by=user.name(), seen=seen)
    except BgPipelineError as error:
        st.session_state[problem] = str(error)


def _retry(desk: PageService, standing: BatchCard) -> None:
    asked: dict[Batch, str] = st.session_state.setdefault("asked-again", {})
    said = "They are asked for as a batch of their own. What is stored is not paid for again."
    if again := asked.get(standing.batch):
        said = (
            f"Asked for again, as batch {escape_markdown(again)}. "
            "Before that has its report, another press adds nothing."
        )
    share = standing.to_retry
    st.text(f"Failed or skipped: {counted(share.photos, 'photo')}. {_price(share)}")
    st.caption(said)  # one place for both: a line that appears would move the button
    if st.button("Ask again", key=f"retry-{standing.batch.path}", type="primary"):
        try:
            asked[standing.batch] = desk.retry(standing.batch).path
            st.rerun()
        except BgPipelineError as error:
            st.error(escape_markdown(str(error)))


def _price(share: ApprovedShare) -> str:
    return (
        f"Up to {counted(share.pictures, 'picture')} will be paid for."
        if share.pictures
        else "No model paints them."
    )


def _draft(desk: PageService, batch: Batch) -> None:
    """What may become of photos that were dropped and not submitted."""
    left, right = st.columns([1, 3])
    if left.button("Go on with it", key=f"go-on-{batch.path}", icon=":material/edit:"):
        st.session_state.go_on = batch
        st.rerun()
    with right.popover("Discard", icon=":material/delete:"):
        st.text("Its photos are deleted. Somebody may just be preparing it on another page.")
        if st.button("Delete the draft", key=f"discard-{batch.path}", type="primary"):
            try:
                desk.discard(batch)
                st.rerun()
            except UsageError as error:
                st.error(escape_markdown(str(error)))


def _report(desk: PageService, batch: Batch) -> None:
    if not st.toggle("Prepare the files", key=f"report-{batch.path}"):
        return
    try:
        standing = load_status(desk.store, desk.settings, batch)
        report = standing.report()
    except UsageError as error:
        st.text(str(error))
        return
    if report is None:
        st.text("There is no report yet; it is written by the run.")
        return
    name = archive_path(f"report {batch.date} {batch.name}")
    st.download_button("CSV", report.csv(), f"{name}.csv", "text/csv", key=f"csv-{batch.path}")
    st.download_button("JSON", report.json(), f"{name}.json", "application/json", key=f"json-{batch.path}")
    html = html_report(desk.open(batch))
    st.download_button("Page with pictures", html, f"{name}.html", "text/html", key=f"html-{batch.path}")
