"""The pipeline without Dagster: what the assets, the command line and other programs call."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable
from datetime import date

from bg_pipeline.aws import Aws
from bg_pipeline.errors import SettingsError
from bg_pipeline.flow import Day, Flow, Progress
from bg_pipeline.layout import Batch
from bg_pipeline.settings import Settings
from bg_pipeline.stages import STAGES
from bg_pipeline.store import Store
from bg_pipeline.tools import Tools


def make_aws(settings: Settings) -> Aws:
    """The clients for these settings; nothing is called yet."""
    return Aws(settings.regions, connections=max(10, settings.max_concurrency))


def open_bucket(settings: Settings, aws: Aws) -> Store:
    """The bucket of the settings; raises `SettingsError` if it is not named or cannot be reached."""
    if not settings.bucket:
        raise SettingsError("BG_BUCKET is not set: name the S3 bucket that holds the photos")
    return Store(aws.s3(settings.bucket), settings.bucket)


def run(
    settings: Settings,
    dates: Iterable[date],
    *,
    aws: Aws | None = None,
    store: Store | None = None,
    stages: Collection[str] = STAGES,
    again: Collection[str] = (),
    only: Collection[Batch] = (),
    run_id: str = "",
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[date, Day]:
    """Brings upload dates up to date: what is done stays, what is missing, failed or changed is done.

    ``stages`` are names of assets from `STAGES`; ``again`` those that are paid for anew; ``only`` limits the
    work to some batches. Errors of images are counted in the `Day`s and told in the reports. Raises
    `SettingsError` before anything is done.
    """
    aws = aws or make_aws(settings)
    store = store or open_bucket(settings, aws)
    stop = threading.Event()
    tools = Tools(settings, aws, store, stop=stop, note=note)
    try:
        flow = Flow(
            tools,
            run_id=run_id or str(uuid.uuid4()),
            stages=stages,
            again=again,
            only=only,
            progress=progress,
        )
        return flow.run(dates)
    finally:
        tools.close()
