"""The screen *New batch*: photos are dropped, a background is described, and the cost is shown before it is paid."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.model_facts import as_of
from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import BLUR, MAX_SEED
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.planning import Plan
from bg_pipeline.uploads.submitting import Upload
from bg_pipeline.web.page import photo_settings
from bg_pipeline.web.page.drafts import DraftPhoto, DraftService, LabelsFound, user_error
from bg_pipeline.web.page.upload_server import UploadSession, sessions
from bg_pipeline.web.page.widgets import escape_markdown, upload_widget

CARDS_PER_PAGE = 12

_EXTENSIONS = sorted({extension for extensions in EXTENSIONS.values() for extension in extensions})
_SCENE = "One scene for all"

_SUBJECTS = {
    "LABELS": "What the labels name",
    "SALIENT": "What stands out",
    "FACES": "People, by their faces",
}


def show(service: DraftService) -> None:
    """The screen."""
    st.title("New backgrounds for photos")
    state = st.session_state
    if batch := state.pop("submitted", None):
        st.success(f"Batch {batch} is submitted. Follow it on the screen *Batches*.")
    session: UploadSession = state.session if "session" in state else sessions.open(service)
    state.session = session
    sending, refused = upload_widget(session, _EXTENSIONS)
    for sentence in refused:
        st.warning(escape_markdown(sentence))
    photos = session.photos
    if sending:
        st.caption("The photos are being uploaded.")
        return
    if not photos:
        st.caption("Nothing is paid before you press *Submit*. The plan with its cost is shown first.")
        return
    _labels(service, session, photos)
    photo_fields = _cards(service, session, photos)
    fields = _fields(service, session)
    for name, table_fields in photo_settings.settings_of(list(photos)).items():
        # What was entered on the photo's card overrides the table.
        photo_fields[name] = {**table_fields, **photo_fields.get(name, {})}
    manifest = st.file_uploader(
        "A table with one photo per row, instead of the settings of single photos (CSV)",
        type="csv",
        help="Columns: source (a dropped photo's name), ref, prompt, labels, preset, variants, seed …",
    )
    _plan_and_submit(
        service, session, photos, fields, photo_fields, manifest.getvalue() if manifest else None
    )


def resume(service: DraftService, draft: Batch) -> None:
    """Opens a stored draft on this screen; `UsageError` if it is not a draft any more.

    What the visitor was preparing before stays in storage as a draft.
    """
    session = sessions.open(service, draft)
    _clear_session_state()
    st.session_state.session = session


def _clear_session_state() -> None:
    for name in ("session", "labels", "photo_fields", "stored_files", *photo_settings.SESSION_KEYS):
        st.session_state.pop(name, None)


def _labels(service: DraftService, session: UploadSession, photos: Mapping[str, DraftPhoto]) -> None:
    labels: dict[str, LabelsFound] = st.session_state.setdefault("labels", {})
    missing = [name for name in photos if name not in labels]
    price = service.price_of_labels
    cost = "an unknown price" if price is None else f"at most {price * len(missing):.3f} USD"
    if missing and st.button(
        f"Find what is in {len(missing)} photos",
        icon=":material/label:",
        help=f"Amazon Rekognition looks at each photo once, for {cost}. The run uses the same labels.",
    ):
        bar = st.progress(0.0, "Looking at the photos")
        labels |= service.labels(
            session.batch,
            missing,
            lambda number: bar.progress(number / len(missing), f"{number} of {len(missing)}"),
        )
        st.rerun()
    for name, result in labels.items():
        if result.problem and name in photos:
            st.warning(escape_markdown(f"{name}: {result.problem}"))


def _cards(
    service: DraftService, session: UploadSession, photos: Mapping[str, DraftPhoto]
) -> dict[str, dict[str, Any]]:
    """One page of photos with their settings; returns the request fields that single photos have."""
    photo_fields: dict[str, dict[str, Any]] = st.session_state.setdefault("photo_fields", {})
    pages = -(-len(photos) // CARDS_PER_PAGE)
    page = 1
    if pages > 1:
        page = st.pagination(pages)
    st.subheader(f"{len(photos)} photos")
    names = list(photos)[(page - 1) * CARDS_PER_PAGE : page * CARDS_PER_PAGE]
    columns = st.columns(3)
    for number, name in enumerate(names):
        with columns[number % len(columns)].container(border=True):
            _card(service, session, photos[name], photo_fields)
    return {name: fields for name, fields in photo_fields.items() if name in photos and fields}


def _card(
    service: DraftService,
    session: UploadSession,
    photo: DraftPhoto,
    photo_fields: dict[str, dict[str, Any]],
) -> None:
    state, name = st.session_state, photo.name
    key = hashlib.sha256(f"{session.batch.path} {name}".encode()).hexdigest()[:12]
    labels: LabelsFound = state.labels.get(name, LabelsFound())
    if photo.small:
        st.image(photo.small, alt=f"The photo {name}")
    else:
        st.warning("This file cannot be opened as a photo. It costs nothing, and the report will say why.")
    st.text(name)
    fields = dict(photo_fields.get(name, {}))
    entered = [label.strip() for label in fields.get("Labels", "").split(",") if label.strip()]
    kept = st.multiselect(
        "What to keep",
        dict.fromkeys([*labels.usable, *labels.others, *entered]),
        default=entered if "Labels" in fields else list(labels.usable),
        key=f"labels-{key}-{len(labels.usable)}",
        accept_new_options=True,
        placeholder="Everything that stands out, or type a word",
    )
    with st.expander("Mask or remove"):
        # Each new uploader needs a new key: under the old one Streamlit would still show the previous mask.
        if "MaskKey" in fields:
            st.caption("A mask decides what is kept of this photo.")
            if st.button("Remove the mask", key=f"unmask-{key}"):
                photo_fields[name] = {
                    field: fields[field] for field in fields if field not in ("Subject", "MaskKey")
                }
                state[f"masks-{key}"] = state.get(f"masks-{key}", 0) + 1
                st.rerun()
        elif mask := st.file_uploader(
            "Mask: black is kept", type=_EXTENSIONS, key=f"mask-{key}-{state.get(f'masks-{key}', 0)}"
        ):
            try:
                fields["MaskKey"] = _store_once(mask, lambda data: service.mask(session.batch, name, data))
                fields["Subject"] = "MASK"
                photo_fields[name] = fields
                st.rerun()
            except UsageError as error:
                st.error(escape_markdown(str(error)))
        if st.button("Remove the photo", key=f"remove-{key}", icon=":material/delete:"):
            session.remove(name)
            st.rerun()
    photo_fields[name] = with_labels(fields, kept, offered=labels.usable)


def with_labels(fields: Mapping[str, str], kept: Sequence[str], *, offered: Sequence[str]) -> dict[str, str]:
    """A photo's request fields with the labels ``kept``.

    If all ``offered`` labels were removed, ``Labels`` is empty, which keeps everything that stands out. If no labels
    were offered or entered, ``Labels`` is left out.
    """
    filled = {field: text for field, text in fields.items() if text.strip() or field == "Labels"}
    return {**filled, "Labels": ", ".join(kept)} if kept or offered or "Labels" in fields else filled


def _store_once(file: UploadedFile, store: Callable[[bytes], str]) -> str:
    """The key of an uploaded file, which is stored the first time only: Streamlit runs this with every click."""
    keys: dict[str, str] = st.session_state.setdefault("stored_files", {})
    if file.file_id not in keys:
        keys[file.file_id] = store(file.getvalue())
    return keys[file.file_id]


def _fields(service: DraftService, session: UploadSession) -> dict[str, Any]:
    """The request fields for all photos."""
    st.subheader("The background")
    task = st.segmented_control(
        "Task",
        ("REPLACE", "REMOVE"),
        default="REPLACE",
        required=True,
        format_func={"REPLACE": "A new background", "REMOVE": "No background (transparent)"}.__getitem__,
    )
    fields: dict[str, Any] = {"Task": task}
    if task == "REPLACE":
        kind = st.segmented_control(
            "Background",
            ("Described", _SCENE, "A colour", "A picture", "The photo's own, blurred"),
            default="Described",
            required=True,
        )
        if kind == _SCENE:
            fields["Scene"] = st.text_input(
                "Describe the scene",
                placeholder="a sunlit oak table",
                help="It is painted once for each of at most three aspects, and all photos are put into it.",
            )
        elif kind == "A colour":
            fields["Backdrop"] = st.color_picker("Colour", "#ffffff")
        elif kind == "A picture":
            fields["Backdrop"] = _backdrop(service, session)
        elif kind == "The photo's own, blurred":
            fields["Backdrop"] = BLUR
        if kind == _SCENE:
            fields["Shadow"] = "soft" if st.toggle("Shadows", value=True) else "none"
        elif kind != "Described":
            fields["Shadow"] = "soft" if st.toggle("A soft shadow under the subject") else "none"
        else:
            prompts = st.text_area(
                "Describe the background, one per line",
                placeholder="london city background",
                help="Each line makes one picture of every photo. "
                "{caption}, {labels}, {name} and {ref} are filled in.",
            )
            fields["Prompts"] = tuple(line.strip() for line in prompts.splitlines() if line.strip())
            fields["NegativePrompt"] = st.text_input("What it must not show", placeholder="low quality, text")
    with st.expander("More settings"):
        left, right = st.columns(2)
        with left:
            fields["Subject"] = st.selectbox(
                "What is the subject?", _SUBJECTS, format_func=_SUBJECTS.__getitem__
            )
            fields["Variants"] = st.number_input("Pictures for each background", 1, 5, 1)
            fields["Mode"] = st.segmented_control(
                "Edge",
                ("PRECISE", "DEFAULT"),
                default="PRECISE",
                required=True,
                format_func={"PRECISE": "Exactly the photo's pixels", "DEFAULT": "May blend in"}.__getitem__,
            )
            presets = st.multiselect(
                "Files for", sorted(PRESETS), help="All files are made from one paid picture."
            )
            fields["Renditions"] = tuple({"Preset": preset} for preset in presets)
        with right:
            fields["Seed"] = st.number_input(
                "Seed", 0, MAX_SEED, None, help="The same seed makes the same picture."
            )
            fields["Sample"] = st.number_input(
                "Number of photos to run first",
                1,
                None,
                None,
                help="The others wait until somebody approves these on the screen Batches.",
            )
            fields["MaxCostUSD"] = st.number_input("Spend at most (USD)", 0.01, None, None)
            fields["Quality"] = st.selectbox("Quality", ("premium", "standard"))
    return {name: value for name, value in fields.items() if value not in (None, "", ())}


def _backdrop(service: DraftService, session: UploadSession) -> str | None:
    picture = st.file_uploader("The picture behind the subjects", type=_EXTENSIONS, key="backdrop")
    if picture is None:
        st.info("Choose the picture to put behind every subject. No model paints it.")
        return None
    try:
        key = _store_once(picture, lambda data: service.backdrop(session.batch, data))
    except UsageError as error:
        st.error(escape_markdown(str(error)))
        return None
    st.image(service.thumbnail(picture.getvalue()), alt="The picture behind the subjects")
    return key


def _plan_and_submit(
    service: DraftService,
    session: UploadSession,
    photos: Mapping[str, DraftPhoto],
    fields: Mapping[str, Any],
    photo_fields: Mapping[str, Mapping[str, Any]],
    manifest: bytes | None,
) -> None:
    """The plan, and the button that submits exactly the planned request."""
    batch = session.batch
    names = list(photos)
    try:
        if manifest is None:
            data, request = service.request(batch, names, fields, photo_fields)
            files: Mapping[str, Upload] = {}
        else:
            resolved = service.from_manifest(batch, manifest, names, fields)
            data, request, files = resolved.data, resolved.request, resolved.files(service.store, batch)
            for warning in service.warnings(manifest)[:10]:
                st.caption(escape_markdown(warning))
    except RequestError as error:
        for sentence in user_error(error):
            st.info(escape_markdown(sentence))
        return
    plan, reasons = service.plan(batch, request, files)
    st.subheader("Time and cost")
    _plan(plan, service.settings.max_cost_usd)
    for reason in reasons:
        st.warning(escape_markdown(reason))
    if st.button("Submit", type="primary", icon=":material/send:", disabled=plan.due == 0):
        service.submit(batch, data, files)
        sessions.close(session)
        _clear_session_state()
        st.session_state.submitted = batch.path
        st.rerun()


def _plan(plan: Plan, cap: float) -> None:
    calls, time, cost = st.columns(3)
    calls.metric("Calls", f"{sum(line.calls for line in plan.lines):,}")
    time.metric(
        "Minutes", f"{plan.minutes:,.1f}", help=f"At the quota; {plan.minutes_at_worst:,.1f} at worst."
    )
    worst = "unknown" if plan.worst_usd is None else f"{plan.worst_usd:,.2f}"
    cost.metric("USD at worst", worst, help=f"If every call is repeated; prices as of {as_of()}.")
    if plan.scene_prices:
        st.info(plan.scene_prices)
    if plan.without_prompt:
        st.warning(f"{plan.without_prompt:,} photos have no background and would be skipped.")
    if cap and (plan.worst_usd is None or plan.worst_usd > cap):
        st.warning(f"A run stops when it has spent {cap:,.2f} USD (BG_MAX_COST_USD).")
    with st.expander("Details of the calls"):
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
