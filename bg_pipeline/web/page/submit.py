"""The screen where photos are dropped, a background is asked for, and its cost is seen before it is paid."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.model_facts import as_of
from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import MAX_SEED
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.planning import Plan
from bg_pipeline.web.page import photo_settings
from bg_pipeline.web.page.markdown import escape_markdown
from bg_pipeline.web.page.service import DraftPhoto, LabelsFound, PageService, user_error
from bg_pipeline.web.page.upload_server import UploadSession, lots
from bg_pipeline.web.page.upload_widget import upload_widget

CARDS = 12
"""Photos on one page of the list."""

_ENDINGS = sorted({ending for endings in EXTENSIONS.values() for ending in endings})
_SUBJECTS = {
    "LABELS": "What the labels name",
    "SALIENT": "What stands out",
    "FACES": "People, by their faces",
}


def show(desk: PageService) -> None:
    """The screen."""
    st.title("New backgrounds for photos")
    state = st.session_state
    if batch := state.pop("submitted", None):
        st.success(f"Batch {batch} is submitted. Its progress is on the screen *Batches*.")
    lot: UploadSession = state.lot if "lot" in state else lots.open(desk)
    state.lot = lot
    sending, refused = upload_widget(lot, _ENDINGS)
    for sentence in refused:
        st.warning(escape_markdown(sentence))
    photos = lot.photos
    if sending:
        st.caption("Photos are on their way to storage.")
        return
    if not photos:
        st.caption("Nothing is paid before you press *Submit*, and the plan with its cost is shown first.")
        return
    _labels(desk, photos)
    own = _cards(desk, photos)
    wishes = _wishes(desk)
    for name, fields in photo_settings.settings_of(list(photos)).items():
        # What was said on the photo's card is meant for it most of all.
        own[name] = {**fields, **own.get(name, {})}
    table = st.file_uploader(
        "A table with one photo a row, in place of the settings of single photos (CSV)",
        type="csv",
        help="Columns: source (a dropped photo's name), ref, prompt, labels, preset, variants, seed …",
    )
    _decide(desk, photos, wishes, own, table.getvalue() if table else None)


def go_on(desk: PageService, draft: Batch) -> None:
    """Goes on with a draft; raises `UsageError` if it is none by now. What was prepared before stays, as a draft."""
    lot = lots.open(desk, draft)
    _forget()
    st.session_state.lot = lot


def _forget() -> None:
    for name in ("lot", "seen", "own", "keys", *photo_settings.STATE):
        st.session_state.pop(name, None)


def _labels(desk: PageService, photos: Mapping[str, DraftPhoto]) -> None:
    state = st.session_state
    seen: dict[str, LabelsFound] = state.setdefault("seen", {})
    missing = [name for name in photos if name not in seen]
    price = desk.price_of_labels
    cost = "a price that is not known" if price is None else f"at most {price * len(missing):.3f} USD"
    if missing and st.button(
        f"Find what is in {len(missing)} photos",
        icon=":material/label:",
        help=f"Asks Rekognition once for each photo, for {cost}. The run uses the same answers.",
    ):
        bar = st.progress(0.0, "Looking at the photos")
        seen |= desk.labels(
            state.lot.batch,
            missing,
            lambda number: bar.progress(number / len(missing), f"{number} of {len(missing)}"),
        )
        st.rerun()
    for name, found in seen.items():
        if found.problem and name in photos:
            st.warning(escape_markdown(f"{name}: {found.problem}"))


def _cards(desk: PageService, photos: Mapping[str, DraftPhoto]) -> dict[str, dict[str, Any]]:
    """The photos, a page at a time; what is said of each alone."""
    state = st.session_state
    said: dict[str, dict[str, Any]] = state.setdefault("own", {})
    pages = -(-len(photos) // CARDS)
    page = 1
    if pages > 1:
        page = st.pagination(pages)
    st.subheader(f"{len(photos)} photos")
    names = list(photos)[(page - 1) * CARDS : page * CARDS]
    columns = st.columns(3)
    for number, name in enumerate(names):
        with columns[number % len(columns)].container(border=True):
            _card(desk, photos, name, said)
    return {name: each for name, each in said.items() if name in photos and each}


def _card(
    desk: PageService, photos: Mapping[str, DraftPhoto], name: str, said: dict[str, dict[str, Any]]
) -> None:
    state = st.session_state
    key = hashlib.sha256(f"{state.lot.batch.path} {name}".encode()).hexdigest()[:12]
    seen: LabelsFound = state.seen.get(name, LabelsFound())
    if photos[name].small:
        st.image(photos[name].small, alt=f"The photo {name}")
    else:
        st.warning("It cannot be opened as a photo. The report will say why, and it costs nothing.")
    st.text(name)
    own = dict(said.get(name, {}))
    before = [label.strip() for label in own.get("Labels", "").split(",") if label.strip()]
    kept = st.multiselect(
        "What is kept",
        dict.fromkeys([*seen.usable, *seen.others, *before]),
        default=before if "Labels" in own else list(seen.usable),
        key=f"labels-{key}-{len(seen.usable)}",
        accept_new_options=True,
        placeholder="Everything that stands out, or type a word",
    )
    with st.expander("A mask, or away with it"):
        # A key of its own for each mask: an emptied widget is what a card on another page of the list has, too.
        if "MaskKey" in own:
            st.caption("A mask says what is kept of it.")
            if st.button("Without the mask", key=f"unmask-{key}"):
                said[name] = {field: own[field] for field in own if field not in ("Subject", "MaskKey")}
                state[f"masks-{key}"] = state.get(f"masks-{key}", 0) + 1
                st.rerun()
        elif mask := st.file_uploader(
            "Mask: what is black is kept", type=_ENDINGS, key=f"mask-{key}-{state.get(f'masks-{key}', 0)}"
        ):
            try:
                own["MaskKey"] = _stored(mask, lambda data: desk.mask(state.lot.batch, name, data))
                own["Subject"] = "MASK"
                said[name] = own
                st.rerun()
            except UsageError as error:
                st.error(escape_markdown(str(error)))
        if st.button("Remove the photo", key=f"remove-{key}", icon=":material/delete:"):
            state.lot.take_away(name)
            st.rerun()
    said[name] = with_labels(own, kept, offered=seen.usable)


def with_labels(own: Mapping[str, str], kept: Sequence[str], *, offered: Sequence[str]) -> dict[str, str]:
    """What is said of one photo, with the labels that are ``kept`` in it.

    All of them taken away means everything that stands out. Where there were none, nothing is said of labels.
    """
    said = {field: text for field, text in own.items() if text.strip() or field == "Labels"}
    return {**said, "Labels": ", ".join(kept)} if kept or offered or "Labels" in own else said


def _stored(file: UploadedFile, store: Callable[[bytes], str]) -> str:
    """The key of an uploaded file, which is stored once and not with every press of a button."""
    keys: dict[str, str] = st.session_state.setdefault("keys", {})
    if file.file_id not in keys:
        keys[file.file_id] = store(file.getvalue())
    return keys[file.file_id]


def _wishes(desk: PageService) -> dict[str, Any]:
    """The request's fields for all photos."""
    st.subheader("The background")
    task = st.segmented_control(
        "Task",
        ("REPLACE", "REMOVE"),
        default="REPLACE",
        required=True,
        format_func={"REPLACE": "A new background", "REMOVE": "No background (transparent)"}.__getitem__,
    )
    wishes: dict[str, Any] = {"Task": task}
    if task == "REPLACE":
        kind = st.segmented_control(
            "Background", ("Described", "A colour", "A picture"), default="Described", required=True
        )
        if kind == "A colour":
            wishes["Backdrop"] = st.color_picker("Colour", "#ffffff")
        elif kind == "A picture":
            wishes["Backdrop"] = _backdrop(desk)
        if kind != "Described":
            wishes["Shadow"] = "soft" if st.toggle("A soft shadow under the subject") else "none"
        else:
            prompts = st.text_area(
                "Describe the background, one a line",
                placeholder="london city background",
                help="Each line makes a picture of every photo. {caption}, {labels}, {name} and {ref} are filled in.",
            )
            wishes["Prompts"] = tuple(line.strip() for line in prompts.splitlines() if line.strip())
            wishes["NegativePrompt"] = st.text_input(
                "What must not be in it", placeholder="low quality, text"
            )
    with st.expander("More settings"):
        left, right = st.columns(2)
        with left:
            wishes["Subject"] = st.selectbox(
                "What is the subject?", _SUBJECTS, format_func=_SUBJECTS.__getitem__
            )
            wishes["Variants"] = st.number_input("Pictures for each background", 1, 5, 1)
            wishes["Mode"] = st.segmented_control(
                "Edge",
                ("PRECISE", "DEFAULT"),
                default="PRECISE",
                required=True,
                format_func={"PRECISE": "Exactly the photo's pixels", "DEFAULT": "May blend in"}.__getitem__,
            )
            presets = st.multiselect("Files for", sorted(PRESETS), help="Made from one paid picture.")
            wishes["Renditions"] = tuple({"Preset": preset} for preset in presets)
        with right:
            wishes["Seed"] = st.number_input(
                "Seed", 0, MAX_SEED, None, help="The same seed, the same picture."
            )
            wishes["Sample"] = st.number_input(
                "Run only so many first",
                1,
                None,
                None,
                help="The rest waits until somebody approves these, under Batches.",
            )
            wishes["MaxCostUSD"] = st.number_input("Spend at most (USD)", 0.01, None, None)
            wishes["Quality"] = st.selectbox("Quality", ("premium", "standard"))
    return {name: value for name, value in wishes.items() if value not in (None, "", ())}


