"""Clients of AWS services and what they have in common."""
