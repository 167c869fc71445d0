"""The screen *Review*: results are approved, rejected, made again, downloaded and published."""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import streamlit as st

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import UsageError
from bg_pipeline.review import Item, State, Summary
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.web.page import user
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.widgets import before_and_after, escape_markdown

_STATES = {State.WAITING: "Waiting", State.APPROVED: "Approved", State.REJECTED: "Rejected"}


def show(service: BatchService) -> None:
    """The screen."""
    st.title("Review")
    today = datetime.now(UTC).date()
    # The key keeps a chosen date when midnight changes the default.
    picked = st.date_input("Upload date (UTC)", today, key="review-date")
    day = picked if isinstance(picked, date) else today
    person = _visitor(service)
    batches = [card.batch for card in service.batches(person, day) if card.complete]
    if not batches:
        st.caption(f"No batch of {day} has results.")
        return
    batch = st.selectbox("Batch", batches, format_func=lambda batch: batch.name)
    results = service.results(person, batch)
    work, all_items = results.work, results.items()
    _numbers(results.summary(all_items))
    _deliver(service, work, all_items)
    state = st.segmented_control(
        "Show", list(_STATES), default=State.WAITING, required=True, format_func=_STATES.__getitem__
    )
    items = [item for item in all_items if item.state is state]
    if not items:
        st.caption(
            "Nothing waits for review."
            if state is State.WAITING
            else f"No result is {_STATES[state].lower()}."
        )
        return
    if state is State.WAITING:
        _decide_all(service, work, items)
    _one_by_one(service, work, batch, items)


def _visitor(service: BatchService) -> Person:
    return user.visitor(service.settings, service.acts.authorization)


def _may(service: BatchService, right: Right) -> bool:
    return service.acts.authorization.may(_visitor(service), right)


def _numbers(summary: Summary) -> None:
    approved, rejected, waiting, cost = st.columns(4)
    approved.metric("Approved", f"{summary.approved:,}")
    rejected.metric("Rejected", f"{summary.rejected:,}")
    waiting.metric("Waiting", f"{summary.waiting:,}")
    cost.metric(
        "USD per approved photo",
        "–" if summary.cost_per_image is None else f"{summary.cost_per_image:.3f}",
        help=f"Cost of the whole batch: {summary.costs.in_words(4)}.",
    )


