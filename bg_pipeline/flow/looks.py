"""What services see in a photo: labels, faces, a caption, a cut-out, each paid for once for the same bytes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from io import BytesIO
from typing import Any

import orjson
from PIL import Image

from bg_pipeline.captioners import nova
from bg_pipeline.errors import CallError, ModelUnavailable, NotTried, RunStopped
from bg_pipeline.flow.photographs import Photograph
from bg_pipeline.flow.tools import Tools, Wallet
from bg_pipeline.generators import Generator, Operation
from bg_pipeline.imaging import fit, look, unfit
from bg_pipeline.labelers import custom_labels, faces, rekognition
from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.polarity import STORED, from_alpha
from bg_pipeline.masks.sam import SamForm, endpoint, sam_mask
from bg_pipeline.models.choice import Choice
from bg_pipeline.models.facts import facts_of
from bg_pipeline.state.answers import Answer, Terms, identity
from bg_pipeline.state.claims import Claim

MASK_SIDE = 2048
"""A cut-out's mask is kept at most so large while its picture is waited for."""


@dataclass(frozen=True)
class Seen:
    """A document about one photo and the model that made it."""

    document: Mapping[str, Any]
    model: str


class Looks:
    """Asks services about one photo; every answer is stored before it is used.

    ``again`` names the stages whose stored answers do not count; of a photo that is ``known``, some are likely to
    be stored.
    """

    def __init__(
        self, tools: Tools, photo: Photograph, wallet: Wallet, again: frozenset[str], *, known: bool = True
    ) -> None:
        self._tools = tools
        self._photo = photo
        self._wallet = wallet
        self._again = again
        self._known = known

    def labels(self) -> Seen:
        """Labels of the photo, as the part of a labels document that comes from the model.

        They are Rekognition's own, or with ``BG_CUSTOM_LABELS_ARN`` that model's; then raises `NotTried` while it
        is not running.
        """
        if self._tools.settings.custom_labels_arn:
            return self._custom_labels(self._tools.settings.custom_labels_arn)
        confidence = self._tools.settings.label_confidence

        def ask(claim: Claim) -> Answer:
            body = rekognition.request(self._photo.view, confidence)
            return self._rekognition(
                rekognition.OPERATION,
                lambda client: client.detect_labels(**body),
                rekognition.document,
                claim,
            )

        return self._once("labels", {"min_confidence": confidence}, ask, "labels")

    def _custom_labels(self, arn: str) -> Seen:
        tools, confidence = self._tools, self._tools.settings.custom_labels_confidence
        asked = {"model": arn, "min_confidence": confidence}

        def picture() -> dict[str, Any]:
            # Before the model is waited for: what is no picture need not wait.
            return custom_labels.request(arn, self._photo.view, confidence)

        def ask(claim: Claim) -> Answer:
            body = picture()
            try:
                if not tools.standstill.now:
                    return self._rekognition(
                        custom_labels.OPERATION,
                        lambda client: client.detect_custom_labels(**body),
                        lambda response: custom_labels.document(response, arn),
                        claim,
                        regions=(custom_labels.region(arn),),
                    )
            except CallError as error:
                if error.code != custom_labels.NOT_RUNNING:
                    raise
                tools.standstill.seen()
            raise tools.standstill.wait(self._wallet.batch.date)

        if tools.standstill.now and not self._stored("labels", asked, "labels"):
            # Ten thousand photos that wait need no claims.
            picture()
            raise tools.standstill.wait(self._wallet.batch.date)
        return self._once("labels", asked, ask, "labels")

    def faces(self) -> list[Box]:
        """Boxes of all faces in the photo."""

        def ask(claim: Claim) -> Answer:
            body = faces.request(self._photo.view)
            return self._rekognition(
                faces.OPERATION,
                lambda client: client.detect_faces(**body),
                lambda response: {"Faces": faces.places(response)},
                claim,
            )

        found = self._once("faces", {}, ask, "labels").document["Faces"]
        return [Box.read(place["BoundingBox"], "face") for place in found]

    def sam(self, boxes: Sequence[Box]) -> Mask:
        """What the user's SAM endpoint sees in ``boxes``; only with ``BG_SAM_ENDPOINT``."""
        tools, photo = self._tools, self._photo
        form = SamForm.read(tools.settings.sam_form)
        asked = {
            "endpoint": tools.settings.sam_endpoint,
            "form": form.model_dump(),
            "boxes": [astuple(box) for box in boxes],
        }
        name = identity("sam", photo.sha256, asked)
        with tools.answers.one_at_a_time(name):
            answer = tools.answers.find("sam", name, self._terms("generated_images"))
            if answer is None:
                size = look(photo.view).size
                mask = sam_mask(self._ask_sam(form), form, photo.view, size, boxes)
                answer = Answer(
                    STORED.write_png(mask.picture), "sam", cost_usd=0.0, made_for=self._wallet.made_for
                )
                tools.answers.keep("sam", name, answer, media_type="image/png")
        self._wallet.charge(name, answer)
        return Mask(STORED.read_png(answer.data), "faces")

    def _ask_sam(self, form: SamForm) -> Callable[[bytes], tuple[bytes, str]]:
        tools = self._tools
        operation = Operation("SAM", tools.settings.sam_endpoint, service="sagemaker-runtime")

        def ask(body: bytes) -> tuple[bytes, str]:
            def send(client: Any, endpoint_name: str) -> tuple[bytes, str]:
                return endpoint(client, endpoint_name, form)(body)

            return tools.calls.make(operation, send, regions=tools.aws.regions[:1], unknown_repeats=1).answer

        return ask

    def caption(self) -> Seen:
        """A caption by the first caption model that can be used: ``{"Caption": …, "AltText": …}``."""
        asked: dict[str, Any] = {"prompt": self._tools.settings.caption_prompt}
        if self._tools.settings.alt_text_length:
            # Not its length: a text that is there already can be shortened without paying again.
            asked["alt_text"] = True
        return self._once("captions", asked, self._describe, "captions")

    def cut_out(self) -> Mask:
        """The subject as a model cuts it out, paid for once and used for every prompt."""
        tools, photo = self._tools, self._photo
        name = identity("cut-out", photo.sha256, {})
        answer = tools.answers.once(
            "cut-out",
            name,
            self._terms("generated_images", tools.removers.names),
            self._cut,
            media_type="image/png",
        )
        self._wallet.charge(name, answer)
        fitted = tools.generator(answer.model).sizes.canvas(photo.size)
        with Image.open(BytesIO(answer.data)) as picture:
            if not picture.has_transparency_data:
                raise CallError("BadAnswer", f"the cut-out by {answer.model} has no transparency")
            alpha = from_alpha(picture)
        scale = min(1.0, MASK_SIDE / max(fitted.inner))
        width, height = (max(1, round(side * scale)) for side in fitted.inner)
        return Mask(unfit(alpha, fitted, (width, height)), "cut-out")

    def _cut(self, claim: Claim) -> Answer:
        removers = self._tools.removers
        while removers.candidates:
            choice = removers.current()
            try:
                return self._cut_with(choice, claim)
            except ModelUnavailable as error:
                removers.lost(choice, error.region, error)
        raise NotTried(
            "NoCutOut",
            "its mask has to be cut out, and no model in BG_IMAGE_MODELS does that: add titan-v2, "
            "nova-canvas or stability, or give a mask",
        )

    def _cut_with(self, choice: Choice[Generator], claim: Claim) -> Answer:
        tools, photo, wallet = self._tools, self._photo, self._wallet
        generator = choice.candidate.speaker
        (operation,) = choice.candidate.operations
        fitted = generator.sizes.canvas(photo.size)
        with photo.full() as full:
            picture = fit(full, fitted, media="jpeg", max_bytes=generator.max_picture_bytes)
        served_by: list[str] = []
        price = facts_of(operation.name, operation.model_id).cost(images=1)
        with wallet.pay(operation.name, price) as payment:
            data = generator.remove(
                picture, fitted.canvas, tools.invoke(choice.regions, wallet, served_by, claim)
            )
            payment.settle(price)
        region = served_by[-1] if served_by else ""
        return self._answer(data, generator.name, region, price)

    def _describe(self, claim: Claim) -> Answer:
        jpeg = self._photo.jpeg(nova.WITHIN, max_bytes=nova.MAX_BYTES)
        self._photo.set_aside()
        while True:
            choice = self._tools.captioners.current()
            try:
                return self._describe_with(choice, jpeg, claim)
            except ModelUnavailable as error:
                self._tools.captioners.lost(choice, error.region, error)

    def _describe_with(self, choice: Choice[str], jpeg: bytes, claim: Claim) -> Answer:
        tools, wallet = self._tools, self._wallet
        (operation,) = choice.candidate.operations
        prompt, tier = tools.settings.caption_prompt, tools.settings.caption_tier
        alt_text = tools.settings.alt_text_length
        body = nova.request(operation.invoke_id, jpeg, prompt, alt_text, tier)
        tokens_in, tokens_out = nova.tokens_at_most(operation.invoke_id, prompt, alt_text)
        worst = nova.cost(operation.invoke_id, (tokens_in, tokens_out), tier)
        with wallet.pay(operation.name, worst) as payment:
            done = tools.calls.make(
                operation,
                lambda client, _: client.converse(**body),
                regions=choice.regions,
                tokens=tokens_in + tokens_out,
                used_tokens=lambda answer: float(answer.get("usage", {}).get("totalTokens", 0)),
                before=partial(wallet.check, claim),
            )
            tokens = nova.tokens_used(done.answer)
            cost = nova.cost(operation.invoke_id, tokens, nova.tier_used(done.answer))
            payment.settle(cost)
            try:
                caption = nova.read(done.answer, alt_text)
            except CallError:
                # A refusal, or nothing, that came as an answer is paid for like one.
                wallet.bill[operation.name] = cost
                raise
        answer = {key: value for key, value in done.answer.items() if key != "ResponseMetadata"}
        tools.keep_payload(wallet, operation, body, answer)
        document = {"Caption": caption.text, "AltText": caption.alt_text}
        return self._answer(orjson.dumps(document), choice.candidate.name, done.region, cost)

    def _rekognition(
        self,
        operation: Operation,
        send: Callable[[Any], Any],
        read: Callable[[Any], Mapping[str, Any]],
        claim: Claim,
        *,
        regions: Sequence[str] = (),
    ) -> Answer:
        price = facts_of(operation.name).cost(images=1)
        with self._wallet.pay(operation.name, price) as payment:
            try:
                done = self._tools.calls.make(
                    operation,
                    lambda client, _: send(client),
                    regions=regions or self._tools.aws.regions,
                    before=partial(self._wallet.check, claim),
                )
            except ModelUnavailable as error:
                raise RunStopped(
                    f"Rekognition refuses {operation.name} ({error}); grant the credentials "
                    "rekognition:DetectLabels, rekognition:DetectFaces and, for a model of your own, "
                    "rekognition:DetectCustomLabels, in Regions that have them"
                ) from error
            except CallError as error:
                if error.code == "InvalidImageFormatException":
                    # What was sent undecoded is decoded now, to say what is wrong with it.
                    _ = self._photo.small
                raise
            payment.settle(price)
        return self._answer(orjson.dumps(read(done.answer)), "rekognition", done.region, price)

    def _answer(self, data: bytes, model: str, region: str, cost: float | None) -> Answer:
        return Answer(data, model, region, cost_usd=cost, made_for=self._wallet.made_for)

    def _stored(self, kind: str, asked: Mapping[str, Any], stage: str) -> bool:
        name = identity(kind, self._photo.sha256, asked)
        return self._tools.answers.find(kind, name, self._terms(stage)) is not None

    def _terms(self, stage: str, models: Collection[str] = ()) -> Terms:
        return self._tools.terms(self._wallet, models=models, again=stage in self._again)

    def _once(self, kind: str, asked: Mapping[str, Any], ask: Callable[[Claim], Answer], stage: str) -> Seen:
        """The document for these bytes, asked for only if nobody has."""
        tools = self._tools
        name = identity(kind, self._photo.sha256, asked)
        answer = tools.answers.once(
            kind, name, self._terms(stage), ask, media_type="application/json", looks=self._known
        )
        self._wallet.charge(name, answer)
        try:
            return Seen(orjson.loads(answer.data), answer.model)
        except orjson.JSONDecodeError as error:
            raise CallError("BadAnswer", f"the stored answer {kind}/{name} is damaged: {error}") from error
