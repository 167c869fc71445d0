"""Which models can be used in which Regions, according to the control plane and the table."""

import pytest

from bg_pipeline.aws import clients
from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.errors import ModelUnavailable, NothingUsable
from bg_pipeline.generators import Generator, Operation, generator
from bg_pipeline.models.selection import (
    ModelCandidate,
    ModelSelector,
    check_availability,
    prompt_limit,
)
from bg_pipeline_local_aws.control_client import ControlClient

US_NOVA = nova.operation("us.amazon.nova-pro-v1:0")
TITAN, CANVAS = "amazon.titan-image-generator-v2:0", "amazon.nova-canvas-v1:0"


def selector(notes: list[str], *names: str, aws: Aws | None = None) -> ModelSelector[Generator]:
    made = [generator(name) for name in names]
    candidates = [ModelCandidate(each.name, (each.replaces,), each) for each in made if each.replaces]
    return ModelSelector(aws or Aws(("us-east-1",)), candidates, notes.append)


def test_a_profile_of_another_geography_is_refused_with_the_regions_it_is_called_from(
    control: ControlClient,
) -> None:
    verdict = check_availability(Aws(), US_NOVA, "eu-central-1")
    assert not verdict.usable
    assert "not offered in eu-central-1 through us.amazon.nova-pro-v1:0; it is in us-east-1" in verdict.reason


@pytest.mark.parametrize("region", ["us-west-2", "eu-central-1"])
def test_the_table_decides_if_profiles_cannot_be_queried(control: ControlClient, region: str) -> None:
    control.fault(operation="GetInferenceProfile", code="AccessDeniedException", message="no", times=0)
    assert check_availability(Aws(), US_NOVA, region).usable is (region == "us-west-2")


def test_the_table_decides_if_the_control_plane_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", "http://127.0.0.1:9")
    # The pauses between five attempts would take 15 s.
    monkeypatch.setitem(clients._CONFIG, "bedrock", clients._NO_RETRIES)
    aws = Aws()
    assert check_availability(aws, US_NOVA, "us-west-2").usable
    assert not check_availability(aws, US_NOVA, "eu-central-1").usable


def test_the_control_plane_overrides_the_table(control: ControlClient) -> None:
    control.fault(
        operation="GetInferenceProfile", code="ResourceNotFoundException", message="not found", times=0
    )
    assert not check_availability(Aws(), US_NOVA, "us-east-1").usable


def test_models_retired_by_the_table_come_last_if_unconfirmed(control: ControlClient) -> None:
    control.fault(operation="GetFoundationModel", code="AccessDeniedException", message="no", times=0)
    notes: list[str] = []
    assert selector(notes, "titan-v2", "nova-canvas", "stability").current().candidate.name == "stability"
    assert selector(notes, "titan-v2").current().candidate.name == "titan-v2"


def test_the_prompt_limit_is_that_of_the_model_in_use(control: ControlClient) -> None:
    assert prompt_limit(selector([], "titan-v2", "stability")) == 512
    control.model(TITAN, lifecycle="RETIRED")
    assert prompt_limit(selector([], "titan-v2", "stability")) == 10_000
    assert prompt_limit(selector([], "titan-v2")) == 512


def test_each_unusable_model_is_noted_once(control: ControlClient) -> None:
    for model in (TITAN, CANVAS):
        control.model(model, lifecycle="RETIRED")
    notes: list[str] = []
    found = selector(notes, "titan-v2", "nova-canvas", "stability", aws=Aws(("us-east-1", "us-west-2")))
    choice = found.current()
    found.drop(choice, "us-east-1", ModelUnavailable("AccessDeniedException", "no more of it"))
    assert found.current().regions == ("us-west-2",)
    assert sum("titan-v2" in line for line in notes) == 1
    assert "no longer in us-east-1: no more of it" in notes[-1]


def test_pending_access_is_reported_as_temporary_and_queried_once(control: ControlClient) -> None:
    found = selector([], "stability")
    found.drop(found.current(), "us-east-1", ModelUnavailable("AccessDeniedException", "soon", passing=True))
    control.mark()
    for _ in range(3):
        with pytest.raises(NothingUsable, match="can be used yet") as raised:
            found.current()
        assert raised.value.passing
    assert control.calls() == []


@pytest.mark.parametrize(
    ("own", "region"),
    [("eu-central-1", "us-east-1"), ("ap-southeast-2", "us-east-1"), ("us-west-2", "us-west-2")],
)
def test_a_model_missing_in_the_own_region_is_used_elsewhere(
    control: ControlClient, monkeypatch: pytest.MonkeyPatch, own: str, region: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", own)
    notes: list[str] = []
    assert selector(notes, "stability", aws=Aws()).current().regions == (region,)
    assert ("processed in the US" in notes[0]) is (own != region)


@pytest.mark.parametrize("own", ["us-gov-west-1", "cn-north-1"])
def test_other_aws_partitions_are_not_used(
    control: ControlClient, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", own)
    with pytest.raises(NothingUsable, match=f"not offered in {own}"):
        selector([], "stability", aws=Aws()).current()


def test_a_model_in_the_own_region_is_preferred(
    control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    choice = selector([], "titan-v2", "nova-canvas", "stability", aws=Aws()).current()
    assert (choice.candidate.name, choice.regions) == ("nova-canvas", ("eu-west-1",))


def test_a_model_outside_the_catalogue_is_tried(control: ControlClient) -> None:
    assert check_availability(Aws(), Operation("MINE", "acme.paint-v1"), "us-east-1").usable
