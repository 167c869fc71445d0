"""Prices and quotas of one's own: the file that BG_MODEL_FACTS names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bg_pipeline.domain import model_facts
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import settings

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _packaged_facts_again() -> Iterator[None]:
    yield
    model_facts.load_overrides(None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        file = tmp_path / "models.toml"
        file.write_text(text)
        return file

    return written


def test_a_model_of_ones_own_has_the_price_and_the_rate_of_the_file(write: Write) -> None:
    model_facts.load_overrides(write("[SEPIA]\nrequests_per_minute = 90\nprice = { image = 0.05 }\n"))
    own = facts_of("SEPIA", "acme.sepia-v1")
    assert own.cost(images=2) == pytest.approx(0.1)
    assert own.requests_in("us-east-1") == 90


def test_without_a_rate_in_the_file_a_model_is_called_cautiously(write: Write) -> None:
    model_facts.load_overrides(write('[[SEPIA]]\nmodel = "acme.sepia-v1"\n[SEPIA.price]\nimage = 0.05\n'))
    assert (
        facts_of("SEPIA", "acme.sepia-v1").requests_in("us-east-1") == facts_of("X", "y").requests_per_minute
    )
    assert facts_of("SEPIA", "acme.sepia-v2").cost(images=1) is None


def test_the_file_wins_over_the_package_in_what_it_says_and_leaves_the_rest(write: Write) -> None:
    before = facts_of("TITAN_V2")
    model_facts.load_overrides(
        write("[TITAN_V2.price]\nimage = 0.5\n[DETECT_LABELS]\nrequests_per_minute = 7\n")
    )
    after = facts_of("TITAN_V2", "amazon.titan-image-generator-v2:0")
    assert after.cost(images=1) == 0.5
    assert (after.end_of_life, after.requests_per_minute) == (before.end_of_life, before.requests_per_minute)
    assert facts_of("DETECT_LABELS").requests_in("us-east-1") == 7
    assert facts_of("DETECT_LABELS").cost(images=1) == 0.001


def test_of_a_model_with_several_entries_those_are_meant_whose_model_and_profile_are_named(
    write: Write,
) -> None:
    model_facts.load_overrides(
        write(
            '[[CAPTION]]\nmodel = "amazon.nova-pro-v1:0"\nprofiles = ["us."]\n[CAPTION.price]\n'
            'million_input_tokens = 1.0\n[[CAPTION]]\nmodel = "acme.seer-v1"\nprice.million_input_tokens = 9.0\n'
        )
    )
    through_profile = facts_of("CAPTION", "us.amazon.nova-pro-v1:0").price
    assert (through_profile.million_input_tokens, through_profile.million_output_tokens) == (1.0, 3.2)
    assert facts_of("CAPTION", "eu.amazon.nova-pro-v1:0").price.million_input_tokens == 1.05
    assert facts_of("CAPTION", "us.acme.seer-v1").price.million_input_tokens == 9.0
    assert facts_of("CAPTION", "us.amazon.nova-lite-v1:0").price.million_input_tokens == 0.06


def test_settings_made_without_the_file_know_only_the_package_again(write: Write) -> None:
    settings(model_facts=write("[TITAN_V2.price]\nimage = 0.5\n"))
    assert facts_of("TITAN_V2").cost(images=1) == 0.5
    settings()
    assert facts_of("TITAN_V2").cost(images=1) == 0.012


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[SEPIA]\nrequests_per_minute = 0\n", "table SEPIA, key requests_per_minute: .*greater than 0"),
        ("[SEPIA.price]\nimage = -1\n", r"table SEPIA, key price\.image: .*greater than or equal to 0"),
        ("[SEPIA.price]\nimage = nan\n", r"table SEPIA, key price\.image: .*finite"),
        ("[SEPIA.price]\npicture = 1\n", r"table SEPIA, key price\.picture"),
        ("[SEPIA]\nprice = 1\n", "table SEPIA, key price"),
        ("[TITAN_V2]\nprice = 1\n", "table TITAN_V2, key price"),
        ("[[SEPIA]]\n[[SEPIA]]\nrpm = 1\n", "table SEPIA, entry 2, key rpm"),
        ("[SEPIA]\nown = true\n", "table SEPIA: own is not a key"),
        ("[SEPIA]\nmodel = 7\n", "table SEPIA, key model"),
        ("[TITAN_V2]\nprofiles = 7\n", "table TITAN_V2, key profiles"),
        ("[TITAN_V2]\nprofiles = [[1]]\n", "table TITAN_V2, key profiles"),
        ("SEPIA = 5\n", "SEPIA must be a table"),
        ("[SEPIA\n", "is not TOML"),
    ],
    ids=lambda value: value.splitlines()[0],
)
def test_a_wrong_file_is_refused_by_file_table_and_key(write: Write, text: str, words: str) -> None:
    model_facts.load_overrides(write("[OCHRE.price]\nimage = 0.1\n"))
    file = write(text)
    with pytest.raises(SettingsError, match=words) as refused:
        settings(model_facts=file)
    assert str(file) in str(refused.value)
    assert facts_of("OCHRE", "x").cost(images=1) == 0.1


def test_a_file_that_is_not_there_or_no_text_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"BG_MODEL_FACTS: .*none\.toml cannot be read: No such file"):
        settings(model_facts=tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(SettingsError, match=r"latin\.toml is not UTF-8"):
        settings(model_facts=tmp_path / "latin.toml")


# Quotas


def test_an_operation_of_the_file_has_a_quota_setting(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_MODEL_FACTS", str(write("[acme-paint.price]\nimage = 0.1\n[SEPIA]\n")))
    monkeypatch.setenv("BG_QUOTA_ACME_PAINT_RPM", "90")
    made = settings(quota_sepia_rpm=30)
    assert (made.quota("acme-paint"), made.quota("SEPIA"), made.quota("TITAN_V2")) == (90, 30, None)
    assert settings().quota("SEPIA") is None


@pytest.mark.parametrize("value", ["0", "many", "-1", "nan"])
def test_a_quota_that_is_none_is_refused_by_its_name(
    write: Write, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("BG_QUOTA_SEPIA_RPM", value)
    with pytest.raises(SettingsError, match="BG_QUOTA_SEPIA_RPM: "):
        settings(model_facts=write("[SEPIA]\n"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "BG_QUOTA_SEPIA_RPM",
            "not a setting.*once the file in BG_MODEL_FACTS has a table for its operation",
        ),
        ("BG_QUOTA_TITANV2_RPM", "did you mean BG_QUOTA_TITAN_V2_RPM"),
        ("BG_QUOTA_DETECT_LABELS_RPM", "not a setting"),
    ],
)
def test_a_quota_of_nothing_known_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setenv(name, "60")
    with pytest.raises(SettingsError, match=words):
        settings()


def test_an_empty_path_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_MODEL_FACTS", "")
    monkeypatch.setenv("BG_ONNX_MODEL", "")
    made: Any = settings()
    assert (made.model_facts, made.onnx_model) == (None, None)
