"""The paid part of a picture: a new background for one photo, asked for once for what it is.

What is asked is turned into calls of the generator in use; what comes back is stored under the identity of
what was asked before anything is done with it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from bg_pipeline.batch import MAX_SEED, ImageSettings, Wanted
from bg_pipeline.errors import Blocked, CallError, ClaimLost, ModelUnavailable, NeedsReview, SubjectNotFound
from bg_pipeline.flow.photographs import SMALL_SIDE, Photograph
from bg_pipeline.flow.subjects import Eyes, Subject, find_subject
from bg_pipeline.flow.tools import Tools, Wallet
from bg_pipeline.generators import Ask, Generator, Made, by_words, images_at_once, seed_within
from bg_pipeline.imaging import Fitted, Photo, fit, fit_mask, unfit
from bg_pipeline.masks import Mask
from bg_pipeline.masks.difference import difference
from bg_pipeline.masks.polarity import STORED, TITAN_OUTPAINTING
from bg_pipeline.models.choice import Choice
from bg_pipeline.models.facts import facts_of
from bg_pipeline.settings import Settings
from bg_pipeline.state.answers import Answer, Terms, identity
from bg_pipeline.state.claims import Claim


@dataclass(frozen=True)
class Painted:
    """A picture as a model made it, where the photo lies on it, and what is kept of the photo.

    ``mask`` is None where the model found the subject from words and nothing tells where: then no pixel of
    the photo can be put back, and a person has to look at the picture.
    """

    answer: Answer
    fitted: Fitted
    mask: Mask | None

    def at(self, size: tuple[int, int]) -> Image.Image:
        """The picture without padding, at the photo's size."""
        with Image.open(BytesIO(self.answer.data)) as picture:
            return unfit(picture.convert("RGB"), self.fitted, size)


@dataclass(frozen=True)
class _Prepared:
    """What a generator is sent for a photo, whatever the prompt."""

    subject: Subject
    fitted: Fitted
    picture: bytes
    mask: bytes | None


def derived_seed(source_sha256: str, position: int) -> int:
    """The seed of a result for which none was asked: always the same for the same bytes and position."""
    digest = hashlib.sha256(f"{source_sha256} {position}".encode()).digest()
    return 1 + int.from_bytes(digest[:8]) % MAX_SEED


