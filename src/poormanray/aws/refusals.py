"""Every way in which AWS, or the way to it, says no: turned into one line and a next step."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from poormanray.aws.settings import SettingError, at_fault
from poormanray.errors import (
    AwsRefused,
    CredentialsEnded,
    CredentialsFailed,
    InstanceUnseen,
    InvalidInstances,
    NoAnswer,
    NoCapacity,
    PmrError,
    ProfileUnseen,
    SettingRefused,
    Throttled,
)

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_LONGEST_MESSAGE = 300
# Of an answer, where its root element stands.
_HEAD_BYTES = 2_000
_ROOT = re.compile(rb"<([A-Za-z][\w.:-]*)")
_NOT_DONE = 300

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
# What AWS says to keys that were good once: later it may not even know them.
ENDED_KEYS = _EXPIRED | {
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
# What AWS says of a signature from another time, among other things.
_OFF_TIME = {
    "AuthFailure",
    "InvalidSignatureException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
# Source: SigV4 lets a signature be off by 5 minutes (S3: 15); the Date is from a moment later.
_SKEW_MAX_S = 290
_WRONG_KEY = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
# Source: the throttling codes that botocore's standard mode retries (botocore/retries/standard.py).
THROTTLED = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_CREDENTIALS = {
    "CredentialRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "SSOError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
# What botocore raises where an answer ends too soon or does not match its checksum.
_BROKEN_OFF = {"ChecksumError", "FlexibleChecksumError", "IncompleteReadError"}
# How its errors of the settings are named.
_CORRECT = "correct that setting, or unset it (aws configure list shows them)"
_CONFIG_HINT = "correct that file (aws configure writes one), or set AWS_CONFIG_FILE"
_SETTING_HINTS = {
    "ProfileNotFound": "aws configure list-profiles shows the profiles",
    "NoRegionError": "give --region, for example us-east-1",
    "InvalidRegionError": "give --region, for example us-east-1",
    "ConfigParseError": _CONFIG_HINT,
    "ConfigNotFound": _CONFIG_HINT,
}
_OF_SETTINGS = ("DataNotFound", "Infinite", "Invalid", "Unknown", "Unsupported")
CREDENTIALS_HINT = (
    "aws sts get-caller-identity must work: log in, set AWS_PROFILE or --profile, "
    "or try without AWS: --local"
)
_SSO_HINT = "aws sso login (with the --profile of this command, if there is one), then repeat it"
_LOGINS = {
    "sso": _SSO_HINT,
    "login": "aws login, then repeat the command",
    "custom-process": "run the command of credential_process by hand: it has to print JSON",
    **dict.fromkeys(("SSOTokenLoadError", "UnauthorizedSSOTokenError", "SSOError"), _SSO_HINT),
}
_TYPE_HINT = "choose another with -t/--instance-type or -z/--zone, or another --region"
_HINTS = {
    "InsufficientInstanceCapacity": "try again later, another -z/--zone, type, or a smaller -N",
    "InsufficientHostCapacity": "try again later, another -z/--zone, type, or a smaller -N",
    "InstanceLimitExceeded": "ask for a higher EC2 quota (Service Quotas), or a smaller -N",
    "MaxSpotInstanceCountExceeded": "ask for a higher EC2 quota (Service Quotas)",
    "VcpuLimitExceeded": "ask for a higher EC2 vCPU quota (Service Quotas), or a smaller -N",
    "VolumeLimitExceeded": "ask for a higher EBS quota (Service Quotas), or a smaller -Z",
    "InsufficientFreeAddressesInSubnet": "choose a larger subnet with --subnet",
    "LimitExceeded": "remove what is not needed, or ask for a higher IAM quota",
    "InvalidInstanceType": _TYPE_HINT,
    "Unsupported": _TYPE_HINT,
    "UnsupportedOperation": _TYPE_HINT,
    "InvalidAMIID.NotFound": "choose an image of this region with --image, or leave it out",
    "InvalidAMIID.Malformed": "choose an image of this region with --image, or leave it out",
    "InvalidSubnetID.NotFound": "choose a subnet of this region with --subnet",
    "InvalidGroup.NotFound": "choose a group of the subnet's VPC with --security-group",
    "InvalidGroupId.Malformed": "choose a group of the subnet's VPC with --security-group",
    "OperationNotPermitted": "the instance is protected; switch that off in EC2, then try again",
    "IncorrectInstanceState": "pmr list shows the states; try again when they have settled",
    "NoSuchBucket": "aws s3 mb s3://BUCKET makes one; then name it with --bucket",
    "NoSuchKey": "somebody has deleted it meanwhile; repeat the command",
    "OptInRequired": "switch the region on, or subscribe, in the AWS account",
}


@contextmanager
def translated(service: str, region: str, profile: str | None = None) -> Iterator[None]:
    """Turn errors of AWS's libraries inside the block into errors of ours.

    `profile` is the one of `--profile`, for an error that is about a setting.

    Raises:
        AwsRefused: what AWS refused, and what to do; InvalidInstances for a send to ids that
            SSM does not manage.
        SettingRefused: a library failed on what the user has set.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except PmrError:
        raise
    except ClientError as error:
        raise _of_service(error, service, region) from error
    except BotoCoreError as error:
        raise _of_the_way(error, service, region, profile) from error
    except ResponseParserError as error:
        # A portal that wants a login may let the next request through.
        raise NoAnswer(
            f"what answers as {service} in {region} does not speak AWS's language "
            "(a proxy, or a network that wants a login?)",
            "check the proxy and AWS_ENDPOINT_URL",
            code="ResponseParserError",
        ) from error
    except Exception as error:
        # botocore lets through what the files, helpers and variables of the user make Python
        # raise: a missing program, text that is no JSON, a number that is none.
        if _raised_here(error) and not isinstance(error, SettingError):
            raise
        raise _of_settings(error, profile) from error


