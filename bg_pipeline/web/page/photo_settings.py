"""The table with settings of single photos."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import MAX_SEED
from bg_pipeline.web.page.wishes import Wishes

SESSION_KEYS = ("table_key", "table_rows")
"""Keys under which the table keeps its values in a visitor's session."""


def settings_of(names: Sequence[str], wishes: Wishes) -> dict[str, dict[str, Any]]:
    """The request fields that were entered in the table, by photo. An empty cell means the value for all photos."""
    if st.toggle(
        "Settings of single photos"
    ):  # off at first, since a table of thousands of rows is slow to send
        _table(names, wishes)
    else:
        # Streamlit forgets what was typed into a hidden table: the next one is filled from the session.
        st.session_state.pop("table_key", None)
    values = wishes.table
    return {name: fields for name in names if (fields := fields_of(values.get(name, {})))}


def _table(names: Sequence[str], wishes: Wishes) -> None:
    state = st.session_state
    # Streamlit stores edits by row number, so other photos need a new table, filled from the session.
    key = f"single-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
    if state.get("table_key") != key:
        values = wishes.table
        state.table_key = key
        state.table_rows = [
            {"Photo": name, **{field: values.get(name, {}).get(field) for field in _columns()}}
            for name in names
        ]
    rows = st.data_editor(
        state.table_rows,
        key=key,
        column_config={"Photo": st.column_config.TextColumn("Photo", pinned=True), **_columns()},
        disabled=("Photo",),
        hide_index=True,
        num_rows="fixed",
        placeholder="as for all",
    )
    entered = {row["Photo"]: {field: row.get(field) for field in _columns()} for row in rows}
    wishes.table = {**wishes.table, **entered}


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Prompt": column.TextColumn("Background", width="large"),
        "NegativePrompt": column.TextColumn("Must not show"),
        "Ref": column.TextColumn("Your reference (SKU)"),
        "Variants": column.NumberColumn("Pictures", min_value=1, max_value=5, step=1),
        "Seed": column.NumberColumn("Seed", min_value=0, max_value=MAX_SEED, step=1),
        "Task": column.SelectboxColumn("Task", options=("REPLACE", "REMOVE")),
        "Subject": column.SelectboxColumn("Subject", options=("LABELS", "SALIENT", "FACES")),
        "Mode": column.SelectboxColumn("Edge", options=("PRECISE", "DEFAULT")),
        "Preset": column.SelectboxColumn("Files for", options=tuple(sorted(PRESETS))),
    }


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The request fields of one row of the table; empty cells are left out."""
    filled = {field: value for field, value in row.items() if value not in (None, "")}
    fields: dict[str, Any] = {
        field: int(value) if field in ("Variants", "Seed") else value for field, value in filled.items()
    }
    if preset := fields.pop("Preset", None):
        fields["Renditions"] = ({"Preset": preset},)
    return fields
