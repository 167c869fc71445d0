"""Where photos are dropped: sent by the browser to `intake`, past Streamlit, which would hold all in memory."""

from collections.abc import Sequence
from importlib.resources import files

import streamlit as st

from bg_pipeline.web.page.upload_server import ADDRESS, UploadSession

_here = files(__package__)
_zone = st.components.v2.component(
    "bg_pipeline.drop",
    html=(_here / "drop.html").read_text(),
    css=(_here / "drop.css").read_text(),
    js=(_here / "drop.js").read_text(),
)


def upload_widget(lot: UploadSession, endings: Sequence[str]) -> tuple[bool, list[str]]:
    """The place to drop photos: whether some are on their way, and what was refused of those just sent."""
    found = _zone(
        key=f"drop-{lot.token[:8]}",
        data={
            "address": ADDRESS,
            "token": lot.token,
            "most": lot.most,
            "accept": ",".join(f".{ending}" for ending in endings),
        },
        default={"sending": False},
        on_sending_change=lambda: None,
        on_sent_change=lambda: None,
    )
    return bool(found.sending), [str(sentence) for sentence in (found.sent or {}).get("refused", ())]
