"""Parts that several screens use: escaped text, the place to drop photos, and the slider between before and after."""

import base64
import html
import re
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO

import streamlit as st
from PIL import Image

from bg_pipeline.domain.text import printable
from bg_pipeline.web.page.content_policy import SLIDER_SCRIPT
from bg_pipeline.web.page.upload_server import ADDRESS, UploadSession

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")

_package = files(__package__)
_drop_zone = st.components.v2.component(
    "bg_pipeline.drop",
    html=(_package / "drop.html").read_text(),
    css=(_package / "drop.css").read_text(),
    js=(_package / "drop.js").read_text(),
)

_SLIDER = """
<style>
  body {{ margin: 0; font: 14px sans-serif; }}
  .slider {{ position: relative; width: min(100%, {width}px); }}
  .slider img {{ display: block; width: 100%; height: auto; }}
  .after {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)); }}
  .handle {{ position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 2px; background: #fff;
           box-shadow: 0 0 3px #000; pointer-events: none; }}
  input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }}
  input:focus-visible ~ .handle {{ width: 6px; background: #2563eb; }}
</style>
<main class="slider">
  <img src="data:image/jpeg;base64,{before}" alt="Before: {name}">
  <img class="after" src="data:image/jpeg;base64,{after}" alt="After: {name}">
  <input type="range" min="0" max="100" value="50"
         aria-label="Part of the original photo that is visible, in percent">
  <div class="handle"></div>
</main>
<script>{script}</script>
"""


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
        },
        default={"sending": False},
        on_sending_change=lambda: None,
        on_sent_change=lambda: None,
    )
    return bool(result.sending), [str(sentence) for sentence in (result.sent or {}).get("refused", ())]


def before_and_after(before: bytes, after: bytes, name: str, *, width: int = 560) -> None:
    """Shows two JPEGs over each other, with a handle that a finger, the mouse or the arrow keys move.

    ``name`` is part of their alternative texts; ``width`` is in pixels.
    """
    with Image.open(BytesIO(after)) as picture:
        height = width * picture.height // picture.width
    page = _SLIDER.format(
        width=width,
        before=base64.b64encode(before).decode(),
        after=base64.b64encode(after).decode(),
        name=html.escape(name, quote=True),
        script=SLIDER_SCRIPT,
    )
    st.iframe(page, height=height)
