"""The account's quotas from AWS Service Quotas, requested once for each quota and Region."""

import logging
import threading

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import ModelFacts

TOKENS_A_DAY = "L-E3F10727"
"""Cross-Model Max Tokens Per Day: since 2026-09-21 one quota for all models of an account in a Region."""

_log = logging.getLogger(__name__)


class AccountQuotas:
    """The account's quotas of requests and tokens; thread-safe. After an error a service's quotas are not requested
    again.

    Quotas are looked up by code where it is known, else by name, in either of the two wordings that AWS uses: "model
    inference requests" in Service Quotas, "InvokeModel requests" in the user guide (quotas-increase, 2026).
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._by_code: dict[tuple[str, str, str], float | None] = {}
        self._by_name: dict[tuple[str, str], dict[str, float]] = {}
        self._unavailable: set[tuple[str, str]] = set()

    def requests_per_minute(self, facts: ModelFacts, region: str) -> float | None:
        """The quota of requests per minute in force; None if Service Quotas does not return it, or returns 0.

        A new account's quota may be far below the published one. 0 means that the model was never enabled; it counts
        as unknown, because the error of the call itself gives the reason.
        """
        return self.reported_requests(facts, region) or None

    def tokens_per_minute(self, facts: ModelFacts, region: str) -> float | None:
        """The quota of tokens per minute in force; None as for `requests_per_minute`."""
        return self.reported_tokens(facts, region) or None

    def reported_requests(self, facts: ModelFacts, region: str) -> float | None:
        """The requests per minute that Service Quotas returns, including 0."""
        return self._quota(facts.quota_service, facts.quota_code, facts.quota_name, region)

    def reported_tokens(self, facts: ModelFacts, region: str) -> float | None:
        """The tokens per minute that Service Quotas returns, including 0."""
        return self._quota(facts.quota_service, facts.tokens_quota_code, facts.tokens_quota_name, region)

    def tokens_per_day(self, region: str) -> float | None:
        """The account's tokens per day for all Bedrock models together; None if unknown."""
        return self._quota("bedrock", TOKENS_A_DAY, "Cross-Model Max Tokens Per Day", region)

    def _quota(self, service: str, code: str, name: str, region: str) -> float | None:
        if not service or not (code or name):
            return None
        with self._lock:
            if code:
                key = (service, region, code)
                if key not in self._by_code:
                    self._by_code[key] = self._get(service, region, code)
                if self._by_code[key] is not None:
                    return self._by_code[key]
            if (service, region) not in self._by_name:
                self._by_name[service, region] = self._list(service, region)
            return self._by_name[service, region].get(_same_name(name))

    def _get(self, service: str, region: str, code: str) -> float | None:
        if (service, region) in self._unavailable:
            return None
        try:
            client = self._aws.client("service-quotas", region)
            return float(client.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"])
        except ClientError as error:
            # Quotas without an account-specific value are only in the list of all quotas.
            if error.response.get("Error", {}).get("Code") != "NoSuchResourceException":
                self._mark_unavailable(service, region, error)
        except BotoCoreError as error:
            self._mark_unavailable(service, region, error)
        return None

    def _list(self, service: str, region: str) -> dict[str, float]:
        quotas: dict[str, float] = {}
        if (service, region) in self._unavailable:
            return quotas
        client = self._aws.client("service-quotas", region)
        request = {"ServiceCode": service, "MaxResults": 100}
        try:
            while True:
                page = client.list_service_quotas(**request)
                quotas |= {
                    _same_name(quota["QuotaName"]): float(quota["Value"]) for quota in page.get("Quotas", ())
                }
                if not page.get("NextToken"):
                    return quotas
                request["NextToken"] = page["NextToken"]
        except (ClientError, BotoCoreError) as error:
            self._mark_unavailable(service, region, error)
            return quotas

    def _mark_unavailable(self, service: str, region: str, error: ClientError | BotoCoreError) -> None:
        self._unavailable.add((service, region))
        _log.info(
            "the quotas of %s in %s could not be read from Service Quotas (%s); using the published ones",
            service,
            region,
            error,
        )


def _same_name(name: str) -> str:
    """The name in one wording, without the provider that some names of Stability's models have before the model."""
    words = name.lower().replace("model inference", "invokemodel")
    return words.replace("stability.ai ", "").replace("stability ai ", "")
