"""What AWS refuses becomes one line, a next step and an exit code."""

from __future__ import annotations

import errno
import html
import io
import json
import socket
from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import boto3
import pytest
from botocore import exceptions
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber

from poormanray.aws.ec2 import Ec2
from poormanray.aws.refusals import DENIED, ENDED_KEYS, THROTTLED, fault_of, translated
from poormanray.aws.session import Aws
from poormanray.errors import (
    AwsRefused,
    CredentialsFailed,
    Denied,
    ExitCode,
    InstanceUnseen,
    NoAnswer,
    NoCapacity,
    Outage,
    PmrError,
    ProfileUnseen,
    SettingRefused,
)
from poormanray.model import chunks
from poormanray.waiting import Clock

REGION = "us-east-1"


def refusal_of(code: str, message: str = "") -> AwsRefused:
    client = boto3.client(
        "ec2", region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s"
    )
    stub = Stubber(client)
    stub.add_client_error("describe_instances", code, message)
    with stub, pytest.raises(AwsRefused) as caught:
        Ec2(client, REGION).instances("demo")
    return caught.value


def refusal_of_the_way(error: Exception, region: str = REGION) -> AwsRefused:
    with pytest.raises(AwsRefused) as caught, translated("ec2", region):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("code", "said", "advised"),
    [
        ("UnauthorizedOperation", "no permission for ec2:DescribeInstances", "allowed"),
        ("AccessDenied", "no permission for ec2:DescribeInstances", "--profile"),
        ("ExpiredToken", "have expired", "log in again"),
        ("RequestExpired", "have expired", "log in again"),
        ("AuthFailure", "does not accept the credentials", "get-caller-identity"),
        ("RequestLimitExceeded", "throttling ec2:DescribeInstances", "wait a minute"),
        ("VcpuLimitExceeded", "VcpuLimitExceeded", "quota"),
        ("InvalidSubnetID.NotFound", "InvalidSubnetID.NotFound", "--subnet"),
        ("SomethingNew", "SomethingNew", ""),
    ],
)
def test_a_refusal_says_what_and_what_next(code: str, said: str, advised: str) -> None:
    refusal = refusal_of(code, "the service's own words")
    assert said in refusal.message
    assert "\n" not in refusal.message
    assert advised in refusal.hint
    assert (refusal.code, refusal.exit_code) == (code, ExitCode.AWS_REFUSED)


USER = "arn:aws:iam::111122223333:user/x"
ROLE = "arn:aws:iam::111122223333:role/poormanray"
DENIAL = (
    f"You are not authorized to perform this operation. User: {USER} is not authorized to perform"
)


@pytest.mark.parametrize(
    ("message", "action", "advised"),
    [
        (
            f"{DENIAL}: iam:PassRole on resource: {ROLE} because no identity-based policy allows "
            "the iam:PassRole action. Encoded authorization failure message: " + "x" * 900,
            f"iam:PassRole on {ROLE}, which ec2:DescribeInstances needs,",
            f"have iam:PassRole on {ROLE} allowed for {USER}",
        ),
        (
            f"{DENIAL}: ec2:DescribeInstances on resource: * with an explicit deny in a service "
            "control policy",
            "ec2:DescribeInstances on *",
            "a service control policy of the AWS organisation has to allow ec2:DescribeInstances",
        ),
        (
            f"{DENIAL}: ec2:DescribeInstances because no permissions boundary allows the "
            "ec2:DescribeInstances action",
            "ec2:DescribeInstances",
            f"the permissions boundary of {USER} has to allow",
        ),
        (
            f'{DENIAL}: s3:PutObject on resource: "arn:aws:s3:::b/k" with an explicit deny in an '
            "identity-based policy",
            "s3:PutObject on arn:aws:s3:::b/k",
            f"a policy of {USER} forbids s3:PutObject",
        ),
        ("Access Denied", "ec2:DescribeInstances in us-east-1: Access Denied", "this identity"),
    ],
)
def test_a_denial_names_action_resource_and_kind_of_policy(
    message: str, action: str, advised: str
) -> None:
    refusal = refusal_of("UnauthorizedOperation", message)
    assert isinstance(refusal, Denied)
    assert refusal.message.startswith(f"no permission for {action}")
    assert advised in refusal.hint


def test_a_denial_on_the_way_to_credentials_is_one_of_sts() -> None:
    told = {"Error": {"Code": "AccessDenied", "Message": "Not authorized"}}
    refusal = refusal_of_the_way(exceptions.ClientError(cast("Any", told), "AssumeRole"))
    assert "no permission for sts:AssumeRole in" in refusal.message


