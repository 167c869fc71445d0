"""The invariants of every simulation: each function yields a sentence for each violation."""

import bisect
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from PIL import Image

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch, parse_upload
from bg_pipeline.domain.payments import Bill
from bg_pipeline.review.decisions import State, decision_about
from bg_pipeline.review.items import Item
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.run.rows import paid_beside
from bg_pipeline.state.batch_parts import NAME as PARTS
from bg_pipeline.state.leases import is_held
from bg_pipeline_tests.simulation import photos
from bg_pipeline_tests.simulation.models import FAMILIES, FORBIDDEN, READ_TIMEOUT, Call
from bg_pipeline_tests.simulation.people import deliverable
from bg_pipeline_tests.simulation.s3 import Change
from bg_pipeline_tests.simulation.world import EXPECTED, World

CENT: Final = 0.00002
"""Tolerance in USD: each cost is rounded up to micro-dollars."""
STAGE: Final = {
    "labels": "labels",
    "captions": "captions",
    "cut-out": "generated_images",
    "picture": "generated_images",
    "scene": "generated_images",
}
WRITTEN_UNDER_A_LEASE: Final = (
    f"{s3_keys.RESULTS}/",
    f"{s3_keys.REPORTS}/",
    f"{s3_keys.STATE}/ledger/",
)
PART_SEGMENT: Final = re.compile(r"/segment-[0-9]+-([0-9]+)-[0-9]+-[0-9]+\.")
UNKNOWN: Final = ("lost", "timeout", "cut")
"""Faults after which it is unknown whether a call was billed."""


@dataclass(frozen=True)
class Delivery:
    """When a report had an image as Succeeded, and with which results."""

    at: float
    results: tuple[str, ...]


@dataclass
class Watch:
    """Records during a simulation what cannot be determined at its end."""

    world: World
    delivered: dict[str, Delivery] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    _began: dict[str, float] = field(default_factory=dict)
    _holders: dict[str, str] = field(default_factory=dict)
    _had: dict[str, set[str]] = field(default_factory=dict)
    _starts: dict[str, list[str]] = field(default_factory=dict)

    def at_rest(self) -> None:
        """Called when all processes have ended: checks the report rows of images that were not changed since."""
        for reported in reports(self.world):
            image = reported.batch.upload_key(reported.image)
            began = self._began.get(reported.batch.path, 0.0)
            if reported.row["Status"] == "Succeeded" and not changed_since(self.world, image, began, 0.0):
                self.untrue += [
                    f"{reported}: {wrong} (before the quiet run)" for wrong in _untrue(self.world, reported)
                ]
        self.lost += [f"{wrong} (before the quiet run)" for wrong in _lost(self.world, self.delivered)]

    def see(self, change: Change) -> None:
        self._written(change)
        if change.now is not None and s3_keys.is_report(change.key):
            self._reported(change.key, orjson.loads(change.now.data))
        elif change.now is None and change.key in self.images and not change.key.endswith(".json"):
            self._deleted(change.key)

    def _written(self, change: Change) -> None:
        """Records writes of a process for a batch or part whose lease another process has taken over."""
        path = change.key.removeprefix(f"{s3_keys.STATE}/leases/")
        if path != change.key:
            holder = orjson.loads(change.now.data)["Process"] if change.now else ""
            self._holders[path.removesuffix(".json")] = holder
            self._had.setdefault(path.removesuffix(".json"), set()).add(holder)
            return
        current = self.world.clock.current
        batch = find_batch(change.key.removeprefix(f"{s3_keys.STATE}/ledger/"))
        if change.key.endswith(f"/{PARTS}") and batch is not None:
            document = orjson.loads(change.now.data) if change.now else {"Starts": []}
            self._starts[batch.path] = document["Starts"]
        if current is None or batch is None or not change.key.startswith(WRITTEN_UNDER_A_LEASE):
            return
        if change.before is None and current.process.resumed == self.world.clock.now:
            # The request was under way when the process was suspended, and creates what nobody has made since: no
            # condition can prevent that. The next holder replaces it.
            return
        leased = self._leased(batch, change.key)
        if change.now is None and PART_SEGMENT.search(change.key):
            leased = batch.path  # whoever completes the batch deletes them
        writer, holder = current.process.name, self._holders.get(leased, "")
        if holder not in ("", writer) and writer in self._had[leased]:
            self.late.append(f"{writer} writes {change.key}; {holder} has taken over {leased}")

    def _leased(self, batch: Batch, key: str) -> str:
        """The batch or part under whose lease an object is written."""
        if segment := PART_SEGMENT.search(key):
            return f"{batch.path}/part-{int(segment[1]) - 1:05}"
        starts = self._starts.get(batch.path)
        if starts and key.startswith(f"{s3_keys.RESULTS}/"):
            name = key.rpartition("/")[2].removesuffix(".json")
            image = f"{name.removesuffix('.png').partition('_')[0]}.png"
            return f"{batch.path}/part-{max(bisect.bisect_right(starts, image) - 1, 0):05}"
        return batch.path

    def _reported(self, key: str, rows: list[dict[str, Any]]) -> None:
        batch, current = find_batch(key), self.world.clock.current
        if batch is not None and current is not None:
            # A run reports on the uploads that it found at its start.
            self._began[batch.path] = current.process.started
        for row in rows:
            if batch is not None and row["Status"] == "Succeeded":
                image = batch.upload_key(row["ImageName"])
                self.delivered[image] = Delivery(self.world.clock.now, tuple(row["Results"]))
                for result in row["Results"]:
                    self.images[result] = self.images[s3_keys.published_key(result)] = image

    def _deleted(self, key: str) -> None:
        image, now = self.images[key], self.world.clock.now
        delivery = self.delivered[image]
        result = key
        if key.startswith(f"{s3_keys.PUBLISHED}/"):
            result = f"{s3_keys.RESULTS}/{key.removeprefix(s3_keys.PUBLISHED + '/')}"
            said = self.world.history.decided.get(result, ())
            if any(state == State.REJECTED for _, state in said):
                return
        if result in delivery.results and not changed_since(self.world, image, delivery.at):
            self.lost.append(
                f"{key} was deleted at {now - self.world.clock_start:.2f}, and nothing is in its place"
            )