def _raised_here(error: BaseException) -> bool:
    """Say whether an error began in this program, and not in a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return str(module).partition(".")[0] == __name__.partition(".")[0]


def _of_settings(error: Exception, profile: str | None) -> SettingRefused:
    """Explain an error of Python's own that a library raised: some setting must be the cause."""
    kind = type(error).__name__
    if isinstance(error, SettingError):
        return SettingRefused(str(error), _CORRECT, code=kind)
    text = _short(str(error)) or kind
    if names := at_fault(text, profile):
        message = f"this AWS setting cannot be used: {names} ({text})"
        return SettingRefused(message, _CORRECT, code=kind)
    return SettingRefused(
        f"the AWS settings cannot be used: {kind}: {text}",
        "aws configure list shows them; PMR_DEBUG=1 shows where it failed",
        code=kind,
    )


def check_language(
    event_name: str, response_dict: Mapping[str, Any] | None = None, **_: object
) -> None:
    """Refuse an answer with status 2xx that is not AWS's (botocore calls this for each answer).

    botocore takes text that is no JSON for an answer without members, and any XML too: then a
    cluster would have no instances because a network asks for a login.

    Raises:
        ResponseParserError: something else has answered.
    """
    from botocore.parsers import ResponseParserError

    if response_dict is None or response_dict["status_code"] >= _NOT_DONE:
        return
    service, operation = event_name.split(".")[1:]
    body: object = response_dict["body"]
    headers: Mapping[str, str] = response_dict["headers"]
    if isinstance(body, bytes) and not _is_aws(service, operation, body.lstrip(), headers):
        raise ResponseParserError(f"this is no answer to {service}:{operation}")