def _deliver(service: BatchService, work: BatchWork, items: Sequence[Item]) -> None:
    publish, pack = st.columns(2)
    if publish.button(
        "Publish approved photos",
        icon=":material/publish:",
        help="Copies the approved results, and only these, to published/ in the bucket.",
        disabled=not _may(service, Right.PUBLISH),
    ):
        done = service.acts.publish(_visitor(service), work, items)
        st.success(f"{counted(done.copied, 'result')} published, {done.kept:,} were published before.")
        if done.stale:
            st.warning(
                escape_markdown(
                    f"Not published, because they changed after their approval: {', '.join(done.stale[:10])}"
                )
            )
    if pack.button("Make a ZIP of approved photos", icon=":material/folder_zip:"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "approved.zip"
            if service.pack(work, items, file):
                with file.open("rb") as data:
                    name = archive_path(f"{work.locations.batch.name} approved.zip")
                    pack.download_button("Download the ZIP", data, name, "application/zip")
            else:
                pack.caption("No result is approved yet.")


def _version(items: Sequence[Item]) -> str:
    """Identifies the shown results in a button's key, so that a press only counts for what was on the screen.

    Without it, the second press of a double click, or a press just after a new version appeared, would decide about
    the next result.
    """
    shown = [(item.image, item.number, item.key, item.etag) for item in items]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def _decide_all(service: BatchService, work: BatchWork, items: Sequence[Item]) -> None:
    if not _may(service, Right.REVIEW):
        return
    with_result = [item for item in items if item.key]
    version = _version(with_result)
    with st.popover(f"All {len(with_result):,} that wait", icon=":material/done_all:"):
        st.caption("Decides about all of them at once, without showing each.")
        reason = st.text_input("Reason", key="reason-all")
        approve, reject = st.columns(2)
        if approve.button("Approve all", key=f"approve-all-{version}", disabled=not with_result):
            service.acts.decide(_visitor(service), work, with_result, State.APPROVED, reason=reason)
            st.rerun()
        if reject.button("Reject all", key=f"reject-all-{version}", disabled=not with_result):
            service.acts.decide(_visitor(service), work, with_result, State.REJECTED, reason=reason)
            st.rerun()


def _one_by_one(service: BatchService, work: BatchWork, batch: Batch, items: Sequence[Item]) -> None:
    """One result beside its photo.

    Keys: a approves, x rejects (r is Streamlit's own), the arrows show the next and the previous one.
    """
    state = st.session_state
    position_key = f"at-{batch.path}"
    position = min(state.get(position_key, 0), len(items) - 1)
    item = items[position]
    back, where, forward = st.columns([1, 2, 1], vertical_alignment="center")
    if back.button("Back", shortcut="Left", disabled=position == 0, icon=":material/arrow_back:"):
        state[position_key] = position - 1
        st.rerun()
    where.text(f"{position + 1} of {len(items):,}: {item.key.rpartition('/')[2] or item.image}")
    if forward.button(
        "Next", shortcut="Right", disabled=position + 1 >= len(items), icon=":material/arrow_forward:"
    ):
        state[position_key] = position + 1
        st.rerun()
    picture, facts = st.columns([3, 2])
    with picture:
        before, after = service.previews(work, item)
        if before and after:
            before_and_after(before, after, item.alt_text or item.image)
        elif before:
            st.image(before, alt=f"The photo {item.image}")
            st.caption("This photo has no result.")
        else:
            st.caption("The photo was deleted, or it cannot be opened.")
    with facts:
        _facts(item)
        _decide(service, work, item)


def _facts(item: Item) -> None:
    st.text(f"{item.status.value}. {item.why}")
    for name, text in (("Labels", item.labels), ("Caption", item.caption), ("Reference", item.ref)):
        if text:
            st.caption(name)
            st.text(text)


def _decide(service: BatchService, work: BatchWork, item: Item) -> None:
    may_decide = _may(service, Right.REVIEW)
    reason = st.text_input("Reason", key=f"reason-{item.image}-{item.number}", disabled=not may_decide)
    approve, reject = st.columns(2)
    version = _version([item])
    if approve.button(
        "Approve",
        key=f"approve-{version}",
        shortcut="a",
        type="primary",
        disabled=not (item.key and may_decide),
    ):
        service.acts.decide(_visitor(service), work, [item], State.APPROVED, reason=reason)
        st.rerun()
    if reject.button("Reject", key=f"reject-{version}", shortcut="x", disabled=not (item.key and may_decide)):
        service.acts.decide(_visitor(service), work, [item], State.REJECTED, reason=reason)
        st.rerun()
    if item.key:
        try:
            name = item.key.rpartition("/")[2]
            st.download_button("Download", lambda: service.download(work, item), name, key=f"load-{item.key}")
        except UsageError as error:
            st.text(str(error))
    if may_decide:
        with st.popover("Another picture", icon=":material/refresh:"):
            _redo(service, work, item)


def _redo(service: BatchService, work: BatchWork, item: Item) -> None:
    # The decision about a result names its new batch; for an image without a result the session remembers it.
    redone: dict[tuple[str, str, int], str] = st.session_state.setdefault("redone", {})
    key = work.locations.batch.path, item.image, item.number
    note = "Makes a new picture, which is paid for, as a new batch, and rejects this one."
    if earlier := redone.get(key) or (item.decision.redone_as if item.decision else ""):
        note = (
            f"Submitted again as batch {escape_markdown(earlier)}. "
            "Pressing the button before that batch has its report adds nothing."
        )
    st.caption(note)  # always one caption: a new line would move the button
    prompt = st.text_input("Another background", key=f"again-{item.image}-{item.number}")
    seed = st.number_input("Seed", 0, None, None, key=f"seed-{item.image}-{item.number}")
    if st.button("Make another picture", key=f"redo-{_version([item])}"):
        redone[key] = service.redo(_visitor(service), work, [item], prompt=prompt, seed=seed).path
        st.toast(f"Submitted as batch {escape_markdown(redone[key])}.")
        st.rerun()
