"""The endpoints of clients."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bg_pipeline.aws.clients import Aws


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients use the real endpoints; no test calls them."""
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
def test_presigned_links_and_forms_use_the_buckets_region(
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
def test_the_users_s3_configuration_is_respected(
    amazon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str, address: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\nregion = eu-central-1\ns3 =\n  {chosen}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    link = Aws().client("s3").generate_presigned_url("get_object", Params={"Bucket": "shop", "Key": "a"})
    assert link.partition("?")[0] == address


def test_presigned_links_of_other_s3_services_are_path_style(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.internal:9000")
    link = Aws().client("s3").generate_presigned_url("get_object", Params={"Bucket": "shop", "Key": "a"})
    assert link.startswith("http://minio.internal:9000/shop/a?")
