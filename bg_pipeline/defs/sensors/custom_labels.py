"""The sensor that stops a Custom Labels model that a dead run left on."""

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import RootModel, ValidationError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels.orphaned_models import ModelSighting, OrphanedModelCheck
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store

EVERY_SECONDS = 30


class ModelSightings(RootModel[dict[str, ModelSighting]]):
    """The sensor's cursor: the leases of models that it has seen, by key."""


def custom_labels_guard(settings: Settings) -> dg.SensorDefinition:
    """The sensor that stops a model that a run started and did not stop because it was killed.

    It is on by default. It stops only models whose start the pipeline recorded, not those that a person started. It
    exists also without ``BG_CUSTOM_LABELS_ARN``, for a model that was left on before the setting was removed.
    """

    @dg.sensor(
        name="custom_labels_guard",
        required_resource_keys={"bucket", "aws"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops a Custom Labels model that a dead run left on.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        store: Store = context.resources.bucket
        aws: Aws = context.resources.aws
        orphaned = OrphanedModelCheck(store, aws, _read_cursor(context.cursor))
        try:
            lines = orphaned.check()
        except (ClientError, BotoCoreError, BgPipelineError) as error:
            lines = [f"the next tick tries again: {error}"]
        for line in lines:
            context.log.warning(line)
        reason = "; ".join(lines) or "no Custom Labels model that this pipeline started is running"
        if not lines:
            context.log.info(reason)
        return dg.SensorResult(skip_reason=reason, cursor=ModelSightings(orphaned.seen).model_dump_json())

    return sensor


def _read_cursor(cursor: str | None) -> dict[str, ModelSighting]:
    try:
        return ModelSightings.model_validate_json(cursor or "{}").root
    except ValidationError:
        return {}
