"""What this account is allowed, as Service Quotas tells it; asked once per service and Region."""

import logging
import threading

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws import Aws
from bg_pipeline.models.facts import ModelFacts

_log = logging.getLogger(__name__)


class AccountQuotas:
    """The account's own requests a minute. Safe for threads; a question that is refused is not asked again."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, float]] = {}

    def requests_per_minute(self, facts: ModelFacts, region: str) -> float | None:
        """The quota in force for an operation, or None where Service Quotas does not tell.

        A new account's quota may be far below the published one, and 0 means that the model was never enabled:
        that is told as unknown, because the call itself says why.
        """
        if not facts.quota_service or not facts.quota_name:
            return None
        return self._all(facts.quota_service, region).get(facts.quota_name) or None

    def _all(self, service: str, region: str) -> dict[str, float]:
        with self._lock:
            if (service, region) not in self._known:
                self._known[service, region] = self._ask(service, region)
            return self._known[service, region]

    def _ask(self, service: str, region: str) -> dict[str, float]:
        client = self._aws.client("service-quotas", region)
        found: dict[str, float] = {}
        request = {"ServiceCode": service, "MaxResults": 100}
        try:
            while True:
                page = client.list_service_quotas(**request)
                found |= {quota["QuotaName"]: float(quota["Value"]) for quota in page.get("Quotas", ())}
                if not page.get("NextToken"):
                    return found
                request["NextToken"] = page["NextToken"]
        except (ClientError, BotoCoreError) as error:
            _log.info(
                "Service Quotas does not tell the quotas of %s in %s (%s); using the table's",
                service,
                region,
                error,
            )
            return found
