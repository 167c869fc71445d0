"""Python client of the control routes, for tests and benchmarks."""

import json
import urllib.request
from typing import Any


class ControlClient:
    """Sets the rules of a running stand-in and reads its call log. Keyword arguments are the fields in `rules`."""

    def __init__(self, models: str) -> None:
        self._address = f"{models}/_control"
        self._mark = 0

    def fault(self, **rule: Any) -> None:
        """Adds a `rules.Fault`."""
        self._send("faults", [rule])

    def quota(self, *rules: dict[str, Any]) -> None:
        """Replaces the enforced quotas (none: no quota): see `rules.Quota`."""
        self._send("quotas", rules)

    def latency(self, *rules: dict[str, Any]) -> None:
        """Replaces the latencies: see `rules.Latency`."""
        self._send("latencies", rules)

    def switch(self, **switches: Any) -> None:
        """Sets the switches; those not named get their default: see `rules.Switches`."""
        self._send("switches", switches)

    def model(self, model: str, **state: Any) -> None:
        """Sets the state of a catalogue model: see `rules.ModelState`."""
        self._send("models", [{"model": model, **state}])

    def applied_quota(self, *quotas: dict[str, Any]) -> None:
        """Replaces the values that Service Quotas returns for these quotas: see `rules.AppliedQuota`."""
        self._send("applied-quotas", quotas)

    def custom_model(self, arn: str, **facts: Any) -> None:
        """Registers a Custom Labels model version: see `rules.CustomModel`."""
        self._send("custom-models", [{"arn": arn, **facts}])

    def reset(self) -> None:
        """Resets rules, models and call log to their initial state."""
        self._send("reset", [])

    def mark(self) -> None:
        """Makes `calls` of this client omit all calls before now."""
        self._mark = self._read("calls")["last"]

    def calls(self, **fields: Any) -> list[dict[str, Any]]:
        """The calls since the last `mark` with these field values, oldest first: see `Control.record`."""
        calls = self._read(f"calls?since={self._mark}")["calls"]
        return [call for call in calls if all(call[name] == value for name, value in fields.items())]

    def paid(self, **fields: Any) -> list[dict[str, Any]]:
        """The calls of `calls` that were billed."""
        return self.calls(billed=True, **fields)

    def totals(self) -> list[dict[str, Any]]:
        """Number of calls by operation, model, Region and outcome since the last reset."""
        totals: list[dict[str, Any]] = self._read("totals")
        return totals

    def _send(self, name: str, body: Any) -> None:
        request = urllib.request.Request(f"{self._address}/{name}", json.dumps(body).encode(), method="POST")  # noqa: S310
        with _direct.open(request, timeout=30):
            pass

    def _read(self, name: str) -> Any:
        with _direct.open(f"{self._address}/{name}", timeout=30) as answer:
            return json.load(answer)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
