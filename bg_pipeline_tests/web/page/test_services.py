"""The services behind the page: drafts that cost nothing, labels paid for once, plans, batches, packed results."""

import io
import re

import pytest
from PIL import Image

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Via, local_person
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import image_settings
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.imaging import read_header
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page.batches import BatchService, PendingPhotos, dagster_at_work
from bg_pipeline.web.page.drafts import DraftService, unused_name
from bg_pipeline.web.page.photo_settings import fields_of
from bg_pipeline.web.page.submit import with_labels
from bg_pipeline.web.page.upload_server import UploadSessions
from bg_pipeline.web.page.widgets import escape_markdown
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.rendered import as_png

ANN = local_person("ann", Via.PAGE)


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


@pytest.fixture
def batches(bench: Bench) -> BatchService:
    return BatchService(bench.settings(), bench.store)


@pytest.fixture
def drafts(bench: Bench, batches: BatchService) -> DraftService:
    return DraftService(bench.settings(), aws(), bench.store, on_change=batches.refresh)


def drafted(drafts: DraftService, count: int = 2) -> tuple[Batch, list[str]]:
    batch, names = drafts.start_draft(ANN), []
    for number in range(count):
        names.append(drafts.store_photo(batch, f"{number}.jpg", io.BytesIO(photo(number))).name)
    return batch, names


def test_a_draft_that_was_submitted_is_closed(
    drafts: DraftService, bench: Bench, control: ControlClient
) -> None:
    batch, names = drafted(drafts)
    data, _ = drafts.request(batch, names, {"Prompt": "a beach"}, {})
    drafts.submit(ANN, batch, data)
    bench.put(batch.upload_key(names[0]), photo(7))
    bench.put(batch.upload_key("late.jpg"), photo(8))
    assert bench.run(batch.date).counts == {"Succeeded": 1, "Failed": 2}
    assert len(control.paid(operation="InvokeModel")) == 1


def test_labels_that_are_all_taken_away_are_said_and_labels_that_never_were_are_not() -> None:
    assert with_labels({"Ref": "1"}, [], offered=[]) == {"Ref": "1"}
    assert with_labels({"Ref": " "}, ["Dog", "Cat"], offered=["Dog"]) == {"Labels": "Dog, Cat"}
    assert with_labels({"Labels": "Dog"}, [], offered=["Dog"]) == {"Labels": ""}
    assert with_labels({"Labels": ""}, [], offered=[]) == {"Labels": ""}


def test_a_photo_without_its_labels_is_asked_for_as_what_stands_out(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    _, request = drafts.request(batch, names, {"Prompt": "a beach"}, {names[0]: {"Labels": ""}})
    assert [image_settings(request, name).subject for name in names] == ["SALIENT", "LABELS"]


def test_a_table_finds_dropped_photos_by_either_spelling_and_tells_what_a_spreadsheet_did(
    drafts: DraftService,
) -> None:
    batch = drafts.start_draft(ANN)
    name = drafts.store_photo(batch, "caf\u00e9.jpg", io.BytesIO(photo(1))).name
    table = "source,ref,prompt\ncafe\u0301.jpg,10.12.2026,a beach\n".encode()
    assert list(drafts.from_manifest(ANN, batch, table, [name], {}).request.entries) == [name]
    (doubt,) = drafts.warnings(table)
    assert doubt.startswith("line 2, column ref: '10.12.2026'")


def test_what_is_dropped_lies_in_storage_as_a_draft_that_nothing_works_on(
    drafts: DraftService, batches: BatchService, bench: Bench, control: ControlClient
) -> None:
    batch, names = drafted(drafts)
    assert {found.key for found in drafts.store.list(f"{batch.input_prefix}/")} == {
        batch.draft_key,
        *map(batch.upload_key, names),
    }
    assert bench.run(batch.date).images == 0
    assert control.paid() == []
    (standing,) = batches.batches(ANN, batch.date)
    assert standing.draft
    assert standing.state.startswith("draft, last changed")


@pytest.mark.parametrize(
    ("name", "free"),
    [("x/y.jpg", "y.jpg"), ("C:\\photos\\y.jpg", "y.jpg"), (".hidden.jpg", "hidden.jpg"), ("y", "y 2")],
)
def test_a_name_is_made_one_of_an_image(name: str, free: str) -> None:
    assert unused_name(name, ["y"]) == free


@pytest.mark.parametrize("name", ["request.json", "", "..", "a/"])
def test_a_name_that_cannot_be_an_images_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="rename it"):
        unused_name(name, [])


