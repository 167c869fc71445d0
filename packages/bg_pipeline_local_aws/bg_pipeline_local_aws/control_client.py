"""The control route as a Python object, for tests and benchmarks."""

import json
import urllib.request
from typing import Any


class ControlClient:
    """Tells a running stand-in what to do and reads its books. The names and meanings are those of `rules`."""

    def __init__(self, models: str) -> None:
        self._address = f"{models}/_control"
        self._mark = 0

    def fault(self, **rule: Any) -> None:
        """Let something go wrong: see `rules.Fault`."""
        self._send("faults", [rule])

    def quota(self, *rules: dict[str, Any]) -> None:
        """Enforce these quotas instead of those before (none: no quota): see `rules.Quota`."""
        self._send("quotas", rules)

    def latency(self, *rules: dict[str, Any]) -> None:
        """Answer after these latencies instead of those before: see `rules.Latency`."""
        self._send("latencies", rules)

    def switch(self, **switches: Any) -> None:
        """Set the switches; what is not named is as at the start: see `rules.Switches`."""
        self._send("switches", switches)

    def model(self, model: str, **state: Any) -> None:
        """Say what a model of the catalogue is: see `rules.ModelState`."""
        self._send("models", [{"model": model, **state}])

    def applied_quota(self, *quotas: dict[str, Any]) -> None:
        """Say what Service Quotas tells of these quotas: see `rules.AppliedQuota`."""
        self._send("applied-quotas", quotas)

    def custom_model(self, arn: str, **facts: Any) -> None:
        """Make a Custom Labels model version known: see `rules.CustomModel`."""
        self._send("custom-models", [{"arn": arn, **facts}])

    def reset(self) -> None:
        """Everything as at the start."""
        self._send("reset", [])

    def mark(self) -> None:
        """Forget, for `calls` of this client, what was called before now."""
        self._mark = self._read("calls")["last"]

    def calls(self, **wanted: Any) -> list[dict[str, Any]]:
        """The calls since the last `mark`, oldest first, whose fields are as wanted: see `Control.record`."""
        found = self._read(f"calls?since={self._mark}")["calls"]
        return [call for call in found if all(call[name] == value for name, value in wanted.items())]

    def paid(self, **wanted: Any) -> list[dict[str, Any]]:
        """The calls of `calls` whose model did its work."""
        return self.calls(billed=True, **wanted)

    def totals(self) -> list[dict[str, Any]]:
        """How many calls there were by operation, model, Region and outcome since the last reset."""
        found: list[dict[str, Any]] = self._read("totals")
        return found

    def _send(self, name: str, body: Any) -> None:
        request = urllib.request.Request(f"{self._address}/{name}", json.dumps(body).encode(), method="POST")  # noqa: S310
        with _direct.open(request, timeout=30):
            pass

    def _read(self, name: str) -> Any:
        with _direct.open(f"{self._address}/{name}", timeout=30) as answer:
            return json.load(answer)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
