"""Every package that is installed for the project has a pinned version and a known licence."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "bg_pipeline_tests", ROOT / "bg_pipeline")

API_MODULES = (
    "api",
    "batch_lists",
    "batch_paths",
    "batch_review",
    "batch_status",
    "batch_uploads",
    "photo_booth",
    "connections",
    "docs_page",
    "limits",
    "limits",
    "problems",
    "removal",
    "service",
    "sign_in",
    "single_photo_jobs",
)
"""Modules of `bg_pipeline.web` that only the API uses."""


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


REQUIREMENTS = ROOT / "requirements"
OTHER_SYSTEMS = {"appnope", "colorama", "pyreadline3", "pywin32"}
"""Packages that are installed on other systems only; nothing here pins them."""


def entries(name: str) -> list[str]:
    """The lines of a file of requirements, each with its hashes."""
    text = (REQUIREMENTS / name).read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def versions(name: str) -> dict[str, str]:
    return dict(re.split(r"==|[ ;]", line)[:2] for line in entries(name))


@pytest.mark.parametrize("name", sorted(each.name for each in REQUIREMENTS.glob("*.txt")))
def test_every_package_that_is_installed_has_hashes(name: str) -> None:
    assert entries(name)
    for line in entries(name):
        assert re.match(r"[a-z0-9.-]+==[^ ;]+( ;[^#]*?)?( +--hash=sha256:[0-9a-f]{64})+ *$", line), line[:80]


def test_nothing_is_installed_without_them() -> None:
    """But the two packages of this repository, without their dependencies, by the build backend with a hash."""
    commands = [
        line.strip()
        for file in ("Makefile", "Containerfile")
        for line in (ROOT / file).read_text("utf-8").replace("\\\n", " ").splitlines()
        if re.search(r"\bpip install|\$\$install ", line)
    ]
    parts = [part for line in commands for part in re.split(r"; |&& ", line) if "install" in part]
    fetching = [part for part in parts if "-r requirements/" in part]
    assert len(fetching) >= 6
    assert all("--require-hashes" in part for part in fetching)
    for part in set(parts) - set(fetching):
        assert "--no-deps" in part or "$(PROJECTS" in part or part.strip().startswith("if "), part


def test_the_hashed_files_are_of_the_pinned_versions_and_have_what_is_declared() -> None:
    dev, run = versions("dev.txt"), versions("run.txt")
    pinned = {re.sub(r"[._]", "-", name): version for name, version in pins().items()}
    differing = {name for name, version in dev.items() if pinned.get(name) != version}
    assert differing <= OTHER_SYSTEMS, "run `make requirements`"
    assert run.items() <= dev.items(), "run `make requirements`"
    # What no longer belongs to anything would stay pinned, and grow old.
    assert pinned.keys() <= dev.keys(), pinned.keys() - dev.keys()
    for file in ("pyproject.toml", "packages/bg_pipeline_local_aws/pyproject.toml"):
        project = tomllib.loads((ROOT / file).read_text("utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        names = {
            re.split(r"[\[<>=~! ;]", each)[0].lower().replace("_", "-")
            for each in (*project["dependencies"], *(each for some in extras.values() for each in some))
        }
        assert names - dev.keys() <= {"bg-pipeline-local-aws"}, "run `make requirements`"
    for name in ("backend", "build", "audit"):
        asked = (REQUIREMENTS / f"{name}.in").read_text("utf-8")
        wanted = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", asked, re.MULTILINE))
        assert wanted.items() <= versions(f"{name}.txt").items(), "run `make requirements`"
    assert versions("backend.txt").items() <= versions("build.txt").items()


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


@pytest.mark.parametrize(("name", "at_least"), [("security.md", 20), ("asvs.md", 35)])
def test_every_test_that_a_page_about_security_names_exists(name: str, at_least: int) -> None:
    text = ""
    named = 0
    for word in re.findall(r"`([^`]+)`", (ROOT / "docs" / name).read_text()):
        if word.endswith(".py"):
            (file,) = [place / word for place in PLACES if (place / word).is_file()]
            text = file.read_text()
        elif word.startswith("test_"):
            assert f"def {word}(" in text, word
            named += 1
    assert named >= at_least


def test_every_requirement_is_in_the_table_once_and_its_sums_are_right() -> None:
    page = (ROOT / "docs" / "asvs.md").read_text()
    numbers: list[str] = []
    sums: Counter[str] = Counter()
    for first, last, status in re.findall(
        r"^\| ([0-9.]+)(?:–([0-9.]+))? \| [^|]+ \| ([a-z/]+) \|", page, re.M
    ):
        section, _, start = first.rpartition(".")
        end = (last or first).rpartition(".")[2]
        some = [f"{section}.{number}" for number in range(int(start), int(end) + 1)]
        numbers += some
        sums[status] += len(some)
    assert len(numbers) == len(set(numbers)) == 253, "levels 1 and 2 of ASVS 5.0.0"
    assert set(sums) == {"met", "open", "operator", "n/a"}
    assert f"{sums['met']} are met, {sums['open']} open,\n{sums['operator']} the operator's" in page


IMPORT_ALL = """
import importlib, importlib.abc, pkgutil, sys
from importlib.metadata import distributions, requires, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def closure(requirements, known):
    left = list(requirements)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, frozenset(extras)) in known:
            continue
        known.add((name, frozenset(extras)))
        for line in requires(requirement.name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in {"", *extras}):
                left.append(needed)
    return {name for name, _ in known}

