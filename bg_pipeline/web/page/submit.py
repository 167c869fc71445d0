"""The screen *New batch*: photos are dropped, a background is described, and the cost is shown before it is paid."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.model_facts import as_of
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import BLUR, MAX_SEED
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.planning import Plan
from bg_pipeline.uploads.submitting import Upload
from bg_pipeline.web.page import photo_settings, user
from bg_pipeline.web.page.drafts import DraftPhoto, DraftService, LabelsFound, user_error
from bg_pipeline.web.page.upload_server import UploadSession, sessions
from bg_pipeline.web.page.widgets import escape_markdown, upload_widget
from bg_pipeline.web.page.wishes import Wishes, amount, flag, is_colour, one_of, some_of, text, whole

CARDS_PER_PAGE = 12

_EXTENSIONS = sorted({extension for extensions in EXTENSIONS.values() for extension in extensions})
_SCENE = "One scene for all"

_SUBJECTS = {
    "LABELS": "What the labels name",
    "SALIENT": "What stands out",
    "FACES": "People, by their faces",
}
_QUALITIES = ("premium", "standard")
_KINDS = ("Described", _SCENE, "A colour", "A picture", "The photo's own, blurred")
_STYLE = """
<style>
  @media (min-width: 641px) {
    [data-testid=stLayoutWrapper]:has(> .st-key-background) { position: sticky; top: 3.75rem; }
    .st-key-background { max-height: calc(100dvh - 4.5rem); overflow-y: auto; padding-right: 0.5rem;
      flex-wrap: nowrap; }
  }
  [data-testid=stLayoutWrapper]:has(> .st-key-submit) { position: sticky; bottom: 0; z-index: 3; }
  .st-key-submit { padding: 0.5rem 0 0.25rem; backdrop-filter: blur(16px); gap: 0.5rem; }
  @media (max-width: 640px) {
    [data-testid=stLayoutWrapper]:has(> .st-key-submit) { position: fixed; left: 0; right: 0; }
    .st-key-submit { padding: 0.5rem 1rem 0.75rem; border-top: 1px solid #8884; }
    .stMainBlockContainer { padding-bottom: 12rem !important; }
  }
</style>
"""


def show(service: DraftService) -> None:
    """The screen: what all photos have in common, with price and *Submit*, stays in sight beside the photos."""
    st.title("New backgrounds for photos", anchor=False)
    state = st.session_state
    if batch := state.pop("submitted", None):
        st.success(f"Batch {batch} is submitted. Follow it on the screen *Batches*.")
    person = _visitor(service)
    if not service.acts.authorization.may(person, Right.SUBMIT):
        st.info("You may look at batches, but submitting them needs the role submitter.")
        return
    if "session" in state and not state.session.renew(person):
        _clear_session_state()
    session: UploadSession = state.session if "session" in state else sessions.open(service, person)
    state.session = session
    wishes = Wishes(session)
    sending, refused = upload_widget(session, _EXTENSIONS)
    for sentence in refused:
        st.warning(escape_markdown(sentence))
    photos = session.photos
    if sending:
        st.caption("The photos are being uploaded.")
        return
    if not photos:
        st.caption(
            "Only *Submit* pays for pictures, and *Find what is in the photos* for labels; both say the price first."
        )
        return
    st.html(_STYLE)
    left, right = st.columns([2, 3], gap="medium")
    with left.container(key="background"):
        _name(session)
        fields = _fields(service, session, wishes)
        details, place = st.container(), st.container(key="submit")
    with right:
        _labels(service, session, wishes, photos)
        photo_fields = _cards(service, session, wishes, photos)
        for name, table_fields in photo_settings.settings_of(list(photos), wishes).items():
            # What was entered on the photo's card overrides the table.
            photo_fields[name] = {**table_fields, **photo_fields.get(name, {})}
        manifest = st.file_uploader(
            "A table with one photo per row, instead of the settings of single photos (CSV)",
            type="csv",
            help="Columns: source (a dropped photo's name), ref, prompt, labels, preset, variants, seed …",
        )
    wishes.keep()
    table = manifest.getvalue() if manifest else None
    with place:
        _plan_and_submit(service, session, photos, fields, photo_fields, table, details)


def _name(session: UploadSession) -> None:
    """The batch's name, if the visitor gives one: the same as `submit --name` takes."""
    name = st.text_input(
        "Name of the batch",
        placeholder=session.batch.name,
        key=f"name-{session.token[:8]}",
        help="It is part of all keys and files of the batch, and unique on its date. Without one it is named after "
        "the time.",
    )
    name = name.strip()
    if not name or name == session.batch.name:
        return
    try:
        with st.spinner("The photos move to the named batch"):
            session.rename(name)
    except UsageError as error:
        st.error(escape_markdown(str(error)))
        return
    # Masks and backdrops that were stored have other keys now.
    st.session_state.pop("stored_files", None)
    st.rerun()


def resume(service: DraftService, draft: Batch) -> None:
    """Opens a stored draft on this screen; `UsageError` if it is not a draft any more.

    What the visitor was preparing before stays in storage as a draft.
    """
    session = sessions.open(service, _visitor(service), draft)
    _clear_session_state()
    st.session_state.session = session


def _visitor(service: DraftService) -> Person:
    return user.visitor(service.settings, service.acts.authorization)


def _clear_session_state() -> None:
    for name in ("session", "labels", "stored_files", "submit_key", *photo_settings.SESSION_KEYS):
        st.session_state.pop(name, None)


def _labels(
    service: DraftService, session: UploadSession, wishes: Wishes, photos: Mapping[str, DraftPhoto]
) -> None:
    if "labels" not in st.session_state:
        st.session_state.labels = wishes.labels()
    labels: dict[str, LabelsFound] = st.session_state.labels
    missing = [name for name in photos if name not in labels]
    price = service.price_of_labels
    cost = "price unknown" if price is None else f"up to {price * len(missing):.3f} USD"
    if missing and st.button(
        f"Find what is in {counted(len(missing), 'photo')}: {cost}",
        icon=":material/label:",
        help="Amazon Rekognition looks at each photo once. The run uses these labels and does not pay again.",
    ):
        bar = st.progress(0.0, "Looking at the photos")
        labels |= service.labels(
            _visitor(service),
            session.batch,
            missing,
            lambda number: bar.progress(number / len(missing), f"{number} of {len(missing)}"),
        )
        wishes.set_labels(labels)
        wishes.keep()
        st.rerun()
    for name, result in labels.items():
        if result.problem and name in photos:
            st.warning(escape_markdown(f"{name}: {result.problem}"))


def _cards(
    service: DraftService, session: UploadSession, wishes: Wishes, photos: Mapping[str, DraftPhoto]
) -> dict[str, dict[str, Any]]:
    """One page of photos with their settings; returns the request fields that single photos have."""
    photo_fields = wishes.photo_fields
    pages = -(-len(photos) // CARDS_PER_PAGE)
    page = 1
    if pages > 1:
        page = st.pagination(pages)
    st.subheader(counted(len(photos), "photo"), anchor=False)
    names = list(photos)[(page - 1) * CARDS_PER_PAGE : page * CARDS_PER_PAGE]
    columns = st.columns(2)
    for number, name in enumerate(names):
        with columns[number % len(columns)].container(border=True):
            _card(service, session, photos[name], photo_fields)
    return {name: dict(fields) for name, fields in photo_fields.items() if name in photos and fields}


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
        st.image(photo.small, alt=f"The photo {name}", width="stretch")
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
    with st.expander("More for this photo"):
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
            "Use a mask: black is kept", type=_EXTENSIONS, key=f"mask-{key}-{state.get(f'masks-{key}', 0)}"
        ):
            try:
                fields["MaskKey"] = _store_once(mask, lambda data: service.mask(session.batch, name, data))
                fields["Subject"] = "MASK"
                photo_fields[name] = fields
                st.rerun()
            except UsageError as error:
                st.error(escape_markdown(str(error)))
        if st.button("Remove photo", key=f"remove-{key}", icon=":material/delete:"):
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


def _fields(service: DraftService, session: UploadSession, wishes: Wishes) -> dict[str, Any]:
    """The request fields for all photos."""
    st.subheader("The background", anchor=False)
    task = st.segmented_control(
        "Task",
        ("REPLACE", "REMOVE"),
        required=True,
        key=wishes.key("Task", "REPLACE", one_of("REPLACE", "REMOVE")),
        format_func={"REPLACE": "A new background", "REMOVE": "No background (transparent)"}.__getitem__,
    )
    fields: dict[str, Any] = {"Task": wishes.set("Task", task)}
    if task == "REPLACE":
        kind = st.segmented_control(
            "Background", _KINDS, required=True, key=wishes.key("Kind", _KINDS[0], one_of(*_KINDS))
        )
        wishes.set("Kind", kind)
        if kind == _SCENE:
            scene = st.text_input(
                "Describe the scene",
                placeholder="a sunlit oak table",
                help="It is painted once for each of at most three aspects, and all photos are put into it.",
                key=wishes.key("Scene", "", text),
            )
            fields["Scene"] = wishes.set("Scene", scene)
        elif kind == "A colour":
            colour = st.color_picker("Colour", key=wishes.key("Colour", "#ffffff", is_colour))
            fields["Backdrop"] = wishes.set("Colour", colour)
        elif kind == "A picture":
            fields["Backdrop"] = _backdrop(service, session, wishes)
        elif kind == "The photo's own, blurred":
            fields["Backdrop"] = BLUR
        if kind == _SCENE:
            shadow = st.toggle("Shadows", key=wishes.key("SceneShadow", True, flag))
            fields["Shadow"] = "soft" if wishes.set("SceneShadow", shadow) else "none"
        elif kind != "Described":
            shadow = st.toggle("A soft shadow under the subject", key=wishes.key("Shadow", False, flag))
            fields["Shadow"] = "soft" if wishes.set("Shadow", shadow) else "none"
        else:
            prompts = st.text_area(
                "Describe the background, one per line",
                placeholder="london city background",
                height=90,
                key=wishes.key("Prompts", "", text),
                help="Each line makes one picture of every photo. "
                "{caption}, {labels}, {name} and {ref} are filled in.",
            )
            lines = wishes.set("Prompts", prompts or "").splitlines()
            fields["Prompts"] = tuple(line.strip() for line in lines if line.strip())
            negative = st.text_input(
                "What it must not show",
                placeholder="low quality, text",
                key=wishes.key("NegativePrompt", "", text),
            )
            fields["NegativePrompt"] = wishes.set("NegativePrompt", negative)
    with st.expander("More settings"):
        fields |= _more_fields(wishes)
    return {name: value for name, value in fields.items() if value not in (None, "", ())}


def _more_fields(wishes: Wishes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    fields["Subject"] = st.selectbox(
        "What is the subject?",
        _SUBJECTS,
        format_func=_SUBJECTS.__getitem__,
        key=wishes.key("Subject", "LABELS", one_of(*_SUBJECTS)),
    )
    fields["Variants"] = st.number_input(
        "Pictures for each background", 1, 5, key=wishes.key("Variants", 1, whole(1, 5))
    )
    fields["Mode"] = st.segmented_control(
        "Edge",
        ("PRECISE", "DEFAULT"),
        required=True,
        key=wishes.key("Mode", "PRECISE", one_of("PRECISE", "DEFAULT")),
        format_func={"PRECISE": "Exactly the photo's pixels", "DEFAULT": "May blend in"}.__getitem__,
    )
    presets = st.multiselect(
        "Files for",
        sorted(PRESETS),
        key=wishes.key("Presets", [], some_of(PRESETS)),
        help="All files are made from one paid picture.",
    )
    fields["Seed"] = st.number_input(
        "Seed",
        0,
        MAX_SEED,
        None,
        key=wishes.key("Seed", None, whole(0, MAX_SEED)),
        help="The same seed makes the same picture.",
    )
    fields["Sample"] = st.number_input(
        "Number of photos to run first",
        1,
        None,
        None,
        key=wishes.key("Sample", None, whole(1, 1_000_000)),
        help="The others wait until somebody approves these on the screen Batches.",
    )
    fields["MaxCostUSD"] = st.number_input(
        "Spend at most (USD)", 0.01, None, None, key=wishes.key("MaxCostUSD", None, amount)
    )
    fields["Quality"] = st.selectbox(
        "Quality", _QUALITIES, key=wishes.key("Quality", "premium", one_of(*_QUALITIES))
    )
    for name, value in fields.items():
        wishes.set(name, value)
    wishes.set("Presets", list(presets))
    return {**fields, "Renditions": tuple({"Preset": preset} for preset in presets)}


def _backdrop(service: DraftService, session: UploadSession, wishes: Wishes) -> str | None:
    picture = st.file_uploader("The picture behind the subjects", type=_EXTENSIONS, key="backdrop")
    if picture is not None:
        try:
            wishes.backdrop = _store_once(picture, lambda data: service.backdrop(session.batch, data))
        except UsageError as error:
            st.error(escape_markdown(str(error)))
            return None
    data = service.backdrop_picture(session.batch, wishes.backdrop)
    if data is None:
        st.info("Choose the picture to put behind every subject. No model paints it.")
        return None
    st.image(data, alt="The picture behind the subjects", width="stretch")
    return wishes.backdrop


def _plan_and_submit(
    service: DraftService,
    session: UploadSession,
    photos: Mapping[str, DraftPhoto],
    fields: Mapping[str, Any],
    photo_fields: Mapping[str, Mapping[str, Any]],
    manifest: bytes | None,
    details: DeltaGenerator,
) -> None:
    """The plan, with its lines in ``details``, and the button that submits exactly the planned request."""
    batch, state = session.batch, st.session_state
    names = list(photos)
    try:
        if manifest is None:
            data, request = service.request(batch, names, fields, photo_fields)
            files: Mapping[str, Upload] = {}
        else:
            resolved = service.from_manifest(_visitor(service), batch, manifest, names, fields)
            data, request, files = resolved.data, resolved.request, resolved.files(service.store, batch)
            for warning in service.warnings(manifest)[:10]:
                st.caption(escape_markdown(warning))
    except RequestError as error:
        for sentence in user_error(error):
            st.info(escape_markdown(sentence))
        return
    plan, reasons = service.plan(batch, request, files)
    _plan(plan, service.settings.max_cost_usd)
    with details.expander("How the price comes about"):
        _plan_lines(plan)
    for reason in reasons:
        st.warning(escape_markdown(reason))
    # The key names what the plan is about: a press that arrives together with a change submits nothing.
    digest = hashlib.sha256(data + repr(sorted(names)).encode()).hexdigest()[:16]
    key, before = f"submit-{digest}", state.get("submit_key")
    state.submit_key = key
    if before is not None and before != key and state.get(before):
        st.warning("The plan changed with what you entered last. Look at it, then press *Submit* again.")
    if st.button("Submit", key=key, type="primary", icon=":material/send:", disabled=plan.due == 0):
        service.submit(_visitor(service), batch, data, files)
        sessions.close(session)
        _clear_session_state()
        state.submitted = batch.path
        st.rerun()


def _plan(plan: Plan, cap: float) -> None:
    worst = "an unknown price" if plan.worst_usd is None else f"{plan.worst_usd:,.2f} USD"
    st.markdown(
        f"**{counted(plan.due, 'photo')}: up to {worst}**, {minutes_in_words(plan.minutes)}".replace(
            "$", "\\$"
        )
    )
    if plan.scene_prices:
        st.info(plan.scene_prices)
    if plan.without_prompt:
        st.warning(f"{counted(plan.without_prompt, 'photo')} without a background would be skipped.")
    if cap and (plan.worst_usd is None or plan.worst_usd > cap):
        st.warning(f"A run stops when it has spent {cap:,.2f} USD (BG_MAX_COST_USD).")


def _plan_lines(plan: Plan) -> None:
    st.caption(
        f"At worst, if every call is repeated, and then {minutes_in_words(plan.minutes_at_worst)}; "
        f"prices as of {as_of()}."
    )
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


def minutes_in_words(minutes: float) -> str:
    """How long the calls take at the quota, in words."""
    if minutes < 1:
        return "under 1 min"
    return f"about {minutes:,.0f} min" if minutes < 90 else f"about {minutes / 60:,.1f} h"
