"""Calls each model of the settings once with a small picture: some faults only show in a billed call.

The first call of a third-party model subscribes the account to it in the AWS Marketplace; `live` waits until the
subscription is set up. What came back is compared with what the adapters expect and recorded without anything
private.
"""

import threading
from collections import Counter, abc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from io import BytesIO
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image, ImageDraw

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.captioners import nova
from bg_pipeline.doctor.exchanges import Exchange, ExchangeRecorder
from bg_pipeline.doctor.expectations import (
    FieldComparison,
    Size,
    compare_caption,
    compare_custom_labels,
    compare_exchange,
    compare_faces,
    compare_image_answer,
    compare_labels,
    compare_mask,
    compare_scene,
)
from bg_pipeline.doctor.findings import Finding, Level
from bg_pipeline.doctor.redaction import redact
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.generators import Ask, Generator, Operation, generator
from bg_pipeline.generators.scenes import ASPECTS, SceneAsk, ScenePainter, scene_painter
from bg_pipeline.imaging import fit, fit_mask, open_photo
from bg_pipeline.labelers import custom_labels, faces, rekognition
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.conventions import FOR_MODELS
from bg_pipeline.masks.sam import SamForm, endpoint, sam_mask
from bg_pipeline.models import selection as models
from bg_pipeline.models.geography import runs_outside_region
from bg_pipeline.rate_limits.limiter import since_epoch
from bg_pipeline.run.context import RunContext
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import open_bucket

MAX_COST_USD = 1.0
"""Most that all trial calls may cost, unless the user sets another limit."""

_BAD_ANSWERS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError)
"""Errors of an adapter that meets an answer of another form than it expects."""


@dataclass
class Answered:
    """What a trial call returned; ``request`` and ``answer`` may contain pictures and private texts."""

    words: str = ""
    usd: float | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    comparisons: list[FieldComparison] = field(default_factory=list)


@dataclass(frozen=True)
class ModelTrial:
    """One call of a model with a small picture; ``call`` makes it and fills in what it returned.

    ``adapter`` and ``task`` name what reads the answer, ``size`` is the requested picture size. ``worst_usd`` is the
    highest cost, None if the price is unknown. ``agreement`` is the status of the Marketplace agreement that AWS
    reports: the call subscribes if there is none.
    """

    subject: str
    operation: Operation
    regions: Sequence[str]
    adapter: str
    task: str
    worst_usd: float | None
    call: Callable[[Answered], None]
    size: Size | None = None
    agreement: str = ""

    @property
    def subscribes(self) -> bool:
        """Whether the call makes a Marketplace agreement first."""
        return self.agreement in ("NOT_AVAILABLE", "ERROR")


@dataclass(frozen=True)
class TrialResult:
    """The finding about a trial, and its record for `report`, without anything private."""

    finding: Finding
    record: dict[str, Any]


def open_context(
    settings: Settings,
    aws: Aws,
    note: Callable[[str], None],
    *,
    max_cost_usd: float = MAX_COST_USD,
    clock: Callable[[], float] = since_epoch,
) -> RunContext:
    """The context for `trials`, with ``max_cost_usd`` as its cap; close it afterwards.

    ``note`` gets a sentence about each long wait, and one after each call that is refused meanwhile.
    """
    cap = min(max_cost_usd, settings.max_cost_usd or max_cost_usd)
    own = settings.model_copy(update={"max_cost_usd": cap, "keep_payloads": True})
    bucket = open_bucket(settings, aws)
    return RunContext(own, aws, bucket, stop=threading.Event(), note=note, waiting=note, clock=clock)


