"""The page's screens without a browser: a press of a button counts for what was shown, and nothing else."""

import io
from datetime import UTC, datetime

import pytest
from streamlit.testing.v1 import AppTest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import local_person
from bg_pipeline.review import Item, State, decide
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo

SECONDS = 60


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"review_share": 1.0})


@pytest.fixture
def service(bench: Bench) -> BatchService:
    return BatchService(bench.settings(), bench.store)


@pytest.fixture
def batch(bench: Bench) -> Batch:
    """Three results of today, which all wait for a person."""
    made = bench.submit(3, day=datetime.now(UTC).date())
    bench.run(made.date)
    return made


def _review(service: "BatchService") -> None:  # its text is run elsewhere, where the name means nothing
    from bg_pipeline.web.page import results

    results.show(service)


@pytest.fixture
def screen(service: BatchService, batch: Batch) -> AppTest:
    shown = AppTest.from_function(_review, kwargs={"service": service}, default_timeout=SECONDS).run()
    assert not shown.exception
    return shown


def press(screen: AppTest, label: str) -> None:
    (button,) = [button for button in screen.button if button.label == label]
    button.click().run()
    assert not screen.exception


def found(service: BatchService, batch: Batch) -> list[Item]:
    return service.results(local_person("ann"), batch).items()


def states(service: BatchService, batch: Batch) -> list[State]:
    return [item.state for item in found(service, batch)]


def test_what_is_shown_is_decided_about(service: BatchService, batch: Batch, screen: AppTest) -> None:
    press(screen, "Approve")
    press(screen, "Reject")
    assert states(service, batch) == [State.APPROVED, State.REJECTED, State.WAITING]


@pytest.mark.parametrize("label", ["Approve", "Reject", "Make another picture"])
def test_a_press_for_what_somebody_else_has_decided_meanwhile_is_not_one_for_the_next(
    bench: Bench, service: BatchService, batch: Batch, screen: AppTest, label: str
) -> None:
    decide(bench.store, found(service, batch)[:1], State.REJECTED, by="bob")
    press(screen, label)
    assert states(service, batch) == [State.REJECTED, State.WAITING, State.WAITING]
    assert len([key for key in bench.keys("image-files/") if key.endswith("/request.json")]) == 1


@pytest.mark.parametrize("label", ["Approve all", "Reject all"])
def test_a_press_for_all_that_was_shown_is_not_one_for_what_came_since(
    bench: Bench, service: BatchService, batch: Batch, screen: AppTest, label: str
) -> None:
    decide(bench.store, found(service, batch)[:1], State.REJECTED, by="bob")
    press(screen, label)
    assert states(service, batch) == [State.REJECTED, State.WAITING, State.WAITING]


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


def test_a_photo_is_removed_from_a_new_batch(bench: Bench) -> None:
    drafts = DraftService(bench.settings(), aws(), bench.store)
    screen = AppTest.from_function(_new_batch, kwargs={"drafts": drafts}, default_timeout=SECONDS).run()
    session = screen.session_state.session
    session.store("one", "a.jpg", io.BytesIO(photo(1)))
    session.store("two", "b.jpg", io.BytesIO(photo(2)))
    screen.run()
    next(button for button in screen.button if button.label == "Remove the photo").click().run()
    assert not screen.exception
    assert list(session.photos) == ["b.jpg"]
    assert [key for key in bench.keys("image-files/") if key.endswith(".jpg")] == [
        session.batch.upload_key("b.jpg")
    ]
