"""The page's screens without a browser: a press of a button counts for what was shown, and nothing else."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from bg_pipeline.domain.people import local_person
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.upload_server import sessions
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo

SECONDS = 60
ANN = local_person("ann")


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"review_share": 1.0})


@pytest.fixture
def service(bench: Bench) -> BatchService:
    return BatchService(bench.settings(), bench.store)


def press(screen: AppTest, label: str) -> None:
    (button,) = [button for button in screen.button if button.label == label]
    button.click().run()
    assert not screen.exception


def _batches(service: "BatchService", drafts: "DraftService") -> None:
    from bg_pipeline.web.page import progress

    progress.show(service, drafts, "", lambda draft: None)


def test_a_press_for_a_sample_of_a_request_that_was_replaced_approves_nothing_and_says_so(
    bench: Bench, service: BatchService, control: ControlClient
) -> None:
    batch = bench.submit(3, day=datetime.now(UTC).date(), Sample=1)
    bench.run(batch.date)
    drafts = DraftService(bench.settings(), aws(), bench.store)
    kwargs = {"service": service, "drafts": drafts}
    screen = AppTest.from_function(_batches, kwargs=kwargs, default_timeout=SECONDS).run()
    other = {"Id": "other", "Prompt": "a dark forest", "Sample": 1}
    bench.store.write_json(batch.request_key, other)
    bench.run(batch.date)
    press(screen, "Run the rest")
    (told,) = [error.value for error in screen.error]
    assert "was replaced since you looked at it" in told
    bench.run(batch.date)
    assert len(control.paid(operation="InvokeModel")) == 2, "one of each sample"
    press(screen, "Run the rest")
    assert not screen.error
    bench.run(batch.date)
    assert len(control.paid(operation="InvokeModel")) == 4


def _new_batch(drafts: "DraftService") -> None:
    from bg_pipeline.web.page import submit

    submit.show(drafts)


@pytest.fixture
def drafts(bench: Bench) -> DraftService:
    return DraftService(bench.settings(), aws(), bench.store)


def new_batch(drafts: DraftService, photos: int = 2) -> AppTest:
    """The screen *New batch* with photos that were just dropped."""
    screen = AppTest.from_function(_new_batch, kwargs={"drafts": drafts}, default_timeout=SECONDS).run()
    for number in range(photos):
        screen.session_state.session.store(f"{number}", f"{number}.jpg", io.BytesIO(photo(number)))
    return shown(screen.run())


def shown(screen: AppTest) -> AppTest:
    assert not screen.exception
    return screen


def reopened(drafts: DraftService, screen: AppTest) -> AppTest:
    """The draft of a screen, opened in another browser."""
    other = AppTest.from_function(_new_batch, kwargs={"drafts": drafts}, default_timeout=SECONDS)
    other.session_state.session = sessions.open(drafts, ANN, screen.session_state.session.batch)
    return shown(other.run())


def prompt(screen: AppTest) -> Any:
    return next(area for area in screen.text_area if area.label.startswith("Describe the background"))


def test_a_draft_keeps_every_wish(bench: Bench, drafts: DraftService) -> None:
    screen = new_batch(drafts)
    shown(prompt(screen).set_value("a sandy beach\na forest").run())
    for label, value in (("Spend at most (USD)", 2.5), ("Seed", 7), ("Pictures for each background", 2)):
        shown(next(each for each in screen.number_input if each.label == label).set_value(value).run())
    shown(
        next(each for each in screen.multiselect if each.label == "Files for")
        .set_value(["square-social"])
        .run()
    )
    press(
        screen, next(b.label for b in screen.button if b.label.startswith("Find what is in 2 photos: up to "))
    )
    other = reopened(drafts, screen)
    assert prompt(other).value == "a sandy beach\na forest"
    numbers = {each.label: each.value for each in other.number_input}
    assert (numbers["Spend at most (USD)"], numbers["Seed"]) == (2.5, 7)
    assert numbers["Pictures for each background"] == 2
    assert next(each for each in other.multiselect if each.label == "Files for").value == ["square-social"]
    assert not [button for button in other.button if button.label.startswith("Find what is in")]
    (card,) = BatchService(bench.settings(), bench.store).batches(ANN, datetime.now(UTC).date())
    assert card.title == "a sandy beach"
    assert "labels of 2 photos were found" in card.state


def test_another_kind_of_background_and_back_loses_no_word(drafts: DraftService) -> None:
    screen = new_batch(drafts)
    shown(prompt(screen).set_value("a sandy beach").run())
    kind = next(group for group in screen.segmented_control if group.label == "Background")
    shown(kind.set_value("A colour").run())
    assert not [area for area in screen.text_area if area.label.startswith("Describe")]
    kind = next(group for group in screen.segmented_control if group.label == "Background")
    shown(kind.set_value("Described").run())
    assert prompt(screen).value == "a sandy beach"


def test_a_press_on_submit_that_comes_with_a_change_submits_nothing_before_the_new_plan_is_seen(
    bench: Bench, drafts: DraftService
) -> None:
    screen = new_batch(drafts)
    shown(prompt(screen).set_value("a sandy beach").run())
    # A browser sends what was typed last together with the press.
    prompt(screen).set_value("a sandy beach\nand three more\nlines\nthat cost")
    press(screen, "Submit")
    assert [key for key in bench.keys("image-files/") if key.endswith("/request.json")] == []
    assert any("The plan changed" in each.value for each in screen.warning)
    press(screen, "Submit")
    (key,) = [key for key in bench.keys("image-files/") if key.endswith("/request.json")]
    assert len(bench.store.read_json(key)["Prompts"]) == 4


def test_wishes_that_somebody_else_wrote_into_the_draft_break_nothing(
    bench: Bench, drafts: DraftService
) -> None:
    screen = new_batch(drafts)
    batch = screen.session_state.session.batch
    hostile = {
        "Fields": {
            "Task": "DELETE",
            "Prompts": 7,
            "Seed": "x",
            "Variants": 99,
            "Colour": "red",
            "Presets": ["no"],
        },
        "Photos": {"0.jpg": {"Labels": 3}, "1.jpg": {"Prompts": "x"}, "2.jpg": "x"},
        "Table": {"0.jpg": {"Variants": "many", "Seed": 1.5, "Prompt": ["x"]}},
        "Labels": {"0.jpg": "x", "1.jpg": [1, 2]},
        "Backdrop": "pipeline-state/secret",
    }
    documents: list[Any] = [hostile, dict.fromkeys(hostile, "x"), "x", None, []]
    for wishes in documents:
        bench.store.write_json(batch.draft_key, {"Wishes": wishes})
        other = reopened(drafts, screen)
        assert prompt(other).value == ""


def test_what_is_kept_late_brings_no_draft_back(bench: Bench, drafts: DraftService) -> None:
    screen = new_batch(drafts)
    batch = screen.session_state.session.batch
    drafts.discard(ANN, batch)
    drafts.keep_wishes(batch, {"Fields": {"Prompts": "a beach"}})
    assert bench.keys("image-files/") == []


def test_a_photo_is_removed_from_a_new_batch(bench: Bench) -> None:
    drafts = DraftService(bench.settings(), aws(), bench.store)
    screen = AppTest.from_function(_new_batch, kwargs={"drafts": drafts}, default_timeout=SECONDS).run()
    session = screen.session_state.session
    session.store("one", "a.jpg", io.BytesIO(photo(1)))
    session.store("two", "b.jpg", io.BytesIO(photo(2)))
    screen.run()
    next(button for button in screen.button if button.label == "Remove photo").click().run()
    assert not screen.exception
    assert list(session.photos) == ["b.jpg"]
    assert [key for key in bench.keys("image-files/") if key.endswith(".jpg")] == [
        session.batch.upload_key("b.jpg")
    ]
