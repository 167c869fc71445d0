"""Text of other people in Streamlit's Markdown: names, causes and captions are shown as they are."""

import re

_MEANS_SOMETHING = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")


def plain(text: str) -> str:
    """The text with everything escaped that Markdown, or Streamlit's additions to it, would make something of."""
    return _MEANS_SOMETHING.sub(r"\\\1", text)
