"""No way in goes around authorization and the audit log."""

import ast
from collections.abc import Iterator
from pathlib import Path

import bg_pipeline

HOME = Path(bg_pipeline.__file__).parent
WAYS_IN = ("cli", "web", "defs", "pipeline.py", "async_pipeline.py")

RECORDED = {
    "bg_pipeline.review": {"approve_sample", "decide", "decide_as_seen", "publish", "redo", "take_back"},
    "bg_pipeline.review.decisions": {"decide", "decide_as_seen", "take_back"},
    "bg_pipeline.review.follow_up": {"approve_sample"},
    "bg_pipeline.review.publishing": {"publish"},
    "bg_pipeline.review.redoing": {"redo"},
    "bg_pipeline.uploads.submitting": {"submit", "hand_over", "reserve_name"},
    "bg_pipeline.uploads.listing": {"discard_draft"},
}
"""Functions that only `bg_pipeline.acts` may call."""


def used(source: str) -> Iterator[str]:
    """The recorded functions that a module imports or reads as an attribute of an imported module."""
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                modules[name.asname or name.name] = f"{node.module}.{name.name}"
                if name.name in RECORDED.get(node.module, ()):
                    yield f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            modules |= {name.asname or name.name: name.name for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, "")
            if node.attr in RECORDED.get(module, ()):
                yield f"{module}.{node.attr}"


def test_every_way_in_acts_through_acts() -> None:
    files = [
        file
        for name in WAYS_IN
        for file in ([HOME / name] if name.endswith(".py") else (HOME / name).rglob("*.py"))
    ]
    assert len(files) > 40
    assert {f"{file.relative_to(HOME)}: {name}" for file in files for name in used(file.read_text())} == set()


def test_the_search_above_finds_both_kinds_of_use() -> None:
    assert list(used("from bg_pipeline.review import decide")) == ["bg_pipeline.review.decide"]
    assert list(used("from bg_pipeline import review as r\nr.publish(1)")) == ["bg_pipeline.review.publish"]
    assert list(used("from bg_pipeline.uploads import submitting\nsubmitting.submit(1)"))


def test_acts_has_them_all() -> None:
    source = (HOME / "acts.py").read_text()
    assert {name.rpartition(".")[2] for name in used(source)} == {
        "approve_sample",
        "decide",
        "decide_as_seen",
        "publish",
        "redo",
        "take_back",
        "submit",
        "hand_over",
        "reserve_name",
        "discard_draft",
    }