allowed = closure([Requirement(line) for line in sys.argv[2].split(";;")], set()) | {"bg-pipeline"}
of_module = packages_distributions()
TYPES = "types_boto3"

class OthersAreMissing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {canonicalize_name(owner) for owner in of_module.get(top, ())}
        if top not in ("bg_pipeline",) and owners and not owners & allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import bg_pipeline
sys.meta_path.insert(0, OthersAreMissing())
skipped = tuple(filter(None, sys.argv[1].split(",")))
count = 0
for module in pkgutil.walk_packages(bg_pipeline.__path__, "bg_pipeline."):
    if not module.name.startswith(skipped):
        importlib.import_module(module.name)
        count += 1
from click.testing import CliRunner
from bg_pipeline.cli.main import main
for name in main.commands:
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0, name
print(count, "cv2" in sys.modules)
"""
"""Imports all modules but those that begin with a word of the first argument, where only the requirements of the
second argument, and what they require, can be imported.
"""

PAGE_ENTRY = ("bg_pipeline.web.page.app", "bg_pipeline.web.page.server")
"""Modules that only Streamlit runs: they read the settings when they are imported."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "without"),
    [
        ("", ["bg_pipeline.web.", "bg_pipeline.cli.child_process"]),
        ("api", ["bg_pipeline.web.page"]),
        ("ui", [*PAGE_ENTRY, *(f"bg_pipeline.web.{name}" for name in API_MODULES)]),
    ],
)
def test_each_part_needs_only_what_its_extra_installs(extra: str, without: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"].get(extra, ())]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(without), ";;".join(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, has_opencv = done.stdout.split()
    assert int(count) > 150
    assert has_opencv == "False"


def test_every_package_of_the_base_installation_is_used_by_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[<>=~! ;]", line)[0].lower() for line in project["dependencies"]}
    imported = {
        word
        for file in (ROOT / "bg_pipeline").rglob("*.py")
        if "web" not in file.relative_to(ROOT / "bg_pipeline").parts
        for word in re.findall(
            r"^\s*(?:from|import) ([a-z0-9_]+)", file.read_text(), re.MULTILINE | re.IGNORECASE
        )
    }
    module_of = {name: name.replace("-", "_") for name in declared} | {"pillow": "PIL", "pyyaml": "yaml"}
    started = {"dagster-webserver", "dagster-aws"}
    """Not imported: `up` starts the one, and Dagster loads the other by its instance's configuration."""
    assert {name for name in declared if module_of[name] not in imported} == started


@pytest.mark.slow
def test_a_package_that_is_not_required_is_noticed_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [line for line in project["dependencies"] if not line.startswith("pebble")]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, "bg_pipeline.web.", ";;".join(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "No module named 'pebble" in done.stderr