def changed_since(world: World, image: str, since: float, before: float = 3000.0) -> bool:
    """Whether an image's photo or its batch's request was changed later than ``before`` seconds before ``since``.

    ``image`` is the upload key in its batch; a retry's photos are in the original batch (``InputS3Prefix``).
    """
    upload = parse_upload(image)
    if upload is None:
        return False
    stored = world.bucket.objects.get(upload.batch.request_key)
    asked = orjson.loads(stored.data) if stored else {}
    photo = f"{asked.get('InputS3Prefix') or upload.batch.input_prefix}/{upload.name}"
    times = [*world.history.sources.get(photo, ()), *world.history.requests.get(upload.batch.request_key, ())]
    # A run may have read photo and request some time before.
    return any(time > since - before for time in times if time > world.clock_start)


@dataclass(frozen=True)
class ReportRow:
    """A row of a stored report, with its batch, request and photo."""

    batch: Batch
    request: Mapping[str, Any]
    row: Mapping[str, Any]
    source: bytes | None

    @property
    def image(self) -> str:
        return str(self.row["ImageName"])

    @property
    def photo(self) -> int:
        return (
            -1
            if self.source is None or not self.source.startswith(b"\x89PNG")
            else photos.number_in(self.source)
        )

    def __str__(self) -> str:
        row = self.row
        return f"{self.batch.path}/{self.image} ({row['Status']}, {row['Error']}: {row['Cause'][:160]})"


def reports(world: World) -> list[ReportRow]:
    """The rows of the reports of all batches."""
    rows = []
    for batch in world.batches():
        request = world.bucket.objects.get(batch.request_key)
        fields = orjson.loads(request.data) if request else {}
        if "Id" not in fields:
            continue
        stored = world.bucket.objects.get(s3_keys.report_key(batch.status_prefix, fields["Id"]))
        for row in orjson.loads(stored.data) if stored else ():
            key = f"{fields.get('InputS3Prefix') or batch.input_prefix}/{row['ImageName']}"
            source = world.bucket.objects.get(key)
            rows.append(ReportRow(batch, fields, row, source.data if source else None))
    return rows


