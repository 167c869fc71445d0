"""The HTTP API and the web page, for use without Dagster's UI."""
