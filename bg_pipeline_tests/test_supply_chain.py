"""Every package that is installed for the project has a pinned version and a known licence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_every_declared_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        requirement
        for requirements in (project["dependencies"], *project["optional-dependencies"].values())
        for requirement in requirements
    ]
    names = {re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace("_", "-") for requirement in declared}
    assert names - pins().keys() <= {"bg-pipeline-local-aws"}


def test_the_licence_of_every_installed_pin_is_known() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "licenses.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    listed = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0, [line for line in listed.values() if "UNKNOWN" in line]
    assert "Apache" in listed["boto3"]
    assert "obstore" in listed


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    file = ""
    named = 0
    for word in re.findall(r"`([^`]+)`", page):
        if word.endswith(".py"):
            file = (ROOT / "bg_pipeline_tests" / word).read_text()
        elif word.startswith("test_"):
            assert f"def {word}(" in file, word
            named += 1
    assert named > 20