def trials(context: RunContext) -> list[ModelTrial]:
    """One call for each operation of each usable model; they respect the rate limits and the caps."""
    aws, settings = context.aws, context.settings
    calls = [_labels_trial(context), _faces_trial(context)]
    if settings.custom_labels_arn:
        calls.append(_custom_labels_trial(context, settings.custom_labels_arn))
    if settings.sam_endpoint:
        calls.append(_sam_trial(context))

    def usable(operation: Operation, required: Sequence[str] = ()) -> list[models.Availability]:
        found = _usable_in(aws, operation, required or aws.regions)
        if found or required:
            return found
        return _usable_in(aws, operation, runs_outside_region(aws, (operation,)))[:1]

    for name in nova.models(settings, aws):
        if found := usable(nova.operation(name), nova.regions(settings, aws)):
            calls.append(_caption_trial(context, nova.operation(name), found))
    for each in map(generator, settings.image_models):
        if each.replaces and (found := usable(each.replaces)):
            calls.append(_replace_trial(context, each, each.replaces, found))
        if each.removes and (found := usable(each.removes)):
            calls.append(_remove_trial(context, each, each.removes, found))
    for painter in map(scene_painter, settings.scene_models):
        if found := usable(painter.paints):
            # One call is enough: only the first usable model paints scenes.
            calls.append(_scene_trial(context, painter, found))
            break
    return calls


def _usable_in(aws: Aws, operation: Operation, regions: Sequence[str]) -> list[models.Availability]:
    found = (models.check_availability(aws, operation, region) for region in regions)
    return [availability for availability in found if availability.usable]


def live(context: RunContext, trial: ModelTrial, recorder: ExchangeRecorder) -> TrialResult:
    """Makes the call, compares the answer with what the adapter expects, and returns both as a result.

    Waits until a Marketplace subscription is set up, see `ModelCalls`. A call of unknown price is not made.
    """
    answered = Answered()
    for region in trial.regions:
        recorder.listen(context.aws.client(trial.operation.service, region))
    with recorder.recording() as exchanges:
        finding = _make(trial, answered, exchanges)
    return TrialResult(finding, _record(trial, answered, exchanges, finding, _private(context.settings)))


def _make(trial: ModelTrial, answered: Answered, exchanges: Sequence[Exchange]) -> Finding:
    subject = f"live {trial.subject}"
    if trial.worst_usd is None:
        advice = "give its price in the file that BG_MODEL_FACTS names"
        return Finding(Level.ATTENTION, subject, "not called, since its price is unknown", advice)
    try:
        trial.call(answered)
    except (BgPipelineError, ClientError, BotoCoreError) as error:
        if getattr(error, "code", "") == custom_labels.NOT_RUNNING:
            words = "the model is not running, so it could not be tried; nothing was started"
            advice = (
                "the job custom_labels_window starts it when photos wait for it; it is billed by the hour"
            )
            return Finding(Level.ATTENTION, subject, words, advice)
        advice = "see the findings about it above; remove the model from the settings if you do not use it"
        return Finding(Level.FAILED, subject, str(error), advice)
    except _BAD_ANSWERS as error:
        advice = "send the file that is written at the end with a bug report"
        words = f"answered in a form that the adapter cannot read ({type(error).__name__}: {error})"
        return Finding(Level.FAILED, subject, words, advice)
    # What the containers of SageMaker endpoints send as headers is up to their makers.
    if exchanges and trial.operation.service != "sagemaker-runtime":
        last = exchanges[-1]
        is_bedrock = trial.operation.service == "bedrock-runtime"
        answered.comparisons += compare_exchange(
            last.status,
            last.headers,
            last.seconds,
            media_type="application/json" if is_bedrock else "application/x-amz-json-1.1",
            longest=330 if is_bedrock else 60,
        )
    different = [each for each in answered.comparisons if not each.matches]
    if different:
        words = "; ".join(f"{each.field} is {each.found}, expected {each.expected}" for each in different[:3])
        more = f" and {len(different) - 3} more differences" if len(different) > 3 else ""
        advice = "send the file that is written at the end with a bug report"
        return Finding(Level.ATTENTION, subject, f"{answered.words}; {words}{more}", advice)
    words = f"{answered.words}; {len(answered.comparisons)} fields as expected"
    return Finding(Level.OK, subject, words)


def run_trials(context: RunContext, calls: Sequence[ModelTrial]) -> abc.Generator[TrialResult, None, None]:
    """The results of `live` for all calls, each as soon as it is known; subscriptions are set up side by side."""
    recorder = ExchangeRecorder()
    with ThreadPoolExecutor(max(len(calls), 1)) as pool:
        all_done = False
        try:
            futures = [pool.submit(live, context, trial, recorder) for trial in calls]
            for future in as_completed(futures):
                yield future.result()
            all_done = True
        finally:
            # After an error, or if the caller stops early, no call waits any longer for a subscription.
            if not all_done:
                context.stop.set()


