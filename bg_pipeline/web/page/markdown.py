"""Text of other people in Streamlit's Markdown: names, causes and captions are shown as they are."""

import re

from bg_pipeline.domain.text import printable

_MEANS_SOMETHING = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])")


def escape_markdown(text: str) -> str:
    """The text as one paragraph, with everything escaped that Markdown, or Streamlit's additions to it, know."""
    return _MEANS_SOMETHING.sub(r"\\\1", printable(" ".join(text.split())))
