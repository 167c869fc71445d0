"""What services find in a photo: labels, faces, a caption, a cut-out; each is paid for once for the same bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson

from bg_pipeline.budget.image_budget import ImageBudget, PaidCall
from bg_pipeline.captioners import nova
from bg_pipeline.domain.effects import Affects, identity_of_call
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import (
    CallError,
    ModelUnavailable,
    NothingUsable,
    NotTried,
    RunStopped,
    SubjectNotFound,
)
from bg_pipeline.generators import Generator, Operation
from bg_pipeline.imaging.workers import header_of
from bg_pipeline.labelers import custom_labels, faces, rekognition
from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.masks.sam import SamForm, endpoint, sam_mask
from bg_pipeline.models.selection import SelectedModel
from bg_pipeline.run.answer_masks import mask_of_cut_out
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.source_image import SourceImage
from bg_pipeline.state.answers import Answer, AnswerPolicy, identity
from bg_pipeline.state.claims import Claim, Price

NO_OCCASIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Analysis:
    """A document about one photo and the model that made it."""

    document: Mapping[str, Any]
    model: str


class PhotoAnalyzer:
    """Calls services for one photo; every answer is stored before it is used, and stored answers are used first.

    ``occasions`` maps a stage to the refresh for which its answers have to have been made. ``expect_answers`` says
    that answers for the photo are likely to be stored. ``last_cut_out`` is the answer that the last cut-out came
    from.

    All methods may raise `ImageError`, `CallError`, `RunStopped` and, for the answer store, errors of boto3.
    """

    def __init__(
        self,
        context: RunContext,
        photo: SourceImage,
        budget: ImageBudget,
        occasions: Mapping[str, str] = NO_OCCASIONS,
        *,
        expect_answers: bool = True,
    ) -> None:
        self._context = context
        self._photo = photo
        self._budget = budget
        self._occasions = occasions
        self._expect_answers = expect_answers
        self.last_cut_out: Answer | None = None

    def labels(self) -> Analysis:
        """Labels of the photo, as the part of a labels document that comes from the model.

        They come from Rekognition, or with ``BG_CUSTOM_LABELS_ARN`` from that model. Raises `NotTried` while that
        model is not running.
        """
        if self._context.settings.custom_labels_arn:
            return self._custom_labels(self._context.settings.custom_labels_arn)
        confidence = self._context.settings.label_confidence

        def ask(claim: Claim) -> Answer:
            body = rekognition.request(self._photo.view, confidence)
            return self._rekognition(
                rekognition.OPERATION,
                lambda client: client.detect_labels(**body),
                rekognition.document,
                claim,
            )

        price = self._price_of(rekognition.OPERATION)
        parameters = identity_of_call(self._context.settings, Affects.LABELS_CALL)
        return self._ask_once("labels", parameters, ask, "labels", price)

    def _custom_labels(self, arn: str) -> Analysis:
        context, confidence = self._context, self._context.settings.custom_labels_confidence
        parameters = identity_of_call(context.settings, Affects.LABELS_CALL)

        def request() -> dict[str, Any]:
            # Made before the state of the model is checked, so that a file that is not a picture fails at once.
            return custom_labels.request(arn, self._photo.view, confidence)

        def ask(claim: Claim) -> Answer:
            body = request()
            try:
                if not context.stopped_model.is_stopped:
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
                context.stopped_model.record_stopped()
            raise context.stopped_model.skip(self._budget.batch.date)

        if context.stopped_model.is_stopped and not self._has_answer("labels", parameters, "labels"):
            # Without claims, because ten thousand photos may wait for the model.
            request()
            raise context.stopped_model.skip(self._budget.batch.date)
        return self._ask_once("labels", parameters, ask, "labels", self._price_of(custom_labels.OPERATION))

    def faces(self) -> list[Box]:
        """Boxes of all faces in the photo."""

        def ask(claim: Claim) -> Answer:
            body = faces.request(self._photo.view)
            return self._rekognition(
                faces.OPERATION,
                lambda client: client.detect_faces(**body),
                lambda response: {"Faces": faces.face_boxes(response)},
                claim,
            )

        analysis = self._ask_once("faces", {}, ask, "labels", self._price_of(faces.OPERATION))
        return [Box.read(face["BoundingBox"], "face") for face in analysis.document["Faces"]]

    def sam(self, boxes: Sequence[Box]) -> Mask:
        """The mask that the user's SAM endpoint makes for ``boxes``; only with ``BG_SAM_ENDPOINT``."""
        context, photo = self._context, self._photo
        form = SamForm.read(context.settings.sam_form)
        parameters = {
            **identity_of_call(context.settings, Affects.SAM_CALL),
            "form": form.model_dump(),
            "boxes": [astuple(box) for box in boxes],
        }
        name = identity("sam", photo.sha256, parameters)
        with context.answers.lock_for(name):
            answer = context.answers.find("sam", name, self._policy("generated_images"))
            if answer is None:
                size = header_of(context.workers, photo.view).size
                mask = sam_mask(self._call_sam(form), form, photo.view, size, boxes)
                answer = Answer(
                    STORED.write_png(mask.picture), "sam", cost_usd=0.0, made_for=self._budget.made_for
                )
                context.answers.keep("sam", name, answer, media_type="image/png")
        self._budget.charge(name, answer, context.answers)
        return Mask(STORED.read_png(answer.data), "faces")

    def _call_sam(self, form: SamForm) -> Callable[[bytes], tuple[bytes, str]]:
        context = self._context
        operation = Operation("SAM", context.settings.sam_endpoint, service="sagemaker-runtime")

        def ask(body: bytes) -> tuple[bytes, str]:
            def send(client: Any, endpoint_name: str) -> tuple[bytes, str]:
                return endpoint(client, endpoint_name, form)(body)

            return context.calls.make(
                operation, send, regions=context.aws.regions[:1], unknown_repeats=1
            ).answer

        return ask

    def caption(self) -> Analysis:
        """A caption by the first usable caption model: ``{"Caption": …, "AltText": …, "Prompt": …}``.

        ``Prompt`` is the text that was sent. Raises `NotTried` if captions are switched off, and `ModelUnavailable`
        if no caption model can be used: then only outputs that need a caption are skipped.
        """
        if not self._context.settings.caption_models:
            raise NotTried(
                "CaptionsOff",
                "captions are switched off (BG_CAPTION_MODELS is empty) and {caption} in its prompt needs one: name "
                "a caption model, or write the words themselves",
            )
        parameters = identity_of_call(self._context.settings, Affects.CAPTION_CALL)
        return self._ask_once(
            "captions", parameters, self._call_caption, "captions", self._price_of_caption()
        )

    def cut_out(self) -> Mask:
        """The subject's mask from a background removal model, paid for once and used for all prompts."""
        context, name = self._context, self._cut_out_name
        answer = context.answers.once(
            "cut-out",
            name,
            self._policy("generated_images"),
            self._call_cut_out,
            media_type="image/png",
            price=self._price_of_cut_out(),
        )
        return self._mask_of_cut_out(name, answer)

    def stored_cut_out(self) -> Mask:
        """The mask of `cut_out` from a stored answer; raises `CallError` if there is none.

        If the photo was never processed, there can be none, and S3 is not asked.
        """
        if not self._expect_answers:
            raise CallError("NotStored", "no cut-out was paid for yet")
        name = self._cut_out_name
        answer = self._context.answers.find("cut-out", name, self._policy("generated_images"))
        if answer is None:
            raise CallError("NotStored", "no cut-out was paid for yet")
        return self._mask_of_cut_out(name, answer)

    @property
    def _cut_out_name(self) -> str:
        return identity("cut-out", self._photo.sha256, {})

    def _mask_of_cut_out(self, name: str, answer: Answer) -> Mask:
        context, photo = self._context, self._photo
        self._budget.charge(name, answer, context.answers)
        self.last_cut_out = answer
        generator = context.generator(answer.model)
        if generator is None:
            raise CallError(
                "BadAnswer", f"the cut-out was made by {answer.model}, which cannot be loaded any more"
            )
        fitted = generator.sizes.canvas(photo.size)
        mask = context.workers.run(photo.limit(fitted.canvas), mask_of_cut_out, answer.data, fitted)
        if mask is None:
            raise SubjectNotFound("NoTransparency", f"{answer.model} cut nothing out of it")
        return mask

    def _call_cut_out(self, claim: Claim) -> Answer:
        models = self._context.cut_out_models
        while models.candidates:
            model = models.current()
            try:
                return self._call_cut_out_model(model, claim)
            except ModelUnavailable as error:
                models.drop(model, error.region, error)
        raise NotTried(
            "NoCutOut",
            "its mask has to be cut out, and no model in BG_IMAGE_MODELS can do that: add titan-v2, nova-canvas or "
            "stability, or upload a mask",
        )

    def _call_cut_out_model(self, model: SelectedModel[Generator], claim: Claim) -> Answer:
        context, photo, budget = self._context, self._photo, self._budget
        generator = model.candidate.client
        (operation,) = model.candidate.operations
        fitted = generator.sizes.canvas(photo.size)
        picture = photo.fitted_from(photo.source, fitted, max_bytes=generator.max_picture_bytes)
        price = facts_of(operation.name, operation.model_id).cost(images=1)
        with budget.pay(operation.name, price, claim) as call:
            data = generator.remove(
                picture, fitted.canvas, context.invoke(model.regions, budget, call, claim)
            )
            call.settle(price)
        return self._answer(data, generator.name, call, price)

    def _call_caption(self, claim: Claim) -> Answer:
        jpeg = self._photo.jpeg(nova.WITHIN, max_bytes=nova.MAX_BYTES)
        self._photo.drop_view()
        while True:
            try:
                model = self._context.caption_models.current()
            except NothingUsable as error:
                # Not a `RunStopped`: it must not stop the run, only what needs a caption.
                raise ModelUnavailable("NothingUsable", str(error)) from error
            try:
                return self._call_caption_model(model, jpeg, claim)
            except ModelUnavailable as error:
                self._context.caption_models.drop(model, error.region, error)

    def _call_caption_model(self, model: SelectedModel[str], jpeg: bytes, claim: Claim) -> Answer:
        context, budget = self._context, self._budget
        (operation,) = model.candidate.operations
        prompt, tier = context.settings.caption_prompt, context.settings.caption_tier
        alt_text = context.settings.alt_text_length
        body = nova.request(operation.invoke_id, jpeg, prompt, alt_text, tier)
        tokens_in, tokens_out = nova.tokens_at_most(operation.invoke_id, prompt, alt_text)
        max_cost = nova.cost(operation.invoke_id, (tokens_in, tokens_out), tier)
        with budget.pay(operation.name, max_cost, claim) as call:
            response = context.calls.make(
                operation,
                lambda client, _: client.converse(**body),
                regions=model.regions,
                tokens=tokens_in + tokens_out,
                used_tokens=lambda answer: float(answer.get("usage", {}).get("totalTokens", 0)),
                before=partial(budget.check, claim),
            )
            call.regions.append(response.region)
            tokens = nova.tokens_used(response.answer)
            cost = nova.cost(operation.invoke_id, tokens, nova.tier_used(response.answer))
            # Before the answer is read: a refusal or an empty answer is billed too.
            call.settle(cost)
            answer = {key: value for key, value in response.answer.items() if key != "ResponseMetadata"}
            context.keep_payload(budget, operation, body, answer)
            caption = nova.read(response.answer, alt_text)
        document = {"Caption": caption.text, "AltText": caption.alt_text, "Prompt": nova.prompt_of(body)}
        return self._answer(orjson.dumps(document), model.candidate.name, call, cost)

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
        with self._budget.pay(operation.name, price, claim) as call:
            try:
                response = self._context.calls.make(
                    operation,
                    lambda client, _: send(client),
                    regions=regions or self._context.aws.regions,
                    before=partial(self._budget.check, claim),
                )
            except ModelUnavailable as error:
                raise RunStopped(
                    f"Rekognition refuses {operation.name} ({error}); grant the credentials "
                    "rekognition:DetectLabels, rekognition:DetectFaces and, for a model of your own, "
                    "rekognition:DetectCustomLabels, in Regions that have them"
                ) from error
            except CallError as error:
                if error.code == "InvalidImageFormatException":
                    # The file was sent without being decoded; decoding it raises an error with the exact reason.
                    _ = self._photo.small
                raise
            call.regions.append(response.region)
            call.settle(price)
        return self._answer(orjson.dumps(read(response.answer)), "rekognition", call, price)

    def _answer(self, data: bytes, model: str, call: PaidCall, cost: float | None) -> Answer:
        made_for = self._budget.made_for
        return Answer(data, model, call.region, cost_usd=cost, made_for=made_for, call=call.id, paid_usd=cost)

    def _price_of(self, operation: Operation) -> Price:
        return self._budget.price(operation.name, facts_of(operation.name).cost(images=1))

    def _price_of_caption(self) -> Price:
        """The highest price of a call of the selected caption model; the price of the model called replaces it."""
        settings = self._context.settings
        try:
            (operation,) = self._context.caption_models.current().candidate.operations
        except NothingUsable:
            return self._budget.price("", 0.0)  # no call can be made: only a stored answer can be used
        tokens = nova.tokens_at_most(operation.invoke_id, settings.caption_prompt, settings.alt_text_length)
        usd = nova.cost(operation.invoke_id, tokens, settings.caption_tier)
        return self._budget.price(operation.name, usd)

    def _price_of_cut_out(self) -> Price:
        try:
            (operation,) = self._context.cut_out_models.current().candidate.operations
        except NothingUsable:
            return self._budget.price("", 0.0)
        return self._budget.price(operation.name, facts_of(operation.name, operation.model_id).cost(images=1))

    def _has_answer(self, kind: str, parameters: Mapping[str, Any], stage: str) -> bool:
        name = identity(kind, self._photo.sha256, parameters)
        return self._context.answers.find(kind, name, self._policy(stage)) is not None

    def _policy(self, stage: str) -> AnswerPolicy:
        return self._context.answer_policy(self._budget, occasion=self._occasions.get(stage, ""))

    def _ask_once(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        ask: Callable[[Claim], Answer],
        stage: str,
        price: Price,
    ) -> Analysis:
        """The stored document for these bytes and parameters, or else that of a new call of ``ask``."""
        context = self._context
        name = identity(kind, self._photo.sha256, parameters)
        answer = context.answers.once(
            kind,
            name,
            self._policy(stage),
            ask,
            media_type="application/json",
            price=price,
            look_first=self._expect_answers,
        )
        self._budget.charge(name, answer, context.answers)
        try:
            return Analysis(orjson.loads(answer.data), answer.model)
        except orjson.JSONDecodeError as error:
            raise CallError("BadAnswer", f"the stored answer {kind}/{name} is damaged: {error}") from error
