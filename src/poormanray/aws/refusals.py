"""Every way in which AWS, or the way to it, says no: turned into one line and a next step."""

from __future__ import annotations

import difflib
import errno
import functools
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from poormanray.aws.settings import SettingError, at_fault
from poormanray.errors import (
    AwsRefused,
    CredentialsEnded,
    CredentialsFailed,
    Denied,
    InstanceUnseen,
    InvalidInstances,
    NoAnswer,
    NoCapacity,
    Outage,
    PmrError,
    ProfileUnseen,
    SettingRefused,
    Throttled,
)
from poormanray.waiting import Fault

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_LONGEST_MESSAGE = 300
# How far causes of errors are followed: botocore, urllib3 and the socket are four.
_DEEPEST_CAUSE = 8
# Of an answer, where its root element stands.
_HEAD_BYTES = 2_000
_ROOT = re.compile(rb"<([A-Za-z][\w.:-]*)")
_NOT_DONE = 300

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"}
# Source: the IAM user guide, "Troubleshoot access denied error messages".
_NOT_AUTHORIZED = re.compile(
    r"User: (?P<user>\S+) is not authorized to perform: (?P<action>[\w-]+:\w+)"
    r"(?: on resource: \"?(?P<resource>[^\s\"]+)\"?)?"
    r"(?: (?P<why>(?:because|with an explicit deny).*?))?"
    r"(?: Encoded authorization failure message.*)?$"
)
# Source: EC2's UnauthorizedOperation where the caller may not see why, decoded by STS.
ENCODED = re.compile(r"Encoded authorization failure message: (\S+)")
# Operations of other services, which botocore calls for credentials; and actions that are not
# named as their operation is.
_OF_OTHERS = {
    "AssumeRole": "sts",
    "AssumeRoleWithWebIdentity": "sts",
    "GetRoleCredentials": "sso",
    "CreateToken": "sso-oauth",
}
_ACTIONS = {"HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket"}
# Who can change what denies, by the words for its kind.
_POLICY_HINTS = {
    "service control policy": (
        "a service control policy of the AWS organisation has to allow {what}: ask who runs the "
        "organisation, or use another account with --profile"
    ),
    "resource control policy": (
        "a resource control policy of the AWS organisation has to allow {what}: ask who runs it"
    ),
    "permissions boundary": "the permissions boundary of {who} has to allow {what} too",
    "session policy": "the session policy, given where the role is assumed, has to allow {what}",
    "VPC endpoint policy": "the policy of the VPC endpoint has to allow {what}",
    "resource-based policy": "the policy of the resource itself has to allow {what} for {who}",
    "explicit deny": "a policy of {who} forbids {what}: remove that statement, or use --profile",
}
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
# Errors of what supplies credentials: a process, a login's cache, a metadata service.
_SUPPLY = {
    "CredentialRetrievalError",
    "MetadataRetrievalError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
# A source of credentials that fails before the first answer of AWS is given up on this soon.
_SUPPLY_UNPROVEN_S = 10.0
# Source: botocore/retries/standard.py, codes of errors that pass whatever their HTTP status.
_TRANSIENT = {"RequestTimeout", "RequestTimeoutException"}
_SERVER_ERROR, _TOO_MANY = 500, 429
# HTTP statuses from 500 on that the same request always gets.
_LASTING_STATUSES = {501, 505}
# Where Python raises what is wrong with the form of an answer.
_PARSERS = "botocore.parsers"
# What botocore's HTTP client puts into an error of its own when a setting is at fault.
_OF_PYTHON = (ValueError, FileNotFoundError, PermissionError)
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
        refusal = _of_service(error, service, region)
        refusal.had_no_effect |= _was_refused(error)
        raise refusal from error
    except BotoCoreError as error:
        raise _of_the_way(error, service, region, profile) from error
    except ResponseParserError as error:
        raise _of_a_stranger(service, region) from error
    except Exception as error:
        where = _module_of(error)
        if where == _PARSERS:
            raise _of_a_stranger(service, region) from error
        # botocore lets through what the files, helpers and variables of the user make Python
        # raise: a missing program, text that is no JSON, a number that is none.
        if where.startswith("poormanray.") and not isinstance(error, SettingError):
            raise
        raise _of_settings(error, profile) from error


def _was_refused(error: ClientError) -> bool:
    """Say whether AWS has refused a call and done nothing: 4xx, no timeout and no throttling."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status // 100 == HTTPStatus.BAD_REQUEST // 100 and status not in (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
    )


def _module_of(error: BaseException) -> str:
    """Return the name of the module in which an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace else ""


def _of_a_stranger(service: str, region: str) -> NoAnswer:
    """Explain an answer that is not AWS's; a portal that wants a login may let the next through."""
    return NoAnswer(
        f"what answers as {service} in {region} does not speak AWS's language "
        "(a proxy, or a network that wants a login?)",
        "check the proxy and AWS_ENDPOINT_URL",
        code="ResponseParserError",
    )


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


def fault_of(error: Exception, region: str) -> Fault:
    """Judge an error of a call: whether it passes by itself, and why it came, in a few words."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _fault_of_answer(error)
    if isinstance(error, ResponseParserError) or _module_of(error) == _PARSERS:
        return Fault(f"a reply that is not AWS's: {_short(str(error))}")
    if type(error).__name__ in _SUPPLY:
        return supply_fault(str(error))
    if not isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return Fault()
    unknown = not _custom_endpoint(error) and region not in _regions()
    if unknown or isinstance(error.kwargs.get("error"), _OF_PYTHON):
        return Fault()
    words = _way_words(error)
    return Fault(words, unproven_s=0.0) if "CERTIFICATE_VERIFY" in words else Fault(words)


def supply_fault(problem: str) -> Fault:
    """Return the fault of a source of credentials that fails; none where there is no problem."""
    if not problem:
        return Fault(answered=True)
    return Fault(f"no credentials: {_short(problem)}", unproven_s=_SUPPLY_UNPROVEN_S)


def code_of(error: Exception) -> str:
    """Return the code of an error that is an answer of AWS, "" for any other."""
    from botocore.exceptions import ClientError

    return error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""


def _fault_of_answer(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in THROTTLED or status == _TOO_MANY:
        return Fault(code, throttled=True)
    # EC2 reports a lack of capacity with status 500.
    failing = status >= _SERVER_ERROR and status not in _LASTING_STATUSES
    if (failing and not code.startswith("Insufficient")) or code in _TRANSIENT:
        return Fault(f"HTTP {status}" if code == str(status) else f"HTTP {status} {code}")
    return Fault(answered=True)


def _way_words(error: BaseException) -> str:
    """Return why a request got no answer: the innermost cause that has words of its own."""
    kind = type(error).__name__
    words = {
        "ConnectTimeoutError": "connect timeout",
        "ReadTimeoutError": "read timeout",
        "ConnectionClosedError": "connection closed",
    }.get(kind, "")
    if words:
        return words
    cause: BaseException | None = error
    for _ in range(_DEEPEST_CAUSE):
        if cause is None:
            break
        if isinstance(cause, socket.gaierror):
            return f"no such host name: {cause.strerror}"
        if isinstance(cause, OSError) and cause.errno and cause.errno in errno.errorcode:
            return os.strerror(cause.errno).lower()
        cause = _cause(cause)
    via = "proxy: " if kind == "ProxyConnectionError" else ""
    return via + _short(str(error))


def _cause(error: BaseException) -> BaseException | None:
    """Return what an error of botocore or urllib3 came from: each keeps it elsewhere."""
    kept = getattr(error, "kwargs", {})
    inner = kept.get("error") if isinstance(kept, dict) else None
    for one in (inner, getattr(error, "reason", None), error.__cause__, error.__context__):
        if isinstance(one, BaseException) and one is not error:
            return one
    return None


def _of_service(error: ClientError, service: str, region: str) -> AwsRefused:
    """Explain an answer of AWS that is an error."""
    told = error.response.get("Error", {})
    code = told.get("Code", "")
    action = f"{service}:{error.operation_name}"
    message = _short(told.get("Message", "") or code)
    if code in DENIED:
        return _denied(error, service, region)
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
    if fault_of(error, region).why:
        return Outage(
            f"{service} in {region} fails: {error.operation_name}: {code}: {message}",
            "repeat the command in some minutes; https://health.aws.amazon.com shows outages",
            code=code,
        )
    kind = _kind(code, message)
    return kind(f"{action} in {region}: {code}: {message}", _HINTS.get(code, ""), code=code)


def _denied(error: ClientError, service: str, region: str) -> Denied:
    """Explain a denial: which action on what, by which kind of policy, and who can change that."""
    text = " ".join(error.response.get("Error", {}).get("Message", "").split())
    code = error.response.get("Error", {}).get("Code", "")
    operation = error.operation_name
    # botocore makes calls of its own on the way to another service's credentials.
    asked = f"{_OF_OTHERS.get(operation, service)}:{_ACTIONS.get(operation, operation)}"
    found = _NOT_AUTHORIZED.search(text)
    action, resource, why = (
        (found["action"], found["resource"], found["why"])
        if found
        else (
            asked,
            None,
            _short(text or code),
        )
    )
    on = f" on {resource}" if resource else ""
    needed = f", which {asked} needs," if action != asked else ""
    who = found["user"] if found else "this identity"
    hint = next(
        (hint for word, hint in _POLICY_HINTS.items() if word in (why or "")),
        "have {what} allowed for {who}, or use another identity with --profile",
    )
    if not found and operation == "RunInstances":
        hint += "; it also needs iam:PassRole for the instances' role, and ec2:CreateTags"
    return Denied(
        f"no permission for {action}{on}{needed} in {region}: {why or 'no policy allows it'}",
        hint.format(what=f"{action}{on}", who=who),
        code=code,
    )


def plain_denial(decoded: str) -> str:
    """Return a decoded authorization message of STS as the sentence that other services write.

    Raises:
        ValueError, KeyError, TypeError: it is no such message.
    """
    told = json.loads(decoded)
    context = told["context"]
    why = "with an explicit deny" if told.get("explicitDeny") else "because no policy allows it"
    return (
        f"User: {context['principal']['arn']} is not authorized to perform: {context['action']} "
        f"on resource: {context['resource']} {why}"
    )


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
        if isinstance(inner, _OF_PYTHON):
            return _of_settings(inner, profile)
        return _unanswered(error, service, region)
    provider = str(error.kwargs.get("provider", kind))
    names = at_fault(message, profile, way=provider)
    text = f"{message} (set by {names})" if names else message
    if kind in _CREDENTIALS | _SUPPLY:
        hint = _LOGINS.get(provider, CREDENTIALS_HINT)
        failed = CredentialsFailed if kind in _SUPPLY else AwsRefused
        return failed(f"no AWS credentials to use: {text}", hint, code=kind)
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


@functools.cache
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
