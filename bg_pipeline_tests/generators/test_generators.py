import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import SettingsError
from bg_pipeline.generators import BUILT_IN, generator, seed_within


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_name_returns_its_generator(name):
    made = generator(name)
    assert made.name == name
    for operation in filter(None, (made.replaces, made.removes)):
        assert facts_of(operation.name, operation.invoke_id).model == operation.model_id


def test_a_custom_class_is_found_by_its_path():
    assert generator("bg_pipeline_tests.generators.own_generator:Sepia").name == "sepia"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("titan-v3", "use one of titan-v1, titan-v2, nova-canvas, stability, or package.module:Class"),
        ("", "there is no image model ''"),
        (":Class", "there is no image model"),
        ("no.such.module:Class", "cannot be loaded: No module named 'no'"),
        ("bg_pipeline.errors:Nothing", "cannot be loaded: .*Nothing"),
        ("bg_pipeline.errors:ImageError", "cannot be loaded: .*missing"),
        ("builtins:dict", "is not a generator: it lacks name, replaces, removes"),
    ],
)
def test_an_invalid_name_is_refused_with_the_reason(name, why):
    with pytest.raises(SettingsError, match=why):
        generator(name)


def test_a_bug_in_a_users_module_is_not_hidden(monkeypatch):
    module = types.ModuleType("broken_generator")
    module.__dict__["Broken"] = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "broken_generator", module)
    with pytest.raises(ZeroDivisionError):
        generator("broken_generator:Broken")


@given(st.integers(0, 2**64), st.integers(0, 5), st.integers(1, 2**32))
def test_a_seed_is_mapped_into_the_models_range_and_kept_if_valid(seed, start, length):
    seeds = range(start, start + length)
    fitted = seed_within(seed, seeds)
    assert fitted in seeds
    assert fitted == seed or seed not in seeds
