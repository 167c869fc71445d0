"""The first day on a new account: nothing is subscribed, old models are gone, and nobody is there to help."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bg_pipeline
from bg_pipeline.cli.main import main
from bg_pipeline.domain.batches import find_batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench

INPAINT = "stability.stable-image-inpaint-v1:0"
REMOVE = "stability.stable-image-remove-background-v1:0"
PHOTOS = [
    path
    for path in sorted(Path(bg_pipeline.__file__).with_name("demo_photos").iterdir())
    if path.suffix in (".jpg", ".png")
]


@pytest.fixture
def new_account(
    s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Bench:
    """Titan and Canvas are retired, Stability's models unsubscribed, and each status says that access is missing."""
    for retired in ("amazon.titan-image-generator-v2:0", "amazon.nova-canvas-v1:0"):
        control.model(retired, lifecycle="RETIRED")
    for model in (INPAINT, REMOVE):
        control.model(model, access="unsubscribed", seconds=5, authorized=False)
    # AWS also reports this for Amazon's own models, which can be called.
    control.model("amazon.nova-pro-v1:0", authorized=False)
    monkeypatch.setenv("BG_BUCKET", bucket)
    # The stand-in enforces no rate; the waiting for 20 pictures a minute is tested elsewhere.
    for operation in ("STABILITY_INPAINT", "STABILITY_REMOVE_BACKGROUND"):
        monkeypatch.setenv(f"BG_QUOTA_{operation}_RPM", "60000")
    monkeypatch.chdir(tmp_path)
    return Bench(Store(s3, bucket))


def bg(*words: object, input: str | None = None) -> Result:
    """A command; without ``input`` its standard input is empty: nobody answers a question."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.dates
@pytest.mark.parametrize("live", [True, False], ids=["with doctor --live", "without it"])
def test_from_nothing_subscribed_to_six_pictures_unattended(
    new_account: Bench,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    live: bool,
) -> None:
    assert len(PHOTOS) == 6
    if not live:  # Each cut-out is paid for; otherwise the network makes most of them.
        monkeypatch.setenv("BG_MASK_SOURCES", "alpha,studio,cut-out")
    checked = bg("doctor")
    assert checked.exit_code == 0, checked.output
    assert "the first call makes one" in checked.output
    assert control.paid() == []
    if live:
        tried = bg("doctor", "--live", "--yes")
        assert tried.exit_code == 0, tried.output
        assert f"subscribes this account in the AWS Marketplace to {INPAINT}, {REMOVE}" in tried.stderr
        assert "cannot be called yet" in tried.stderr
        assert "still no access after" in tried.stderr
        assert "can be called now" in tried.stderr
        (file,) = Path().glob("doctor-live-*.json")
        assert all(call["Result"] == "OK" for call in json.loads(file.read_text())["Calls"])
    trials = len(control.paid(operation="InvokeModel"))
    # One for the background, one for the cut-out, and one for a scene.
    assert trials == (3 if live else 0)
    submitted = bg("submit", *PHOTOS, "--prompt", "london city background")
    assert submitted.exit_code == 0, submitted.output
    batch = find_batch(submitted.stdout.strip())
    assert batch is not None
    control.mark()
    done = bg("run", "--batch", batch.path)
    assert done.exit_code == 0, done.output
    assert ("cannot be called yet" in done.stderr) is not live
    request = new_account.store.read_json(batch.request_key)
    rows = new_account.rows(batch, request["Id"])
    assert {row.Status for row in rows.values()} == {Status.SUCCEEDED}
    assert len(rows) == 6
    # Each picture was paid for once, although calls were refused at first.
    painted = [call for call in control.paid(operation="InvokeModel") if call["model"] == INPAINT]
    assert len(painted) == 6
    assert {call["outcome"] for call in control.calls(operation="InvokeModel")} <= {
        "ok",
        "AccessDeniedException",
    }
    control.mark()
    assert bg("run", "--batch", batch.path).exit_code == 0
    assert control.paid() == []


@pytest.mark.dates
def test_the_pages_commands_lead_to_the_first_picture(new_account: Bench, control: ControlClient) -> None:
    page = Path(bg_pipeline.__file__).parents[1].joinpath("docs", "aws-account.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("bg-pipeline ")]
    assert [words[0] for words in commands] == ["doctor"] * 4 + ["submit", "plan", "run"]
    control.switch(canned=True)
    for model in (INPAINT, REMOVE):
        control.model(model, access="unsubscribed", seconds=1)
    Path("photo.jpg").write_bytes(PHOTOS[0].read_bytes())
    for words in commands:
        *words, target = words if ">" in words else [*words, ""]
        done = bg(*(word for word in words if word != ">"), input="y\n")
        assert done.exit_code == 0, (words, done.output)
        if target:
            Path(target).write_text(done.stdout)
    for role in ("pipeline", "submitter"):
        assert json.loads(Path(f"{role}.json").read_text())["Version"] == "2012-10-17"
    (picture,) = (key for key in new_account.keys("generated-image-files/") if key.endswith(".jpg"))
    assert picture.endswith("/photo.jpg")
