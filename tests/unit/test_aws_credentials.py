"""Credentials that end in the middle: read again, once for each call, and shared by threads."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from poormanray.aws.session import Aws
from poormanray.errors import AwsRefused, CredentialsEnded
from poormanray.waiting import Clock

FILE = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\naws_session_token = t\n"
GOOD = """<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<reservationSet/></DescribeInstancesResponse>"""
BAD = """<Response><Errors><Error><Code>%s</Code><Message>no</Message></Error></Errors>
<RequestID>r</RequestID></Response>"""


class _Body:
    def __init__(self, text: str) -> None:
        self._text = text

    def stream(self, **_: object) -> list[bytes]:
        return [self._text.encode()]


class Service:
    """EC2 that knows one key, and refuses others with a code; `renew` may change the file."""

    def __init__(self, file: Path, code: str = "RequestExpired") -> None:
        self.file = file
        self.code = code
        self.good = "KEY1"
        self.renews: list[str] = []
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def write(self, key: str) -> None:
        self.file.write_text(FILE.format(key))

    def answer(self, request: AWSPreparedRequest) -> AWSResponse:
        key = re.search(r"Credential=(\w+)/", str(request.headers["Authorization"]))
        assert key is not None
        with self._lock:
            self.asked.append(key[1])
            if key[1] == self.good:
                return AWSResponse(request.url, 200, HTTPHeaders(), _Body(GOOD))
            if self.renews:
                self.write(self.renews.pop(0))
        return AWSResponse(request.url, 403, HTTPHeaders(), _Body(BAD % self.code))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service(tmp_path / "credentials")
    made.write("KEY1")
    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", made.answer)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(made.file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return made


def users_cloud() -> Aws:
    aws = Aws(region="us-east-1", profile=None, endpoint=None)
    aws.clock = Clock(pause=lambda _seconds: None)
    return aws


@pytest.mark.parametrize("code", ["RequestExpired", "AuthFailure"])
def test_a_call_goes_on_with_the_keys_that_are_there_by_then(service: Service, code: str) -> None:
    service.code = code
    aws = users_cloud()
    assert aws.ec2().instances() == []
    service.good, service.renews = "KEY2", ["KEY2"]
    assert aws.ec2().instances() == []
    assert aws.ec2().instances() == []
    assert service.asked == ["KEY1", "KEY1", "KEY2", "KEY2"]


def test_the_same_keys_are_not_tried_again(service: Service) -> None:
    service.good = "NONE"
    with pytest.raises(CredentialsEnded):
        users_cloud().ec2().instances()
    assert service.asked == ["KEY1"]


def test_a_call_is_repeated_once(service: Service) -> None:
    service.good, service.renews = "NONE", ["KEY2", "KEY3", "KEY4"]
    with pytest.raises(CredentialsEnded):
        users_cloud().ec2().instances()
    assert service.asked == ["KEY1", "KEY2"]


def test_a_file_that_is_half_written_is_no_new_key(service: Service) -> None:
    service.good = "NONE"
    aws = users_cloud()
    aws.ec2()
    service.file.write_text("[default]\naws_access_key_id = KEY2\n")
    with pytest.raises(CredentialsEnded):
        aws.ec2().instances()


def test_no_credentials_at_all_are_said(service: Service) -> None:
    service.file.write_text("")
    with pytest.raises(AwsRefused, match="no AWS credentials") as caught:
        users_cloud().ec2().instances()
    assert caught.value.code == "NoCredentialsError"
    assert service.asked == []


def test_other_refusals_change_nothing(service: Service) -> None:
    service.code, service.good, service.renews = "UnauthorizedOperation", "NONE", ["KEY2"]
    with pytest.raises(AwsRefused):
        users_cloud().ec2().instances()
    assert service.asked == ["KEY1"]


def test_threads_that_find_out_together_all_go_on(service: Service) -> None:
    aws = users_cloud()
    aws.ec2().instances()
    service.good = "KEY2"
    service.write("KEY2")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: aws.ec2().instances(), range(24)))
    assert found == [[]] * 24
    assert service.asked.count("KEY1") <= 9


HELPER = """
[ ! -e {folder}/fails ] || {{ rm {folder}/fails; exit 9; }}
echo '{{"Version": 1, "AccessKeyId": "'$(cat {folder}/key)'", "SecretAccessKey": "s"}}'
"""


@pytest.fixture
def helped(service: Service, tmp_path: Path) -> Service:
    """Let a program supply the credentials: the key is in a file, and another makes it fail."""
    service.file.write_text("")
    helper = tmp_path / "helper.sh"
    helper.write_text(HELPER.format(folder=tmp_path))
    config = f"[default]\nregion = us-east-1\ncredential_process = /bin/sh {helper}\n"
    (tmp_path / "config").write_text(config)
    (tmp_path / "key").write_text("KEY1")
    return service


def test_a_helper_that_fails_once_at_the_start_is_asked_again(
    helped: Service, tmp_path: Path
) -> None:
    (tmp_path / "fails").touch()
    assert users_cloud().ec2().instances() == []
    assert helped.asked == ["KEY1"]


def test_a_helper_that_fails_once_when_the_keys_have_ended_is_asked_again(
    helped: Service, tmp_path: Path
) -> None:
    aws = users_cloud()
    assert aws.ec2().instances() == []
    helped.good = "KEY2"
    (tmp_path / "key").write_text("KEY2")
    (tmp_path / "fails").touch()
    assert aws.ec2().instances() == []
    assert helped.asked == ["KEY1", "KEY1", "KEY1", "KEY2"]


def test_a_helper_that_goes_on_giving_keys_that_have_ended_is_not_waited_for(
    helped: Service,
) -> None:
    aws = users_cloud()
    assert aws.ec2().instances() == []
    helped.good = "KEY2"
    with pytest.raises(CredentialsEnded):
        aws.ec2().instances()


def test_a_helper_that_is_not_there_is_given_up_soon(service: Service, tmp_path: Path) -> None:
    service.file.write_text("")
    (tmp_path / "config").write_text("[default]\ncredential_process = /nowhere/helper\n")
    now_s = [0.0]
    aws = users_cloud()
    aws.clock = Clock(1.0, lambda: now_s[0], lambda s: now_s.__setitem__(0, now_s[0] + s))
    with pytest.raises(AwsRefused, match="no AWS credentials"):
        aws.ec2().instances()
    assert 5 < now_s[0] <= 10
