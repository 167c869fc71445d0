"""What one run works with, shared by its threads: the store, the models in use, the gates, the purse."""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pybase64
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.custom_labels.standstill import Standstill
from bg_pipeline.errors import BgPipelineError, LeaseLost, OutcomeUnknown
from bg_pipeline.flow.photographs import Darkroom
from bg_pipeline.generators import Generator, Invoke, Operation, generator
from bg_pipeline.layout import STATE, Batch
from bg_pipeline.models.choice import Candidate, Roster, prompt_limit
from bg_pipeline.quotas.calls import Calls
from bg_pipeline.quotas.heartbeats import Heartbeats
from bg_pipeline.settings import Settings
from bg_pipeline.spending.purse import Purse, Reservation
from bg_pipeline.state.answers import Answer, Answers, Terms
from bg_pipeline.state.claims import Claim
from bg_pipeline.state.leases import Lease
from bg_pipeline.state.processes import process_name
from bg_pipeline.store import Store


@dataclass
class Wallet:
    """What is paid for one image, under the caps of the run, the day and the image's batch.

    ``bill`` has the cost of every answer that was paid for this image, now or earlier, by the answer's
    identity; None where the price is unknown. ``reused`` is set once an answer served that another image paid.
    ``retry`` names the occasion on which a person asked that what may have been billed twice be called once more.
    """

    purse: Purse
    batch: Batch
    image: str
    batch_cap_usd: float | None = None
    lease: Lease | None = None
    retry: str = ""
    bill: dict[str, float | None] = field(default_factory=dict)
    reused: bool = False

    @property
    def made_for(self) -> str:
        """A short digest of the image's key, which fits the metadata of an object."""
        return hashlib.sha256(self.batch.upload_key(self.image).encode()).hexdigest()[:16]

    @contextmanager
    def pay(self, operation: str, worst_usd: float | None) -> Iterator[Reservation]:
        """Sets ``worst_usd`` aside for a call; the block settles it with what the call cost.

        A call that failed for a reason that is known costs nothing; any other stays counted as billed.
        """
        self.check()
        reservation = self.purse.reserve(
            worst_usd, operation, batch_key=self.batch.spend_key, batch_cap_usd=self.batch_cap_usd
        )
        with reservation:
            try:
                yield reservation
            except OutcomeUnknown:
                raise
            except (BgPipelineError, ClientError, BotoCoreError):
                reservation.release()
                raise

    def check(self, claim: Claim | None = None) -> None:
        """Raises `LeaseLost` if another run may be at work on the batch; called right before each paid call.

        Raises `ClaimLost` if another process has the call that is made under ``claim`` by now.
        """
        if self.lease is not None and not self.lease.held():
            raise LeaseLost(f"batch {self.batch.path} was taken over by another run, which goes on with it")
        if claim is not None:
            claim.renew()

    def charge(self, name: str, answer: Answer) -> None:
        """Takes an answer that is used into the bill."""
        if answer.made_for == self.made_for:
            self.bill[name] = answer.cost_usd
        else:
            self.reused = True


class Tools:
    """The tools of one run; end them with `close`.

    ``stop`` ends all waiting. ``note`` is called with one line whenever a person would want to know of a
    choice that was made. ``retry`` names the occasion on which a person asked that what failed for a lasting reason
    be tried again; it is empty where nobody did.
    """

    def __init__(
        self,
        settings: Settings,
        aws: Aws,
        store: Store,
        *,
        stop: threading.Event,
        retry: str = "",
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings = settings
        self.aws = aws
        self.store = store
        self.stop = stop
        self.note = note = _once(note)
        self.retry = retry
        self.answers = Answers(store, process_name())
        self.calls = Calls(aws, settings, stop, Heartbeats(store, f"{STATE}/heartbeats"), note)
        self.purse = Purse(
            store, run_cap_usd=settings.max_cost_usd, day_cap_usd=settings.max_cost_usd_per_day
        )
        self.standstill = Standstill(store)
        self.darkroom = Darkroom(settings.max_decoded_images)
        generators = [generator(name) for name in settings.image_models]
        self._generators = {each.name: each for each in generators}
        self.replacers = Roster(
            aws, [Candidate(each.name, (each.replaces,), each) for each in generators if each.replaces], note
        )
        self.removers = Roster(
            aws, [Candidate(each.name, (each.removes,), each) for each in generators if each.removes], note
        )
        self.captioners = Roster(
            aws,
            [Candidate(name, (nova.operation(name),), name) for name in nova.models(settings, aws)],
            note,
            regions=nova.regions(settings, aws),
        )

    @property
    def prompt_limit(self) -> int:
        """The longest prompt, in characters, of the image model in use."""
        return prompt_limit(self.replacers)

    def generator(self, name: str) -> Generator:
        """The configured generator that made a stored answer."""
        return self._generators[name]

    def terms(self, wallet: Wallet, *, models: Collection[str] = (), again: bool = False) -> Terms:
        """Which answers will do for the image that ``wallet`` pays for."""
        # Without a lease somebody else may be at work on the batch.
        batch = wallet.batch.path if wallet.lease is not None else ""
        return Terms(self.stop, batch, wallet.retry, models, again)

    def invoke(
        self, regions: Sequence[str], wallet: Wallet, served_by: list[str], claim: Claim | None = None
    ) -> Invoke:
        """An `Invoke` through the gate, under a claim; appends the Region that answered to ``served_by``."""

        def invoke(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
            data = orjson.dumps(body)

            def send(client: Any, model_id: str) -> bytes:
                response = client.invoke_model(
                    modelId=model_id, body=data, contentType="application/json", accept="application/json"
                )
                with response["body"] as stream:
                    return bytes(stream.read())

            done = self.calls.make(operation, send, regions=regions, before=partial(wallet.check, claim))
            served_by.append(done.region)
            self.keep_payload(wallet, operation, data, done.answer)
            return _json_object(done.answer)

        return invoke

    def keep_payload(
        self,
        wallet: Wallet,
        operation: Operation,
        request: bytes | Mapping[str, Any],
        answer: bytes | Mapping[str, Any],
    ) -> None:
        """With ``BG_KEEP_PAYLOADS``, stores the exact JSON of a model call beside the image's other documents."""
        if not self.settings.keep_payloads:
            return
        asked, answered = _json(request), _json(answer)
        name = f"{operation.name.lower()}-{hashlib.sha256(asked).hexdigest()[:16]}"
        for kind, data in (("request", asked), ("answer", answered)):
            key = wallet.batch.payload_key(wallet.image, f"{name}-{kind}")
            self.store.write(key, data, media_type="application/json")

    def close(self) -> None:
        """Ends heartbeats and gives back what was reserved and not spent."""
        self.calls.close()
        self.purse.close()


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """``note``, but for lines that were told before."""
    told: set[str] = set()

    def note_once(line: str) -> None:
        if line not in told:
            told.add(line)
            note(line)

    return note_once


def _json(document: bytes | Mapping[str, Any]) -> bytes:
    """The JSON of a payload; a picture that travels raw is in base64, as it is on the wire."""
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