def the_bill_is_told(world: World, watch: Watch) -> Iterator[str]:
    """The billed amount is between the sum of CostUSD and the sum of CostUSD and MaybeBilledUSD."""
    rows = [reported.row for reported in reports(world)]
    beside, beside_maybe = world.in_a_process(lambda: told_in_total_only(world))
    surely = sum(row["CostUSD"] or 0.0 for row in rows) + beside
    maybe = sum(row.get("MaybeBilledUSD") or 0.0 for row in rows) + beside_maybe
    billed = world.models.billed_usd
    if not surely - CENT * 50 <= billed <= surely + maybe + CENT * 50:
        yield f"{billed:.4f} USD were billed; told are {surely:.4f} and {maybe:.4f} that may have been"


def told_in_total_only(world: World) -> tuple[float, float]:
    """Amounts of batches without a row, which their date's total has: certain, and possible."""
    told = Bill()
    with_rows = {reported.batch for reported in reports(world)}
    for batch in world.batches():
        if batch not in with_rows:
            beside = paid_beside(open_batch(world.store, world.made_settings(), batch))
            told += beside.bill if beside else Bill()
    return told.cost_usd or 0.0, told.maybe_usd or 0.0


def statuses_are_true(world: World, watch: Watch) -> Iterator[str]:
    """A Succeeded image has its results, made from the current photo for the current request."""
    yield from watch.untrue
    for reported in reports(world):
        if reported.row["Status"] == "Succeeded":
            for wrong in _untrue(world, reported):
                yield f"{reported}: {wrong}"


