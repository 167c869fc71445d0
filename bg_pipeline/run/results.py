"""From a model's picture to stored results: finished in a worker process, written, and read back once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.file_names import file_name, result_name
from bg_pipeline.domain.payments import total
from bg_pipeline.domain.requests import ImageSettings, Rendition, names_object
from bg_pipeline.errors import ImageError, NotDelivered, missing_file
from bg_pipeline.imaging.parcels import Blob
from bg_pipeline.imaging.workers import header_of
from bg_pipeline.masks import Mask
from bg_pipeline.run.batch_locations import BatchLocations
from bg_pipeline.run.context import RunContext, signing_of
from bg_pipeline.run.finishing import (
    ROUNDS,
    Finished,
    FinishedFile,
    finish_cut_out,
    finish_on_backdrop,
    finish_on_scene,
    finish_painted,
)
from bg_pipeline.run.generation import GeneratedPicture
from bg_pipeline.run.scenes import Scene
from bg_pipeline.run.source_image import SourceImage, read_source
from bg_pipeline.state import thumbnails
from bg_pipeline.state.answers import Answer
from bg_pipeline.state.leased_writes import LeasedWriter

VERSION = 1
"""Increase it when the same answer would give other result files: results are then made again, without a call."""

REQUEST_METADATA = "request"
"""The metadata of a stored result that has the fingerprint of its request, by which a later run knows it again."""

MAYBE_BILLED = "MaybeBilled: an earlier call for it did not answer and may have been billed as well"


@dataclass(frozen=True)
class StoredResult:
    """A stored result; ``reasons`` are the checks that it did not pass, as sentences.

    ``repaint`` means that another seed may do better. ``subject_changed`` is None if it was not measured, as is
    ``confidence``, 0..1, how sure the mask is. ``notes`` are remarks that are no fault of the result. ``key`` is
    empty if it was not stored because an earlier result of the same request passed its checks.
    """

    name: str
    key: str
    etag: str
    reasons: tuple[str, ...] = ()
    repaint: bool = False
    model: str = ""
    region: str = ""
    seed: int | None = None
    cost_usd: float | None = 0.0
    subject_changed: float | None = None
    confidence: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PendingResult:
    """A finished file that is not stored yet; ``facts`` go into its provenance, ``number`` counts from 1.

    ``notes`` are sentences for the image's row that are no fault of the result.
    """

    file: FinishedFile
    number: int
    rendition: Rendition | None
    facts: Mapping[str, Any]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    repaint: bool
    source_format: str


@dataclass(frozen=True)
class MadeBy:
    """The model that a result comes from, and what this image paid for its answer."""

    model: str = ""
    region: str = ""
    cost_usd: float | None = 0.0
    maybe_billed: int = 0

    @classmethod
    def of(cls, answer: Answer, made_for: str) -> "MadeBy":
        """The model of an answer that is used for the image with the digest ``made_for``."""
        paid = answer.cost_usd if answer.made_for == made_for else 0.0
        return cls(answer.model, answer.region, paid, answer.maybe_billed)


class ResultWriter:
    """Makes the files of one photo, and stores them while the batch's lease is held.

    ``made_for`` is the fingerprint of the stage. ``passed`` are the numbers of earlier results of the same request
    that passed their checks: one that does not pass is not stored in their place. ``stored_etags`` has the ETags of
    all results that were stored, by key, read back or not. ``wish`` is the request fingerprint; a result without
    faults has it in its metadata.
    """

    def __init__(
        self,
        context: RunContext,
        locations: BatchLocations,
        image_settings: ImageSettings,
        photo: SourceImage,
        writer: LeasedWriter,
        *,
        made_for: str,
        wish: str,
        passed: Collection[int] = (),
    ) -> None:
        self._context = context
        self._locations = locations
        self._image_settings = image_settings
        self._photo = photo
        self._writer = writer
        self._made_for = made_for
        self._wish = wish
        self._passed = passed
        self.stored_etags: dict[str, str] = {}

    def given(self, key: str) -> bytes:
        """The file of a mask or backdrop that the request names. Raises `ImageError` if it cannot be read."""
        content = read_source(self._locations.bucket_of(key), key)
        if content is None:
            raise missing_file(key)
        return content.data

    def _given_picture(self, key: str) -> Blob:
        """The file of a backdrop whose header can be read. Raises `ImageError` with its key."""
        blob = self._context.workers.blob(self.given(key))
        try:
            header_of(self._context.workers, blob)
        except ImageError as error:
            raise error.of(key) from None
        return blob

    def finish(self, painted: GeneratedPicture, prompt: str, position: int) -> list[StoredResult]:
        """Makes and stores the files of a model's picture."""
        finished = self._finished(
            finish_painted,
            painted.answer.data,
            painted.fitted,
            painted.mask,
            self._user_mask(painted.mask),
            self._image_settings,
            prompt=prompt,
        )
        made_by = MadeBy.of(painted.answer, self._made_for)
        facts = {
            "Model": made_by.model,
            "Region": made_by.region,
            "Seed": painted.answer.seed,
            "CostUSD": made_by.cost_usd,
            "MaybeBilled": made_by.maybe_billed,
            "Prompt": prompt,
            "NegativePrompt": self._image_settings.negative_prompt,
            "Mask": painted.mask.source if painted.mask else None,
            "Answer": painted.name,
        }
        return self._stored(finished, facts, position)

    def without_model(self, mask: Mask, made_by: MadeBy) -> list[StoredResult]:
        """Makes and stores a cut-out, or the subject on the request's backdrop; ``made_by`` made the mask."""
        facts: dict[str, Any] = {
            "Model": made_by.model,
            "Region": made_by.region,
            "Seed": None,
            "CostUSD": made_by.cost_usd,
            "MaybeBilled": made_by.maybe_billed,
            "Mask": mask.source,
        }
        backdrop, user_mask = self._image_settings.backdrop, self._user_mask(mask)
        if backdrop is None:
            finished = self._finished(finish_cut_out, mask, user_mask, self._image_settings)
        else:
            facts["Backdrop"] = backdrop
            scene = self._given_picture(backdrop) if names_object(backdrop) else backdrop
            finished = self._finished(finish_on_backdrop, mask, user_mask, scene, self._image_settings)
        return self._stored(finished, facts, 1)

    def on_scene(self, mask: Mask, cut_out_by: MadeBy, scene: Scene, position: int) -> list[StoredResult]:
        """Makes and stores the subject on a painted scene; ``cut_out_by`` made the mask."""
        made_by = MadeBy.of(scene.answer, self._made_for)
        facts: dict[str, Any] = {
            "Model": made_by.model,
            "Region": made_by.region,
            "Seed": scene.answer.seed,
            "CostUSD": total([made_by.cost_usd, cut_out_by.cost_usd]),
            "MaybeBilled": made_by.maybe_billed + cut_out_by.maybe_billed,
            "Scene": scene.prompt,
            "SceneAspect": scene.aspect,
            "NegativePrompt": self._image_settings.negative_prompt,
            "Mask": mask.source,
        }
        matching = self._context.settings.scene_colour_matching
        finished = self._finished(
            finish_on_scene,
            mask,
            self._user_mask(mask),
            scene.picture,
            self._image_settings,
            matching=matching if self._image_settings.mode == "DEFAULT" else 0.0,
        )
        return self._stored(finished, facts, position)

    def _user_mask(self, mask: Mask | None) -> Blob | None:
        """The file of the mask that the request names, if it is in use."""
        if mask is None or mask.source != "given" or not self._image_settings.mask_key:
            return None
        return self._context.workers.blob(self.given(self._image_settings.mask_key))

    def _finished(self, work: Callable[..., Finished], *args: Any, **more: Any) -> Finished:
        """What ``work`` returns for the photo, in a worker process, within the limit for all pictures it decodes."""
        workers = self._context.workers
        files = [value for value in args if isinstance(value, Blob)]
        sizes = [header_of(workers, file).size for file in files]
        sizes += [
            (each.Width, each.Height)
            for each in self._image_settings.renditions
            if each.Width and each.Height
        ]
        rounds = ROUNDS * (len(self._image_settings.renditions) or 1)
        limit = self._photo.limit(*sizes, rounds=rounds, doing="finish")
        feather = self._image_settings.feather
        feather = self._context.settings.feather if feather is None else feather
        signing = signing_of(self._context.settings)
        return workers.run(limit, work, self._photo.source, *args, feather=feather, signing=signing, **more)

    def _stored(self, finished: Finished, facts: Mapping[str, Any], position: int) -> list[StoredResult]:
        """Stores the mask and the files of a picture."""
        if finished.mask is not None:
            key = self._locations.batch.mask_key(self._image_settings.image)
            self._writer.write(self._context.store, key, finished.mask.read(), media_type="image/png")
        if finished.fidelity is not None or self._image_settings.needs_prompt:
            facts = {**facts, "Fidelity": asdict(finished.fidelity) if finished.fidelity else None}
        facts = {**facts, "Confidence": finished.confidence, "Notes": [*finished.notes, *finished.mask_notes]}
        renditions: Sequence[Rendition | None] = self._image_settings.renditions or (None,)
        first = (position - 1) * len(renditions) + 1
        return [
            self._store(
                PendingResult(
                    file,
                    number,
                    rendition,
                    facts,
                    (*finished.faults, *file.complaints),
                    finished.mask_notes,
                    finished.repaint,
                    finished.source_format,
                )
            )
            for number, (file, rendition) in enumerate(zip(finished.files, renditions, strict=True), first)
        ]

    def _store(self, draft: PendingResult) -> StoredResult:
        if draft.faults and draft.number in self._passed:
            return self._file(draft, "", "", "")
        name = self._name(draft)
        key = s3_keys.result_key(self._locations.output_prefix, name)
        facts = draft.facts
        document = {
            "Id": self._locations.request_id,
            "ImageName": self._image_settings.image,
            "Ref": self._image_settings.ref,
            "Source": self._photo.key,
            "SourceETag": self._photo.etag,
            "SourceSHA256": self._photo.sha256,
            **facts,
            "Task": self._image_settings.task,
            "Mode": self._image_settings.mode,
            "Rendition": draft.rendition.Preset if draft.rendition else None,
            "Faults": list(draft.faults),
            "CreatedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        data, file = self._locations.data, draft.file
        metadata = {} if draft.faults else {REQUEST_METADATA: self._wish}
        with self._context.picture_memory.storing(len(file.data)):
            content = file.data.read()
            etag = self._writer.write(
                data, key, content, media_type=f"image/{file.format}", metadata=metadata
            )
            self.stored_etags[key] = etag
            # The result is stored by now, so its provenance must be too, whether it can be read back or not.
            self._writer.write_json(data, s3_keys.provenance_key(key), document)
            self._read_back(key, content)
        if draft.number <= thumbnails.RESULTS:
            self._locations.thumbnails.add(key, etag, lambda: file.thumbnail)
        return self._file(draft, name, key, etag)

    def _file(self, draft: PendingResult, name: str, key: str, etag: str) -> StoredResult:
        facts = draft.facts
        return StoredResult(
            name=name,
            key=key,
            etag=etag,
            reasons=draft.faults,
            repaint=draft.repaint,
            model=facts["Model"],
            region=facts["Region"],
            seed=facts["Seed"],
            cost_usd=facts["CostUSD"],
            subject_changed=(facts.get("Fidelity") or {}).get("subject_changed"),
            confidence=facts["Confidence"],
            notes=(*draft.notes, *((MAYBE_BILLED,) if facts.get("MaybeBilled") else ())),
        )

    def _name(self, draft: PendingResult) -> str:
        image_settings, rendition = self._image_settings, draft.rendition
        number_of_files = len(image_settings.outputs) * (len(image_settings.renditions) or 1)
        if rendition is not None and rendition.FileName:
            candidate = file_name(
                rendition.FileName,
                image=image_settings.image,
                number=draft.number,
                ref=image_settings.ref,
                preset=rendition.Preset or "",
                format=draft.file.format,
            )
        else:
            candidate = result_name(
                image_settings.image,
                number=draft.number,
                of=number_of_files,
                format=draft.file.format,
                source_format=draft.source_format,
            )
        return self._locations.names.assign(image_settings.image, draft.number, candidate, draft.file.format)

    def _read_back(self, key: str, content: bytes) -> None:
        """Reads a stored result back; only then does it count. That it opens was checked before."""
        try:
            stored = self._locations.data.read(key)
        except (ClientError, BotoCoreError) as error:
            raise NotDelivered(
                "NotStored", f"{key} was stored and could not be read back: {error}"
            ) from error
        if stored is None or stored.data != content:
            raise NotDelivered("NotStored", f"{key} was stored and did not come back as it was")