def test_what_ec2_hides_is_decoded_by_sts(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = json.dumps(
        {
            "allowed": False,
            "explicitDeny": True,
            "context": {"principal": {"arn": USER}, "action": "iam:PassRole", "resource": ROLE},
        }
    )
    asked = []

    def send(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        asked.append(str(request.body))
        if "DecodeAuthorizationMessage" in asked[-1]:
            body = (
                "<DecodeAuthorizationMessageResponse><DecodeAuthorizationMessageResult>"
                f"<DecodedMessage>{html.escape(decoded)}</DecodedMessage>"
                "</DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>"
            )
            return response(200, body)
        return response(
            403,
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not "
            "authorized. Encoded authorization failure message: blob</Message></Error></Errors>"
            "</Response>",
        )

    def response(status: int, body: str) -> AWSResponse:
        raw = io.BytesIO(body.encode())
        raw.stream = lambda: iter([body.encode()])  # type: ignore[attr-defined]
        return AWSResponse(
            "https://x", status, cast("Any", HeadersDict({"content-type": "text/xml"})), raw
        )

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", lambda _self, r: send(r))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with pytest.raises(Denied) as caught:
        Aws(region=REGION, profile=None, endpoint=None).ec2().instances("demo")
    assert f"no permission for iam:PassRole on {ROLE}" in caught.value.message
    assert len(asked) == 2
    assert "EncodedMessage" in asked[1]


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><body>Log in</body></html>",
        b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
        b"please log in",
        b"",
    ],
)
def test_the_page_of_a_network_that_wants_a_login_is_no_answer(
    page: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(_self: object, _request: object) -> AWSResponse:
        raw = io.BytesIO(page)
        raw.stream = lambda: iter([page])  # type: ignore[attr-defined]
        return AWSResponse(
            "https://x", 200, cast("Any", HeadersDict({"content-type": "text/html"})), raw
        )

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    aws = Aws(region=REGION, profile=None, endpoint=None)
    now = [0.0]
    aws.clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    asked: list[Callable[[], object]] = [
        lambda: aws.ec2().instances("demo"),
        lambda: aws.ssm().agents(["i-1"]),
        lambda: aws.ssm().invocations("c" * 36),
        lambda: aws.ssm().server_time_s(),
        lambda: aws.s3().put("bucket", "key", b"data"),
        lambda: aws.iam().has_profile("poormanray"),
    ]
    for ask in asked:
        with pytest.raises(NoAnswer) as caught:
            ask()
        assert "does not speak AWS's language" in caught.value.message
        assert caught.value.hint


def test_a_long_message_of_many_lines_becomes_a_short_one() -> None:
    blob = "not\nauthorized. Encoded authorization failure message: " + "x" * 5000
    assert refusal_of("UnauthorizedOperation", blob).message.endswith(": not authorized.")
    assert len(refusal_of("Odd", "y" * 5000).message) < 400


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("InsufficientInstanceCapacity", "", NoCapacity),
        (
            "InvalidParameterValue",
            "Value (x) for parameter iamInstanceProfile.name is invalid. "
            "Invalid IAM Instance Profile name",
            ProfileUnseen,
        ),
        ("InvalidParameterValue", "something else", AwsRefused),
        ("InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist", InstanceUnseen),
    ],
)
def test_what_callers_can_do_something_about_has_its_own_class(
    code: str, message: str, kind: type[AwsRefused]
) -> None:
    assert type(refusal_of(code, message)) is kind


@pytest.mark.parametrize(
    ("error", "said", "kind"),
    [
        (exceptions.NoCredentialsError(), "no AWS credentials", AwsRefused),
        (
            exceptions.PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
            "no AWS credentials",
            AwsRefused,
        ),
        (
            exceptions.CredentialRetrievalError(provider="custom-process", error_msg="no login"),
            "no AWS credentials",
            CredentialsFailed,
        ),
        (exceptions.ProfileNotFound(profile="nope"), "nope", SettingRefused),
        (exceptions.NoRegionError(), "region", SettingRefused),
        (
            exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
            "no answer from ec2",
            NoAnswer,
        ),
        (
            exceptions.ReadTimeoutError(endpoint_url="https://ec2.us-east-1.amazonaws.com"),
            "no answer from ec2",
            NoAnswer,
        ),
        (ResponseParserError("<html>"), "does not speak AWS's language", NoAnswer),
        (exceptions.DataNotFoundError(data_path="x"), "Unable to load data for: x", SettingRefused),
        (
            exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            "ec2 in us-east-1",
            NoAnswer,
        ),
        (exceptions.PaginationError(message="odd"), "ec2 in us-east-1", AwsRefused),
        (
            exceptions.HTTPClientError(error=ValueError("Invalid header value")),
            "the AWS settings cannot be used: ValueError: Invalid header value",
            SettingRefused,
        ),
    ],
)
def test_what_fails_on_the_way_is_explained_too(
    error: Exception, said: str, kind: type[AwsRefused]
) -> None:
    refusal = refusal_of_the_way(error)
    assert said in refusal.message
    assert type(refusal) is kind
    assert refusal.__cause__ is error


def test_an_error_of_ours_is_not_laid_upon_the_settings() -> None:
    with pytest.raises(ValueError, match="must not be zero"), translated("ec2", REGION):
        list(chunks([1], 0))


def test_what_python_raises_in_a_library_is_about_a_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ODD", "7,5")
    with pytest.raises(SettingRefused) as caught, translated("ec2", REGION):
        Fraction("7,5")
    assert "AWS_ODD='7,5'" in caught.value.message


