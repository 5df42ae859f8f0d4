"""Who may talk to the cloud: SigV4 verified with botocore's own signer, and only local callers."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from poormanray.local.refusals import Protocol, Refusal
from poormanray.local.sessions import Sessions

# Source: AWS refuses a request whose time is off by more than 15 minutes; here both clocks are one.
SKEW_MAX_S = 300
# Source: Signature Version 4 query parameters: X-Amz-Expires is at most 7 days.
EXPIRES_MAX_S = 604_800
# The largest of theirs is a script of Run Command; only objects of S3 are longer.
BODY_MAX_BYTES = 8 * 2**20
# All calls of theirs go to `/`; the rest is the cloud's own.
_PLAIN_PATH = re.compile(r"/(_pmr/[a-z0-9]+(/[a-z0-9]+)?)?")
ALGORITHM = "AWS4-HMAC-SHA256"
TIMESTAMP = "%Y%m%dT%H%M%SZ"
ADMIN_SERVICE = "pmr"
UNSIGNED = frozenset({"UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"})

# What each kind of service calls the same refusals.
_CODES: dict[Protocol, dict[str, tuple[str, int]]] = {
    Protocol.JSON: {
        "missing": ("MissingAuthenticationTokenException", 400),
        "key": ("UnrecognizedClientException", 400),
        "session": ("ExpiredTokenException", 400),
        "signature": ("InvalidSignatureException", 400),
        "expired": ("InvalidSignatureException", 400),
    },
    Protocol.QUERY: {
        "missing": ("MissingAuthenticationToken", 403),
        "key": ("InvalidClientTokenId", 403),
        "session": ("ExpiredToken", 403),
        "signature": ("SignatureDoesNotMatch", 403),
        "expired": ("SignatureDoesNotMatch", 403),
    },
    Protocol.EC2: {
        "missing": ("MissingAuthenticationToken", 403),
        "key": ("AuthFailure", 401),
        "session": ("RequestExpired", 400),
        "signature": ("SignatureDoesNotMatch", 403),
        "expired": ("RequestExpired", 400),
    },
    Protocol.S3: {
        "missing": ("AccessDenied", 403),
        "key": ("InvalidAccessKeyId", 403),
        "session": ("ExpiredToken", 400),
        "signature": ("SignatureDoesNotMatch", 403),
        "expired": ("RequestTimeTooSkewed", 403),
    },
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it came; `path` and `query` are still percent-encoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # lower-case names
    body: bytes
    environ: Mapping[str, Any]

    @property
    def protocol(self) -> Protocol:
        """How the error of this request would be written, judged without believing it."""
        service = _claimed_service(self)
        if service in ("s3", "ec2"):
            return Protocol(service)
        if "x-amz-target" in self.headers or service in ("ssm", ADMIN_SERVICE):
            return Protocol.JSON
        if self.path.startswith("/_pmr/"):
            return Protocol.JSON
        form = self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        return Protocol.QUERY if form else Protocol.S3


@dataclass(frozen=True, slots=True)
class Caller:
    """What a verified signature says."""

    service: str
    region: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request says of its own signature."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: list[str]
    signature: str
    timestamp: str
    expires_s: int | None = None
    token: str = ""


class Gate:
    """Admits requests that are signed with a key of the cloud's, fresh, and meant for it."""

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        *,
        hosts: frozenset[str],
        sessions: Sessions | None = None,
    ) -> None:
        self._credentials = Credentials(access_key, secret_key)
        self._hosts = hosts
        self._sessions = sessions

    def look(self, request: HttpRequest, now: datetime | None = None) -> None:
        """Refuse what can be refused before the body is read; `admit` decides.

        Raises:
            Refusal: as `admit`, and a body that is too long for what must be read to be judged.
        """
        claim = self._judge_head(request, now)
        if claim.expires_s is not None or "x-amz-content-sha256" in claim.signed_headers:
            # The signature covers the body's digest, not the body.
            self._judge_signature(request, claim)
            if claim.service == "s3":
                return
        if int(request.headers.get("content-length") or 0) > BODY_MAX_BYTES:
            text = f"A body of this service has at most {BODY_MAX_BYTES} bytes"
            raise Refusal("RequestEntityTooLarge", text, status=413)

    def admit(self, request: HttpRequest, now: datetime | None = None) -> Caller:
        """Return who calls which service.

        Raises:
            Refusal: anything is wrong; nothing of the request must be executed.
        """
        claim = self._judge_head(request, now)
        _check_body(request, claim, request.protocol)
        self._judge_signature(request, claim)
        return Caller(claim.service, claim.region)

    def _judge_head(self, request: HttpRequest, now: datetime | None) -> _Claim:
        if request.headers.get("host", "").lower() not in self._hosts:
            raise Refusal("AccessDenied", "this Host is not served here", status=403)
        if not request.path.startswith("/") or "#" in request.path + request.query:
            # The signer would not see all of it.
            raise Refusal("InvalidURI", "The URI cannot be read", status=400)
        if "origin" in request.headers or "sec-fetch-mode" in request.headers:
            raise Refusal("AccessDenied", "requests of browsers are not served", status=403)
        claim = self._claim(request)
        if claim.service != "s3" and not _PLAIN_PATH.fullmatch(request.path):
            # The signature is over the path in its simplest form: `//..` would pass for `/`.
            raise _refusal(request.protocol, "signature", "This service has no such path")
        protocol = request.protocol
        self._credentials_of(claim, protocol)
        _check_time(claim, protocol, now or datetime.now(UTC))
        return claim

    def _credentials_of(self, claim: _Claim, protocol: Protocol) -> Credentials:
        if hmac.compare_digest(claim.access_key, self._credentials.access_key):
            return self._credentials
        session = self._sessions.find(claim.access_key) if self._sessions else None
        if (
            self._sessions is None
            or session is None
            or not hmac.compare_digest(claim.token, session.token)
        ):
            raise _refusal(protocol, "key", "The security token included in the request is invalid")
        if self._sessions.expired(session):
            text = "The security token included in the request is expired"
            raise _refusal(protocol, "session", text)
        return Credentials(session.access_key, session.secret_key)

    def _judge_signature(self, request: HttpRequest, claim: _Claim) -> None:
        if not hmac.compare_digest(self._signature(request, claim), claim.signature):
            text = "The request signature we calculated does not match the signature you provided"
            raise _refusal(request.protocol, "signature", text)

    @staticmethod
    def _claim(request: HttpRequest) -> _Claim:
        header = request.headers.get("authorization")
        try:
            if header is not None:
                return _header_claim(header, request)
            if "X-Amz-Signature=" in request.query:
                return _query_claim(request)
        except (KeyError, ValueError):
            text = "The authorization of the request cannot be read"
            raise _refusal(request.protocol, "signature", text) from None
        raise _refusal(request.protocol, "missing", "Request is missing Authentication Token")

    def _signature(self, request: HttpRequest, claim: _Claim) -> str:
        signer = _signer(self._credentials_of(claim, request.protocol), claim)
        query = "&".join(
            pair for pair in request.query.split("&") if not pair.startswith("X-Amz-Signature=")
        )
        url = f"http://{request.headers['host']}{request.path}" + (f"?{query}" if query else "")
        headers = {name: request.headers.get(name, "") for name in claim.signed_headers}
        rebuilt = AWSRequest(method=request.method, url=url, data=request.body, headers=headers)
        rebuilt.context["timestamp"] = claim.timestamp
        canonical = signer.canonical_request(rebuilt)
        signature: str = signer.signature(signer.string_to_sign(rebuilt, canonical), rebuilt)
        return signature


