"""The control routes: rules that a test sets, and the log of all calls.

They take and return JSON under ``/_control/`` and do not exist on AWS.
"""

import math
import random
import time
from collections import Counter, deque
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bg_pipeline_local_aws.protocol import ACCOUNT, AwsError, Call
from bg_pipeline_local_aws.rules import (
    TOO_MANY_REQUESTS,
    AppliedQuota,
    CustomModel,
    Fault,
    Latency,
    ModelState,
    ModelVersion,
    Quota,
    QuotaMeter,
    Switches,
)

CALL_LOG_SIZE = 100_000

PAID_OPERATIONS = frozenset(
    {"InvokeModel", "Converse", "DetectLabels", "DetectFaces", "DetectCustomLabels", "InvokeEndpoint"}
)

TOTAL_FIELDS = ("operation", "model", "region", "outcome", "billed")

# A prompt that contains one of these words is blocked by content policy, at the stage given here.
TRIGGER_WORDS = {"blockme": "prompt", "blockimage": "image", "blockoutput": "output", "blocksome": "some"}

# A Custom Labels model that always exists.
CUSTOM_MODEL = f"arn:aws:rekognition:us-east-1:{ACCOUNT}:project/demo/version/demo.1/1767225600000"

_Model = TypeVar("_Model", bound=BaseModel)


