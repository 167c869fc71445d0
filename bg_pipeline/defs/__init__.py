"""Assets, checks, jobs, sensors and schedules. Only this package and definitions.py import Dagster."""
