"""Which requests the local cloud admits: signed with botocore as any client does it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from poormanray.local.refusals import Refusal
from poormanray.local.signature import Gate, HttpRequest

KEY = Credentials("AKID", "secret")
GATE = Gate("AKID", "secret", hosts=frozenset({"127.0.0.1:5000"}))
JSON = {"X-Amz-Target": "AmazonSSM.SendCommand", "Content-Type": "application/x-amz-json-1.1"}
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
KINDS = {"ssm": JSON, "ec2": FORM, "iam": FORM, "s3": {}}


def request_of(signed: AWSRequest, body: bytes) -> HttpRequest:
    parts = urlsplit(str(signed.url))
    headers = {name.lower(): str(value) for name, value in signed.headers.items()}
    return HttpRequest(
        signed.method or "",
        parts.path,
        parts.query,
        {"host": "127.0.0.1:5000", **headers},
        body,
        {},
    )


def signed(service: str, *, key: Credentials = KEY, body: bytes = b"{}") -> HttpRequest:
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    method, path = ("PUT", "/bucket/a%20b") if service == "s3" else ("POST", "/")
    unsigned = AWSRequest(method, f"http://127.0.0.1:5000{path}", KINDS[service], body)
    kind(key, service, "eu-west-1").add_auth(unsigned)
    return request_of(unsigned, body)


def presigned(expires_s: int = 60) -> HttpRequest:
    unsigned = AWSRequest("GET", "http://127.0.0.1:5000/bucket/key?versionId=1")
    S3SigV4QueryAuth(KEY, "s3", "us-east-1", expires_s).add_auth(unsigned)
    return request_of(unsigned, b"")


def code_of(request: HttpRequest, now: datetime | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        GATE.admit(request, now)
    return caught.value.code


@pytest.mark.parametrize("service", KINDS)
def test_a_good_signature_is_admitted(service: str) -> None:
    caller = GATE.admit(signed(service))
    assert (caller.service, caller.region) == (service, "eu-west-1")


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("ssm", "UnrecognizedClientException"),
        ("ec2", "AuthFailure"),
        ("iam", "InvalidClientTokenId"),
        ("s3", "InvalidAccessKeyId"),
    ],
)
def test_another_key(service: str, code: str) -> None:
    assert code_of(signed(service, key=Credentials("AKOTHER", "secret"))) == code


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("ssm", "InvalidSignatureException"),
        ("ec2", "SignatureDoesNotMatch"),
        ("iam", "SignatureDoesNotMatch"),
        ("s3", "SignatureDoesNotMatch"),
    ],
)
def test_another_secret(service: str, code: str) -> None:
    assert code_of(signed(service, key=Credentials("AKID", "guess"))) == code


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("ssm", "MissingAuthenticationTokenException"),
        ("iam", "MissingAuthenticationToken"),
        ("s3", "AccessDenied"),
    ],
)
def test_no_signature(service: str, code: str) -> None:
    request = signed(service)
    headers = {name: value for name, value in request.headers.items() if name != "authorization"}
    assert code_of(replace(request, headers=headers)) == code


@pytest.mark.parametrize("minutes", [-6, 6, 60 * 24])
def test_an_old_or_future_date(minutes: int) -> None:
    now = datetime.now(UTC) + timedelta(minutes=minutes)
    assert code_of(signed("ec2"), now) == "RequestExpired"
    assert code_of(signed("ssm"), now) == "InvalidSignatureException"


def test_a_changed_body() -> None:
    assert code_of(replace(signed("ssm"), body=b'{"a":1}')) == "InvalidSignatureException"
    assert code_of(replace(signed("s3"), body=b"other")) == "XAmzContentSHA256Mismatch"


def test_a_changed_request() -> None:
    # Signed here, not while tests are collected: a signature lasts for five minutes.
    request = signed("ec2")
    assert code_of(replace(request, path="/other")) == "SignatureDoesNotMatch"
    other = replace(request, query="Action=TerminateInstances")
    assert code_of(other) == "SignatureDoesNotMatch"
    assert code_of(replace(request, method="DELETE")) == "SignatureDoesNotMatch"


def with_header(request: HttpRequest, name: str, value: str) -> HttpRequest:
    return replace(request, headers={**request.headers, name: value})


def test_a_changed_or_added_operation() -> None:
    other = with_header(signed("ssm"), "x-amz-target", "AmazonSSM.CancelCommand")
    assert code_of(other) == "InvalidSignatureException"
    added = with_header(signed("ec2"), "x-amz-target", "AmazonSSM.SendCommand")
    assert code_of(added) == "SignatureDoesNotMatch"


def test_foreign_hosts_and_browsers() -> None:
    assert code_of(with_header(signed("ssm"), "host", "evil.example:5000")) == "AccessDenied"
    assert code_of(with_header(signed("ssm"), "origin", "http://127.0.0.1:5000")) == "AccessDenied"


def test_nonsense_is_refused() -> None:
    assert code_of(with_header(signed("ssm"), "authorization", "AWS4-HMAC-SHA256 x")) == (
        "InvalidSignatureException"
    )
    assert code_of(with_header(signed("s3"), "authorization", "Basic abc")) == (
        "SignatureDoesNotMatch"
    )


def test_a_presigned_url() -> None:
    assert GATE.admit(presigned()).service == "s3"
    late = datetime.now(UTC) + timedelta(seconds=61)
    assert code_of(presigned(), late) == "AccessDenied"
    other = presigned()
    assert code_of(replace(other, path="/bucket/other")) == "SignatureDoesNotMatch"
    assert code_of(replace(other, query=other.query.replace("Expires=60", "Expires=6000"))) == (
        "SignatureDoesNotMatch"
    )
    assert code_of(presigned(604_801)) == "AuthorizationQueryParametersError"


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("ssm", "InvalidSignatureException"),
        ("ec2", "RequestExpired"),
        ("iam", "SignatureDoesNotMatch"),
        ("s3", "RequestTimeTooSkewed"),
    ],
)
def test_a_captured_request_is_good_for_five_minutes(service: str, code: str) -> None:
    captured = signed(service)
    made = datetime.strptime(captured.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    for age_s in (0, 1, 299):
        assert GATE.admit(captured, made + timedelta(seconds=age_s)).service == service
    for age_s in (301, 3_600, 86_400):
        assert code_of(captured, made + timedelta(seconds=age_s)) == code
