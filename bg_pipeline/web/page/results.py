"""The screen where results are looked through: approved, rejected or asked for again, downloaded and published."""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import streamlit as st

from bg_pipeline import review
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import UsageError
from bg_pipeline.review import Item, State, Summary
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.web.page import user
from bg_pipeline.web.page.markdown import escape_markdown
from bg_pipeline.web.page.service import PageService
from bg_pipeline.web.page.slider import before_and_after

_STATES = {State.WAITING: "Waiting", State.APPROVED: "Approved", State.REJECTED: "Rejected"}


def show(desk: PageService) -> None:
    """The screen."""
    st.title("Review")
    today = datetime.now(UTC).date()
    # With a key the date that a person chose stays when midnight changes the default.
    picked = st.date_input("Upload date (UTC)", today, key="review-date")
    day = picked if isinstance(picked, date) else today
    standings = desk.batches(day)
    batches = [each.batch for each in standings if each.complete]
    if not batches:
        st.caption(f"No batch of {day} has results.")
        return
    batch = st.selectbox("Batch", batches, format_func=lambda batch: batch.name)
    results = desk.results(batch)
    work, found = results.work, results.items()
    _numbers(results.summary(found))
    _deliver(desk, work, found)
    shown = st.segmented_control(
        "Show", list(_STATES), default=State.WAITING, required=True, format_func=_STATES.__getitem__
    )
    items = [item for item in found if item.state is shown]
    if not items:
        st.caption("Nothing waits for a person." if shown is State.WAITING else "There is none.")
        return
    if shown is State.WAITING:
        _all_at_once(work, items)
    _one(desk, work, batch, items)


def _numbers(stands: Summary) -> None:
    approved, rejected, waiting, cost = st.columns(4)
    approved.metric("Approved", f"{stands.approved:,}")
    rejected.metric("Rejected", f"{stands.rejected:,}")
    waiting.metric("Waiting", f"{stands.waiting:,}")
    cost.metric(
        "USD an approved photo",
        "–" if stands.cost_per_image is None else f"{stands.cost_per_image:.3f}",
        help=f"Billed for the batch in all: {stands.costs.in_words(4)}.",
    )


def _deliver(desk: PageService, work: BatchWork, found: Sequence[Item]) -> None:
    publish, pack = st.columns(2)
    if publish.button(
        "Publish what is approved",
        icon=":material/publish:",
        help="Copies the approved results, and nothing else, to published/ in the bucket.",
    ):
        done = review.publish(work, found)
        st.success(f"{counted(done.copied, 'result')} published, {done.kept:,} were there already.")
        if done.stale:
            st.warning(escape_markdown(f"Changed meanwhile, and not published: {', '.join(done.stale[:10])}"))
    if pack.button("Pack what is approved", icon=":material/folder_zip:", help="One ZIP file to download."):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "approved.zip"
            if desk.pack(work, found, file):
                with file.open("rb") as data:
                    name = archive_path(f"{work.locations.batch.name} approved.zip")
                    pack.download_button("Download the ZIP", data, name, "application/zip")
            else:
                pack.caption("No result is approved yet.")


def _version(found: Sequence[Item]) -> str:
    """Part of the key of a button about these results: a press counts for what it was made for, and nothing else.

    Without it the second press of a double click, or one that met a new version, would decide about what came next.
    """
    seen = [(item.image, item.number, item.key, item.etag) for item in found]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _all_at_once(work: BatchWork, chosen: Sequence[Item]) -> None:
    there = [item for item in chosen if item.key]
    shown = _version(there)
    with st.popover(f"All {len(there):,} that wait", icon=":material/done_all:"):
        st.caption("Without looking at each.")
        reason = st.text_input("Reason", key="reason-all")
        approve, reject = st.columns(2)
        if approve.button("Approve all", key=f"approve-all-{shown}", disabled=not there):
            review.decide(work.locations.data, there, State.APPROVED, by=user.name(), reason=reason)
            st.rerun()
        if reject.button("Reject all", key=f"reject-all-{shown}", disabled=not there):
            review.decide(work.locations.data, there, State.REJECTED, by=user.name(), reason=reason)
            st.rerun()


