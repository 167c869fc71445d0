"""Requests as text: UTF-8 or refused, and slips in their JSON named with what they are and where."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.domain.requests.text import decode, parse_object
from bg_pipeline.errors import RequestError

CORPUS = Path(__file__).parents[2] / "corpus_files"
SHORT = {"Id": "a", "Prompt": "london"}


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        parse_object(data)
    return str(caught.value)


# Codings


def test_utf_8_is_read_with_and_without_its_mark() -> None:
    text = json.dumps({"Prompt": "café in Köln 😀"}, ensure_ascii=False)
    assert parse_object(text.encode()) == parse_object(b"\xef\xbb\xbf" + text.encode())


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["unmarked", "marked"])
@pytest.mark.parametrize(
    "text", [json.dumps(SHORT), json.dumps({"Prompt": "дом на берегу моря"}, ensure_ascii=False)]
)
def test_wide_codings_are_named(coding: str, mark: str, text: str) -> None:
    told = refusal((mark + text).encode(coding))
    assert f"not UTF-8 text but {coding[:6].upper()}" in told
    assert "save it as UTF-8" in told


def test_which_half_comes_first_is_told_of_utf_16_without_a_mark() -> None:
    assert "little-endian" in refusal(json.dumps(SHORT).encode("utf-16-le"))
    assert "big-endian" in refusal(json.dumps(SHORT).encode("utf-16-be"))


def test_windows_1252_is_named_with_the_byte_and_the_line() -> None:
    told = refusal('{"Id": "a",\n "Prompt": "café"}'.encode("cp1252"))
    assert "not UTF-8 text (byte 28) in line 2: it looks like Windows-1252" in told
    assert "save it as UTF-8" in told


def test_bytes_that_are_no_windows_1252_either_are_not_called_so() -> None:
    told = refusal('{"Prompt": "дом"}'.encode("cp866") + b"\x81\x8d")
    assert "not UTF-8 text" in told
    assert "Windows" not in told


def test_the_request_of_the_corpus_is_refused() -> None:
    assert "not UTF-8" in refusal((CORPUS / "request_cp1252.json").read_bytes())


def test_a_nul_character_is_told_with_its_line() -> None:
    assert "NUL character in line 2" in refusal(
        b'{"Id": "a",\n "Prompt": "a\0b", "Ref": "what is not wide text at all"}'
    )


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_in_utf_8_comes_back_as_it_was(text: str) -> None:
    assert decode(text.encode()) == text.removeprefix("\ufeff")


# JSON


@pytest.mark.parametrize("quote", list("“”„«»″"))
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"Id": "a",\n "Prompt": "londonQ\n}', "line 2, column 19"),
        ('{"Id": "a",\n "Prompt": "londonQ,\n "Mode": "PRECISE"}', "line 2, column 19"),
        ('{"Id": "a",\n "PromptQ: "london"}', "line 2, column 9"),
        ('{"Id": "a",\n QPromptQ: "london"}', "line 2, column 2"),
        ('{"Id": "a", "Prompt": QlondonQ}', "line 1, column 23"),
        ('{"Id": "a", "Prompt": "londonQ}', "line 1, column 30"),
        ("{QIdQ: QaQ}", "line 1, column 2"),
    ],
)
def test_a_typographic_quote_is_named_with_its_place(text: str, place: str, quote: str) -> None:
    told = refusal(text.replace("Q", quote).encode())
    assert f"a typographic quote ({quote}) in {place} where a straight one" in told


@pytest.mark.parametrize("quote", list("‘’‚´`"))
def test_so_is_a_typographic_apostrophe(quote: str) -> None:
    assert f"a typographic quote ({quote}) in line 1, column 2" in refusal(
        f"{{{quote}Id{quote}: 1}}".encode()
    )


def test_typographic_quotes_inside_a_text_are_text() -> None:
    assert parse_object('{"Prompt": "a sign “open”, ‘welcome’"}'.encode()) == {
        "Prompt": "a sign “open”, ‘welcome’"
    }
    # What is wrong here is the comma that lacks.
    told = refusal('{"Prompt": "a sign “open” at night"\n "Mode": "x"}'.encode())
    assert "typographic" not in told
    assert "a comma (,) is missing before line 2, column 2" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"Id": "a",}', "an extra comma in line 1, column 11"),
        ('{"Id": "a",\n}', "an extra comma in line 1, column 11"),
        ('{"Images": [{"ImageName": "a"},\n ]}', "an extra comma in line 1, column 31"),
        ("{'Id': 'a'}", "a single quote (') in line 1, column 2"),
        ("{\"Id\": 'a'}", "a single quote (') in line 1, column 8"),
        ('{"Id": "a", // mine\n "Prompt": "x"}', "a comment in line 1, column 13"),
        ('{"Id": "a",\n /* mine */ "Prompt": "x"}', "a comment in line 2, column 2"),
        ('{"Id": "a",\n # mine\n "Prompt": "x"}', "a comment in line 2, column 2"),
        ('{"Id": "a",\n "CfgScale": NaN}', "NaN in line 2, column 14"),
        ('{"Prompt": "NaN is a word", "CfgScale": -Infinity}', "-Infinity in line 1, column 41"),
        ('{"Id": "a", "Seed": None}', "None in line 1, column 21 where JSON has null"),
        ('{"Id": "a", "Seed": True}', "True in line 1, column 21 where JSON has true"),
        ('{"Id": "a"\n "Prompt": "x"}', "a comma (,) is missing before line 2, column 2"),
        ('{"Id": "a", "Prompt": "a\nb"}', 'a text is not ended by a double quote (") in line 1, column 25'),
        ('{"Id": "a", "Prompt": "c:\\photos"}', "a single backslash in line 1"),
        ('{"Id": "a", "Prompt": "x', "a text that begins in line 1, column 23 is not ended"),
        ('{"Id":\u00a0"a"}', "an invisible character (U+00A0) in line 1, column 7"),
        ('{"Id": "a\tb"}', "a control character (U+0009) inside a text in line 1, column 10"),
        (" \n ", "it is empty"),
    ],
)
def test_the_usual_slips_are_named_with_their_place(text: str, words: str) -> None:
    assert words in refusal(text.encode())


@given(st.text(max_size=40), st.integers(0, 60))
def test_whatever_is_wrong_is_told_and_nothing_else_is_raised(noise: str, place: int) -> None:
    good = json.dumps({**SHORT, "CfgScale": 7.5, "Images": [{"ImageName": "a.jpg"}]})
    data = (good[:place] + noise + good[place:]).encode("utf-8", "surrogatepass")
    try:
        found: Any = parse_object(data)
    except RequestError:
        return
    assert isinstance(found, dict)
    assert not any(isinstance(value, float) and math.isnan(value) for value in found.values())