def _backdrop(desk: PageService) -> str | None:
    picture = st.file_uploader("The picture behind the subjects", type=_ENDINGS, key="backdrop")
    if picture is None:
        st.info("Choose the picture that is put behind every subject; no model is asked for it.")
        return None
    try:
        key = _stored(picture, lambda data: desk.backdrop(st.session_state.lot.batch, data))
    except UsageError as error:
        st.error(escape_markdown(str(error)))
        return None
    st.image(desk.thumbnail(picture.getvalue()), alt="The picture behind the subjects")
    return key


def _decide(
    desk: PageService,
    photos: Mapping[str, DraftPhoto],
    wishes: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    table: bytes | None,
) -> None:
    """The plan, and the button that submits exactly what was planned."""
    state = st.session_state
    batch: Batch = state.lot.batch
    names = list(photos)
    try:
        if table is None:
            data, request = desk.request(batch, names, wishes, own)
        else:
            data, request = desk.from_manifest(batch, table, names, wishes)
            for doubt in desk.warnings(table)[:10]:
                st.caption(escape_markdown(doubt))
    except RequestError as error:
        for sentence in user_error(error):
            st.info(escape_markdown(sentence))
        return
    plan, reasons = desk.plan(batch, request)
    st.subheader("What this takes")
    _plan(plan, desk.settings.max_cost_usd)
    for reason in reasons:
        st.warning(escape_markdown(reason))
    if st.button("Submit", type="primary", icon=":material/send:", disabled=plan.due == 0):
        desk.submit(batch, data)
        lots.close(state.lot)
        _forget()
        state.submitted = batch.path
        st.rerun()


def _plan(plan: Plan, cap: float) -> None:
    calls, time, cost = st.columns(3)
    calls.metric("Calls", f"{sum(line.calls for line in plan.lines):,}")
    time.metric("Minutes at the quota", f"{plan.minutes:,.1f}", help=f"{plan.minutes_at_worst:,.1f} at worst")
    worst = "unknown" if plan.worst_usd is None else f"{plan.worst_usd:,.2f}"
    cost.metric("USD at worst", worst, help=f"With every repetition; prices as of {as_of()}.")
    if plan.without_prompt:
        st.warning(f"{plan.without_prompt:,} photos have no background described and would be skipped.")
    if cap and (plan.worst_usd is None or plan.worst_usd > cap):
        st.warning(f"A run stops at {cap:,.2f} USD (BG_MAX_COST_USD).")
    with st.expander("Calls one by one"):
        st.table(
            {
                "Operation": [line.operation.name for line in plan.lines],
                "Model": [line.operation.invoke_id for line in plan.lines],
                "Calls": [line.calls for line in plan.lines],
                "At worst": [line.at_worst for line in plan.lines],
                "USD at worst": [
                    "unknown" if line.worst_usd is None else f"{line.worst_usd:,.3f}" for line in plan.lines
                ],
            }
        )
