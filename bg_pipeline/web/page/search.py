"""The screen *Search*: finds photos by their captions and labels."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import streamlit as st

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import find_batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import counted
from bg_pipeline.reports.captions import CaptionedImage, CaptionIndex, index_file
from bg_pipeline.web.page import user
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.widgets import escape_markdown

MAX_RESULTS = 200
PER_PAGE = 24
COLUMNS = 4
MAX_FOUND = 100_000
"""Photos that are looked at for those of batches that the visitor may see, where these are not all."""
DEFAULT_DAYS = 30


def show(service: BatchService) -> None:
    """The screen. It calls no model."""
    st.title("Search", anchor=False)
    today = datetime.now(UTC).date()
    words = st.text_input("Words in captions, alternative texts or labels", placeholder="red bus")
    # The key keeps chosen dates when midnight changes the default.
    chosen = st.date_input("Uploaded (UTC)", (today - timedelta(DEFAULT_DAYS), today), key="search-dates")
    if not isinstance(chosen, tuple) or len(chosen) != 2:
        st.caption("Choose the first and the last date.")
        return
    if not words.strip():
        return
    first, last = chosen
    dates: list[UploadDate] = [first + timedelta(days) for days in range((last - first).days + 1)]
    index = CaptionIndex(index_file(service.settings))
    index.update(service.store, service.settings, dates, ())
    person = user.visitor(service.settings, service.acts.authorization)
    sees_all = service.acts.authorization.may(person, Right.SEE_ALL)
    limit = MAX_RESULTS if sees_all else MAX_FOUND
    found = index.search(words, first=first, last=last, only=(), limit=limit)
    images = found if sees_all else _visible(service, person, found)
    if not images:
        st.caption("No photo was found. Try fewer words or other dates.")
        return
    st.caption(
        f"{counted(len(images), 'photo')}" + (", the first ones" if len(images) == MAX_RESULTS else "")
    )
    page = st.pagination(-(-len(images) // PER_PAGE)) if len(images) > PER_PAGE else 1
    columns = st.columns(COLUMNS)
    for number, image in enumerate(images[(page - 1) * PER_PAGE : page * PER_PAGE]):
        with columns[number % COLUMNS].container(border=True):
            _tile(service, person, image)


def _visible(service: BatchService, person: Person, found: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """The first `MAX_RESULTS` of the images that are in batches which the visitor may see."""
    batches = {path: find_batch(path) for path in {image.Batch for image in found}}
    visible = service.acts.authorization.visible(person, filter(None, batches.values()))
    return [image for image in found if batches[image.Batch] in visible][:MAX_RESULTS]


def _tile(service: BatchService, person: Person, image: CaptionedImage) -> None:
    small = service.photo(person, image.Batch, image.ImageName, small=True)
    if small:
        st.image(small, alt=image.AltText or image.Caption or image.ImageName, width="stretch")
    st.text(image.ImageName)
    st.caption(escape_markdown(image.AltText or image.Caption or image.Labels))
    if st.button("Open", key=f"open-{image.Batch}/{image.ImageName}"):
        _open(service, image)


@st.dialog("Photo", width="large")
def _open(service: BatchService, image: CaptionedImage) -> None:
    person = user.visitor(service.settings, service.acts.authorization)
    large = service.photo(person, image.Batch, image.ImageName, small=False)
    if large:
        st.image(large, alt=image.AltText or image.Caption or image.ImageName, width="stretch")
    else:
        st.caption("The photo was deleted, or it cannot be opened.")
    for name, text in (
        ("Photo", image.ImageName),
        ("Batch", image.Batch),
        ("Alternative text", image.AltText),
        ("Caption", image.Caption),
        ("Labels", image.Labels),
    ):
        if text:
            st.caption(name)
            st.text(text)