def report(findings: Sequence[Finding], results: Sequence[TrialResult], settings: Settings) -> bytes:
    """The file ``doctor-live-<date>.json``: findings and calls without account ids, pictures, links or ARNs."""
    private = _private(settings)
    document = {
        "Format": 1,
        "Made": datetime.now(UTC).isoformat(timespec="seconds"),
        "Version": version("bg-pipeline"),
        "Botocore": version("botocore"),
        # The credentials are left out: they name the account and its user.
        "Findings": [redact(_members(each), private) for each in findings if each.subject != "credentials"],
        "Calls": [each.record for each in sorted(results, key=lambda each: each.record["Subject"])],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _private(settings: Settings) -> dict[str, str]:
    """The user's own names and texts, and what replaces them in a record."""
    texts = {settings.bucket: "<bucket>", settings.archive_to: "<archive bucket>"}
    texts |= dict.fromkeys(settings.allowed_buckets, "<other bucket>")
    if settings.caption_prompt != nova.PROMPT:
        texts[settings.caption_prompt] = "<BG_CAPTION_PROMPT>"
    texts[settings.sam_endpoint] = "<SAM endpoint>"
    texts[settings.custom_labels_arn] = "<Custom Labels model>"
    # A short name could be part of any word.
    return {text: replacement for text, replacement in texts.items() if len(text) > 2 and text != "archive"}


def _members(value: Finding | FieldComparison) -> dict[str, Any]:
    """The fields of a dataclass under names such as ``Words``."""
    return {name.capitalize(): member for name, member in asdict(value).items()}


def _record(
    trial: ModelTrial,
    answered: Answered,
    exchanges: Sequence[Exchange],
    finding: Finding,
    private: Mapping[str, str],
) -> dict[str, Any]:
    refusals = Counter((each.status, each.code, each.message) for each in exchanges if each.status >= 300)
    served = [each for each in exchanges if each.status < 300]
    answer = {name: value for name, value in answered.answer.items() if name != "ResponseMetadata"}
    record: dict[str, Any] = {
        "Subject": trial.subject,
        "Adapter": trial.adapter,
        "Task": trial.task,
        "Model": trial.operation.invoke_id,
        "Agreement": trial.agreement,
        "Result": finding.level.value,
        "Words": finding.words,
        "CostUSD": answered.usd,
        "Size": trial.size,
        "Refusals": [
            {"Status": status, "Code": code, "Message": message, "Times": times}
            for (status, code, message), times in refusals.items()
        ],
        "Request": answered.request,
        "Answer": answer,
        "Comparisons": [_members(each) for each in answered.comparisons],
    }
    if served:
        last = served[-1]
        record |= {
            "Region": last.region,
            "Status": last.status,
            "Seconds": round(last.seconds, 3),
            "Headers": last.headers,
            "HeaderNames": last.header_names,
        }
    result: dict[str, Any] = redact(record, private)
    return result


SIDE = 512
_PROMPT = "a sandy beach"
_BALL = (SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4)


@cache
def _picture() -> bytes:
    """A red ball on grey as a small JPEG."""
    image = Image.new("RGB", (SIDE, SIDE), (205, 205, 205))
    ImageDraw.Draw(image).ellipse(_BALL, fill=(190, 30, 30))
    out = BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _mask() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).ellipse(_BALL, fill=255)
    return mask


def _budget(context: RunContext) -> ImageBudget:
    return ImageBudget(context.run_budget, Batch(datetime.now(UTC).date(), "doctor"), "doctor.jpg")


def _call_rekognition(
    context: RunContext,
    operation: Operation,
    request: Mapping[str, Any],
    send: Callable[[Any], Any],
    answered: Answered,
    regions: Sequence[str] = (),
) -> None:
    price = facts_of(operation.name).cost(images=1)
    answered.request = request
    with _budget(context).pay(operation.name, price) as paid:
        result = context.calls.make(
            operation, lambda client, _: send(client), regions=regions or context.aws.regions
        )
        paid.settle(price)
    answered.usd, answered.answer = price, result.answer
    answered.words = f"answered from {result.region}"