def _one(desk: PageService, work: BatchWork, batch: Batch, chosen: Sequence[Item]) -> None:
    """One result with its photo; keys: a approves, x rejects (r is Streamlit's own), the arrows go on and back."""
    state = st.session_state
    place = f"at-{batch.path}"
    at = min(state.get(place, 0), len(chosen) - 1)
    item = chosen[at]
    back, where, on = st.columns([1, 2, 1], vertical_alignment="center")
    if back.button("Back", shortcut="Left", disabled=at == 0, icon=":material/arrow_back:"):
        state[place] = at - 1
        st.rerun()
    where.text(f"{at + 1} of {len(chosen):,}: {item.key.rpartition('/')[2] or item.image}")
    if on.button("Next", shortcut="Right", disabled=at + 1 >= len(chosen), icon=":material/arrow_forward:"):
        state[place] = at + 1
        st.rerun()
    picture, facts = st.columns([3, 2])
    with picture:
        before, after = desk.decision_of(work, item)
        if before and after:
            before_and_after(before, after, item.alt_text or item.image)
        elif before:
            st.image(before, alt=f"The photo {item.image}")
            st.caption("There is no result to look at.")
        else:
            st.caption("The photo is not there any more, or no picture.")
    with facts:
        _facts(item)
        _verdict(desk, work, item)


def _facts(item: Item) -> None:
    st.text(f"{item.status.value}. {item.why}")
    for name, text in (("Labels", item.labels), ("Caption", item.caption), ("Reference", item.ref)):
        if text:
            st.caption(name)
            st.text(text)


def _verdict(desk: PageService, work: BatchWork, item: Item) -> None:
    reason = st.text_input("Reason", key=f"reason-{item.image}-{item.number}")
    approve, reject = st.columns(2)
    shown = _version([item])
    if approve.button("Approve", key=f"approve-{shown}", shortcut="a", type="primary", disabled=not item.key):
        review.decide(work.locations.data, [item], State.APPROVED, by=user.name(), reason=reason)
        st.rerun()
    if reject.button("Reject", key=f"reject-{shown}", shortcut="x", disabled=not item.key):
        review.decide(work.locations.data, [item], State.REJECTED, by=user.name(), reason=reason)
        st.rerun()
    if item.key:
        try:
            name = item.key.rpartition("/")[2]
            st.download_button("Download", lambda: desk.download(work, item), name, key=f"load-{item.key}")
        except UsageError as error:
            st.text(str(error))
    with st.popover("Ask again", icon=":material/refresh:"):
        _again(desk, work, item)


def _again(desk: PageService, work: BatchWork, item: Item) -> None:
    # A result bears it in its decision, an image without one is remembered here.
    redone: dict[tuple[str, str, int], str] = st.session_state.setdefault("redone", {})
    this = work.locations.batch.path, item.image, item.number
    said = "A new picture, paid for, as a batch of its own; this one is rejected."
    if again := redone.get(this) or (item.decision.redone_as if item.decision else ""):
        said = (
            f"Asked for again, as batch {escape_markdown(again)}. "
            "Before that has its report, another press adds nothing."
        )
    st.caption(said)  # one place for both: a line that appears would move the button
    prompt = st.text_input("Another background", key=f"again-{item.image}-{item.number}")
    seed = st.number_input("Seed", 0, None, None, key=f"seed-{item.image}-{item.number}")
    if st.button("Ask again", key=f"redo-{_version([item])}"):
        redone[this] = desk.redo(work, [item], by=user.name(), prompt=prompt, seed=seed).path
        st.toast(f"Asked for again as batch {escape_markdown(redone[this])}.")
        st.rerun()
