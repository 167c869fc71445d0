"""What this account is allowed, as Service Quotas tells it; asked once per quota and Region."""

import logging
import threading

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import ModelFacts

TOKENS_A_DAY = "L-E3F10727"
"""Cross-Model Max Tokens Per Day: one figure for all models of an account in a Region, since 2026-09-21."""

_log = logging.getLogger(__name__)


class AccountQuotas:
    """The account's own requests and tokens a minute. Safe for threads; what is refused is not asked again.

    Quotas are asked for by their code where that is known: names differ between models and change.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._by_code: dict[tuple[str, str, str], float | None] = {}
        self._by_name: dict[tuple[str, str], dict[str, float]] = {}
        self._closed: set[tuple[str, str]] = set()

    def requests_per_minute(self, facts: ModelFacts, region: str) -> float | None:
        """The quota in force for an operation, or None where Service Quotas does not tell.

        A new account's quota may be far below the published one, and 0 means that the model was never enabled:
        that is told as unknown, because the call itself says why.
        """
        return self.told_requests(facts, region) or None

    def tokens_per_minute(self, facts: ModelFacts, region: str) -> float | None:
        """The same of tokens a minute."""
        return self.told_tokens(facts, region) or None

    def told_requests(self, facts: ModelFacts, region: str) -> float | None:
        """What Service Quotas says of requests a minute, also if that is 0."""
        return self._told(facts.quota_service, facts.quota_code, facts.quota_name, region)

    def told_tokens(self, facts: ModelFacts, region: str) -> float | None:
        """What Service Quotas says of tokens a minute, also if that is 0."""
        return self._told(facts.quota_service, facts.tokens_quota_code, facts.tokens_quota_name, region)

    def tokens_per_day(self, region: str) -> float | None:
        """The account's tokens a day for all of Bedrock's models together."""
        return self._told("bedrock", TOKENS_A_DAY, "Cross-Model Max Tokens Per Day", region)

    def _told(self, service: str, code: str, name: str, region: str) -> float | None:
        if not service or not (code or name):
            return None
        with self._lock:
            if code:
                key = (service, region, code)
                if key not in self._by_code:
                    self._by_code[key] = self._ask(service, region, code)
                if self._by_code[key] is not None:
                    return self._by_code[key]
            if (service, region) not in self._by_name:
                self._by_name[service, region] = self._list(service, region)
            return self._by_name[service, region].get(name.lower())

    def _ask(self, service: str, region: str, code: str) -> float | None:
        if (service, region) in self._closed:
            return None
        try:
            client = self._aws.client("service-quotas", region)
            return float(client.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"])
        except ClientError as error:
            # A quota without a value of the account's own is in the list, if anywhere.
            if error.response.get("Error", {}).get("Code") != "NoSuchResourceException":
                self._close(service, region, error)
        except BotoCoreError as error:
            self._close(service, region, error)
        return None

    def _list(self, service: str, region: str) -> dict[str, float]:
        found: dict[str, float] = {}
        if (service, region) in self._closed:
            return found
        client = self._aws.client("service-quotas", region)
        request = {"ServiceCode": service, "MaxResults": 100}
        try:
            while True:
                page = client.list_service_quotas(**request)
                found |= {
                    quota["QuotaName"].lower(): float(quota["Value"]) for quota in page.get("Quotas", ())
                }
                if not page.get("NextToken"):
                    return found
                request["NextToken"] = page["NextToken"]
        except (ClientError, BotoCoreError) as error:
            self._close(service, region, error)
            return found

    def _close(self, service: str, region: str, error: ClientError | BotoCoreError) -> None:
        self._closed.add((service, region))
        _log.info(
            "Service Quotas does not tell the quotas of %s in %s (%s); using the table's",
            service,
            region,
            error,
        )
