"""Notifications about finished batches and failed runs, by SNS and web hook."""
