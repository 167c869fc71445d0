"""The screen *Search*: finds photos by their captions and labels."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.reports.captions import CaptionIndex, index_file
from bg_pipeline.web.page.batches import BatchService

MAX_RESULTS = 200
DEFAULT_DAYS = 30


def show(service: BatchService) -> None:
    """The screen. It calls no model."""
    st.title("Search")
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
    images = list(index.search(words, first=first, last=last, only=(), limit=MAX_RESULTS))
    if not images:
        st.caption("No photo was found. Try fewer words or other dates.")
        return
    st.dataframe(
        [
            {
                "Image": image.ImageName,
                "Batch": image.Batch,
                "Alternative text": image.AltText or image.Caption,
                "Labels": image.Labels,
            }
            for image in images
        ],
        hide_index=True,
    )