def _is_aws(service: str, operation: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Say whether the body of an answer looks like AWS's to this operation."""
    if service == "ssm":
        return body.startswith(b"{")
    if service == "s3":
        stored = operation != "PutObject" or "etag" in headers
        return stored and b"<html" not in body[:_HEAD_BYTES].lower()
    root = _ROOT.search(body[:_HEAD_BYTES])
    return root is not None and root[1].endswith(b"Response")


def _of_service(error: ClientError, service: str, region: str) -> AwsRefused:
    """Explain an answer of AWS that is an error."""
    told = error.response.get("Error", {})
    code = told.get("Code", "")
    action = f"{service}:{error.operation_name}"
    message = _short(told.get("Message", "") or code)
    if code in DENIED:
        return AwsRefused(
            f"no permission for {action} in {region}: {message}",
            f"have {action} allowed for this identity, or use another with --profile",
            code=code,
        )
    if refused := _of_keys(error, code, f"{action} in {region}"):
        return refused
    if code in THROTTLED:
        return Throttled(
            f"AWS is throttling {action} in {region}, after several tries",
            "wait a minute and repeat; other programs use the same account",
            code=code,
        )
    if code == "InvalidInstanceId" and error.operation_name == "SendCommand":
        return InvalidInstances(message, "pmr list shows whose agent is online", code=code)
    kind = _kind(code, message)
    return kind(f"{action} in {region}: {code}: {message}", _HINTS.get(code, ""), code=code)


def _of_keys(error: ClientError, code: str, where: str) -> AwsRefused | None:
    """Explain a refusal of what a request was signed with, or of when."""
    if code in _OFF_TIME and (skew := _skew_words(error)):
        return AwsRefused(
            f"this machine's clock is {skew} AWS's, which therefore refuses {where}",
            "set the clock (for example: timedatectl set-ntp true), then repeat the command",
            code=code,
        )
    if code in _EXPIRED:
        return CredentialsEnded(
            f"the AWS credentials have expired ({where})",
            "log in again, then repeat the command; work on the instances goes on meanwhile",
            code=code,
        )
    if code in _WRONG_KEY:
        message = _short(error.response.get("Error", {}).get("Message", "") or code)
        return AwsRefused(
            f"AWS does not accept the credentials ({where}): {message}", CREDENTIALS_HINT, code=code
        )
    return None


def _skew_words(error: ClientError) -> str:
    """Return by how much our clock is off, by the Date of a refusal; empty if not by much."""
    date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        ahead_s = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ""
    if abs(ahead_s) < _SKEW_MAX_S:
        return ""
    return f"{abs(ahead_s) / 60:.0f} minutes {'ahead of' if ahead_s > 0 else 'behind'}"


def _kind(code: str, message: str) -> type[AwsRefused]:
    """Return the class of a refusal; a few are known to the callers, who try something else."""
    if code in {"InsufficientInstanceCapacity", "InsufficientHostCapacity"}:
        return NoCapacity
    if code == "InvalidParameterValue" and "iam instance profile" in message.lower():
        return ProfileUnseen
    if code == "InvalidInstanceID.NotFound":
        return InstanceUnseen
    return AwsRefused


def _of_the_way(error: BotoCoreError, service: str, region: str, profile: str | None) -> AwsRefused:
    """Explain an error of botocore's own: no answer from AWS, or no question to it."""
    from botocore import exceptions

    kind = type(error).__name__
    message = _short(str(error))
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        inner = error.kwargs.get("error")
        if isinstance(inner, ValueError | UnicodeError | FileNotFoundError | PermissionError):
            return _of_settings(inner, profile)
        return _unanswered(error, service, region)
    provider = str(error.kwargs.get("provider", kind))
    names = at_fault(message, profile, way=provider)
    text = f"{message} (set by {names})" if names else message
    if kind in _CREDENTIALS:
        hint = _LOGINS.get(provider, CREDENTIALS_HINT)
        return CredentialsFailed(f"no AWS credentials to use: {text}", hint, code=kind)
    if kind in _SETTING_HINTS:
        return SettingRefused(text, _SETTING_HINTS[kind], code=kind)
    if names or kind.startswith(_OF_SETTINGS):
        words = f"the AWS settings cannot be used: {text}"
        return SettingRefused(words, _CORRECT, code=kind)
    broken = kind in _BROKEN_OFF
    hint = "repeat the command" if broken else "PMR_DEBUG=1 shows where it failed"
    words = f"{service} in {region}: {message}"
    return (NoAnswer if broken else AwsRefused)(words, hint, code=kind)


def _unanswered(error: BotoCoreError, service: str, region: str) -> AwsRefused:
    known = [] if _custom_endpoint(error) else _regions()
    if known and region not in known:
        near = difflib.get_close_matches(region, known, n=1)
        guess = f", for example {near[0]}" if near else ""
        return AwsRefused(
            f"there is no AWS region {region!r}, or it is newer than this boto3",
            f"give another --region{guess}",
            code=type(error).__name__,
        )
    return NoAnswer(
        f"no answer from {service} in {region}: {_short(str(error))}",
        "check the network, proxy and endpoint settings; in a closed network, the VPC endpoints",
        code=type(error).__name__,
    )


def _custom_endpoint(error: BotoCoreError) -> bool:
    url = str(error.kwargs.get("endpoint_url", ""))
    return bool(url) and ".amazonaws.com" not in url and ".api.aws" not in url


def _regions() -> list[str]:
    import botocore.session

    session = botocore.session.Session(profile=None)
    return [
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("ec2", partition)
    ]


def _short(text: str) -> str:
    """Return one line of a message, without EC2's encoded blob, cut where it gets long."""
    line = " ".join(text.split()).partition(" Encoded authorization failure message")[0]
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"