class Control:
    """The current rules and the call log; used from one event loop only."""

    def __init__(self) -> None:
        self._number = 0
        self.reset()

    def reset(self) -> None:
        """Initial state: no rules, all models active, empty call log. Call numbers continue."""
        self.faults: list[Fault] = []
        self.quotas: list[Quota] = []
        self.latencies: list[Latency] = []
        self.switches = Switches()
        self.models: dict[tuple[str, str], ModelState] = {}
        self.applied: list[AppliedQuota] = []
        self._subscribed: dict[str, float] = {}
        self.custom_models = {CUSTOM_MODEL: ModelVersion(CustomModel(arn=CUSTOM_MODEL))}
        self._entries: deque[dict[str, Any]] = deque(maxlen=CALL_LOG_SIZE)
        self._totals: Counter[tuple[Any, ...]] = Counter()
        self._meters: dict[tuple[int, str], QuotaMeter] = {}
        # A fixed seed makes fault shares and latencies reproducible.
        self._random = random.Random(0)  # noqa: S311

    def admit(self, call: Call) -> None:
        """Applies faults and quotas to a call; raises `AwsError` if it is refused.

        Its model, task, prompt and image must be set before.
        """
        prompt = call.prompt.lower()
        call.block = next((where for word, where in TRIGGER_WORDS.items() if word in prompt), "")
        fault = next((f for f in self.faults if f.matches(call) and self._random.random() < f.share), None)
        if fault and fault.skip:
            fault.skip -= 1
        elif fault:
            if fault.times == 1:
                self.faults.remove(fault)
            fault.times -= 1 if fault.times else 0
            self._apply_fault(fault, call)
        now = time.monotonic()
        meters = []
        for index, quota in enumerate(self.quotas):
            if quota.matches(call):
                meter = self._meters.setdefault((index, call.region), QuotaMeter(quota, now))
                if exceeded := meter.exceeded(now):
                    raise _throttling_error(call, exceeded)
                meters.append(meter)
        for meter in meters:
            meter.take(now)

    def _apply_fault(self, fault: Fault, call: Call) -> None:
        if fault.action == "error":
            raise AwsError(
                fault.code, fault.error_message, status=fault.status, headers=fault.headers, **fault.members
            )
        if fault.action == "reset":
            call.cut_connection = True
            if not fault.after_work:
                raise AwsError("reset", "the connection is cut")
        elif fault.action == "delay":
            call.delay = fault.seconds
        else:
            call.block = fault.where

    def answer_after(self, call: Call) -> float:
        """Minimum seconds between the arrival of a call and its answer."""
        for rule in self.latencies:
            if rule.matches(call):
                return rule.seconds * math.exp(self._random.gauss(0, rule.sigma)) + call.delay
        return call.delay

    def record(self, call: Call, seconds: float) -> None:
        """Adds a call to the log, which keeps the last `CALL_LOG_SIZE` calls, and to the totals of all calls.

        ``outcome`` is ok, blocked (content policy), lost (answer lost after the work), reset (cut before the work) or
        an error code; ``billed`` is true if the model did its work, even if its answer was lost.
        """
        fields = ("operation", "model", "region", "task", "image", "outcome")
        entry: dict[str, Any] = {name: getattr(call, name) for name in fields}
        entry["billed"] = call.operation in PAID_OPERATIONS and call.outcome in ("ok", "lost")
        self._totals[tuple(entry[name] for name in TOTAL_FIELDS)] += 1
        self._number += 1
        entry |= {"number": self._number, "at": time.time(), "seconds": seconds, "prompt": call.prompt[:200]}
        self._entries.append(entry)

    def model_state(self, model: str, region: str) -> ModelState:
        """State of a model in a Region: the rule for that Region, else for all Regions, else active and granted."""
        return self.models.get((model, region)) or self.models.get((model, "")) or ModelState(model=model)

    def subscription(self, state: ModelState) -> str:
        """The `agreementAvailability` status of an ``unsubscribed`` model's Marketplace agreement."""
        started = self._subscribed.get(state.model)
        if started is None:
            return "NOT_AVAILABLE"
        return "AVAILABLE" if time.monotonic() >= started + state.seconds else "PENDING"

    def subscribe(self, state: ModelState) -> None:
        """Starts the Marketplace agreement, for all Regions; no effect if it was started before."""
        self._subscribed.setdefault(state.model, time.monotonic())

    def routes(self) -> list[Route]:
        """The routes under ``/_control/``."""
        return [
            Route("/_control/{name}", self._show, methods=["GET"]),
            Route("/_control/{name}", self._change, methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == "health":
            return _json({"ready": True})
        if name == "totals":
            return _json(
                [
                    {**dict(zip(TOTAL_FIELDS, key, strict=True)), "count": number}
                    for key, number in self._totals.items()
                ]
            )
        if name == "calls":
            since = int(request.query_params.get("since", 0))
            calls = [entry for entry in self._entries if entry["number"] > since]
            return _json({"last": self._number, "calls": calls})
        return _json({"error": f"there is nothing called '{name}' to see"}, 404)

    async def _change(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = orjson.loads(await request.body() or b"[]")
        try:
            if name == "faults":
                self.faults += _parse_list(Fault, body)
            elif name == "quotas":
                self.quotas, self._meters = _parse_list(Quota, body), {}
            elif name == "latencies":
                self.latencies = _parse_list(Latency, body)
            elif name == "switches":
                self.switches = Switches.model_validate(body)
            elif name == "models":
                states = _parse_list(ModelState, body)
                self.models |= {(state.model, state.region): state for state in states}
                for state in states:
                    self._subscribed.pop(state.model, None)
            elif name == "applied-quotas":
                self.applied = _parse_list(AppliedQuota, body)
            elif name == "custom-models":
                self.custom_models |= {
                    model.arn: ModelVersion(model) for model in _parse_list(CustomModel, body)
                }
            elif name == "reset":
                self.reset()
            else:
                return _json({"error": f"there is nothing called '{name}' to change"}, 404)
        except ValidationError as error:
            return _json({"error": str(error)}, 400)
        return _json({})


def _throttling_error(call: Call, exceeded: str) -> AwsError:
    if call.service == "rekognition":
        return AwsError("ProvisionedThroughputExceededException", "Provisioned rate exceeded")
    if exceeded == "day":
        return AwsError("ThrottlingException", "Too many tokens per day, please wait before trying again.")
    return AwsError("ThrottlingException", TOO_MANY_REQUESTS)


def _parse_list(kind: type[_Model], body: Any) -> list[_Model]:
    return TypeAdapter(list[kind]).validate_python(body)  # type: ignore[valid-type]


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
