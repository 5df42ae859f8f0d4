"""Errors of the cloud, in the shape that each AWS protocol gives them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from uuid import uuid4
from xml.sax.saxutils import escape

Headers = list[tuple[str, str]]


class Protocol(Enum):
    """How a service writes its errors."""

    JSON = "json"
    QUERY = "query"
    EC2 = "ec2"
    S3 = "s3"


class Refusal(Exception):
    """The cloud says no: the service's error code, a message and an HTTP status."""

    def __init__(self, code: str, message: str = "", *, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    body: bytes
    content_type: str
    headers: Headers = field(default_factory=list)


def json_answer(value: object, *, status: int = 200) -> Answer:
    """Return `value` as an answer of a JSON-1.1 service."""
    return Answer(
        status,
        json.dumps(value).encode(),
        "application/x-amz-json-1.1",
        [("x-amzn-RequestId", str(uuid4()))],
    )


def refusal_answer(refusal: Refusal, protocol: Protocol) -> Answer:
    """Return `refusal` as the error body of `protocol`."""
    if protocol is Protocol.JSON:
        body = {"__type": refusal.code, "message": refusal.message}
        answer = json_answer(body, status=refusal.status)
        answer.headers.append(("x-amzn-ErrorType", refusal.code))
        return answer
    request_id = str(uuid4())
    inner = f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
    if protocol is Protocol.EC2:
        text = (
            f"<Response><Errors><Error>{inner}</Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif protocol is Protocol.QUERY:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        text = f"<Error>{inner}<RequestId>{request_id}</RequestId></Error>"
    body_bytes = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Answer(refusal.status, body_bytes, "text/xml", [("x-amz-request-id", request_id)])
