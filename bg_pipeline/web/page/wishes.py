"""What a visitor wants of a new batch, kept with the draft: no change of screen, task or browser loses it.

Streamlit forgets a widget's value once the widget is not shown. Here the value is in the draft's document, in which
anybody with the right to upload can write: a value that a widget cannot have counts as absent.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import streamlit as st

from bg_pipeline.domain.requests import MAX_SEED
from bg_pipeline.web.page.drafts import LabelsFound
from bg_pipeline.web.page.upload_server import UploadSession

T = TypeVar("T")

_CARD_FIELDS = ("Labels", "MaskKey", "Subject")
"""Request fields that a photo's card has."""
FIELDS, PHOTOS, TABLE, LABELS, BACKDROP = "Fields", "Photos", "Table", "Labels", "Backdrop"


class Wishes:
    """The wishes of one upload session; `keep` stores them with its draft."""

    def __init__(self, session: UploadSession) -> None:
        self._session = session
        self._fields = self._mapping(FIELDS)

    def _mapping(self, name: str) -> dict[str, Any]:
        value = self._session.wishes.get(name)
        if not isinstance(value, dict):
            value = self._session.wishes[name] = {}
        return value

    def key(self, name: str, default: object, valid: Callable[[Any], bool]) -> str:
        """The key of the widget for a wish, whose state is set to the kept value where Streamlit forgot it."""
        key = f"wish-{name}-{self._session.token[:8]}"
        if key not in st.session_state:
            kept = self._fields.get(name, default)
            st.session_state[key] = kept if kept == default or valid(kept) else default
        return key

    def set(self, name: str, value: T) -> T:
        """Remembers a widget's value, which is returned."""
        self._fields[name] = value
        return value

    @property
    def photo_fields(self) -> dict[str, dict[str, Any]]:
        """The request fields of single photos, by photo; changes are kept."""
        fields = self._mapping(PHOTOS)
        for name in [name for name, value in fields.items() if not _is_photo_fields(value)]:
            del fields[name]
        return fields

    @property
    def table(self) -> Mapping[str, Mapping[str, Any]]:
        """What was entered in the table of single photos."""
        return {
            name: {field: value for field, value in row.items() if _is_cell(field, value)}
            for name, row in self._mapping(TABLE).items()
            if isinstance(row, dict)
        }

    @table.setter
    def table(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._session.wishes[TABLE] = {
            name: filled
            for name, row in values.items()
            if (
                filled := {
                    field: int(value) if field in ("Variants", "Seed") else str(value)
                    for field, value in row.items()
                    if value not in (None, "")
                }
            )
        }

    def labels(self) -> dict[str, LabelsFound]:
        """The labels that were found before the draft was reopened."""
        return {
            name: LabelsFound(tuple(map(str, found[0])), tuple(map(str, found[1])))
            for name, found in self._mapping(LABELS).items()
            if isinstance(found, list) and len(found) == 2 and all(isinstance(part, list) for part in found)
        }

    def set_labels(self, labels: Mapping[str, LabelsFound]) -> None:
        self._session.wishes[LABELS] = {
            name: [list(found.usable), list(found.others)]
            for name, found in labels.items()
            if not found.problem
        }

    @property
    def backdrop(self) -> str:
        """The key of the stored picture to put behind the subjects; empty if there is none."""
        key = self._session.wishes.get(BACKDROP, "")
        return key if isinstance(key, str) else ""

    @backdrop.setter
    def backdrop(self, key: str) -> None:
        self._session.wishes[BACKDROP] = key

    def keep(self) -> None:
        self._session.keep_wishes()


def _is_cell(field: str, value: object) -> bool:
    return whole(0, MAX_SEED)(value) if field in ("Variants", "Seed") else isinstance(value, str)


def _is_photo_fields(value: object) -> bool:
    return isinstance(value, dict) and all(
        name in _CARD_FIELDS and isinstance(text, str) for name, text in value.items()
    )


def text(value: object) -> bool:
    return isinstance(value, str)


def is_colour(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


def one_of(*options: str) -> Callable[[object], bool]:
    return lambda value: value in options


def some_of(options: Mapping[str, object] | list[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(each in options for each in value)


def whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def amount(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0.01 <= value < 1e9


def flag(value: object) -> bool:
    return isinstance(value, bool)