def _labels_trial(context: RunContext) -> ModelTrial:
    operation, request = rekognition.OPERATION, rekognition.request(_picture())

    def call(answered: Answered) -> None:
        _call_rekognition(
            context, operation, request, lambda client: client.detect_labels(**request), answered
        )
        answered.comparisons = compare_labels(answered.answer, request["MinConfidence"])
        rekognition.document(answered.answer)

    price = facts_of(operation.name).cost(images=1)
    return ModelTrial(operation.name, operation, context.aws.regions, "rekognition", "labels", price, call)


def _faces_trial(context: RunContext) -> ModelTrial:
    operation, request = faces.OPERATION, faces.request(_picture())

    def call(answered: Answered) -> None:
        _call_rekognition(
            context, operation, request, lambda client: client.detect_faces(**request), answered
        )
        answered.comparisons = compare_faces(answered.answer)
        faces.face_boxes(answered.answer)

    price = facts_of(operation.name).cost(images=1)
    return ModelTrial(operation.name, operation, context.aws.regions, "rekognition", "faces", price, call)


def _custom_labels_trial(context: RunContext, arn: str) -> ModelTrial:
    operation, regions = custom_labels.OPERATION, (custom_labels.region(arn),)
    request = custom_labels.request(arn, _picture(), context.settings.custom_labels_confidence)

    def call(answered: Answered) -> None:
        _call_rekognition(
            context,
            operation,
            request,
            lambda client: client.detect_custom_labels(**request),
            answered,
            regions,
        )
        answered.comparisons = compare_custom_labels(answered.answer, request["MinConfidence"])
        custom_labels.document(answered.answer, arn)

    price = facts_of(operation.name).cost(images=1)
    return ModelTrial(operation.name, operation, regions, "custom_labels", "labels", price, call)


def _sam_trial(context: RunContext) -> ModelTrial:
    operation = Operation("SAM", context.settings.sam_endpoint, service="sagemaker-runtime")
    regions, form = context.aws.regions[:1], SamForm.read(context.settings.sam_form)
    left, top, right, bottom = (edge / SIDE for edge in _BALL)
    box = Box(left, top, right, bottom)

    def call(answered: Answered) -> None:
        def ask(body: bytes) -> tuple[bytes, str]:
            def send(client: Any, name: str) -> tuple[bytes, str]:
                return endpoint(client, name, form)(body)

            answer = context.calls.make(operation, send, regions=regions, unknown_repeats=1).answer
            answered.answer = {"Bytes": len(answer[0]), "ContentType": answer[1]}
            return answer

        mask = sam_mask(ask, form, _picture(), (SIDE, SIDE), [box])
        share = sum(mask.picture.histogram()[128:]) / SIDE**2
        answered.comparisons = compare_mask(share, (_BALL[2] - _BALL[0]) ** 2 * 0.7854 / SIDE**2)
        answered.usd, answered.words = (
            0.0,
            f"answered from {regions[0]}: {share:.0%} of the picture is the ball",
        )

    return ModelTrial("SAM endpoint", operation, regions, "sam", "mask", 0.0, call)


def _caption_trial(
    context: RunContext, operation: Operation, found: Sequence[models.Availability]
) -> ModelTrial:
    prompt, alt_text = context.settings.caption_prompt, context.settings.alt_text_length
    tier = context.settings.caption_tier
    tokens = nova.tokens_at_most(operation.invoke_id, prompt, alt_text)
    worst = nova.cost(operation.invoke_id, tokens, tier)
    regions = [each.region for each in found]

    def call(answered: Answered) -> None:
        body = nova.request(operation.invoke_id, _picture(), prompt, alt_text, tier)
        answered.request = body
        with _budget(context).pay(operation.name, worst) as paid:
            result = context.calls.make(
                operation, lambda client, _: client.converse(**body), regions=regions, tokens=sum(tokens)
            )
            answered.answer = result.answer
            answered.comparisons = compare_caption(result.answer, tokens, alt_text)
            answered.usd = nova.cost(
                operation.invoke_id, nova.tokens_used(result.answer), nova.tier_used(result.answer)
            )
            paid.settle(answered.usd)
            caption = nova.read(result.answer, alt_text)
        answered.words = f"answered from {result.region}: {caption.text[:60]}"

    subject = f"{operation.name} {operation.invoke_id}"
    return ModelTrial(
        subject, operation, regions, "captions", "caption", worst, call, agreement=found[0].agreement
    )


