"""What the threads of one run share: the store, the selected models, the rate limits and the budget."""

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import orjson
import pybase64
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget, PaidCall
from bg_pipeline.budget.run_budget import RunBudget
from bg_pipeline.budget.spend_log import SpendLog
from bg_pipeline.captioners import nova
from bg_pipeline.domain.s3_keys import STATE, run_spend_key
from bg_pipeline.errors import OutcomeUnknown, SettingsError
from bg_pipeline.generators import BUILT_IN, Generator, Invoke, Operation, generator
from bg_pipeline.generators.scenes import scene_painter
from bg_pipeline.imaging import signing
from bg_pipeline.imaging.workers import shared_workers
from bg_pipeline.models.selection import ModelCandidate, ModelSelector, prompt_limit
from bg_pipeline.rate_limits.calls import ModelCalls
from bg_pipeline.rate_limits.heartbeats import Heartbeats
from bg_pipeline.rate_limits.limiter import since_epoch
from bg_pipeline.run.source_image import PictureMemory
from bg_pipeline.settings import Settings
from bg_pipeline.state.answers import AnswerPolicy, AnswerStore
from bg_pipeline.state.claims import Claim
from bg_pipeline.state.model_stopped import StoppedModel
from bg_pipeline.state.process_identity import process_name
from bg_pipeline.storage.object_store import Store


def signing_of(settings: Settings) -> signing.Signing | None:
    """The certificate and key that results are signed with; None if they are not signed."""
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        return None
    return signing.Signing(settings.c2pa_certificate, settings.c2pa_key)


def check_signing(settings: Settings) -> None:
    """Raises `SettingsError` if results are to be signed and cannot be; call it before anything is paid."""
    if (chosen := signing_of(settings)) is not None:
        signing.check(chosen)


