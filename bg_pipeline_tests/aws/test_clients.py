"""Where clients lead."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bg_pipeline.aws.clients import Aws


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients lead to the real service, of which none is called."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("bucket", "region", "address"),
    [
        ("shop", "eu-central-1", "https://shop.s3.eu-central-1.amazonaws.com"),
        ("shop", "ap-southeast-5", "https://shop.s3.ap-southeast-5.amazonaws.com"),
        ("shop", "us-east-1", "https://shop.s3.amazonaws.com"),
        ("shop", "cn-north-1", "https://shop.s3.cn-north-1.amazonaws.com.cn"),
        # No certificate is for two labels before "s3".
        ("shop.de", "eu-central-1", "https://s3.eu-central-1.amazonaws.com/shop.de"),
    ],
)
def test_a_link_and_a_form_lead_to_the_buckets_own_region(
    amazon: None, bucket: str, region: str, address: str
) -> None:
    client = Aws().client("s3", region)
    link = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a"}))
    assert f"{link.scheme}://{link.netloc}{link.path}" == f"{address}/a"
    assert client.generate_presigned_post(bucket, "a")["url"].rstrip("/") == address


@pytest.mark.parametrize(
    ("chosen", "address"),
    [
        ("use_dualstack_endpoint = true", "https://shop.s3.dualstack.eu-central-1.amazonaws.com/a"),
        ("use_accelerate_endpoint = true", "https://shop.s3-accelerate.amazonaws.com/a"),
        ("addressing_style = path", "https://s3.eu-central-1.amazonaws.com/shop/a"),
    ],
)
def test_what_the_users_configuration_says_of_s3_holds(
    amazon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str, address: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\nregion = eu-central-1\ns3 =\n  {chosen}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    link = Aws().client("s3").generate_presigned_url("get_object", Params={"Bucket": "shop", "Key": "a"})
    assert link.partition("?")[0] == address


def test_a_link_of_another_makers_s3_has_the_bucket_in_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.internal:9000")
    link = Aws().client("s3").generate_presigned_url("get_object", Params={"Bucket": "shop", "Key": "a"})
    assert link.startswith("http://minio.internal:9000/shop/a?")