def test_labels_are_asked_for_once_and_the_run_uses_the_same_answer(
    drafts: DraftService, bench: Bench, control: ControlClient
) -> None:
    batch, names = drafted(drafts)
    seen = drafts.labels(ANN, batch, names, lambda number: None)
    assert all(found.usable and not found.problem for found in seen.values())
    drafts.labels(ANN, batch, names, lambda number: None)
    asked = [call for call in control.paid() if call["operation"] == "DetectLabels"]
    assert len(asked) == len(names)
    data, _ = drafts.request(batch, names, {"Prompt": "a beach"}, {})
    drafts.submit(ANN, batch, data)
    assert bench.run(batch.date).counts == {Status.SUCCEEDED: 2}
    assert [call for call in control.paid() if call["operation"] == "DetectLabels"] == asked


def test_what_is_no_photo_has_its_problem_told_and_keeps_nobody_else_from_labels(
    drafts: DraftService,
) -> None:
    batch, names = drafted(drafts, 1)
    bad = drafts.store_photo(batch, "page.jpg", io.BytesIO(b"<html>404</html>"))
    assert bad.small == b""
    seen = drafts.labels(ANN, batch, [*names, bad.name], lambda number: None)
    assert "not a photo" in seen[bad.name].problem
    assert seen[names[0]].usable


