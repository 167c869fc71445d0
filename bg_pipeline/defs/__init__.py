"""Dagster's part: assets, checks, jobs, sensors, schedules; beside definitions.py nothing else imports Dagster."""
