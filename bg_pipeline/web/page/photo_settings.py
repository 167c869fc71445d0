"""The table of settings that single photos have of their own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import MAX_SEED

STATE = ("single_key", "single_base", "single")
"""What the table keeps in a visitor's session."""


def settings_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The request's fields that the table, once it was opened, says for each photo; an empty cell is as for all."""
    if st.toggle("Settings of single photos"):  # thousands of rows are not sent to who does not look at them
        _table(names)
    else:
        # Streamlit forgets what was typed into a table that is not shown: the next one begins from what was said.
        st.session_state.pop("single_key", None)
    said: Mapping[str, Mapping[str, Any]] = st.session_state.get("single", {})
    return {name: found for name in names if (found := fields_of(said.get(name, {})))}


def _table(names: Sequence[str]) -> None:
    state = st.session_state
    # Streamlit keeps what was typed by the row's number: with other photos it begins anew, from what was said.
    key = f"single-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
    if state.get("single_key") != key:
        said: Mapping[str, Mapping[str, Any]] = state.get("single", {})
        state.single_key = key
        state.single_base = [
            {"Photo": name, **{field: said.get(name, {}).get(field) for field in _columns()}}
            for name in names
        ]
    rows = st.data_editor(
        state.single_base,
        key=key,
        column_config={"Photo": st.column_config.TextColumn("Photo", pinned=True), **_columns()},
        disabled=("Photo",),
        hide_index=True,
        num_rows="fixed",
        placeholder="as for all",
    )
    state.single = {row["Photo"]: {field: row.get(field) for field in _columns()} for row in rows}


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Prompt": column.TextColumn("Background", width="large"),
        "NegativePrompt": column.TextColumn("Not in it"),
        "Ref": column.TextColumn("Your reference (SKU)"),
        "Variants": column.NumberColumn("Pictures", min_value=1, max_value=5, step=1),
        "Seed": column.NumberColumn("Seed", min_value=0, max_value=MAX_SEED, step=1),
        "Task": column.SelectboxColumn("Task", options=("REPLACE", "REMOVE")),
        "Subject": column.SelectboxColumn("Subject", options=("LABELS", "SALIENT", "FACES")),
        "Mode": column.SelectboxColumn("Edge", options=("PRECISE", "DEFAULT")),
        "Preset": column.SelectboxColumn("Files for", options=tuple(sorted(PRESETS))),
    }


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields that one row of the table says."""
    said = {field: value for field, value in row.items() if value not in (None, "")}
    fields: dict[str, Any] = {
        field: int(value) if field in ("Variants", "Seed") else value for field, value in said.items()
    }
    if preset := fields.pop("Preset", None):
        fields["Renditions"] = ({"Preset": preset},)
    return fields
