"""The component in a project of its own, and Dagster's commands in this repository's root."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

import bg_pipeline
from bg_pipeline.errors import SettingsError

ROOT = Path(__file__).parents[2]
YAML = """\
type: bg_pipeline.BackgroundChange
attributes:
  bucket: my-photos
  key_prefix: shop
  settings:
    max_cost_usd: 10
    image_models: [stability]
    asset_owners: ["team:photos"]
"""


def load(attributes: dict[str, object]) -> dg.Definitions:
    component = bg_pipeline.BackgroundChange.resolve_from_dict(attributes)
    return component.build_defs(dg.ComponentTree.for_test().load_context)


def test_the_component_makes_the_pipelines_definitions_with_its_settings() -> None:
    defs = load({"bucket": "my-photos", "key_prefix": "shop", "settings": {"asset_owners": ["team:photos"]}})
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert "shop/generated_images" in keys
    assert defs.resolve_job_def("shop_whole_date")


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"bucket": "b", "settings": {"max_cost_usd": "much"}}, "BG_MAX_COST_USD"),
        ({"bucket": "b", "settings": {"max_cost": 1}}, "did you mean"),
        ({"bucket": "b", "settings": {"bucket": "c"}}, "bucket"),
    ],
)
def test_a_wrong_setting_is_named(attributes: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(attributes)


def test_the_schema_names_each_attribute_and_says_what_it_is() -> None:
    schema = bg_pipeline.BackgroundChange.model().model_json_schema()
    assert set(schema["properties"]) == {"bucket", "key_prefix", "settings"}
    assert all(each["description"] for each in schema["properties"].values())
    assert schema["required"] == ["bucket"]


def run(folder: Path, *words: str, home: Path | None = None) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("BG_", "DAGSTER"))
    }
    environment["PYTHONPATH"] = ":".join(filter(None, [str(folder / "src"), *sys.path]))
    environment["DAGSTER_HOME"] = str(home or folder)
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dg_command(folder: Path, words: Sequence[str], home: Path | None = None) -> str:
    pytest.importorskip("dagster_dg_cli")
    return run(folder, "dg", *words, home=home)


@pytest.mark.slow
def test_a_fresh_project_loads_the_component_from_yaml(tmp_path: Path) -> None:
    package = tmp_path / "src" / "shop"
    (package / "defs" / "pictures").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n"
        "@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (package / "defs" / "pictures" / "defs.yaml").write_text(YAML)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\n\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
    )
    assert "loaded successfully" in dg_command(tmp_path, ["check", "defs"])
    listed = json.loads(dg_command(tmp_path, ["list", "defs", "--json"]))
    text = json.dumps(listed)
    for name in ("shop/generated_images", "shop/status_report", "shop_whole_date"):
        assert name in text, name
    (package / "defs" / "pictures" / "defs.yaml").write_text(YAML.replace("bucket:", "buket:"))
    with pytest.raises(AssertionError, match="buket"):
        dg_command(tmp_path, ["check", "yaml"])


@pytest.mark.slow
def test_dagsters_commands_work_in_the_root_of_the_repository_and_workspace_yaml_counts(
    tmp_path: Path,
) -> None:
    assert "loaded successfully" in dg_command(ROOT, ["check", "defs"], tmp_path)
    listed = dg_command(ROOT, ["list", "defs", "--json"], tmp_path)
    assert "generated_images" in listed
    validated = run(ROOT, "dagster", "definitions", "validate", home=tmp_path)
    assert validated is not None
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert "[tool.dg" not in pyproject
    assert "[tool.dagster" not in pyproject