def _signer(credentials: Credentials, claim: _Claim) -> SigV4Auth:
    if claim.expires_s is not None:
        return S3SigV4QueryAuth(credentials, claim.service, claim.region, claim.expires_s)
    kind = S3SigV4Auth if claim.service == "s3" else SigV4Auth
    return kind(credentials, claim.service, claim.region)


def _header_claim(header: str, request: HttpRequest) -> _Claim:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise ValueError(algorithm)
    words = [part.strip() for part in rest.split(",")]
    parts = dict(word.split("=", 1) for word in words)
    if len(words) != len(parts):
        raise ValueError(rest)  # said twice
    access_key, date, region, service, end = parts["Credential"].split("/")
    signed = parts["SignedHeaders"].split(";")
    if end != "aws4_request" or "host" not in signed:
        raise ValueError(end)
    timestamp = request.headers["x-amz-date"]
    # What is not signed can be changed on the way; these decide what is executed.
    for name in ("x-amz-date", "x-amz-target", "x-amz-content-sha256", "x-amz-security-token"):
        if name in request.headers and name not in signed:
            raise ValueError(name)
    token = request.headers.get("x-amz-security-token", "")
    claim = _Claim(access_key, date, region, service, signed, parts["Signature"], timestamp)
    return replace(claim, token=token)


