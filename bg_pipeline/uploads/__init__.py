"""Uploads: found by listing or by events, and made by those who submit."""
