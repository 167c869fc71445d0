"""The sensor that finds uploads and asks for runs."""

import time
from collections.abc import Callable
from datetime import UTC, date

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.changes import Memory, Run, Tick
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings

EVERY_SECONDS = 30
TICK_SECONDS = 40.0
"""What a tick takes for itself; the daemon kills it, and its cursor, at 60 s."""
