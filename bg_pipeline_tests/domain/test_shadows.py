"""The text of a request's shadow."""

import pytest

from bg_pipeline.domain.shadows import Shadow, normalized, read, values_in


@pytest.mark.parametrize(
    ("text", "form", "shadow"),
    [
        ("none", "none", None),
        ("SOFT ", "soft", Shadow()),
        ("soft strength = .7".replace(".7", "0.7"), "soft strength=0.7", Shadow(strength=0.7)),
        (
            "soft softness=0.25, Direction=120",
            "soft direction=120 softness=0.25",
            Shadow(direction=120, softness=0.25),
        ),
        ("soft direction=0", "soft direction=0", Shadow(direction=0)),
        ("soft direction=360.0", "soft direction=360", Shadow(direction=360)),
    ],
)
def test_a_shadow_has_one_form(text: str, form: str, shadow: Shadow | None) -> None:
    assert normalized(text) == form
    assert read(form) == shadow
    assert normalized(form) == form
    assert bool(values_in(form)) == ("=" in form)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hard",
        "none strength=1",
        "soft strength",
        "soft strength=2",
        "soft strength=-1",
        "soft strength=nan",
        "soft strength=1e3",
        "soft strength=0.5 strength=0.5",
        "soft length=3",
        "soft direction=361",
        "soft; rm",
        "soft direction=" + "9" * 50,
        "soft\x00",
    ],
)
def test_anything_else_is_refused_with_what_is_valid(text: str) -> None:
    with pytest.raises(ValueError, match="direction=0…360"):
        normalized(text)
