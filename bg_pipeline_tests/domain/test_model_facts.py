from datetime import date, timedelta
from typing import Any

import pytest

from bg_pipeline.domain.model_facts import (
    FRESH,
    ModelFacts,
    Price,
    all_facts,
    as_of,
    facts_of,
    outdated,
    split_profile,
)
from bg_pipeline.models.geography import caption_models

PAID_IMAGE_OPERATIONS = (
    "TITAN_V1",
    "TITAN_V2",
    "NOVA_CANVAS",
    "STABILITY_INPAINT",
    "STABILITY_REMOVE_BACKGROUND",
)


@pytest.mark.parametrize(
    ("operation", "region", "per_minute"),
    [
        ("TITAN_V2", "us-east-1", 60),
        ("NOVA_CANVAS", "eu-west-1", 100),
        ("STABILITY_INPAINT", "us-west-2", 20),
        ("STABILITY_REMOVE_BACKGROUND", "us-west-2", 20),
        ("DETECT_LABELS", "eu-west-1", 50 * 60),
        ("DETECT_LABELS", "eu-central-1", 5 * 60),
        ("DETECT_FACES", "us-east-1", 100 * 60),
        ("DETECT_FACES", "ca-central-1", 25 * 60),
        ("DETECT_CUSTOM_LABELS", "eu-west-2", 50 * 60),
    ],
)
def test_a_quota_is_the_regions_own_or_the_default(operation, region, per_minute):
    assert facts_of(operation).requests_in(region) == per_minute


def test_a_caption_model_has_other_quotas_through_a_profile_than_bare():
    assert facts_of("CAPTION", "us.amazon.nova-pro-v1:0").requests_in("us-east-1") == 500
    assert facts_of("CAPTION", "amazon.nova-pro-v1:0").requests_in("us-east-1") == 250
    assert facts_of("CAPTION", "us.amazon.nova-lite-v1:0").tokens_in("us-east-1") == 8_000_000
    assert facts_of("CAPTION", "eu.amazon.nova-lite-v1:0").tokens_in("eu-west-1") == 400_000


def test_a_model_under_another_profile_lends_its_figures_but_neither_its_quota_nor_its_regions():
    lent = facts_of("CAPTION", "amazon.nova-2-lite-v1:0")
    assert lent.price.million_input_tokens == 0.33
    assert (lent.profiles, lent.regions, lent.quota_code, lent.quota_name) == (("",), (), "", "")


@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("us.amazon.nova-pro-v1:0", (0.80, 3.20)),
        ("eu.amazon.nova-pro-v1:0", (1.05, 4.20)),
        ("apac.amazon.nova-pro-v1:0", (0.84, 3.36)),
        ("eu.amazon.nova-lite-v1:0", (0.078, 0.312)),
        ("jp.amazon.nova-2-lite-v1:0", (0.396, 3.311)),
        ("global.amazon.nova-2-lite-v1:0", (0.30, 2.50)),
    ],
)
def test_each_profile_has_its_own_price(model, prices):
    price = facts_of("CAPTION", model).price
    assert (price.million_input_tokens, price.million_output_tokens) == prices


def test_the_global_profile_has_a_quota_of_its_own():
    assert facts_of("CAPTION", "global.amazon.nova-2-lite-v1:0").quota_name.startswith("Global cross-region")


def test_the_flex_tier_costs_half_where_it_is_known_and_else_as_much():
    pro, lite = (facts_of("CAPTION", f"us.amazon.nova-{kind}-v1:0") for kind in ("pro", "lite"))
    tokens: Any = {"input_tokens": 1000, "output_tokens": 100}
    assert pro.cost(**tokens, tier="flex") == pytest.approx((pro.cost(**tokens) or 0) / 2)
    assert lite.cost(**tokens, tier="flex") == lite.cost(**tokens)


def test_every_figure_was_compared_with_its_source_shortly_before_the_release():
    assert list(outdated(as_of())) == []


def test_what_is_too_old_is_named():
    later = list(outdated(as_of() + FRESH + timedelta(days=1)))
    assert any(line.startswith("price of CAPTION us.amazon.nova-pro-v1:0: ") for line in later)
    assert any(line.startswith("Regions of us. profiles: ") for line in later)


