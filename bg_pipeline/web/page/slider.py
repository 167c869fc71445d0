"""Before and after in one frame, with a handle between them that a hand, a mouse or the arrow keys move."""

import base64
import html
from io import BytesIO

import streamlit as st
from PIL import Image

_PAGE = """
<style>
  body {{ margin: 0; font: 14px sans-serif; }}
  .pair {{ position: relative; width: min(100%, {width}px); }}
  .pair img {{ display: block; width: 100%; height: auto; }}
  .after {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)); }}
  .line {{ position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 2px; background: #fff;
           box-shadow: 0 0 3px #000; pointer-events: none; }}
  input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }}
  input:focus-visible ~ .line {{ width: 6px; background: #2563eb; }}
</style>
<main class="pair">
  <img src="data:image/jpeg;base64,{before}" alt="Before: {name}">
  <img class="after" src="data:image/jpeg;base64,{after}" alt="After: {name}">
  <input type="range" min="0" max="100" value="50" aria-label="How much of the photo before is seen, in percent"
         oninput="this.parentNode.style.setProperty('--at', this.value + '%')">
  <div class="line"></div>
</main>
"""


def before_and_after(before: bytes, after: bytes, name: str, *, width: int = 560) -> None:
    """Shows two JPEGs over each other; ``name`` is what their alternative texts say."""
    with Image.open(BytesIO(after)) as picture:
        height = width * picture.height // picture.width
    page = _PAGE.format(
        width=width,
        before=base64.b64encode(before).decode(),
        after=base64.b64encode(after).decode(),
        name=html.escape(name, quote=True),
    )
    st.iframe(page, height=height)
