"""For those who do not open Dagster: the HTTP API and the page."""
