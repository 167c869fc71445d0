"""Reads the golden requests and answers of this folder."""

import json
from pathlib import Path
from typing import Any


def golden(name: str) -> Any:
    """The document of a file, named without its ``.json``."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8"))
