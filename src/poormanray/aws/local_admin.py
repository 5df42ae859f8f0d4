"""Ask a local cloud about itself: signed calls of its own routes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from poormanray.aws.session import FALLBACK_REGION, Endpoint
from poormanray.errors import AwsRefused, NotReached

# The service name that these calls are signed for, so that no AWS call can be taken for one.
_SERVICE = "pmr"
_TIMEOUT_S = 60.0


def ask(endpoint: Endpoint, method: str, route: str) -> dict[str, Any]:
    """Call `/_pmr/<route>` and return its document.

    Raises:
        NotReached: nothing answers there.
        AwsRefused: the cloud says no.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{endpoint.url}/_pmr/{route}"
    signed = AWSRequest(method=method, url=url, data=b"")
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    SigV4Auth(credentials, _SERVICE, FALLBACK_REGION).add_auth(signed)
    request = urllib.request.Request(  # noqa: S310 (always http to loopback)
        url, method=method, headers=dict(signed.headers.items())
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            document: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        reason = f"{HTTPStatus(error.code).phrase} for {method} {route}"
        raise AwsRefused(
            f"the local cloud refused: {reason}", "pmr local down, then pmr local up"
        ) from error
    except OSError as error:
        raise NotReached(
            f"the local cloud at {endpoint.url} does not answer", "pmr local down, pmr local up"
        ) from error
    return document