def _replace_trial(
    context: RunContext, model: Generator, operation: Operation, found: Sequence[models.Availability]
) -> ModelTrial:
    fitted = model.sizes.canvas((SIDE, SIDE))

    def replace(answered: Answered, budget: ImageBudget, invoke: Any) -> None:
        ask = Ask(
            picture=fit(open_photo(_picture()), fitted, media="jpeg", max_bytes=model.max_picture_bytes),
            size=fitted.canvas,
            prompt=_PROMPT,
            seed=model.seeds[1],
            mask=FOR_MODELS.write_png(fit_mask(_mask(), fitted)),
        )
        made = model.replace(ask, invoke)
        answered.words = f"painted {len(made.images)} picture"

    return _image_trial(context, model, operation, found, "replace", replace)


def _remove_trial(
    context: RunContext, model: Generator, operation: Operation, found: Sequence[models.Availability]
) -> ModelTrial:
    fitted = model.sizes.canvas((SIDE, SIDE))

    def remove(answered: Answered, budget: ImageBudget, invoke: Any) -> None:
        picture = fit(open_photo(_picture()), fitted, media="jpeg", max_bytes=model.max_picture_bytes)
        model.remove(picture, fitted.canvas, invoke)
        answered.words = "cut a subject out"

    return _image_trial(context, model, operation, found, "remove", remove)


def _image_trial(
    context: RunContext,
    model: Generator,
    operation: Operation,
    found: Sequence[models.Availability],
    task: str,
    use: Callable[[Answered, ImageBudget, Any], None],
) -> ModelTrial:
    price = facts_of(operation.name, operation.model_id).cost(images=1)
    size = model.sizes.canvas((SIDE, SIDE)).canvas
    regions = [each.region for each in found]

    def call(answered: Answered) -> None:
        budget = _budget(context)
        try:
            with budget.pay(operation.name, price) as paid:
                use(answered, budget, context.invoke(regions, budget, paid))
                paid.settle(price)
                answered.usd = price
                answered.words += f" in {paid.region}"
        finally:
            # Also an answer that the adapter refused is recorded and compared.
            if len(budget.payloads) >= 2:
                answered.request, answered.answer = map(
                    _json_object, (budget.payloads[0][1], budget.payloads[-1][1])
                )
                answered.comparisons = compare_image_answer(
                    operation.model_id, answered.answer, answered.request, size, cut_out=task == "remove"
                )

    what = {"replace": "new background", "remove": "cut-out"}[task]
    subject = f"{model.name} {what}"
    return ModelTrial(
        subject, operation, regions, model.name, task, price, call, size=size, agreement=found[0].agreement
    )


def _scene_trial(
    context: RunContext, painter: ScenePainter, found: Sequence[models.Availability]
) -> ModelTrial:
    operation, regions = painter.paints, [each.region for each in found]
    price = facts_of(operation.name, operation.model_id).cost(images=1)

    def call(answered: Answered) -> None:
        budget = _budget(context)
        try:
            with budget.pay(operation.name, price) as paid:
                ask = SceneAsk(_PROMPT, "1:1", painter.seeds[1])
                painter.paint(ask, context.invoke(regions, budget, paid))
                paid.settle(price)
                answered.usd, answered.words = price, f"painted a scene in {paid.region}"
        finally:
            if len(budget.payloads) >= 2:
                answered.request, answered.answer = map(
                    _json_object, (budget.payloads[0][1], budget.payloads[-1][1])
                )
                answered.comparisons = compare_scene(answered.answer, ASPECTS["1:1"])

    subject = f"{painter.name} scene"
    return ModelTrial(
        subject, operation, regions, painter.name, "scene", price, call, agreement=found[0].agreement
    )


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
