"""Parts of the screens: escaped text, the place to drop photos, and the grid for reviewing results."""

import re
from collections.abc import Sequence
from importlib.resources import files

import streamlit as st

from bg_pipeline.domain.text import printable
from bg_pipeline.masks.clicked_region import can_find_regions
from bg_pipeline.web.page import review_server
from bg_pipeline.web.page.review_server import ReviewSession
from bg_pipeline.web.page.upload_server import ADDRESS, UploadSession

FORMATS = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, GIF or BMP"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")

_package = files(__package__)
_drop_zone = st.components.v2.component(
    "bg_pipeline.drop",
    html=(_package / "drop.html").read_text(),
    css=(_package / "drop.css").read_text(),
    js=(_package / "drop.js").read_text(),
)

_review = st.components.v2.component(
    "bg_pipeline.review",
    html=(_package / "review.html").read_text(),
    css=(_package / "review.css").read_text(),
    js=(_package / "mask_editor.js").read_text() + (_package / "review.js").read_text(),
)


def escape_markdown(text: str) -> str:
    """The text as one paragraph in which Streamlit's Markdown formats nothing: for names, causes and captions."""
    return _MARKDOWN.sub(r"\\\1", printable(" ".join(text.split())))


def upload_widget(session: UploadSession, extensions: Sequence[str]) -> tuple[bool, list[str]]:
    """The place to drop photos; returns whether some are being sent, and the refusals of those just sent.

    The browser sends them to `upload_server`, since Streamlit would hold all of them in memory.
    """
    result = _drop_zone(
        key=f"drop-{session.token[:8]}",
        data={
            "address": ADDRESS,
            "token": session.token,
            "max_bytes": session.max_bytes,
            "accept": ",".join(f".{extension}" for extension in extensions),
            "limits": f"{FORMATS}; up to {session.max_bytes // 1_000_000} MB each.",
        },
        default={"sending": False},
        on_sending_change=lambda: None,
        on_sent_change=lambda: None,
    )
    return bool(result.sending), [str(sentence) for sentence in (result.sent or {}).get("refused", ())]


def review_widget(session: ReviewSession) -> None:
    """The grid of results, which asks `review_server` for lists and pictures and sends it decisions."""
    _review(
        key="review",
        data={
            "address": review_server.ADDRESS,
            "header": review_server.TOKEN,
            "token": session.token,
            "may": session.may(),
            "regions": can_find_regions(),
        },
    )
