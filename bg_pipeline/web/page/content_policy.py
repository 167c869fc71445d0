"""The Content-Security-Policy of the page: scripts, styles, pictures and calls of its own server only."""

import base64
import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def page_policy() -> str:
    """The policy of every answer of the page.

    Streamlit inserts style elements and styles of elements (``unsafe-inline``), and loads scripts of components from
    blobs that it makes itself. Scripts inside its ``index.html`` are allowed by their hashes.
    """
    scripts = " ".join(f"'{_sha256(script)}'" for script in _streamlits_inline_scripts())
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' blob: {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def _streamlits_inline_scripts() -> list[str]:
    """The scripts inside the ``index.html`` of the Streamlit that is installed."""
    spec = find_spec("streamlit")
    if spec is None or spec.origin is None:
        return []
    index = Path(spec.origin).with_name("static") / "index.html"
    return _INLINE_SCRIPT.findall(index.read_text(encoding="utf-8")) if index.is_file() else []


def _sha256(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