def test_an_unknown_region_is_named_with_a_near_one() -> None:
    lost = exceptions.EndpointConnectionError(endpoint_url="https://ec2.us-west-9.amazonaws.com/")
    refusal = refusal_of_the_way(lost, "us-west-9")
    assert "no AWS region 'us-west-9'" in refusal.message
    assert "us-west-" in refusal.hint


def test_errors_of_ours_pass_unchanged() -> None:
    ours: Callable[[], PmrError] = lambda: PmrError("mine")  # noqa: E731 (one line, used once)
    error = ours()
    with pytest.raises(PmrError) as caught, translated("ec2", REGION):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("off_s", "said"),
    [(3600, "60 minutes ahead of AWS's"), (-7200, "120 minutes behind AWS's"), (30, "expired")],
)
@pytest.mark.parametrize("code", ["RequestExpired", "InvalidSignatureException"])
def test_a_clock_that_is_wrong_is_said(
    code: str, off_s: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0 + off_s)
    response = {
        "Error": {"Code": code, "Message": "Signature expired: it is"},
        "ResponseMetadata": {"HTTPHeaders": {"date": "Tue, 14 Nov 2023 22:13:20 GMT"}},
    }
    error = exceptions.ClientError(cast("Any", response), "SendCommand")
    assert said in refusal_of_the_way(error).message


def answer(code: str, status: int) -> exceptions.ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(cast("Any", response), "SendCommand")


HEALS: list[Exception] = [
    exceptions.EndpointConnectionError(endpoint_url="https://ssm.us-east-1.amazonaws.com"),
    exceptions.ConnectTimeoutError(endpoint_url="https://ssm.us-east-1.amazonaws.com"),
    exceptions.ReadTimeoutError(endpoint_url="https://ssm.us-east-1.amazonaws.com"),
    exceptions.ConnectionClosedError(endpoint_url="https://ssm.us-east-1.amazonaws.com"),
    exceptions.ProxyConnectionError(proxy_url="http://proxy:1"),
    exceptions.SSLError(endpoint_url="https://ssm", error=OSError("handshake")),
    exceptions.ResponseStreamingError(error="broken"),
    exceptions.HTTPClientError(error="odd"),
    ResponseParserError("<html>"),
    exceptions.CredentialRetrievalError(provider="process", error_msg="no"),
    exceptions.MetadataRetrievalError(error_msg="no"),
    exceptions.SSOTokenLoadError(error_msg="no"),
    exceptions.TokenRetrievalError(provider="sso", error_msg="no"),
    exceptions.UnauthorizedSSOTokenError(),
    *(answer("InternalError", status) for status in (500, 502, 503, 504)),
    answer("503", 503),
    answer("Unavailable", 503),
    answer("429", 429),
    answer("RequestTimeout", 400),
    *(answer(code, 400) for code in sorted(THROTTLED)),
]
LASTS: list[Exception] = [
    *(answer(code, 403) for code in sorted({*DENIED, *ENDED_KEYS, "SignatureDoesNotMatch"})),
    answer("UnrecognizedClientException", 400),
    answer("InsufficientInstanceCapacity", 500),
    answer("InsufficientHostCapacity", 500),
    answer("NotImplemented", 501),
    answer("InvalidInstanceId", 400),
    answer("InvocationDoesNotExist", 400),
    exceptions.NoCredentialsError(),
    exceptions.PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
    exceptions.ProfileNotFound(profile="nope"),
    exceptions.NoRegionError(),
    exceptions.ParamValidationError(report="no"),
    exceptions.EndpointConnectionError(endpoint_url="https://ssm.us-west-9.amazonaws.com"),
]


@pytest.mark.parametrize("error", HEALS, ids=repr)
def test_what_heals_is_repeated_and_then_called_an_outage(error: Exception) -> None:
    assert fault_of(error, REGION).why
    assert isinstance(refusal_of_the_way(error), Outage)


@pytest.mark.parametrize("error", LASTS, ids=repr)
def test_what_cannot_heal_ends_at_once(error: Exception) -> None:
    region = "us-west-9" if "west-9" in str(error) else REGION
    assert not fault_of(error, region).why
    assert not isinstance(refusal_of_the_way(error, region), Outage)


def test_the_reason_is_the_innermost_one_that_has_words() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    no_host = socket.gaierror(-2, "Name or service not known")
    url = "https://ssm.us-east-1.amazonaws.com"
    for cause, said in ((refused, "connection refused"), (no_host, "no such host name: Name or")):
        inner = RuntimeError("urllib3's")
        inner.__cause__ = cause
        error = exceptions.EndpointConnectionError(endpoint_url=url, error=inner)
        assert fault_of(error, REGION).why.startswith(said)


def test_a_certificate_that_is_refused_is_waited_for_only_where_one_was_good_before() -> None:
    error = exceptions.SSLError(
        endpoint_url="https://x", error=OSError("CERTIFICATE_VERIFY_FAILED")
    )
    assert fault_of(error, REGION).unproven_s == 0