def test_what_is_said_of_one_photo_overrides_what_is_said_of_all(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    own = {names[0]: {"Prompt": "a street", "Labels": "Dog", "Ref": "SKU 1"}}
    _, request = drafts.request(batch, names, {"Prompts": ("a beach",)}, own)
    assert request.entries[names[0]].Prompt == "a street"
    assert request.entries[names[0]].Ref == "SKU 1"
    assert request.entries[names[1]].Prompt is None
    assert request.Prompts == ("a beach",)


def test_a_request_without_a_background_is_refused_by_field(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    with pytest.raises(RequestError, match="Prompt"):
        drafts.request(batch, names, {}, {})


def test_a_table_asks_for_each_photo_alone_and_names_what_was_not_dropped(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    table = f"source,ref,prompt\n{names[0]},A1,a beach\nphotos/{names[1]},A2,a street\n"
    resolved = drafts.from_manifest(ANN, batch, table.encode(), names, {})
    assert [(entry.Ref, entry.Prompt) for entry in resolved.request.entries.values()] == [
        ("A1", "a beach"),
        ("A2", "a street"),
    ]
    assert list(resolved.files(drafts.store, batch)) == [batch.manifest_key]
    with pytest.raises(RequestError) as caught:
        drafts.from_manifest(ANN, batch, b"source,prompt\nother.jpg,a beach\n", names, {})
    assert caught.value.problems == (("line 2, column source", "no photo named 'other.jpg' was uploaded"),)


def test_a_table_may_name_objects_in_s3_masks_backdrops_and_other_names(
    drafts: DraftService, bench: Bench
) -> None:
    batch, names = drafted(drafts, 3)
    bench.store.write("assets/hat.jpg", photo(7), media_type="image/jpeg")
    bench.store.write("catalogue/sky.png", photo(8, format="PNG"), media_type="image/png")
    size = read_header(photo(1)).size
    bench.store.write("assets/mask.png", as_png(Image.new("L", size, 255)), media_type="image/png")
    bucket = bench.store.bucket
    table = (
        "source,name,prompt,mask,backdrop\n"
        f"{names[0]},first.jpg,a beach,,\n"
        f"{names[1]},,,assets/mask.png,s3://{bucket}/catalogue/sky.png\n"
        f"s3://{bucket}/assets/hat.jpg,,a street,,\n"
    ).encode()
    resolved = drafts.from_manifest(ANN, batch, table, names[:2], {})
    entries = resolved.request.entries
    assert list(entries) == ["first.jpg", names[1], "hat.jpg"]
    assert entries[names[1]].MaskKey == "assets/mask.png"
    backdrop = entries[names[1]].Backdrop
    files = resolved.files(drafts.store, batch)
    assert set(files) == {
        batch.upload_key("first.jpg"),
        batch.upload_key("hat.jpg"),
        backdrop,
        batch.manifest_key,
    }
    plan, _ = drafts.plan(batch, resolved.request, files)
    assert plan.due == 3
    assert bench.store.head(batch.upload_key("hat.jpg")) is None
    drafts.submit(ANN, batch, resolved.data, files)
    stored = {key: content.data for key in files if (content := bench.store.read(key))}
    assert stored == {
        batch.upload_key("first.jpg"): photo(0),
        batch.upload_key("hat.jpg"): photo(7),
        backdrop: photo(8, format="PNG"),
        batch.manifest_key: table,
    }
    assert bench.store.head(batch.request_key) is not None


def test_a_table_cannot_give_a_photo_the_name_of_another_dropped_photo(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    table = f"source,name,prompt\n{names[0]},{names[1]},a beach\n".encode()
    with pytest.raises(RequestError, match="is another photo of this batch already"):
        drafts.from_manifest(ANN, batch, table, names, {})


def test_a_submitted_batch_gets_no_more_files(drafts: DraftService, bench: Bench) -> None:
    batch, names = drafted(drafts)
    first = drafts.from_manifest(ANN, batch, f"source,prompt\n{names[0]},a beach\n".encode(), names, {})
    drafts.submit(ANN, batch, first.data, first.files(drafts.store, batch))
    table = f"source,prompt,name\n{names[0]},a street,other.jpg\n".encode()
    second = drafts.from_manifest(ANN, batch, table, names, {})
    with pytest.raises(UsageError, match="was submitted already"):
        drafts.submit(ANN, batch, second.data, second.files(drafts.store, batch))
    assert bench.store.head(batch.upload_key("other.jpg")) is None


def test_the_plan_counts_calls_and_dollars_and_spends_nothing(
    drafts: DraftService, control: ControlClient
) -> None:
    batch, names = drafted(drafts)
    _, request = drafts.request(batch, names, {"Prompts": ("a beach", "a street")}, {})
    plan, reasons = drafts.plan(batch, request)
    assert (plan.images, plan.due, reasons) == (2, 2, [])
    assert {line.operation.name: line.calls for line in plan.lines}["TITAN_V2"] == 4
    assert plan.worst_usd
    assert control.paid() == []


def test_a_draft_that_was_left_is_gone_on_with_or_discarded(
    drafts: DraftService, batches: BatchService, bench: Bench
) -> None:
    batch, names = drafted(drafts)
    lot = UploadSessions().open(drafts, ANN, batch)
    assert list(lot.photos) == names
    assert all(photo.small for photo in lot.photos.values())
    assert lot.store("another", names[0], io.BytesIO(photo(9))).name == "0 2.jpg"
    assert lot.batch == batch
    assert drafts.discard(ANN, batch) == 3
    assert batches.batches(ANN, batch.date) == []
    with pytest.raises(UsageError, match="no draft"):
        UploadSessions().open(drafts, ANN, batch)


def test_a_batch_that_was_submitted_is_not_changed_by_a_second_press(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    data, _ = drafts.request(batch, names, {"Prompt": "a beach"}, {})
    drafts.submit(ANN, batch, data)
    drafts.submit(ANN, batch, data)
    other, _ = drafts.request(batch, names, {"Prompt": "a street"}, {})
    with pytest.raises(UsageError, match="submitted already"):
        drafts.submit(ANN, batch, other)
    assert drafts.store.head(batch.draft_key) is None


def test_a_batch_tells_what_waits_for_approval_and_what_can_be_asked_for_again(
    batches: BatchService, bench: Bench
) -> None:
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1), "c.jpg": photo(2)}, Sample=2, Variants=2)

    def stands() -> tuple[PendingPhotos, PendingPhotos]:
        (found,) = batches.batches(ANN, batch.date)
        return found.to_approve, found.to_retry

    assert stands() == (PendingPhotos(), PendingPhotos())
    bench.run()
    assert stands() == (PendingPhotos(1, 2), PendingPhotos(1, 2))
    batches.approve_sample(ANN, batch)
    assert stands() == (PendingPhotos(), PendingPhotos(1, 2))
    bench.run()
    assert stands() == (PendingPhotos(), PendingPhotos(1, 2))
    bench.put(batch.upload_key("a.jpg"), photo(3))
    again = batches.retry(ANN, batch)
    assert bench.run(again.date).counts == {Status.SUCCEEDED: 1}
    with pytest.raises(UsageError, match="could mend"):
        batches.retry(ANN, again)


def test_a_sample_is_approved_for_the_request_that_the_page_showed(
    batches: BatchService, bench: Bench
) -> None:
    batch = bench.submit(3, Sample=1)
    bench.run()
    (shown,) = batches.batches(ANN, batch.date)
    other = {"Id": "id-101530", "Prompt": "a dark forest", "Sample": 1}
    bench.store.write_json(batch.request_key, other)
    bench.run()
    with pytest.raises(UsageError, match="replaced since you looked"):
        batches.approve_sample(ANN, batch, seen=shown.request_etag)
    assert bench.run().counts == {Status.SUCCEEDED: 1, Status.SKIPPED: 2}
    (shown,) = batches.batches(ANN, batch.date)
    batches.approve_sample(ANN, batch, seen=shown.request_etag)
    assert bench.run().counts == {Status.SUCCEEDED: 3}


def test_what_can_be_asked_for_again_is_no_more_than_the_sample(batches: BatchService, bench: Bench) -> None:
    batch = bench.submit(4, Sample=2)
    bench.run(max_cost_usd=0.0001)
    (standing,) = batches.batches(ANN, batch.date)
    assert standing.to_retry == PendingPhotos(2, 2)


def test_a_second_press_for_another_picture_makes_no_second_batch(
    batches: BatchService, bench: Bench
) -> None:
    batch = bench.submit(1)
    bench.run()
    results = batches.results(ANN, batch)
    shown = results.items()
    presses = [batches.redo(ANN, results.work, shown, prompt="a lake", seed=None) for _ in range(2)]
    assert presses[0] == presses[1]


def test_a_batch_that_was_processed_is_reported(
    drafts: DraftService, batches: BatchService, bench: Bench
) -> None:
    batch, names = drafted(drafts)
    data, _ = drafts.request(batch, names, {"Prompt": "a beach"}, {})
    drafts.submit(ANN, batch, data)
    bench.run(batch.date)
    (standing,) = batches.batches(ANN, batch.date)
    assert (standing.done, standing.counts) == (2, {"Succeeded": 2})
    assert standing.title == "a beach"
    assert [key for key, _ in standing.first_photos] == [batch.upload_key(name) for name in names]


def test_a_dagster_that_is_not_there_is_not_at_work() -> None:
    assert dagster_at_work("http://127.0.0.1:9") is None


@pytest.mark.parametrize(
    "text",
    ["![x](http://elsewhere/x.png)", "<b>*a* _b_ `c`", ":red[x] $y$ :material/delete:", "a & b | c ~d~"],
)
def test_a_text_of_other_peoples_is_shown_as_it_is(text: str) -> None:
    shown = escape_markdown(text)
    assert shown.replace("\\", "") == text
    assert not re.search(r"(?<!\\)[\[\]()<>*_`$:&|~!]", shown)


# What single photos have of their own


def test_a_row_of_the_table_says_what_a_request_takes(drafts: DraftService) -> None:
    batch, names = drafted(drafts)
    row = {
        "Prompt": "a street",
        "NegativePrompt": "",
        "Ref": "SKU 1",
        "Variants": 2.0,
        "Seed": 0,
        "Task": None,
        "Subject": "SALIENT",
        "Mode": "DEFAULT",
        "Preset": "square-social",
    }
    _, request = drafts.request(batch, names, {"Prompts": ("a beach",)}, {names[0]: fields_of(row)})
    asked = image_settings(request, names[0], PRESET_REQUESTS)
    assert (asked.prompts, asked.variants, asked.seed, asked.ref) == (("a street",), 2, 0, "SKU 1")
    assert (asked.subject, asked.mode, asked.task) == ("SALIENT", "DEFAULT", "REPLACE")
    assert [rendition.Preset for rendition in asked.renditions] == ["square-social"]
    assert image_settings(request, names[1], PRESET_REQUESTS).prompts == ("a beach",)


# Pictures beside the photos


def test_a_picture_is_put_behind_the_photos_without_a_generative_call(
    drafts: DraftService, bench: Bench, control: ControlClient
) -> None:
    batch, names = drafted(drafts)
    key = drafts.backdrop(batch, as_png(Image.radial_gradient("L").convert("RGB")))
    data, _ = drafts.request(batch, names, {"Backdrop": key}, {})
    drafts.submit(ANN, batch, data)
    assert bench.run(batch.date).counts == {Status.SUCCEEDED: 2}
    assert {call["task"] for call in control.paid(operation="InvokeModel")} <= {"BACKGROUND_REMOVAL"}


def test_a_mask_of_ones_own_is_what_is_kept_of_its_photo(drafts: DraftService, bench: Bench) -> None:
    batch, names = drafted(drafts, 1)
    drawn = Image.new("L", read_header(photo(0)).size, 255)
    drawn.paste(0, (20, 20, drawn.width // 2, drawn.height // 2))
    key = drafts.mask(batch, names[0], as_png(drawn))
    own = {names[0]: {"Subject": "MASK", "MaskKey": key}}
    data, request = drafts.request(batch, names, {"Prompt": "a beach"}, own)
    drafts.submit(ANN, batch, data)
    bench.run(batch.date)
    row = bench.rows(batch, request.Id)[names[0]]
    assert (drafts.store.read_json(f"{row.Results[0]}.json") or {})["Mask"] == "given"


def test_what_is_no_picture_or_no_mask_of_the_photo_is_refused_before_it_is_stored(
    drafts: DraftService,
) -> None:
    batch, names = drafted(drafts, 1)
    before = [found.key for found in drafts.store.list(f"{batch.input_prefix}/")]
    with pytest.raises(UsageError, match="backdrop cannot be used"):
        drafts.backdrop(batch, b"<html>")
    with pytest.raises(UsageError, match=r"mask of 0\.jpg cannot be used"):
        drafts.mask(batch, names[0], as_png(Image.new("L", (9, 90), 255)))
    with pytest.raises(UsageError, match="drop it again"):
        drafts.mask(batch, "gone.jpg", as_png(Image.new("L", (9, 9))))
    assert [found.key for found in drafts.store.list(f"{batch.input_prefix}/")] == before


# How batches stand


def test_looking_again_at_a_date_on_which_nothing_happened_makes_two_listings(
    batches: BatchService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(3)
    bench.run()
    (before,) = batches.batches(ANN, batch.date)
    assert (before.batch, before.images, before.to_do) == (batch, 3, 0)
    calls: list[str] = []
    listed = Store.list
    monkeypatch.setattr(Store, "list", lambda self, prefix: calls.append(prefix) or listed(self, prefix))
    monkeypatch.setattr(Store, "read", lambda self, key, **_: calls.append(key))
    assert batches.batches(ANN, batch.date) == [before]
    assert [prefix.split("/")[1] for prefix in calls] == ["ledger", "leases"]


def test_what_a_run_did_meanwhile_is_seen_at_once(batches: BatchService, bench: Bench) -> None:
    batch = bench.submit(2)
    (before,) = batches.batches(ANN, batch.date)
    assert (before.state, before.done) == ("waiting for a run", 0)
    bench.run()
    (after,) = batches.batches(ANN, batch.date)
    assert (after.state, after.done) == ("finished", 2)


def test_a_batch_that_was_just_submitted_is_seen_at_once(drafts: DraftService, batches: BatchService) -> None:
    batch, names = drafted(drafts)
    assert [each.draft for each in batches.batches(ANN, batch.date)] == [True]
    drafts.submit(ANN, batch, drafts.request(batch, names, {"Prompt": "a beach"}, {})[0])
    assert [each.state for each in batches.batches(ANN, batch.date)] == ["waiting for a run"]


def test_a_second_tab_deletes_no_photo_of_a_batch_that_was_submitted(
    drafts: DraftService, bench: Bench
) -> None:
    batch, names = drafted(drafts)
    other_tab = UploadSessions().open(drafts, ANN, batch)
    data, _ = drafts.request(batch, names, {"Prompt": "a beach"}, {})
    drafts.submit(ANN, batch, data)
    with pytest.raises(UsageError, match="submitted"):
        other_tab.remove(names[0])
    assert bench.store.head(batch.upload_key(names[0])) is not None
