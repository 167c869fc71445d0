"""Checks of upload dates after their runs; each result has a sentence on what to do."""
