"""Numbers, lists and commands as a sentence has them."""

import shlex
from collections.abc import Sequence

from bg_pipeline.domain.s3_keys import Batch


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def run_command(batch: Batch) -> str:
    """The command that runs a batch, as a shell takes it whatever the batch is called."""
    return f"bg-pipeline run --batch {shlex.quote(batch.path)}"
