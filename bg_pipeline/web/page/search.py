"""The screen that finds photos by what their captions and labels say."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.reports.captions import CaptionIndex, index_file
from bg_pipeline.web.page.service import PageService

MOST = 200
DAYS = 30


def show(desk: PageService) -> None:
    """The screen; no model is called."""
    st.title("Search")
    today = datetime.now(UTC).date()
    words = st.text_input("What captions, alternative texts and labels say", placeholder="red bus")
    # With a key the dates that a person chose stay when midnight changes the default.
    chosen = st.date_input("Uploaded (UTC)", (today - timedelta(DAYS), today), key="search-dates")
    if not isinstance(chosen, tuple) or len(chosen) != 2:
        st.caption("Choose the first and the last date.")
        return
    if not words.strip():
        return
    first, last = chosen
    dates: list[UploadDate] = [first + timedelta(days) for days in range((last - first).days + 1)]
    index = CaptionIndex(index_file(desk.settings))
    index.update(desk.store, desk.settings, dates, ())
    found = list(index.search(words, first=first, last=last, only=(), limit=MOST))
    if not found:
        st.caption("Nothing was found.")
        return
    st.dataframe(
        [
            {
                "Image": each.ImageName,
                "Batch": each.Batch,
                "Alternative text": each.AltText or each.Caption,
                "Labels": each.Labels,
            }
            for each in found
        ],
        hide_index=True,
    )
