"""The API does what its own OpenAPI document says, whatever it is sent."""

import subprocess
import sys
from pathlib import Path

import pytest

from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import served

LEFT_OUT = (
    # A name of the right form may still be no photo's, and what is asked in a request may not go together: which
    # of what fits the document is accepted is not for a schema to say.
    "positive_data_acceptance"
)


@pytest.mark.slow
def test_every_answer_is_as_described(bucket: str, control: ControlClient, tmp_path: Path) -> None:
    control.switch(canned=True)
    bench = Bench(Store(aws().s3(bucket), bucket))
    batch = bench.submit(2)
    bench.run()
    bench.put("inputs/cat.png", photo(1, format="PNG"))  # which the document's examples name
    config = tmp_path / "schemathesis.toml"
    with served(bench.settings(api_requests_per_minute=100_000), bench.store) as api:
        order = api.post("/photo-api", {"Key": "inputs/cat.png"}).json()["Id"]
        there = {"path.date": f"{batch.date}", "path.name": batch.name, "path.order": order}
        lines = (f'"{name}" = "{value}"' for name, value in there.items())
        config.write_text("\n".join(["[parameters]", *lines]))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                *("run", f"{api.address}/openapi.json", "--continue-on-failure"),
                *("--exclude-checks", LEFT_OUT, "--max-examples", "25", "--seed", "1", "--no-color"),
                *("--generation-database", "none"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
