"""Spending caps: reservations before each paid call, and the record of what was paid."""