def _untrue(world: World, reported: ReportRow) -> Iterator[str]:
    asked, row = _asked(reported), reported.row
    if reported.source is None:
        return  # the row of a deleted photo stays until the batch is processed again
    prompts = asked.get("Prompts") or [asked.get("Prompt")]
    painted = not (asked.get("Task") == "REMOVE" or asked.get("Backdrop"))
    if painted and asked.get("Scene"):
        prompts = [asked["Scene"]]
    number = len(prompts) * asked.get("Variants", 1) if painted else 1
    if len(row["Results"]) != number:
        yield f"{number} results were asked for, {len(row['Results'])} are told"
    for index, key in enumerate(row["Results"]):
        stored = world.bucket.objects.get(key)
        beside = world.bucket.objects.get(s3_keys.provenance_key(key))
        if stored is None or beside is None:
            yield f"{key} or its provenance is not there"
            continue
        provenance = orjson.loads(beside.data)
        if photos.number_in(stored.data) != reported.photo:
            yield f"{key} does not show the subject of the photo"
        if provenance["SourceSHA256"] != hashlib.sha256(reported.source).hexdigest():
            yield f"the provenance of {key} is of another photo"
        if painted:
            prompt = prompts[index // asked.get("Variants", 1)]
            if asked.get("Scene"):
                yield from _of_another_scene(world, key, stored.data, provenance, str(prompt))
            else:
                yield from _of_another_call(world, reported, key, stored.data, provenance, str(prompt))
        else:
            yield from _of_another_ground(asked, key, stored.data)


def _of_another_call(
    world: World, reported: ReportRow, key: str, data: bytes, provenance: Mapping[str, Any], template: str
) -> Iterator[str]:
    number = photos.call_in(data)
    if not 0 <= number < len(world.models.calls):
        yield f"{key} has a ground that no model painted"
        return
    call = world.models.calls[number]
    if call.photo != reported.photo or call.bad:
        yield f"{key} has the ground of call {number}, which was made for another photo"
    fixed = template.partition("{")[0]
    if not call.prompt.startswith(fixed) or ("{" not in template and call.prompt != template):
        yield f"{key} was painted for {call.prompt!r}, asked is {template!r}"
    if provenance["Prompt"] != call.prompt:
        yield f"{key} was painted for {call.prompt!r}, its provenance says {provenance['Prompt']!r}"


def _of_another_scene(
    world: World, key: str, data: bytes, provenance: Mapping[str, Any], words: str
) -> Iterator[str]:
    number = photos.call_in(data)
    if not 0 <= number < len(world.models.calls):
        yield f"{key} has a scene that no model painted"
        return
    call = world.models.calls[number]
    if call.kind != "scene" or not call.prompt.startswith(words) or provenance["Scene"] != words:
        yield f"{key} has the ground of call {number} ({call.kind}, {call.prompt!r}), asked is {words!r}"


def _calls_for(world: World, reported: ReportRow) -> list[Call]:
    """The calls for an image: those with its photo, and those for its scene."""
    words = str(_asked(reported).get("Scene") or "")
    return [
        call
        for call in world.models.calls
        if call.photo == reported.photo or (call.kind == "scene" and words and call.prompt.startswith(words))
    ]


def _of_another_ground(asked: Mapping[str, Any], key: str, data: bytes) -> Iterator[str]:
    with Image.open(io.BytesIO(data)) as picture:
        corner = picture.convert("RGBA").getpixel((1, 1))
    if asked.get("Backdrop"):
        wanted = (*bytes.fromhex(asked["Backdrop"].removeprefix("#")), 255)
        if corner != wanted:
            yield f"{key} has another ground than the one asked for"
    elif corner[3] != 0:  # type: ignore[index]
        yield f"{key} has a ground, and none was asked for"


def _asked(reported: ReportRow) -> Mapping[str, Any]:
    entries = reported.request.get("Images") or ()
    own: dict[str, Any] = next((entry for entry in entries if entry["ImageName"] == reported.image), {})
    asked = {**reported.request, **{name: value for name, value in own.items() if value is not None}}
    if own.get("Prompts"):
        asked.pop("Prompt", None)
    return asked


def troubles_have_a_reason(world: World, watch: Watch) -> Iterator[str]:
    """An image that is not Succeeded has a reason of its own that still holds, not the fault of another image."""
    for reported in reports(world):
        status = reported.row["Status"]
        if status != "Succeeded" and not _reason(world, reported):
            yield f"{reported} has no reason for it"


def _reason(world: World, reported: ReportRow) -> str:
    asked, row = _asked(reported), reported.row
    key = f"{reported.request.get('InputS3Prefix') or reported.batch.input_prefix}/{reported.image}"
    calls = _calls_for(world, reported)
    faults = {call.fault for call in calls}
    unknown = sum(1 for call in calls if call.fault in UNKNOWN)
    words = " ".join(map(str, (asked.get("Prompt"), asked.get("Prompts"), asked.get("Scene"))))
    settings = world.settings
    dead = all(set(FAMILIES[name]) <= world.models.dead for name in settings["image_models"])
    match row["Status"]:
        case "Failed":
            if reported.source is None:
                return "there is no photo"
            if reported.photo < 0:
                return "it is no picture"
            if key in world.history.unreadable:
                return "S3 refuses it"
            if row["Error"] == "MaybeBilled" and unknown >= 2:
                return "two calls whose end nobody knows"
            if "malformed" in faults and row["Error"] == "ValidationException":
                return "a model called it malformed"
            if row["Error"] == "BadAnswer" and any(call.bad for call in calls if call.kind == "scene"):
                return "its scene is damaged"
            if row["Error"] == "NothingUsable" and asked.get("Scene"):
                return "no scene model lives" if set(FAMILIES["scenes"]) <= world.models.dead else ""
        case "Blocked":
            if FORBIDDEN in words or "refused" in faults:
                return "it was refused"
        case "NeedsReview":
            if any(call.bad for call in calls):
                return "a model painted badly"
            if row["Error"] == "NoSubject" and faults & {"refused", "malformed"}:
                return "no cut-out was made"
        case "Skipped":
            if row["Error"] == "SampleWaits" and asked.get("Sample") is not None:
                return "its sample waits"
            if row["Error"] == "CapReached" and _a_cap_is_near(world, reported):
                return "a cap"
            if row["Error"] == "NothingUsable" and dead:
                return "no model lives"
    return ""


def _a_cap_is_near(world: World, reported: ReportRow) -> bool:
    settings = world.settings
    return bool(
        any(request.get("MaxCostUSD") for request in _request_and_origins(world, reported.request))
        or settings.get("max_cost_usd")
        or settings.get("max_cost_usd_per_day")
    )


def _request_and_origins(world: World, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The request, the one that it retries, and so on, as they are stored now: all of them share one cap."""
    stored = [world.bucket.objects.get(batch.request_key) for batch in world.batches()]
    by_id = {fields.get("Id"): fields for fields in (orjson.loads(each.data) for each in stored if each)}
    seen: set[str] = set()
    while True:
        yield request
        parent = request.get("RetryOf")
        if parent is None or parent in seen or parent not in by_id:
            return
        seen.add(parent)
        request = by_id[parent]


def nothing_stored_is_paid_again(world: World, watch: Watch) -> Iterator[str]:
    """A paid and stored answer is paid again only by a requested refresh, once per occasion."""
    first: dict[str, Call] = {}
    by_occasion: dict[tuple[str, str], Call] = {}
    for call in world.models.calls:
        if call.billed is None:
            continue
        run = world.asked[call.process.name]
        refresh = STAGE[call.kind] in run.again
        before = by_occasion.get((call.asked, run.occasion)) if refresh else first.get(call.asked)
        if before is not None and before.stored is not None and before.stored < call.sent:
            what = f"for the same refresh ({run.occasion})" if refresh else "without being asked to"
            yield (
                f"call {call.number} ({call.kind} of photo {call.photo} by {call.process}) pays {what} for what "
                f"call {before.number} by {before.process} had answered and is stored"
            )
        if call.stored is not None:
            if refresh:
                by_occasion.setdefault((call.asked, run.occasion), call)
            first.setdefault(call.asked, call)


def nothing_is_asked_twice_at_once(world: World, watch: Watch) -> Iterator[str]:
    """No call is made while another living process waits for the answer to an equal call."""
    before: defaultdict[str, list[Call]] = defaultdict(list)
    for call in world.models.calls:
        for other in before[call.asked]:
            gone = other.process.killed and other.process.ended <= call.sent
            over = (other.ended or other.sent) <= call.sent or call.sent - other.sent > READ_TIMEOUT[
                "bedrock-runtime"
            ]
            refresh = STAGE[call.kind] in world.asked[call.process.name].again
            twice = not (gone or over or refresh) and call.billed is not None and other.billed is not None
            if twice and other.process is not call.process:
                yield (
                    f"call {call.number} by {call.process} ({call.kind} of photo {call.photo}) is made while "
                    f"{other.process} waits for the answer to call {other.number}"
                )
        before[call.asked].append(call)


def what_arrived_is_stored(world: World, watch: Watch) -> Iterator[str]:
    """An answer that a surviving process received is stored, unless S3 refuses that write."""
    refused = [process for _, _, sort, process in world.history.faults if sort == "put answers"]
    for call in world.models.calls:
        if call.arrived is not None and call.stored is None and not call.bad:
            if call.process.killed or call.process in refused:
                continue
            yield f"the answer to call {call.number} ({call.kind} by {call.process}) arrived and was not stored"


def nothing_delivered_is_lost(world: World, watch: Watch) -> Iterator[str]:
    """A delivered result stays readable and its image Succeeded until it is replaced or a user rejects it."""
    yield from watch.lost
    yield from _lost(world, watch.delivered)


def _settings_changed(world: World) -> bool:
    """Whether settings other than caps were changed: then a row has the new outcome next to the earlier results."""
    return any(not name.startswith("max_cost") for _, changed in world.history.settings for name in changed)


def _lost(world: World, delivered: Mapping[str, Delivery]) -> Iterator[str]:
    rows = {reported.batch.upload_key(reported.image): reported for reported in reports(world)}
    for image, delivery in delivered.items():
        if changed_since(world, image, delivery.at):
            continue
        reported = rows.get(image)
        if reported is None:
            yield f"{image} was delivered and is in no report any more"
        elif reported.row["Status"] != "Succeeded" and not (
            _settings_changed(world) and set(delivery.results) <= set(reported.row["Results"])
        ):
            painted_badly = any(call.bad for call in _calls_for(world, reported))
            if not (reported.row["Status"] == "NeedsReview" and painted_badly):
                yield f"{reported} was delivered before"
        missing = [key for key in delivery.results if key not in world.bucket.objects]
        if missing:
            yield f"{image}: {', '.join(missing)} were delivered and are gone"


def who_lost_a_lease_writes_nothing(world: World, watch: Watch) -> Iterator[str]:
    """A process whose lease was taken over no longer changes results, ledger or report of the batch."""
    yield from watch.late


def caps_hold(world: World, watch: Watch) -> Iterator[str]:
    """No run, no day and no batch with its retries was billed more than its cap."""
    by_run: defaultdict[str, float] = defaultdict(float)
    by_day: defaultdict[str, float] = defaultdict(float)
    by_photo: defaultdict[int, float] = defaultdict(float)
    for call in world.models.calls:
        by_run[call.process.name] += call.usd
        by_day[f"{datetime.fromtimestamp(call.sent, UTC):%Y-%m-%d}"] += call.usd
        by_photo[call.photo] += call.usd
    by_group: defaultdict[str, float] = defaultdict(float)
    for name, usd in by_run.items():
        by_group[world.asked[name].cap_group or name] += usd
        cap = getattr(world.asked[name].settings, "max_cost_usd", 0.0)
        if cap and usd > cap + CENT:
            yield f"{name} was billed {usd:.4f} USD, its cap is {cap}"
    for asked in world.asked.values():
        cap = getattr(asked.settings, "max_cost_usd", 0.0)
        if asked.cap_group and cap and by_group[asked.cap_group] > cap + CENT:
            yield f"the runs of {asked.cap_group} were billed {by_group[asked.cap_group]:.4f} USD, their cap is {cap}"
    day_caps = [getattr(asked.settings, "max_cost_usd_per_day", 0.0) for asked in world.asked.values()]
    if day_caps and all(day_caps):
        for day, usd in by_day.items():
            if usd > max(day_caps) + CENT:
                yield f"{day} was billed {usd:.4f} USD, its cap is {max(day_caps)}"
    yield from _batch_caps(world, by_photo)


def _batch_caps(world: World, by_photo: Mapping[int, float]) -> Iterator[str]:
    redone = {step.args["batch"] for step in world.plan.steps if step.do == "redo"}
    for path, spec in world.plan.batches.items():
        cap = spec["request"].get("MaxCostUSD")
        if cap is None or path in redone or _touched(world, path) or _shared(world, path):
            continue
        usd = sum(by_photo.get(number, 0.0) for number in set(spec["photos"].values()))
        usd += _scenes_of_one_batch(world, spec["request"].get("Scene"))
        if usd > cap + CENT:
            yield f"batch {path} and its retries were billed {usd:.4f} USD, its cap is {cap}"


def _scenes_of_one_batch(world: World, words: str | None) -> float:
    """What the scene of a batch cost; 0 if another batch has the same words, and may have paid."""
    requests = [spec["request"] for spec in world.plan.batches.values()]
    requests += [step.args["request"] for step in world.plan.steps if "request" in step.args]
    if words is None or sum(asked.get("Scene") == words for asked in requests) > 1:
        return 0.0
    calls = (call for call in world.models.calls if call.kind == "scene")
    return sum(call.usd for call in calls if call.prompt.startswith(words))


def _touched(world: World, path: str) -> bool:
    """Whether the batch's request or photos were changed during the simulation."""
    prefix = f"{s3_keys.UPLOADS}/{path}/"
    times = {**world.history.requests, **world.history.sources}
    own = (when for key, when in times.items() if key.startswith(prefix))
    return any(len(when) > 1 or when[0] > world.clock_start for when in own)


def _shared(world: World, path: str) -> bool:
    """Whether another batch has a photo with the same bytes."""
    own = set(world.plan.batches[path]["photos"].values())
    others = (spec["photos"].values() for other, spec in world.plan.batches.items() if other != path)
    return any(own & set(numbers) for numbers in others)


def samples_wait(world: World, watch: Watch) -> Iterator[str]:
    """Nothing beyond the sample of a batch is paid before a user approves it."""
    for path, spec in world.plan.batches.items():
        sample = spec["request"].get("Sample")
        if (
            sample is None
            or world.history.approved.get(path)
            or _touched(world, path)
            or _shared(world, path)
        ):
            continue
        own = set(spec["photos"].values())
        paid = {call.photo for call in world.models.calls if call.billed is not None and call.photo in own}
        if len(paid) > sample:
            yield f"batch {path} was paid for {len(paid)} photos; its sample is {sample}, which nobody approved"


def what_is_published_is_approved(world: World, watch: Watch) -> Iterator[str]:
    """The objects under published/ are the approved results in the approved version."""
    approved = world.in_a_process(lambda: dict(_approved(world)))
    gone = set(world.in_a_process(lambda: list(_delivered_of_gone_photos(world))))
    earlier = set(world.in_a_process(lambda: list(_delivered_before_a_newer_result(world))))
    for key in world.bucket.under(f"{s3_keys.PUBLISHED}/"):
        item = approved.get(key)
        if item is None and (key in gone or key in earlier):
            continue  # only a rejection or a newer approved result removes what was delivered
        if item is None:
            image = watch.images.get(key, "")
            if image in world.bucket.objects and not changed_since(world, image, world.clock_start):
                yield f"{key} is published and nobody approved it"
            # Delivered results of deleted photos or requests stay.
        elif world.bucket.objects[key].etag != item.etag:
            yield f"{key} is published in another version than the one approved"
    for key in approved.keys() - world.bucket.objects.keys():
        yield f"{key} is approved and was not published"


def _delivered_of_gone_photos(world: World) -> Iterator[str]:
    """Published keys of photos that their batch no longer requests."""
    for batch in world.batches():
        work = open_batch(world.store, world.made_settings(), batch)
        listed = world.store.read_json(batch.published_list_key) or {}
        yield from (key for key, copy in listed.items() if copy.get("Image") not in work.images)


def _delivered_before_a_newer_result(world: World) -> Iterator[str]:
    """Published keys of an earlier version that nobody rejected, while the newer version is not approved."""
    for batch in world.batches():
        listed = world.store.read_json(batch.published_list_key) or {}
        _, found = deliverable(world, batch)
        for item in found:
            target = s3_keys.published_key(item.place or item.key)
            version = listed.get(target, {}).get("ResultETag", item.etag)
            result = listed.get(target, {}).get("Source") or item.place or item.key
            if version != item.etag and item.state is not State.APPROVED:
                decision = decision_about(world.store, result, version)
                if decision is None or decision.state is not State.REJECTED:
                    yield target


def _approved(world: World) -> Iterator[tuple[str, Item]]:
    for batch in world.batches():
        for item in deliverable(world, batch)[1]:
            if item.state is State.APPROVED:
                yield s3_keys.published_key(item.place or item.key), item


def all_ends(world: World, watch: Watch) -> Iterator[str]:
    """After a quiet run all processes have ended, no lease is held, and another run pays nothing."""
    for process in world.clock.processes.values():
        if process.alive:
            yield f"{process} does not end"
        if process.error is not None and not isinstance(process.error, EXPECTED):
            yield f"{process} ended with {process.error!r}"
        for error in process.thread_errors:
            yield f"a thread of {process} ended with {error!r}"
    for text in world.internal:
        yield f"a fault of bg_pipeline's own: {text.strip().splitlines()[-1]}"
    if not world.sensor_rests:
        yield "the sensor asks for runs again and again"
    if world.quiet_runs_pay:
        yield "runs go on paying although nothing changes"
    for key in world.bucket.under(f"{s3_keys.STATE}/leases/"):
        if is_held(world.store, key):
            yield f"the lease {key} is held by nobody"
    for batch in world.batches():
        request = world.bucket.objects.get(batch.request_key)
        if request is not None:
            key = s3_keys.report_key(batch.status_prefix, orjson.loads(request.data)["Id"])
            if key not in world.bucket.objects:
                yield f"batch {batch.path} has no report"
        if batch.ledger_key(PARTS) in world.bucket.objects:
            yield f"batch {batch.path} is still divided into parts"


INVARIANTS: Final[tuple[Callable[[World, Watch], Iterator[str]], ...]] = (
    the_bill_is_told,
    statuses_are_true,
    troubles_have_a_reason,
    nothing_stored_is_paid_again,
    nothing_is_asked_twice_at_once,
    what_arrived_is_stored,
    nothing_delivered_is_lost,
    who_lost_a_lease_writes_nothing,
    caps_hold,
    samples_wait,
    what_is_published_is_approved,
    all_ends,
)
