"""Calls of services as fast as the account's quotas allow, shared by all processes."""