@pytest.mark.parametrize(
    ("regions", "first"),
    [
        (("us-east-1",), "us.amazon.nova-pro-v1:0"),
        (("eu-central-1",), "eu.amazon.nova-pro-v1:0"),
        (("eu-west-2",), "amazon.nova-pro-v1:0"),
        (("ap-southeast-2",), "apac.amazon.nova-pro-v1:0"),
        (("us-gov-west-1",), "amazon.nova-pro-v1:0"),
        (("eu-west-1", "us-west-2"), "eu.amazon.nova-pro-v1:0"),
    ],
)
def test_the_default_caption_models_are_called_through_the_regions_geography(regions, first):
    listed = ("us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0", "us.amazon.nova-lite-v1:0")
    assert caption_models(listed, regions)[0] == first


def test_a_profile_of_the_world_is_the_last_resort():
    nova_2_lite = ("us.amazon.nova-2-lite-v1:0",)
    assert caption_models(nova_2_lite, ("ap-northeast-1",)) == ("jp.amazon.nova-2-lite-v1:0",)
    assert caption_models(nova_2_lite, ("sa-east-1",)) == ("global.amazon.nova-2-lite-v1:0",)
    assert caption_models(nova_2_lite, ("af-south-1",)) == nova_2_lite


@pytest.mark.parametrize(
    ("operation", "model"), [("CAPTION", "us.acme.seer-v9:0"), ("ACME_PAINT", "acme.paint-v1")]
)
def test_what_the_file_does_not_know_gets_a_cautious_rate_and_an_unknown_price(operation, model):
    facts = facts_of(operation, model)
    assert (facts.operation, facts.model) == (operation, split_profile(model)[1])
    assert facts.requests_in("us-east-1") == 20
    assert facts.cost(images=1, input_tokens=1) is None
    assert not facts.retired(date.max)


@pytest.mark.parametrize("operation", PAID_IMAGE_OPERATIONS)
def test_every_image_model_has_a_price_for_a_picture(operation):
    cost = facts_of(operation).cost(images=1)
    assert cost is not None
    assert 0 < cost < 1


def test_tokens_and_unit_hours_are_priced():
    nova = facts_of("CAPTION", "us.amazon.nova-pro-v1:0")
    assert nova.cost(input_tokens=1_000_000, output_tokens=500_000) == pytest.approx(0.80 + 1.60)
    assert facts_of("DETECT_CUSTOM_LABELS").cost(images=1000, unit_hours=2) == pytest.approx(8.0)


def test_an_unknown_price_is_not_free_unless_nothing_of_it_was_used():
    facts = ModelFacts(requests_per_minute=1, requests_source="", price=Price(image=0.5))
    assert facts.cost(images=2) == 1.0
    assert facts.cost(images=2, output_tokens=1) is None
    assert facts.cost() == 0.0


def test_a_model_is_retired_from_its_end_of_life_on():
    titan = facts_of("TITAN_V2")
    assert not titan.retired(date(2026, 6, 29))
    assert titan.retired(date(2026, 6, 30))


def test_stability_says_where_pictures_are_processed():
    assert "processed in the US" in facts_of("STABILITY_INPAINT").processed_in


@pytest.mark.parametrize(
    "facts", all_facts(), ids=lambda facts: f"{facts.operation}-{facts.model}-{facts.profiles[0]}"
)
def test_every_figure_has_a_source(facts):
    assert facts.requests_per_minute > 0
    assert facts.requests_source
    assert facts.price_source
    assert facts.price != Price()


def test_the_file_is_dated():
    assert date(2026, 1, 1) <= as_of() <= date(2100, 1, 1)


@pytest.mark.parametrize(
    ("model_id", "parts"),
    [
        ("us.stability.stable-image-inpaint-v1:0", ("us.", "stability.stable-image-inpaint-v1:0")),
        ("global.amazon.nova-2-lite-v1:0", ("global.", "amazon.nova-2-lite-v1:0")),
        ("us-gov.amazon.nova-pro-v1:0", ("us-gov.", "amazon.nova-pro-v1:0")),
        ("amazon.nova-pro-v1:0", ("", "amazon.nova-pro-v1:0")),
    ],
)
def test_a_profiles_id_is_its_geography_and_the_models_id(model_id, parts):
    assert split_profile(model_id) == parts
