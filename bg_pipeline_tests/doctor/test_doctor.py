"""What the doctor finds, and what it advises."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bg_pipeline.aws.clients import Aws
from bg_pipeline.cli.main import main
from bg_pipeline.doctor.account import access, dagster_home, examine, figures, signatures
from bg_pipeline.doctor.findings import Finding, Level
from bg_pipeline.domain.model_facts import as_of
from bg_pipeline.errors import SettingsError
from bg_pipeline.imaging.signing import Signing
from bg_pipeline.settings import settings
from bg_pipeline.web.addresses import check_api, check_page
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.certificates import certificate


def findings(subject: str = "", **overrides: object) -> list[Finding]:
    chosen = settings(**overrides)
    return [found for found in examine(chosen, Aws(chosen.regions)) if found.subject.startswith(subject)]


def test_in_an_account_where_all_is_well_nothing_needs_attention(
    bucket: str, control: ControlClient, s3: Any
) -> None:
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    assert {found.level for found in findings(bucket=bucket)} == {Level.OK}


def test_nothing_is_billed_unless_asked_for(bucket: str, control: ControlClient) -> None:
    findings(bucket=bucket)
    assert control.paid() == []


def test_a_retired_model_is_told_and_the_next_one_is_in_use(bucket: str, control: ControlClient) -> None:
    control.model("amazon.titan-image-generator-v2:0", lifecycle="RETIRED")
    titan, nova, *_ = findings("image model", bucket=bucket)
    assert titan.level is Level.ATTENTION
    assert "in use" in nova.words


def test_without_any_model_that_can_be_used_the_doctor_fails(bucket: str, control: ControlClient) -> None:
    control.model("amazon.titan-image-generator-v2:0", lifecycle="RETIRED")
    (found,) = findings("image model", bucket=bucket, image_models=("titan-v2",))
    assert found.level is Level.FAILED
    assert "BG_IMAGE_MODELS" in found.advice


def test_a_status_that_says_no_is_told_and_fails_nothing(bucket: str, control: ControlClient) -> None:
    control.model("stability.stable-image-inpaint-v1:0", access="unsubscribed", authorized=False)
    found = findings("image model", bucket=bucket, image_models=("stability",))
    assert {each.level for each in found} <= {Level.OK, Level.ATTENTION}
    told = found[0]
    assert "the first call makes one" in told.words
    assert "NOT_AUTHORIZED" in told.words
    assert "aws-marketplace:Subscribe" in told.advice


@pytest.mark.parametrize(
    ("region", "caption", "image", "failed"),
    [
        ("eu-central-1", "eu.amazon.nova-pro-v1:0 in eu-central-1: in use", "in us-east-1: in use", set()),
        (
            "ap-southeast-2",
            "apac.amazon.nova-pro-v1:0 in ap-southeast-2: in use",
            "in us-east-1: in use",
            set(),
        ),
        (
            "us-gov-west-1",
            "amazon.nova-pro-v1:0 in us-gov-west-1: in use",
            "not offered in us-gov-west-1",
            {"image model stability"},
        ),
    ],
)
def test_the_doctor_is_true_in_any_region(
    bucket: str,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    region: str,
    caption: str,
    image: str,
    failed: set[str],
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    found = findings(bucket=bucket, image_models=("stability",))
    assert {each.subject for each in found if each.level is Level.FAILED} == failed
    words = [each.words for each in found if each.subject.startswith("caption model")]
    assert any(caption in each for each in words)
    words = [each.words for each in found if each.subject.startswith("image model")]
    assert any(image in each for each in words)


def test_a_caption_model_of_another_geography_fails(bucket: str, control: ControlClient) -> None:
    found = findings(
        "caption model", bucket=bucket, regions=("eu-central-1",), caption_models=("us.amazon.nova-pro-v1:0",)
    )
    assert [each.level for each in found] == [Level.FAILED]
    assert "it is in us-east-1" in found[0].words


def test_legacy_and_extended_access_are_told(bucket: str, control: ControlClient) -> None:
    control.model(
        "amazon.titan-image-generator-v2:0",
        lifecycle="LEGACY",
        legacy_since="2026-06-01",
        extended_access="2026-09-01",
        end_of_life="2027-06-30",
    )
    (found,) = findings("image model", bucket=bucket, image_models=("titan-v2",))
    assert found.level is Level.ATTENTION
    for part in ("legacy since 2026-06-01", "higher price than the table's, from 2026-09-01", "2027-06-30"):
        assert part in found.words


def test_what_service_quotas_says_of_tokens_is_told_and_nothing_is_attention(
    bucket: str, control: ControlClient
) -> None:
    found = findings("quota", bucket=bucket, image_models=("titan-v2",))
    assert any("2,000,000 tokens a minute by Service Quotas" in each.words for each in found)
    (a_day,) = (each for each in found if each.subject == "quota tokens a day")
    assert "700,000,000" in a_day.words
    control.applied_quota({"quota": "L-C0326783", "value": 0})
    zero = [each for each in findings("quota CAPTION", bucket=bucket) if "is 0 a minute" in each.words]
    assert [each.level for each in zero] == [Level.ATTENTION]
    assert "AWS Support" in zero[0].advice


def test_figures_that_nobody_compared_lately_are_told() -> None:
    assert list(figures(as_of())) == []
    (found,) = figures(as_of() + timedelta(days=365))
    assert found.level is Level.ATTENTION
    assert "more than 120 days ago" in found.words


def test_a_region_without_the_model_or_rekognition_is_told(bucket: str, control: ControlClient) -> None:
    found = findings(bucket=bucket, regions=("us-west-1",), image_models=("titan-v2",))
    bad = [each.subject for each in found if each.level is Level.FAILED]
    assert "image model titan-v2" in bad


def test_a_quota_of_ones_own_that_aws_does_not_confirm_needs_attention(
    bucket: str, control: ControlClient
) -> None:
    (found,) = findings("quota TITAN_V2", bucket=bucket, image_models=("titan-v2",), quota_titan_v2_rpm=240)
    assert found.level is Level.ATTENTION
    assert "60 by Service Quotas" in found.words
    assert "BG_QUOTA_TITAN_V2_RPM" in found.advice


def test_without_credentials_only_this_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    first, *others = findings(bucket="any")
    assert (first.subject, first.level) == ("credentials", Level.FAILED)
    assert {found.subject.split()[0] for found in others} == {"access", "extra", "mask", "dagster"}


@pytest.mark.parametrize(
    ("chosen", "level", "words"),
    [
        ({}, Level.OK, "sign-in is off: everybody on this machine may do everything"),
        ({"oidc_issuer": "https://pool"}, Level.ATTENTION, "everybody who signs in may do everything"),
        ({"admin_groups": "owners"}, Level.FAILED, "there is no sign-in"),
        (
            {"oidc_issuer": "https://pool", "admin_groups": "owners", "submitter_groups": "studio\x1b[2J"},
            Level.ATTENTION,
            "submitters: studio\\x1b[2J; reviewers: nobody; publishers: nobody; admins: owners. Only admins",
        ),
        (
            {
                "oidc_issuer": "https://pool",
                "oidc_groups_claim": "roles",
                **dict.fromkeys(("submitter_groups", "reviewer_groups"), "a"),
                **dict.fromkeys(("publisher_groups", "admin_groups"), "b"),
            },
            Level.OK,
            "rights by the groups in the claim roles: submitters: a; reviewers: a; publishers: b; admins: b",
        ),
    ],
)
def test_who_may_do_what_is_said(chosen: dict[str, str], level: Level, words: str) -> None:
    finding = access(settings(bucket="any", **chosen))
    assert finding.level is level
    assert words in finding.words


@pytest.mark.parametrize("check", [check_api, check_page])
def test_groups_without_sign_in_start_nothing(check: Any) -> None:
    with pytest.raises(SettingsError, match="without sign-in nobody's groups are known"):
        check(settings(bucket="any", admin_groups="owners"), "127.0.0.1")


def test_a_bucket_that_is_not_there_fails(stand_in: object) -> None:
    (found,) = findings("bucket", bucket="no-such-bucket")
    assert found.level is Level.FAILED


@pytest.mark.parametrize(
    ("yaml", "advised"),
    [
        ("", ["run_monitoring", "run_retries", "PostgreSQL"]),
        (
            "run_monitoring: {enabled: true}\nrun_retries: {enabled: true}\nstorage: {postgres: {}}",
            ["retry_on_asset_or_op_failure: false"],
        ),
        ("{", ["correct the file"]),
    ],
)
def test_settings_of_dagster_that_would_help_are_named(tmp_path: Path, yaml: str, advised: list[str]) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml)
    found = list(dagster_home(str(tmp_path)))
    assert {each.level for each in found} == {Level.ATTENTION}
    for word, each in zip(advised, found, strict=True):
        assert word in each.advice


def test_live_tries_every_model_once_and_only_after_a_yes(
    bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    control.switch(canned=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BG_BUCKET", bucket)
    refused = CliRunner().invoke(main, ["doctor", "--live"], input="n\n")
    assert refused.exit_code == 2
    assert "at most 0.470 USD in all" in refused.stderr
    assert control.paid() == []
    agreed = CliRunner().invoke(main, ["doctor", "--live", "--yes"])
    assert agreed.exit_code == 0, agreed.output
    assert len(control.paid()) == 12


def test_live_tells_which_model_failed(
    bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    control.switch(canned=True)
    monkeypatch.chdir(tmp_path)
    control.model("amazon.nova-canvas-v1:0", access="denied")
    monkeypatch.setenv("BG_BUCKET", bucket)
    monkeypatch.setenv("BG_IMAGE_MODELS", "titan-v2")
    control.fault(operation="Converse", code="ValidationException")
    result = CliRunner().invoke(main, ["doctor", "--live", "--yes"])
    assert result.exit_code == 1, result.output


def test_the_networks_that_make_masks_are_loaded(
    bucket: str, control: ControlClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"nonsense")
    network, own = findings("mask source", bucket=bucket, onnx_model=torn)
    assert (network.level, network.words) == (Level.OK, "u2netp.onnx can be used")
    assert own.level is Level.ATTENTION
    assert str(torn) in own.words
    assert "cannot be loaded" in own.words
    assert findings("mask source", bucket=bucket, mask_sources="alpha,cut-out", onnx_model=torn) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (network,) = findings("mask source", bucket=bucket)
    assert network.level is Level.ATTENTION
    assert "extra `masks`" in network.words


def test_a_certificate_for_results_is_tried(tmp_path: Path) -> None:
    def about(signing: Signing) -> Finding:
        chosen = settings(c2pa_certificate=signing.certificate, c2pa_key=signing.key)
        (finding,) = signatures(chosen)
        return finding

    good = certificate(tmp_path / "good")
    assert about(good).level is Level.OK
    assert "CN=signer" in about(good).words
    bad = about(certificate(tmp_path / "old", days=-1))
    assert (bad.level, "expired on" in bad.words) == (Level.FAILED, True)
    assert list(signatures(settings())) == []
