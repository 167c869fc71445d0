"""The records of masks that people mended: which paid pictures a mended mask may be put on without a call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bg_pipeline.domain.batches import mending_key
from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class Mending:
    """``wish`` is the request fingerprint of the image that the mask was mended for.

    ``answers`` are the identities of the paid pictures to use again, by the position of the output from 1; empty if
    the pictures have to be painted anew around the mask.
    """

    wish: str
    answers: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store, mask_key: str) -> Self | None:
        """The record of a mended mask; None if there is none, or if it cannot be parsed."""
        key = mending_key(mask_key)
        document: Any = store.read_json(key) if key else None
        try:
            return cls(
                str(document["Wish"]),
                {int(position): str(name) for position, name in document["Answers"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, store: Store, mask_key: str) -> bool:
        """Stores the record of a mended mask once; False if there is another one, which stays."""
        key = mending_key(mask_key)
        if key is None:
            raise ValueError(f"not the key of a mended mask: {mask_key}")
        answers = {str(position): name for position, name in self.answers.items()}
        document = {"Version": 1, "Wish": self.wish, "Answers": answers}
        try:
            store.write_json(key, document, if_absent=True)
        except PreconditionFailed:
            return self.read(store, mask_key) == self
        return True
