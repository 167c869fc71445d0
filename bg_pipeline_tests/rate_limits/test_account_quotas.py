"""The account's quotas from Service Quotas."""

from types import SimpleNamespace
from typing import cast

import pytest

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline_local_aws.control_client import ControlClient

NOVA_PRO = facts_of("CAPTION", "us.amazon.nova-pro-v1:0")


@pytest.fixture
def account(control: ControlClient) -> AccountQuotas:
    return AccountQuotas(Aws(("us-east-1",)))


def test_a_quota_is_requested_by_its_code(account: AccountQuotas, control: ControlClient) -> None:
    control.applied_quota({"quota": "L-ED46B8C5", "value": 30}, {"quota": "L-C0326783", "value": 60_000})
    assert account.requests_per_minute(NOVA_PRO, "us-east-1") == 30
    assert account.tokens_per_minute(NOVA_PRO, "us-east-1") == 60_000
    assert {call["operation"] for call in control.calls()} == {"GetServiceQuota"}


def test_a_quota_without_a_known_code_is_looked_for_by_name(account: AccountQuotas) -> None:
    assert account.requests_per_minute(facts_of("STABILITY_INPAINT"), "us-west-2") == 20


def test_a_quota_of_zero_is_unknown_to_the_limiter_and_reported_as_zero(
    account: AccountQuotas, control: ControlClient
) -> None:
    control.applied_quota({"quota": "L-C0326783", "value": 0})
    assert account.tokens_per_minute(NOVA_PRO, "us-east-1") is None
    assert account.reported_tokens(NOVA_PRO, "us-east-1") == 0


def test_a_denied_request_is_not_repeated(account: AccountQuotas, control: ControlClient) -> None:
    control.fault(operation="GetServiceQuota", code="AccessDeniedException", message="no", times=0)
    for _ in range(3):
        assert account.requests_per_minute(NOVA_PRO, "us-east-1") is None
        assert account.tokens_per_day("us-east-1") is None
    assert len(control.calls()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "Cross-region model inference requests per minute for Stable Image Inpaint",
        "Cross-Region InvokeModel requests per minute for Stable Image Inpaint",
        "Cross-region model inference requests per minute for Stability.ai Stable Image Inpaint",
    ],
)
def test_a_quota_is_found_under_each_wording_of_its_name(name: str) -> None:
    listed = {"Quotas": [{"QuotaName": name, "Value": 7.0}, {"QuotaName": f"{name} Pro", "Value": 9.0}]}
    client = SimpleNamespace(list_service_quotas=lambda **_: listed)
    account = AccountQuotas(cast(Aws, SimpleNamespace(client=lambda *_: client)))
    assert account.requests_per_minute(facts_of("STABILITY_INPAINT"), "us-west-2") == 7
    assert account.requests_per_minute(facts_of("STABILITY_REMOVE_BACKGROUND"), "us-west-2") is None
