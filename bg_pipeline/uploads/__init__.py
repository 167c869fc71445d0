"""Uploads: listing them, noticing changes of them, and submitting new batches."""