def _query_claim(request: HttpRequest) -> _Claim:
    values = {name: found[0] for name, found in parse_qs(request.query).items()}
    if values["X-Amz-Algorithm"] != ALGORITHM:
        raise ValueError(values["X-Amz-Algorithm"])
    access_key, date, region, service, end = values["X-Amz-Credential"].split("/")
    signed = values["X-Amz-SignedHeaders"].split(";")
    if end != "aws4_request" or service != "s3" or "host" not in signed:
        raise ValueError(service)
    return _Claim(
        access_key,
        date,
        region,
        service,
        signed,
        values["X-Amz-Signature"],
        values["X-Amz-Date"],
        int(values["X-Amz-Expires"]),
        values.get("X-Amz-Security-Token", ""),
    )


def _check_time(claim: _Claim, protocol: Protocol, now: datetime) -> None:
    try:
        made = datetime.strptime(claim.timestamp, TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        raise _refusal(protocol, "signature", "The date of the request cannot be read") from None
    age_s = (now - made).total_seconds()
    limit_s = SKEW_MAX_S if claim.expires_s is None else claim.expires_s
    if claim.expires_s is not None and not 0 < claim.expires_s <= EXPIRES_MAX_S:
        raise Refusal("AuthorizationQueryParametersError", "X-Amz-Expires is out of range")
    if claim.date != claim.timestamp[:8]:
        raise _refusal(protocol, "signature", "The date of the credential is another one")
    if age_s > limit_s and claim.expires_s is not None:
        raise Refusal("AccessDenied", "Request has expired", status=403)
    if not -SKEW_MAX_S <= age_s <= limit_s:
        raise _refusal(protocol, "expired", f"Signature expired or not yet current: {made:%FT%TZ}")


def _check_body(request: HttpRequest, claim: _Claim, protocol: Protocol) -> None:
    said = request.headers.get("x-amz-content-sha256")
    if said is None or claim.expires_s is not None:
        return  # the body itself is part of what is signed, or is not signed at all
    if claim.service == "s3" and said in UNSIGNED:
        return
    if not hmac.compare_digest(said, hashlib.sha256(request.body).hexdigest()):
        if protocol is Protocol.S3:
            text = "The provided 'x-amz-content-sha256' header does not match what was computed."
            raise Refusal("XAmzContentSHA256Mismatch", text)
        raise _refusal(protocol, "signature", "The body is not the one that was signed")


def _claimed_service(request: HttpRequest) -> str:
    header = request.headers.get("authorization", "")
    scope = header.partition("Credential=")[2].split(",")[0]
    if not scope:
        pairs = dict(pair.partition("=")[::2] for pair in request.query.split("&"))
        scope = unquote(pairs.get("X-Amz-Credential", ""))
    match scope.split("/"):
        case [_, _, _, service, _]:
            return service
    return ""


def _refusal(protocol: Protocol, kind: str, message: str) -> Refusal:
    code, status = _CODES[protocol][kind]
    return Refusal(code, message, status=status)
