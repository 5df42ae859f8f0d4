"""Which cloud, which region, which key: settings of the user reach AWS, never the local cloud."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from poormanray.aws.session import Aws, Endpoint
from poormanray.errors import AwsRefused

LOCAL = Endpoint("http://127.0.0.1:4566", "local-key", "local-secret", time_scale=5.0)
BODY = b"""<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<reservationSet/></DescribeInstancesResponse>"""


class _Body:
    def stream(self, **_: object) -> list[bytes]:
        return [BODY]


def signed_request(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> AWSPreparedRequest:
    """Return the request that would go out; nothing does."""
    sent: list[AWSPreparedRequest] = []

    def answer(_session: object, request: AWSPreparedRequest) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 200, HTTPHeaders(), _Body())

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", answer)
    assert aws.ec2().instances() == []
    return sent[0]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user every setting that could lead astray."""
    config = tmp_path / "config"
    config.write_text("[profile theirs]\nregion = eu-west-1\nendpoint_url = http://evil.test\n")
    keys = tmp_path / "credentials"
    keys.write_text("[theirs]\naws_access_key_id = AKIATHEIRS\naws_secret_access_key = s\n")
    for name, value in {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(keys),
        "AWS_PROFILE": "theirs",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return config


@pytest.mark.usefixtures("settings")
def test_no_setting_turns_a_local_command_into_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_PROFILE": "does-not-exist",
        "AWS_REGION": "eu-west-3",
        "AWS_ENDPOINT_URL": "http://evil.test",
        "AWS_ENDPOINT_URL_EC2": "http://evil.test",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_SESSION_TOKEN": "real-token",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "HTTP_PROXY": "http://proxy.test:3128",
        "AWS_CA_BUNDLE": "/nowhere.pem",
        "AWS_MAX_ATTEMPTS": "0",
        "AWS_RETRY_MODE": "nonsense",
    }.items():
        monkeypatch.setenv(name, value)
    aws = Aws(region=None, profile=None, endpoint=LOCAL)
    request = signed_request(aws, monkeypatch)
    assert request.url == "http://127.0.0.1:4566/"
    authorization = str(request.headers["Authorization"])
    assert "Credential=local-key/" in authorization
    assert "/us-east-1/ec2/" in authorization
    assert "X-Amz-Security-Token" not in request.headers
    assert aws.clock.scale == 5.0


@pytest.mark.usefixtures("settings")
def test_aws_itself_follows_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = Aws(region=None, profile=None, endpoint=None)
    request = signed_request(aws, monkeypatch)
    assert "Credential=AKIATHEIRS/" in str(request.headers["Authorization"])
    assert aws.region == "eu-west-1"
    assert aws.clock.scale == 1.0
    assert "poormanray/" in str(request.headers["User-Agent"])


@pytest.mark.usefixtures("settings")
def test_the_region_is_the_nearest_word_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def region(asked: str | None = None) -> str:
        return Aws(region=asked, profile=None, endpoint=None).region

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert region() == "us-west-1"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert region() == "us-west-2"
    assert region("ap-south-1") == "ap-south-1"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.delenv("AWS_PROFILE")
    assert region() == "us-east-1"


@pytest.mark.usefixtures("settings")
def test_the_partition_follows_the_region() -> None:
    def partition(region: str) -> str:
        return Aws(region=region, profile=None, endpoint=None).partition

    assert partition("cn-north-1") == "aws-cn"
    assert partition("us-gov-west-1") == "aws-us-gov"
    assert partition("eu-west-1") == "aws"


@pytest.mark.usefixtures("settings")
def test_an_unknown_profile_is_said() -> None:
    with pytest.raises(AwsRefused, match="nope"):
        Aws(region=None, profile="nope", endpoint=None).ec2()


@pytest.mark.usefixtures("settings")
def test_one_client_per_service() -> None:
    aws = Aws(region=None, profile=None, endpoint=LOCAL)
    assert aws.ssm() is aws.ssm()
    assert aws.ec2() is aws.ec2()


def test_keys_stay_out_of_what_is_printed() -> None:
    assert "local-secret" not in repr(LOCAL)
    assert "local-key" not in repr(LOCAL)
