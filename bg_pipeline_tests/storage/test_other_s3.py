"""The pipeline on another S3 emulator, so that it does not depend on one of them."""

import boto3
import pytest

from bg_pipeline.domain.rows import Status
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_pipeline_runs_against_motos_s3_with_the_stand_ins_models(
    moto_s3: str, control: ControlClient
) -> None:
    control.switch(canned=True)
    client = boto3.client("s3", endpoint_url=moto_s3)
    client.create_bucket(Bucket="elsewhere")
    bench = Bench(Store(client, "elsewhere"))
    batch = bench.submit(3)
    assert bench.run().counts == {Status.SUCCEEDED: 3}
    control.mark()
    assert bench.run().due == 0
    assert control.paid() == []
    assert len(bench.rows(batch)) == 3
