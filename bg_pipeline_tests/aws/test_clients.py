"""The endpoints of clients."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError
from botocore.loaders import JSONFileLoader

from bg_pipeline.aws.clients import Aws, explain_set_up
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import settings


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


_CONFIG = """
[profile sso]
sso_start_url = https://shop.awsapps.com/start
sso_region = eu-central-1
sso_account_id = 123456789012
sso_role_name = Submitters
region = eu-central-1
[profile role]
role_arn = arn:aws:iam::123456789012:role/x
source_profile = gone
[profile process]
credential_process = false
region = eu-central-1
[profile spaced]
region = eu central
"""


@pytest.mark.parametrize(
    ("profile", "words", "advice"),
    [
        ("sso", "sign-in (SSO) is missing or has ended", "aws sso login"),
        ("role", '"gone" referenced in the profile "role"', "AWS_PROFILE"),
        ("process", "retrieving credentials", "AWS_PROFILE"),
        ("spaced", "'eu central'", "AWS_DEFAULT_REGION"),
        ("nobody", "profile (nobody) could not be found", "aws configure list-profiles"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told_with_what_to_do(
    amazon: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, words: str, advice: str
) -> None:
    config = tmp_path / "config"
    config.write_text(_CONFIG)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", profile)
    try:
        Aws().s3("shop")
    except SettingsError as error:
        told = str(error)
    except BotoCoreError as error:
        told = explain_set_up(error)
    assert words in told
    assert advice in told


@pytest.mark.parametrize(
    "name",
    [
        "s3://shop", "s3://shop/image-files/", "arn:aws:s3:::shop", "arn:aws-cn:s3:::shop", "shop/",
        "https://shop.s3.eu-central-1.amazonaws.com/", "https://s3.eu-central-1.amazonaws.com/shop",
    ],
)  # fmt: skip
def test_an_address_is_no_name_of_a_bucket(name: str) -> None:
    for setting in ({"bucket": name}, {"bucket": "shop", "allowed_buckets": f"other,{name}"}):
        with pytest.raises(SettingsError, match="write the bucket's name only"):
            settings(**setting)


@pytest.mark.parametrize(
    "name", ["shop", "My_Shop.old", "arn:aws:s3:eu-central-1:123456789012:accesspoint/photos", "shop-s3alias"]
)
def test_other_names_are_left_to_s3(name: str) -> None:
    assert settings(bucket=name).bucket == name


def test_what_boto3_knows_of_services_is_read_once_for_all_sessions(
    amazon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Aws().client("s3")

    def read(self: JSONFileLoader, path: str) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(JSONFileLoader, "load_file", read)
    Aws().client("s3", "eu-central-1")


def test_sessions_keep_credentials_and_region_of_their_own(
    amazon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = []
    for key, region in [("first", "eu-central-1"), ("second", "us-west-2")]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        links.append(Aws().client("s3"))
    signed = [
        client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"}) for client in links
    ]
    assert [f"{key}%2F" in link for key, link in zip(("first", "second"), signed, strict=True)] == [
        True,
        True,
    ]
    assert ["eu-central-1" in signed[0], "us-west-2" in signed[1]] == [True, True]


def test_a_folder_of_descriptions_of_the_users_own_is_read(
    amazon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Aws().client("sqs")
    model = {
        "version": "2.0",
        "metadata": {
            "apiVersion": "2020-01-01",
            "endpointPrefix": "mine",
            "protocol": "json",
            "serviceId": "Mine",
            "signatureVersion": "v4",
        },
        "operations": {},
        "shapes": {},
    }
    folder = tmp_path / "mine" / "2020-01-01"
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text(json.dumps(model))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_MINE", "http://127.0.0.1:9")
    assert Aws().client("mine").meta.service_model.service_name == "mine"
    assert Aws().client("sqs").meta.service_model.service_name == "sqs"
