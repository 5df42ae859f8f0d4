"""Every way in which AWS, or the way to it, says no: turned into one line and a next step."""

from __future__ import annotations

import difflib
import errno
import functools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from poormanray.errors import (
    AwsRefused,
    CredentialsEnded,
    InstanceUnseen,
    InvalidInstances,
    NoAnswer,
    NoCapacity,
    Outage,
    ProfileUnseen,
    Throttled,
)
from poormanray.waiting import Fault

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_LONGEST_MESSAGE = 300
# How far causes of errors are followed: botocore, urllib3 and the socket are four.
_DEEPEST_CAUSE = 8

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
    "InvalidConfigError",
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
CREDENTIALS_HINT = (
    "aws sts get-caller-identity must work: log in, set AWS_PROFILE or --profile, "
    "or try without AWS: --local"
)
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
def translated(service: str, region: str) -> Iterator[None]:
    """Turn botocore's errors inside the block into errors of ours.

    Raises:
        AwsRefused: what AWS refused, and what to do; InvalidInstances for a send to ids that
            SSM does not manage.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _of_service(error, service, region) from error
    except BotoCoreError as error:
        raise _of_the_way(error, service, region) from error
    except ResponseParserError as error:
        raise Outage(
            f"what answers as {service} in {region} does not speak AWS's language",
            "check the proxy and AWS_ENDPOINT_URL",
            code="ResponseParserError",
        ) from error


def fault_of(error: Exception, region: str) -> Fault:
    """Judge an error of a call: whether it passes by itself, and why it came, in a few words."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _fault_of_answer(error)
    if isinstance(error, ResponseParserError):
        return Fault(f"a reply that is not AWS's: {_short(str(error))}")
    if type(error).__name__ in _SUPPLY:
        return supply_fault(str(error))
    if not isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return Fault()
    if not _custom_endpoint(error) and region not in _regions():
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
    if fault_of(error, region).why:
        return Outage(
            f"{service} in {region} fails: {error.operation_name}: {code}: {message}",
            "repeat the command in some minutes; https://health.aws.amazon.com shows outages",
            code=code,
        )
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


def _of_the_way(error: BotoCoreError, service: str, region: str) -> AwsRefused:
    """Explain an error of botocore's own: no answer from AWS, or no question to it."""
    from botocore import exceptions

    kind = type(error).__name__
    message = _short(str(error))
    if isinstance(error, exceptions.ProfileNotFound):
        return AwsRefused(message, "aws configure list-profiles shows the profiles", code=kind)
    if kind in _SUPPLY:
        return Outage(f"no AWS credentials to use: {message}", CREDENTIALS_HINT, code=kind)
    if kind in _CREDENTIALS:
        return AwsRefused(f"no AWS credentials to use: {message}", CREDENTIALS_HINT, code=kind)
    if isinstance(error, exceptions.NoRegionError | exceptions.InvalidRegionError):
        return AwsRefused(message, "give --region, for example us-east-1", code=kind)
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return _unanswered(error, service, region)
    return AwsRefused(f"{service} in {region}: {message}", "", code=kind)


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
