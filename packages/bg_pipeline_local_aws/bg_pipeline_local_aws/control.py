"""The control route: what a test may tell the stand-in to do, and the books of what was asked of it.

Everything is JSON under ``/_control/``; nothing of it exists on AWS.
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

from bg_pipeline_local_aws.rules import (
    TOO_MANY,
    AppliedQuota,
    CustomModel,
    Fault,
    Latency,
    Meter,
    ModelState,
    Quota,
    Switches,
    Window,
)
from bg_pipeline_local_aws.wire import ACCOUNT, AwsError, Call

BOOKS_KEEP = 100_000

PAID_OPERATIONS = frozenset(
    {"InvokeModel", "Converse", "DetectLabels", "DetectFaces", "DetectCustomLabels", "InvokeEndpoint"}
)

TOTALLED = ("operation", "model", "region", "outcome", "billed")

# A prompt that holds one of these words is refused as content policy would, each at another stage.
TRIGGER_WORDS = {"blockme": "prompt", "blockimage": "image", "blockoutput": "output", "blocksome": "some"}

# A Custom Labels model that is always there.
CUSTOM_MODEL = f"arn:aws:rekognition:us-east-1:{ACCOUNT}:project/demo/version/demo.1/1767225600000"

_Model = TypeVar("_Model", bound=BaseModel)


class Control:
    """The rules in force and the books; used from one event loop only."""

    def __init__(self) -> None:
        self._number = 0
        self.reset()

    def reset(self) -> None:
        """As at the start: no rule, every model alive, empty books. The numbers of calls go on counting."""
        self.faults: list[Fault] = []
        self.quotas: list[Quota] = []
        self.latencies: list[Latency] = []
        self.switches = Switches()
        self.models: dict[tuple[str, str], ModelState] = {}
        self.applied: list[AppliedQuota] = []
        self._subscribed: dict[str, float] = {}
        self.windows = {CUSTOM_MODEL: Window(CustomModel(arn=CUSTOM_MODEL))}
        self._entries: deque[dict[str, Any]] = deque(maxlen=BOOKS_KEEP)
        self._totals: Counter[tuple[Any, ...]] = Counter()
        self._meters: dict[tuple[int, str], Meter] = {}
        # Shares of faults and latencies fall the same way in every test.
        self._random = random.Random(0)  # noqa: S311

    def admit(self, call: Call) -> None:
        """Let a call in, or refuse it as the rules say. What it is about must be filled in by now."""
        prompt = call.prompt.lower()
        call.block = next((where for word, where in TRIGGER_WORDS.items() if word in prompt), "")
        fault = next((f for f in self.faults if f.meets(call) and self._random.random() < f.share), None)
        if fault and fault.skip:
            fault.skip -= 1
        elif fault:
            if fault.times == 1:
                self.faults.remove(fault)
            fault.times -= 1 if fault.times else 0
            self._strike(fault, call)
        now = time.monotonic()
        meters = []
        for place, quota in enumerate(self.quotas):
            if quota.meets(call):
                meter = self._meters.setdefault((place, call.region), Meter(quota, now))
                if exceeded := meter.refuses(now):
                    raise _throttled(call, exceeded)
                meters.append(meter)
        for meter in meters:
            meter.take(now)

    def _strike(self, fault: Fault, call: Call) -> None:
        if fault.action == "error":
            raise AwsError(
                fault.code, fault.words, status=fault.status, headers=fault.headers, **fault.members
            )
        if fault.action == "reset":
            call.hang_up = True
            if not fault.after_work:
                raise AwsError("reset", "the connection is cut")
        elif fault.action == "delay":
            call.hold = fault.seconds
        else:
            call.block = fault.where

    def answer_after(self, call: Call) -> float:
        """The seconds after its arrival before which a call is not answered."""
        for rule in self.latencies:
            if rule.meets(call):
                return rule.seconds * math.exp(self._random.gauss(0, rule.sigma)) + call.hold
        return call.hold

    def record(self, call: Call, seconds: float) -> None:
        """Write a call into the books. Only the last `BOOKS_KEEP` calls are kept; the totals count all.

        ``outcome`` is ok, blocked (content policy), lost (the answer, after the work), reset (before it) or an
        error's code; ``billed``: a model did its work, whether or not its answer arrived.
        """
        told = ("operation", "model", "region", "task", "image", "outcome")
        entry: dict[str, Any] = {name: getattr(call, name) for name in told}
        entry["billed"] = call.operation in PAID_OPERATIONS and call.outcome in ("ok", "lost")
        self._totals[tuple(entry[name] for name in TOTALLED)] += 1
        self._number += 1
        entry |= {"number": self._number, "at": time.time(), "seconds": seconds, "prompt": call.prompt[:200]}
        self._entries.append(entry)

    def model_state(self, model: str, region: str) -> ModelState:
        """What a model is in a Region: what was said for the Region, else for all, else alive and granted."""
        return self.models.get((model, region)) or self.models.get((model, "")) or ModelState(model=model)

    def subscription(self, state: ModelState) -> str:
        """The account's Marketplace agreement for an ``unsubscribed`` model: an `agreementAvailability` status."""
        begun = self._subscribed.get(state.model)
        if begun is None:
            return "NOT_AVAILABLE"
        return "AVAILABLE" if time.monotonic() >= begun + state.seconds else "PENDING"

    def subscribe(self, state: ModelState) -> None:
        """Begin the agreement, once for all Regions."""
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
            counted = self._totals.items()
            return _json(
                [{**dict(zip(TOTALLED, key, strict=True)), "count": number} for key, number in counted]
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
                self.faults += _many(Fault, body)
            elif name == "quotas":
                self.quotas, self._meters = _many(Quota, body), {}
            elif name == "latencies":
                self.latencies = _many(Latency, body)
            elif name == "switches":
                self.switches = Switches.model_validate(body)
            elif name == "models":
                states = _many(ModelState, body)
                self.models |= {(state.model, state.region): state for state in states}
                for state in states:
                    self._subscribed.pop(state.model, None)
            elif name == "applied-quotas":
                self.applied = _many(AppliedQuota, body)
            elif name == "custom-models":
                self.windows |= {model.arn: Window(model) for model in _many(CustomModel, body)}
            elif name == "reset":
                self.reset()
            else:
                return _json({"error": f"there is nothing called '{name}' to change"}, 404)
        except ValidationError as error:
            return _json({"error": str(error)}, 400)
        return _json({})


def _throttled(call: Call, exceeded: str) -> AwsError:
    if call.service == "rekognition":
        return AwsError("ProvisionedThroughputExceededException", "Provisioned rate exceeded")
    if exceeded == "day":
        return AwsError("ThrottlingException", "Too many tokens per day, please wait before trying again.")
    return AwsError("ThrottlingException", TOO_MANY)


def _many(kind: type[_Model], body: Any) -> list[_Model]:
    return TypeAdapter(list[kind]).validate_python(body)  # type: ignore[valid-type]


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
