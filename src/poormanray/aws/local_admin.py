"""Ask a local cloud about itself: signed calls of its own routes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

from poormanray.aws.session import FALLBACK_REGION, Endpoint
from poormanray.errors import AwsRefused, NotFound, NotReached, PmrError, UsageProblem

# The service name that these calls are signed for, so that no AWS call can be taken for one.
_SERVICE = "pmr"
_TIMEOUT_S = 60.0


def ask(
    endpoint: Endpoint, method: str, route: str, document: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Call `/_pmr/<route>`, with a document if there is one, and return the answer's document.

    Raises:
        NotReached: nothing answers there.
        NotFound: it names what the cloud does not have.
        UsageProblem: the cloud cannot make sense of the document.
        AwsRefused: the cloud says no.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{endpoint.url}/_pmr/{route}"
    body = b"" if document is None else json.dumps(document).encode()
    signed = AWSRequest(method=method, url=url, data=body)
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    SigV4Auth(credentials, _SERVICE, FALLBACK_REGION).add_auth(signed)
    request = urllib.request.Request(  # noqa: S310 (always http to loopback)
        url, body or None, dict(signed.headers.items()), method=method
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            said: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refusal(error, f"{method} {route}") from error
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise NotReached(
            f"the local cloud at {endpoint.url} does not answer", "pmr local down, pmr local up"
        ) from error
    return said


def _refusal(error: urllib.error.HTTPError, call: str) -> PmrError:
    """Return the error that the cloud's answer stands for."""
    try:
        said = json.load(error)
        code, text = str(said["__type"]), str(said["message"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
        code, text = HTTPStatus(error.code).phrase, call
    if code == "ValidationError":
        return UsageProblem(text, "pmr local fault add --help")
    if code == "NotFound":
        return NotFound(text, "pmr local status, pmr local fault list")
    return AwsRefused(
        f"the local cloud refused {call}: {code}: {text}", "pmr local down, then pmr local up"
    )