class Painter:
    """Has the backgrounds of one photo painted. Several threads may paint different prompts at once."""

    def __init__(
        self,
        tools: Tools,
        photo: Photograph,
        asked: ImageSettings,
        eyes: Eyes,
        wallet: Wallet,
        *,
        given_mask_sha256: str = "",
        again: bool = False,
    ) -> None:
        self._tools = tools
        self._photo = photo
        self._asked = asked
        self._eyes = eyes
        self._wallet = wallet
        self._given = given_mask_sha256
        self._again = again
        self._not_words: list[str] = []
        self._prepared: dict[tuple[str, int], _Prepared] = {}
        self._masks: dict[str, bytes] = {}

    @property
    def settings(self) -> Settings:
        return self._tools.settings

    def seed(self, wanted: Wanted, attempt: int) -> int:
        """The seed of a result's ``attempt``-th picture, counted from 0."""
        asked = self._asked.seed
        if asked is None:
            first = derived_seed(self._photo.sha256, wanted.position)
        else:
            first = asked + wanted.variant - 1
        return (first + attempt * 1_000_003) % (MAX_SEED + 1)

    def name(self, prompt: str, seed: int) -> str:
        """The identity of the picture that is asked for with this prompt and seed."""
        asked = self._asked
        return identity(
            "picture",
            self._photo.sha256,
            {
                "task": asked.task,
                "subject": asked.subject,
                "labels": list(asked.labels) if asked.subject == "LABELS" else [],
                "mask": self._given,
                "prompt": prompt,
                "negative_prompt": asked.negative_prompt,
                "mode": asked.mode,
                "quality": asked.quality,
                "cfg_scale": asked.cfg_scale,
                "seed": seed,
            },
        )

    def paint(self, prompt: str, wanted: Sequence[Wanted], attempt: int = 0) -> list[Painted | CallError]:
        """A picture, or why there is none, for each of ``wanted``, which share the prompt.

        Stored answers serve; what is missing is asked for in as few calls as the model allows. Raises what
        stops more than these pictures: `ImageError`, `RunStopped`.
        """
        seeds = [self.seed(each, attempt) for each in wanted]
        names = [self.name(prompt, seed) for seed in seeds]
        with self._tools.answers.one_at_a_time(names[0]):
            found: dict[str, Answer | CallError] = {**self._stored(names)}
            while missing := [
                (name, seed) for name, seed in zip(names, seeds, strict=True) if name not in found
            ]:
                found |= self._call(prompt, missing)
        return [self._painted(name, found[name]) for name in names]

    def _stored(self, names: Sequence[str]) -> dict[str, Answer]:
        terms = self._terms
        looked = ((name, self._tools.answers.find("picture", name, terms)) for name in names)
        return {name: answer for name, answer in looked if answer is not None}

    @property
    def _terms(self) -> Terms:
        return self._tools.terms(self._wallet, models=self._tools.replacers.names, again=self._again)

    def _painted(self, name: str, answer: Answer | CallError) -> Painted | CallError:
        if isinstance(answer, CallError):
            return answer
        self._wallet.charge(name, answer)
        generator = self._tools.generator(answer.model)
        fitted = generator.sizes.canvas(self._photo.size)
        if not answer.by_words:
            mask = self.prepare(generator).subject.mask
            if mask is not None:
                return Painted(answer, fitted, mask)
        return Painted(answer, fitted, self._mask_of(name, answer, fitted))

    def _mask_of(self, name: str, answer: Answer, fitted: Fitted) -> Mask | None:
        """The mask a model made from words: the one it returned, or what it left as it was."""
        made = self._masks.pop(name, None)
        if made is None:
            stored = self._tools.answers.find("mask", name)
            made = stored.data if stored else None
        if made is not None:
            return Mask(unfit(STORED.read_png(made), fitted, self._photo.small_size), "words")
        sent = fit(self._photo.small, fitted, media="png")
        with Image.open(BytesIO(sent)) as before, Image.open(BytesIO(answer.data)) as after:
            found = difference(before.convert("RGB"), after.convert("RGB"))
        if found is None:
            return None
        return Mask(unfit(found.picture, fitted, self._photo.small_size), "difference")

    def subject(self) -> Mask:
        """The mask for a picture that no model paints: from what is free, else a paid cut-out."""
        subject = find_subject(self._asked, self._eyes, self.settings, takes_words=False)
        if subject.mask is None:
            raise NeedsReview("NoSubject", "no mask of the subject was found")
        return subject.mask

    def prepare(self, generator: Generator) -> _Prepared:
        """Subject and picture as the generator takes them; made once for all prompts."""
        key = (generator.name, len(self._not_words))
        if key not in self._prepared:
            subject = find_subject(
                self._asked,
                self._eyes,
                self.settings,
                takes_words=by_words(generator, self._asked.mode),
                not_words=self._not_words,
            )
            fitted = generator.sizes.canvas(self._photo.size)
            picture = self._fitted(generator, fitted)
            mask = None
            if subject.mask is not None:
                mask = TITAN_OUTPAINTING.write_png(fit_mask(subject.mask.picture, fitted))
            self._prepared[key] = _Prepared(subject, fitted, picture, mask)
        return self._prepared[key]

    def _fitted(self, generator: Generator, fitted: Fitted) -> bytes:
        def picture(photo: Photo) -> bytes:
            return fit(photo, fitted, media="jpeg", max_bytes=generator.max_picture_bytes)

        facts = self._photo.facts
        plain = (facts.format, facts.mode, facts.has_exif) == ("jpeg", "RGB", False)
        if plain and facts.size == fitted.inner == fitted.canvas:
            return self._photo.jpeg(fitted.canvas, max_bytes=generator.max_picture_bytes)
        if max(fitted.inner) <= SMALL_SIDE:
            return picture(self._photo.small)
        with self._photo.full() as full:
            return picture(full)

    def _call(self, prompt: str, missing: Sequence[tuple[str, int]]) -> dict[str, Answer | CallError]:
        """One call for as many of ``missing`` as the model makes at once."""
        choice = self._tools.replacers.current()
        generator = choice.candidate.speaker
        prepared = self.prepare(generator)
        part = missing[: images_at_once(generator, prepared.fitted.canvas)]
        ask = Ask(
            picture=prepared.picture,
            size=prepared.fitted.canvas,
            prompt=prompt,
            seed=seed_within(part[0][1], generator.seeds),
            negative_prompt=self._asked.negative_prompt,
            mask_prompt=prepared.subject.words or None,
            mask=prepared.mask,
            mode=self._asked.mode,
            quality=self._asked.quality,
            cfg_scale=self._asked.cfg_scale,
            images=len(part),
        )
        self._photo.forget_pictures()
        self._photo.set_aside()
        names = [name for name, _ in part]
        claim = self._tools.answers.claim("picture", names[0], self._terms)
        if isinstance(claim, Answer):
            # Whose call it was stored the others before.
            return {names[0]: claim, **self._stored([name for name, _ in missing[1:]])}
        try:
            made, paid = claim.make(lambda: self._pay(choice, ask, names, claim))
        except ClaimLost:
            return {}
        except ModelUnavailable as error:
            self._tools.replacers.lost(choice, error.region, error)
            return {}
        except SubjectNotFound as error:
            if not prepared.subject.words:
                return dict.fromkeys(names, error)
            self._not_words.append(prepared.subject.words)
            return {}
        except CallError as error:
            return dict.fromkeys(names, error)
        kept: dict[str, Answer | CallError] = dict(zip(names, paid, strict=False))
        for name in names[len(paid) :]:
            kept[name] = Blocked("ContentFiltered", made.note or f"{generator.name} returned fewer pictures")
        return kept

    def _pay(
        self, choice: Choice[Generator], ask: Ask, names: Sequence[str], claim: Claim
    ) -> tuple[Made, list[Answer]]:
        """Makes the call and stores what came back."""
        tools, wallet = self._tools, self._wallet
        generator = choice.candidate.speaker
        (operation,) = choice.candidate.operations
        facts = facts_of(operation.name, operation.model_id)
        served_by: list[str] = []
        with wallet.pay(operation.name, facts.cost(images=ask.images)) as payment:
            made = generator.replace(ask, tools.invoke(choice.regions, wallet, served_by, claim))
            payment.settle(facts.cost(images=len(made.images)))
        answers: list[Answer] = []
        # The one that the claim is for comes last: whoever waits for it finds all of them.
        for name, data, seed in reversed([*zip(names, made.images, made.seeds, strict=False)]):
            answer = Answer(
                data,
                generator.name,
                served_by[-1] if served_by else "",
                seed,
                facts.cost(images=1),
                wallet.made_for,
                by_words=ask.mask is None,
            )
            # A mask that words came before would not be found again from the same question.
            sent = ask.mask if self._not_words else None
            if mask := made.mask if ask.mask is None else sent:
                kept = Answer(mask, generator.name, answer.region, made_for=wallet.made_for)
                tools.answers.keep("mask", name, kept, media_type="image/png")
                self._masks[name] = mask
            answers.append(tools.answers.keep("picture", name, answer, media_type="image/png", claim=claim))
        return made, answers[::-1]
