"""The values for Dagster's chart: its names, the image's user and folders, and a launcher that is not installed."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from bg_pipeline.defs.run_resources import KUBERNETES, launcher_of, run_tags
from bg_pipeline.settings import settings

ROOT = Path(__file__).parents[2]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text("utf-8"))
CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")

CHART: dict[str, Any] = {
    "telemetry": {"enabled": {}},
    "dagster-user-deployments": {
        "serviceAccount": {"annotations": "free"},
        "deployments": {
            "name": {},
            "image": {"repository": {}, "tag": {}, "pullPolicy": {}},
            "dagsterApiGrpcArgs": {},
            "port": {},
            "includeConfigInLaunchedRuns": {"enabled": {}},
            "env": {"name": {}, "value": {}},
            "envSecrets": {"name": {}},
            "volumes": "free",
            "volumeMounts": "free",
            "podSecurityContext": "free",
            "securityContext": "free",
            "resources": "free",
        },
    },
    "runLauncher": {
        "type": {},
        "config": {
            "k8sRunLauncher": {
                "imagePullPolicy": {},
                "securityContext": "free",
                "runK8sConfig": {
                    "containerConfig": "free",
                    "podSpecConfig": "free",
                    "jobSpecConfig": "free",
                    "jobMetadata": "free",
                },
            }
        },
    },
    "dagsterDaemon": {
        "runCoordinator": {"config": {"queuedRunCoordinator": {"maxConcurrentRuns": {}}}},
        "runMonitoring": {
            "enabled": {},
            "startTimeoutSeconds": {},
            "pollIntervalSeconds": {},
            "maxResumeRunAttempts": {},
        },
        "runRetries": {"enabled": {}, "maxRetries": {}},
    },
    "postgresql": {"enabled": {}},
}
"""The names in values.yaml of Dagster's chart (helm/dagster in its repository, read in November 2026)."""


def unknown(values: Any, names: Any, place: str = "") -> list[str]:
    if names == "free":
        return []
    if isinstance(values, list):
        return [each for value in values for each in unknown(value, names, place)]
    if not isinstance(values, dict):
        return []
    return [
        each
        for name, value in values.items()
        for each in (unknown(value, names[name], f"{place}.{name}") if name in names else [f"{place}.{name}"])
    ]


def test_the_chart_knows_every_name() -> None:
    assert unknown(VALUES, CHART) == []
    assert unknown({"runLauncher": {"kind": 1}}, CHART) == [".runLauncher.kind"]


def test_containers_run_as_the_images_user_with_a_read_only_root_and_its_two_folders() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    match = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    folders = re.search(r"^VOLUME (.*)$", CONTAINERFILE, re.MULTILINE)
    assert match is not None
    assert folders is not None
    pods = (deployment["podSecurityContext"], launcher["runK8sConfig"]["podSpecConfig"]["securityContext"])
    for pod in pods:
        assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == match.groups()
        assert pod["runAsNonRoot"] is True
    for container in (deployment["securityContext"], launcher["securityContext"]):
        assert container["readOnlyRootFilesystem"] is True
        assert container["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["mountPath"]: mount["name"] for mount in deployment["volumeMounts"]}
    assert set(mounted) == set(yaml.safe_load(folders[1]))
    assert set(mounted.values()) == {volume["name"] for volume in deployment["volumes"]}


def test_the_settings_are_settings() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    given = {each["name"]: each["value"] for each in deployment["env"]}
    assert all(isinstance(value, str) for value in given.values())
    ours = {
        name.removeprefix("BG_").lower(): value for name, value in given.items() if name.startswith("BG_")
    }
    assert settings(**ours).bucket == "my-photos"


def test_the_page_names_the_version_of_dagster_that_is_pinned() -> None:
    page = (ROOT / "deploy/kubernetes/README.md").read_text("utf-8")
    pinned = re.search(r"^dagster==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    assert f"--version {pinned[1]}" in page


@dg.asset
def an_asset() -> int:
    return 1


def test_a_run_works_without_the_launchers_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has no dagster-k8s, which only the daemon needs, to launch; the instance's configuration names it."""
    with pytest.raises(ImportError):
        import dagster_k8s  # type: ignore[import-not-found]  # noqa: F401
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump(
            {
                "run_launcher": {
                    "module": "dagster_k8s",
                    "class": "K8sRunLauncher",
                    "config": {"load_incluster_config": True, "job_namespace": "default"},
                },
                "telemetry": {"enabled": False},
            }
        )
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        assert launcher_of(instance) == KUBERNETES
        assert dg.materialize([an_asset], instance=instance).success
    tags = run_tags(KUBERNETES, [("a.jpg", 5_000_000)], settings())
    assert "container_config" in tags["dagster-k8s/config"]