class RunContext:
    """The services of one run; call `close` at the end.

    Setting ``stop`` ends all waiting. ``refresh_occasion`` names the refresh that the run was started for, if any.
    ``note`` is called with one line of text for each decision that the user should know of, and only once for the
    same line. Runs with the same ``cap_group`` share the cap of a run. ``spend_log`` records what is paid.
    ``waiting`` and ``clock`` are those of `ModelCalls`.
    """

    def __init__(
        self,
        settings: Settings,
        aws: Aws,
        store: Store,
        *,
        stop: threading.Event,
        note: Callable[[str], None] = lambda line: None,
        refresh_occasion: str = "",
        cap_group: str = "",
        spend_log: SpendLog | None = None,
        waiting: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = since_epoch,
    ) -> None:
        self.settings = settings
        self.aws = aws
        self.store = store
        self.stop = stop
        self.note = note = _once(note)
        self._refresh_occasion = refresh_occasion
        self.answers = AnswerStore(store, process_name())
        self.calls = ModelCalls(
            aws, settings, stop, Heartbeats(store, f"{STATE}/heartbeats"), note, waiting, clock
        )
        self.run_budget = RunBudget(
            store,
            run_cap_usd=settings.max_cost_usd,
            run_cap_key=run_spend_key(cap_group) if cap_group else "",
            day_cap_usd=settings.max_cost_usd_per_day,
            spend_log=spend_log,
        )
        self.stopped_model = StoppedModel(store)
        self.workers = shared_workers(settings.max_decoded_images)
        self.picture_memory = PictureMemory(self.workers)
        generators = [generator(name) for name in settings.image_models]
        self._generators = {each.name: each for each in generators}
        self.background_models = ModelSelector(
            aws,
            [ModelCandidate(each.name, (each.replaces,), each) for each in generators if each.replaces],
            note,
        )
        self.cut_out_models = ModelSelector(
            aws,
            [ModelCandidate(each.name, (each.removes,), each) for each in generators if each.removes],
            note,
        )
        self.caption_models = ModelSelector(
            aws,
            [ModelCandidate(name, (nova.operation(name),), name) for name in nova.models(settings, aws)],
            note,
            regions=nova.regions(settings, aws),
        )

        painters = [scene_painter(name) for name in settings.scene_models]
        self.scene_models = ModelSelector(
            aws, [ModelCandidate(each.name, (each.paints,), each) for each in painters], note
        )

    @property
    def prompt_limit(self) -> int:
        """The longest prompt, in characters, that the selected image model accepts."""
        return prompt_limit(self.background_models)

    @property
    def prompt_limits(self) -> frozenset[int]:
        """The prompt limits of all known image models, any of which may have made a stored picture."""
        names = {*BUILT_IN, *self._generators}
        return frozenset(known.prompt_limit for name in names if (known := self.generator(name)))

    def generator(self, name: str) -> Generator | None:
        """The generator with this name, whether it is configured or not; None if it cannot be loaded."""
        if name not in self._generators:
            try:
                self._generators[name] = generator(name)
            except SettingsError:
                return None
        return self._generators[name]

    def answer_policy(
        self, budget: ImageBudget, *, models: Collection[str] = (), occasion: str = ""
    ) -> AnswerPolicy:
        """Which stored answers may be used for the image that ``budget`` pays for."""
        return AnswerPolicy(
            self.stop, budget.batch.path, budget.retry, models, occasion, self._refresh_occasion
        )

    def invoke(self, regions: Sequence[str], budget: ImageBudget, call: PaidCall, *claims: Claim) -> Invoke:
        """An `Invoke` within the rate limits and under ``claims``; it adds the Region that answered to ``call``."""

        def invoke(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
            data = orjson.dumps(body)

            def send(client: Any, model_id: str) -> bytes:
                response = client.invoke_model(
                    modelId=model_id, body=data, contentType="application/json", accept="application/json"
                )
                with closing(response["body"]) as stream:
                    return bytes(stream.read())

            response = self.calls.make(
                operation, send, regions=regions, before=partial(budget.check, *claims)
            )
            call.regions.append(response.region)
            self.keep_payload(budget, operation, data, response.answer)
            return _json_object(response.answer)

        return invoke

    def keep_payload(
        self,
        budget: ImageBudget,
        operation: Operation,
        request: bytes | Mapping[str, Any],
        answer: bytes | Mapping[str, Any],
    ) -> None:
        """With ``BG_KEEP_PAYLOADS``, remembers the exact JSON of a model call for `store_payloads`."""
        if self.settings.keep_payloads:
            request_json, answer_json = _json(request), _json(answer)
            name = f"{operation.name.lower()}-{hashlib.sha256(request_json).hexdigest()[:16]}"
            for kind, data in (("request", request_json), ("answer", answer_json)):
                budget.payloads.append((budget.batch.payload_key(budget.image, f"{name}-{kind}"), data))

    def store_payloads(self, budget: ImageBudget) -> None:
        """Stores the payloads of `keep_payload`; call it after the answers are stored. An error is only noted."""
        while budget.payloads:
            key, data = budget.payloads.pop(0)
            try:
                self.store.write(key, data, media_type="application/json")
            except (ClientError, BotoCoreError) as error:
                # Errors of a connection have a response as well, which is None.
                answer = error.response if isinstance(error, ClientError) else {}
                code = answer.get("Error", {}).get("Code") or type(error).__name__
                self.note(
                    f"BG_KEEP_PAYLOADS: requests and answers could not be stored ({code}); the results are stored"
                )
                budget.payloads.clear()

    def close(self) -> None:
        """Ends the heartbeats and releases the part of the budget that was reserved and not spent."""
        self.calls.close()
        self.run_budget.close()


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """``note``, except that a line that was noted before is ignored."""
    noted: set[str] = set()

    def note_once(line: str) -> None:
        if line not in noted:
            noted.add(line)
            note(line)

    return note_once


def _json(document: bytes | Mapping[str, Any]) -> bytes:
    """The JSON of a payload; raw bytes of a picture become base64, as boto3 sends them."""
    if isinstance(document, bytes):
        return document
    return orjson.dumps(document, default=lambda data: pybase64.b64encode_as_string(data))


def _json_object(data: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise OutcomeUnknown("BadAnswer", f"the model's answer is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise OutcomeUnknown("BadAnswer", "the model's answer is not a JSON object")
    return document
