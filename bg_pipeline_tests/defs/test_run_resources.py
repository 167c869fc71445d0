"""A run's container is as large as its date's photos need, where runs have containers."""

import json
import os
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.defs.run_resources import ECS, KUBERNETES, cpu_and_memory, launcher_of, run_tags
from bg_pipeline.settings import settings
from bg_pipeline_tests.pictures import photo

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MB = 1_000_000
FARGATE = {1024: range(2048, 8193, 1024), 2048: range(4096, 16385, 1024), 4096: range(8192, 30721, 1024)}
"""What the ECS guide says that a task may have."""


def test_every_size_is_one_that_fargate_offers() -> None:
    names, sizes = ("a.jpg", "a.WEBP", "a.png", "a", "a.tiff"), (0, 1, 300_000, 5 * MB, 200 * MB)
    for workers in (0, 1, 4, 8, 64):
        chosen = settings(bucket="b", max_decoded_images=workers)
        for number, name, size in product((0, 1, 50, 51, 500), names, sizes):
            cpu, memory = cpu_and_memory([(name, size)] * number, chosen)
            assert memory in FARGATE[cpu], (workers, number, name, size)


def test_the_largest_photo_decides_and_not_the_sum() -> None:
    chosen = settings(bucket="b")
    small = cpu_and_memory([("a.jpg", MB)] * 40, chosen)
    large = cpu_and_memory([("a.jpg", MB)] * 39 + [("b.jpg", 30 * MB)], chosen)
    assert small == (1024, 2048)
    assert large[1] > small[1]
    assert large == cpu_and_memory([("b.jpg", 30 * MB)], chosen)


def test_a_container_holds_what_the_readme_says_of_the_largest_photos() -> None:
    """A WebP of 100 megapixels takes 3.4 GB for each worker."""
    for number in (1, 1000):
        cpu, memory = cpu_and_memory([("a.webp", 20 * MB)] * number, settings(bucket="b"))
        assert memory * 1.048 >= 1000 + cpu // 1024 * 3400
    _, eight = cpu_and_memory([("a.webp", 20 * MB)], settings(bucket="b", max_decoded_images=6))
    assert eight * 1.048 >= 1000 + 6 * 3400


def test_more_images_get_more_cpu() -> None:
    chosen = settings(bucket="b")
    assert cpu_and_memory([("a.jpg", MB)] * 50, chosen)[0] == 1024
    assert cpu_and_memory([("a.jpg", MB)] * 51, chosen)[0] == 2048


def test_each_launcher_gets_its_own_tags_and_others_none() -> None:
    chosen = settings(bucket="b")
    photos = [("a.jpg", MB)]
    assert run_tags(ECS, photos, chosen) == {"ecs/cpu": "1024", "ecs/memory": "2048"}
    config = json.loads(run_tags(KUBERNETES, photos, chosen)["dagster-k8s/config"])
    assert config["container_config"]["resources"] == {
        "requests": {"cpu": "1000m", "memory": "2048Mi"},
        "limits": {"memory": "2048Mi"},
    }
    assert run_tags("DefaultRunLauncher", photos, chosen) == {}
    assert run_tags("", photos, chosen) == {}


@pytest.mark.parametrize(("launcher", "expected"), [("", False), (ECS, True)])
@pytest.mark.dates
def test_the_sensor_asks_for_a_run_of_that_size_on_ecs_only(
    s3: "S3Client",
    bucket: str,
    tmp_path: Path,
    launcher: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The launcher is not created for that: the code server may not ask ECS for anything."""
    written = f"run_launcher: {{module: dagster_aws.ecs, class: {launcher}}}\n" if launcher else ""
    (tmp_path / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{written}")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    day = datetime.now(UTC).date()
    prefix = f"image-files/{day:%Y/%m/%d}/101530"
    s3.put_object(Bucket=bucket, Key=f"{prefix}/a.jpg", Body=photo())
    s3.put_object(Bucket=bucket, Key=f"{prefix}/request.json", Body=b'{"Id": "1", "Prompt": "a beach"}')
    made = definitions(settings(bucket=bucket))
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        assert launcher_of(instance) == (launcher or "DefaultRunLauncher")
        with dg.build_sensor_context(
            instance=instance, repository_def=made.get_repository_def(), resources=made.resources
        ) as context:
            sensor = made.get_repository_def().get_sensor_def("new_uploads")
            (request,) = sensor.evaluate_tick(context).run_requests or []
    assert ({"ecs/cpu": "1024", "ecs/memory": "2048"}.items() <= request.tags.items()) is expected
    assert any(name.startswith("ecs/") for name in request.tags) is expected
