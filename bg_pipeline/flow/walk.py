"""One image's way through the stages: labels, caption, pictures; each ends in a record, whatever happens."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

from bg_pipeline import batch, layout
from bg_pipeline.batch import ImageSettings
from bg_pipeline.captioners.nova import shortened
from bg_pipeline.errors import BgPipelineError, NotTried, RunStopped
from bg_pipeline.flow.finishing import File, Finisher
from bg_pipeline.flow.looks import Looks
from bg_pipeline.flow.outcomes import Meaning, attempt, meaning
from bg_pipeline.flow.painting import Painted, Painter
from bg_pipeline.flow.photographs import Photograph
from bg_pipeline.flow.places import Place
from bg_pipeline.flow.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.flow.subjects import Eyes
from bg_pipeline.flow.tools import Tools, Wallet
from bg_pipeline.masks.labels import usable_labels
from bg_pipeline.reports.report import Status, worst
from bg_pipeline.state.leases import Lease
from bg_pipeline.state.ledger import Entry, StageRecord


class Walk:
    """One image's way; used by one thread, which may hand prompts to others.

    ``entry`` is what the ledger knows and is brought up to date; ``again`` names stages whose stored answers
    do not count; nothing is paid once ``lease`` is lost. ``stopped`` is set when something ended the run.
    """

    def __init__(
        self,
        tools: Tools,
        place: Place,
        asked: ImageSettings,
        entry: Entry,
        *,
        again: frozenset[str],
        helpers: ThreadPoolExecutor,
        lease: Lease | None = None,
    ) -> None:
        self._tools = tools
        self._place = place
        self._asked = asked
        self._entry = entry
        self._again = again
        self._helpers = helpers
        self._lease = lease
        self.stopped: RunStopped | None = None
        self._known = bool(entry.sha256) or lease is None or lease.left_behind
        key = f"{place.input_prefix}/{asked.image}"
        store, lies_at = place.lies_at(key)
        moved = key in place.moved
        entry.archived = entry.archived if moved else ""
        self._photo = Photograph(
            store, key, tools.darkroom, lies_at=lies_at, etag=entry.etag if moved else ""
        )
        self._labels: Mapping[str, Any] | None = None
        self._caption: str | None = None

    def run(self, due: Mapping[str, str]) -> Entry:
        """Does the stages in ``due`` (name to fingerprint) in order and returns the entry with their records."""
        steps: dict[str, Callable[[Looks, Wallet], None]] = {
            LABELS: lambda looks, wallet: self._make_labels(looks),
            CAPTIONS: lambda looks, wallet: self._make_caption(looks),
            PICTURES: self._make_pictures,
        }
        for stage, made_for in due.items():
            self._entry.stages[stage] = self._record(stage, made_for, steps[stage])
            self._keep_thumbnail()
        if self._photo.fetched:
            self._entry.sha256 = self._photo.sha256
            self._entry.etag = self._photo.etag
        return self._entry

    def _keep_thumbnail(self) -> None:
        """Keeps the small picture of the source as early as its pixels are at hand."""
        if self._photo.fetched:
            self._place.thumbnails.keep(self._photo.key, self._photo.etag, lambda: self._photo.at_hand)

    def _record(self, stage: str, made_for: str, step: Callable[[Looks, Wallet], None]) -> StageRecord:
        started = time.monotonic()
        place = self._place
        wallet = Wallet(
            self._tools.purse,
            place.batch,
            self._asked.image,
            place.cap_usd,
            self._lease,
            self._tools.retry or (place.batch.path if place.retries else ""),
        )
        looks = Looks(self._tools, self._photo, wallet, self._again, known=self._known)
        record = StageRecord(made_for, Status.SUCCEEDED)
        before = self._entry.files
        if stage == PICTURES:
            self._entry.outputs, self._entry.files = [], {}
        failed = attempt(lambda: step(looks, wallet), self._photo.key)
        if failed is not None:
            outcome = self._meaning(failed)
            record = StageRecord(made_for, outcome.status, outcome.final, outcome.error, outcome.cause)
        if stage == PICTURES and self._entry.outputs and record.status == Status.SUCCEEDED:
            bad = [output for output in self._entry.outputs if output["Status"] != Status.SUCCEEDED]
            if bad:
                record.status = worst(Status(output["Status"]) for output in bad)
                first = next(output for output in bad if output["Status"] == record.status)
                record.error, record.cause = first["Error"], first["Cause"]
                record.final = all(output["Final"] for output in bad)
        if stage == PICTURES and record.status in (Status.SUCCEEDED, Status.NEEDS_REVIEW):
            self._remove_outdated(before)
        record.seconds = round(time.monotonic() - started, 3)
        record.cost_usd = round(sum(cost or 0.0 for cost in wallet.bill.values()), 6)
        record.unpriced = any(cost is None for cost in wallet.bill.values())
        record.reused = wallet.reused
        return record

    def _remove_outdated(self, before: Mapping[str, str]) -> None:
        """Takes away results that the settings no longer ask for; what is not ours any more stays."""
        data = self._place.data
        for key, etag in before.items():
            if key not in self._entry.files:
                found = data.head(key)
                if found is not None and found.etag == etag:
                    data.delete(key)
                    data.delete(layout.provenance_key(key))

    # Labels and captions

    def _make_labels(self, looks: Looks) -> None:
        seen = looks.labels()
        self._labels = seen.document
        document = {"Source": self._photo.key, "SourceETag": self._photo.etag, **seen.document}
        self._tools.store.write_json(self._place.batch.labels_key(self._asked.image), document)
        self._entry.labels = ", ".join(self._asked.labels) or ", ".join(usable_labels(document))

    def _make_caption(self, looks: Looks) -> None:
        seen = looks.caption()
        self._caption = seen.document["Caption"]
        alt_text = shortened(seen.document.get("AltText", ""), self._tools.settings.alt_text_length)
        document = {
            "Source": self._photo.key,
            "SourceETag": self._photo.etag,
            "Model": seen.model,
            "Prompt": self._tools.settings.caption_prompt,
            "Caption": self._caption,
            **({"AltText": alt_text} if alt_text else {}),
        }
        self._tools.store.write_json(self._place.batch.caption_key(self._asked.image), document)
        self._entry.caption, self._entry.alt_text = self._caption, alt_text

    def _labels_document(self, looks: Looks) -> Mapping[str, Any]:
        if self._labels is None:
            self._make_labels(looks)
        return self._labels or {}

    def _caption_text(self, looks: Looks) -> str:
        if self._caption is None:
            self._make_caption(looks)
        return self._caption or ""

    # Pictures

    def _make_pictures(self, looks: Looks, wallet: Wallet) -> None:
        asked = self._asked
        if asked.needs_prompt and not asked.prompts:
            raise NotTried("NoPrompt", "no prompt: name one in the request or in BG_DEFAULT_PROMPT")
        finisher = Finisher(self._tools, self._place, asked, self._photo)
        eyes = Eyes(
            photo=lambda: self._photo.small,
            labels=lambda: self._labels_document(looks),
            caption=lambda: self._caption_text(looks),
            faces=looks.faces,
            sam=looks.sam if self._tools.settings.sam_endpoint else None,
            cut_out=looks.cut_out,
            given=finisher.given,
        )
        mask_sha256 = hashlib.sha256(finisher.given(asked.mask_key)).hexdigest() if asked.mask_key else ""
        painter = Painter(
            self._tools,
            self._photo,
            asked,
            eyes,
            wallet,
            given_mask_sha256=mask_sha256,
            again=PICTURES in self._again,
        )
        if not asked.needs_prompt:
            self._keep(1, finisher.without_model(painter.subject()))
            return
        values = batch.placeholder_values(asked, caption="", labels="")
        wants = {name for prompt in asked.prompts for name in batch.placeholders(prompt)}
        if "caption" in wants:
            values["caption"] = self._caption_text(looks)
        if "labels" in wants:
            values["labels"] = ", ".join(asked.labels) or ", ".join(
                usable_labels(self._labels_document(looks))
            )
        limit = self._tools.prompt_limit
        batch.fill(asked.negative_prompt, {}, limit, "NegativePrompt")
        groups = [list(group) for _, group in groupby(asked.outputs, key=lambda wanted: wanted.prompt)]

        def make(group: Sequence[batch.Wanted]) -> None:
            prompt = attempt(lambda: batch.fill(group[0].template, values, limit), self._photo.key)
            if isinstance(prompt, BgPipelineError):
                for wanted in group:
                    self._keep(wanted.position, prompt)
                return
            painted = attempt(partial(painter.paint, prompt, group), self._photo.key)
            pictures = [painted] * len(group) if isinstance(painted, BgPipelineError) else painted
            for wanted, picture in zip(group, pictures, strict=True):
                self._keep(wanted.position, self._finished(finisher, painter, prompt, wanted, picture))

        if len(groups) == 1:
            make(groups[0])
        else:
            list(self._helpers.map(make, groups))
        self._entry.outputs.sort(key=lambda output: output["Number"])

    def _finished(
        self,
        finisher: Finisher,
        painter: Painter,
        prompt: str,
        wanted: batch.Wanted,
        picture: Painted | BgPipelineError,
    ) -> list[File] | BgPipelineError:
        """The stored files of one picture; one that does not pass is asked for again with another seed.

        Where there is no other, the one that did not pass is kept for a person.
        """
        files: list[File] = []
        regenerated = 0
        while not isinstance(picture, BgPipelineError):
            finished = attempt(partial(finisher.finish, picture, prompt, wanted.position), self._photo.key)
            if isinstance(finished, BgPipelineError):
                picture = finished
                break
            files = finished
            if (
                not any(file.repaint for file in files)
                or regenerated >= self._tools.settings.max_regenerations
            ):
                return files
            regenerated += 1
            painted = attempt(partial(painter.paint, prompt, [wanted], regenerated), self._photo.key)
            picture = painted if isinstance(painted, BgPipelineError) else painted[0]
        if files:
            self._meaning(picture)
        return files or picture

    def _meaning(self, error: BgPipelineError) -> Meaning:
        if isinstance(error, RunStopped):
            self.stopped = error
        return meaning(error)

    def _keep(self, position: int, outcome: list[File] | BgPipelineError) -> None:
        """Takes the outputs of one picture into the entry."""
        each = len(self._asked.renditions) or 1
        first = (position - 1) * each + 1
        if isinstance(outcome, BgPipelineError):
            means = self._meaning(outcome)
            for number in range(first, first + each):
                self._entry.outputs.append(
                    _output(
                        number, status=means.status, error=means.error, cause=means.cause, final=means.final
                    )
                )
            return
        for number, file in enumerate(outcome, first):
            self._entry.files[file.key] = file.etag
            self._entry.names[str(number)] = file.name
            self._entry.outputs.append(
                _output(
                    number,
                    key=file.key,
                    status=Status.NEEDS_REVIEW if file.reasons else Status.SUCCEEDED,
                    error="Fidelity" if file.reasons else "",
                    cause="; ".join([*file.reasons, *file.notes]),
                    final=True,
                    model=file.model,
                    region=file.region,
                    seed=file.seed,
                    cost=file.cost_usd if number == first else 0.0,
                    subject_changed=file.subject_changed,
                )
            )


def _output(
    number: int,
    *,
    status: str,
    error: str = "",
    cause: str = "",
    final: bool,
    key: str = "",
    model: str = "",
    region: str = "",
    seed: int | None = None,
    cost: float | None = 0.0,
    subject_changed: float | None = None,
) -> dict[str, Any]:
    return {
        "Number": number,
        "Key": key,
        "Status": status,
        "Error": error,
        "Cause": cause,
        "Final": final,
        "Model": model,
        "Region": region,
        "Seed": seed,
        "CostUSD": cost,
        "SubjectChanged": subject_changed,
    }
