"""The WSGI application: admits a request, counts it, and finds who answers it."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from waitress.channel import ClientDisconnected

from poormanray.local.cloud_checks import (
    check_characters,
    check_filters,
    check_names,
    check_sizes,
    check_trust,
)
from poormanray.local.cloud_describe import describe_instances
from poormanray.local.cloud_instances import Instances
from poormanray.local.cloud_launch import Launches
from poormanray.local.cloud_moto import Moto
from poormanray.local.faults import Call, Faults, proxy_answer, refusal
from poormanray.local.refusals import Answer, Refusal, json_answer, refusal_answer
from poormanray.local.run_command import RunCommand
from poormanray.local.sessions import OPERATIONS as SESSIONS
from poormanray.local.sessions import Sessions
from poormanray.local.signature import ADMIN_SERVICE, Caller, Gate, HttpRequest
from poormanray.local.throttle import Throttle

# In a WSGI environment: what lets the connection be closed after the answer.
CLOSE = "poormanray.close"
LOG = logging.getLogger(__name__)

SSM_TARGET = "AmazonSSM."
# EC2 calls after which instances may have changed.
_CHANGES_INSTANCES = frozenset(
    {"StartInstances", "StopInstances", "TerminateInstances", "RebootInstances", "CreateFleet"}
)

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Admin(Protocol):
    """The cloud's own routes."""

    def admin(self, method: str, route: str, asked: Mapping[str, Any]) -> Mapping[str, object]:
        """Answer `/_pmr/<route>`."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Those who answer for AWS's services."""

    moto: Moto
    run_command: RunCommand
    instances: Instances
    launches: Launches
    sessions: Sessions
    throttle: Throttle


class Front:
    """One WSGI application for the whole cloud."""

    def __init__(
        self, gate: Gate, services: Services, admin: Admin, faults: Faults, time_scale: float
    ) -> None:
        self._gate = gate
        self._moto = services.moto
        self._run_command = services.run_command
        self._instances = services.instances
        self._launches = services.launches
        self._sessions = services.sessions
        self._throttle = services.throttle
        self._admin = admin
        self._faults = faults
        self._time_scale = time_scale
        self._never = threading.Event()
        self._count_lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = read_head(environ)
        admitted = False
        try:
            self._gate.look(request)
            request = dataclasses.replace(request, body=environ["wsgi.input"].read())
            caller = self._gate.admit(request)
            admitted = True
            answer = self._answer(request, caller)
        except Refusal as refusal:
            answer = refusal_answer(refusal, request.protocol)
        except Exception:
            # A bug here must look like a failing service.
            LOG.exception("%s %s failed", request.method, request.path)
            failure = Refusal("InternalFailure", "the local cloud failed; see its log", status=500)
            answer = refusal_answer(failure, request.protocol)
        if answer is None:
            # The server then closes the connection without a word.
            raise ClientDisconnected
        headers = list(answer.headers)
        if not admitted:
            # Whoever has no key keeps no connection.
            environ[CLOSE]()
        if answer.content_type:
            headers.append(("Content-Type", answer.content_type))
        if not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [b"" if request.method == "HEAD" else answer.body]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how often each operation of each service was called."""
        with self._count_lock:
            found: dict[str, dict[str, int]] = {}
            for (service, operation), count in sorted(self._counts.items()):
                found.setdefault(service, {})[operation] = count
            return found

    def _answer(self, request: HttpRequest, caller: Caller) -> Answer | None:
        """Answer a request; None: its connection is to be closed."""
        if caller.service == ADMIN_SERVICE or request.path.startswith("/_pmr/"):
            return self._answer_admin(request, caller.service)
        if request.path.startswith("/moto-api"):
            raise Refusal("AccessDenied", "not served", status=403)
        form = {} if caller.service in ("s3", "ssm") else _form(request)
        check_characters(form)
        operation = _operation(request, caller, form)
        self._count(caller.service, operation)
        effects = self._faults.strike(Call(caller.service, operation, request.body))
        if effects.lost_request:
            return None
        if effects.proxied_as:
            return proxy_answer(effects.proxied_as)
        try:
            if effects.refused_as:
                raise refusal(effects.refused_as, request.protocol)
            answer = self._serve(request, caller, operation, form)
        except Refusal as refused:
            answer = refusal_answer(refused, request.protocol)
        self._never.wait(effects.delay_s / self._time_scale)
        if effects.lost_response:
            return None
        if effects.skew_s:
            # A new list: an answer may be kept to be given again.
            date = formatdate(time.time() + effects.skew_s, usegmt=True)
            answer = dataclasses.replace(answer, headers=[*answer.headers, ("Date", date)])
        return answer

    def _serve(
        self, request: HttpRequest, caller: Caller, operation: str, form: Mapping[str, str]
    ) -> Answer:
        if self._throttle.refuses(caller.service, caller.region, operation, form):
            raise refusal("throttle", request.protocol)
        if caller.service == "ssm" and operation in self._run_command.operations:
            return json_answer(self._run_command.call(operation, _document(request.body)))
        if caller.service == "s3":
            return self._moto.answer(_without_form(request))
        if caller.service == "ec2":
            return self._answer_ec2(request, operation, form, caller.region)
        if caller.service == "sts" and operation in SESSIONS:
            return self._sessions.answer(operation, form)
        if caller.service == "iam":
            check_names(form)
        if (caller.service, operation) == ("iam", "CreateRole"):
            check_trust(form)
        answer = self._moto.answer(request)
        if caller.service == "iam" and answer.status == HTTPStatus.OK:
            self._launches.profile_changed(operation, form)
        return answer

    def _answer_ec2(
        self, request: HttpRequest, action: str, form: Mapping[str, str], region: str
    ) -> Answer:
        with self._moto.lock:
            self._launches.newness.check_ids(action, form, region)
        check_filters(action, form)
        check_sizes(action, form)
        if action == "DescribeSpotInstanceRequests":
            return self._launches.spot.describe(form, region)
        if action == "RunInstances":
            # One lock from launch to the states, so that nobody sees moto's own in between.
            with self._moto.lock:
                answer = self._launches.run(request, form, region)
                self._instances.follow(region)
            return answer
        if action == "DescribeInstances":
            return describe_instances(self._moto, request, form, region, self._launches.newness)
        if action not in _CHANGES_INSTANCES:
            return self._moto.answer(request)
        instance_ids = [value for name, value in form.items() if name.startswith("InstanceId.")]
        dry = form.get("DryRun") == "true"
        with self._moto.lock:
            if not dry:
                self._instances.check(action, instance_ids)
                self._launches.check(action, instance_ids, region)
            answer = self._moto.answer(request)
            self._instances.follow(region)
        if action == "RebootInstances" and answer.status == HTTPStatus.OK:
            self._instances.reboot(instance_ids)
        return answer

    def _answer_admin(self, request: HttpRequest, service: str) -> Answer:
        if service != ADMIN_SERVICE or not request.path.startswith("/_pmr/"):
            raise Refusal("AccessDenied", "the signature is for another service", status=403)
        route = request.path.removeprefix("/_pmr/")
        return json_answer(self._admin.admin(request.method, route, _document(request.body)))

    def _count(self, service: str, operation: str) -> None:
        with self._count_lock:
            self._counts[service, operation] += 1


def read_head(environ: dict[str, Any]) -> HttpRequest:
    """Read a request but its body out of a WSGI environment; needs the server's REQUEST_URI."""
    headers = {
        name[5:].lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.lower().replace("_", "-")] = environ[name]
    path, _, query = environ["REQUEST_URI"].partition("?")
    return HttpRequest(
        method=environ["REQUEST_METHOD"],
        path=path,
        query=query,
        headers=headers,
        body=b"",
        environ=environ,
    )


def _operation(request: HttpRequest, caller: Caller, form: Mapping[str, str]) -> str:
    """Return the name under which a call is counted and may be struck by a fault."""
    target = request.headers.get("x-amz-target", "")
    if caller.service == "s3":
        return f"{request.method} {_s3_kind(request.path)}"
    if caller.service == "ssm":
        return target.removeprefix(SSM_TARGET) if target.startswith(SSM_TARGET) else request.method
    return form.get("Action", target.rpartition(".")[2] or request.method)


def _document(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        raise Refusal("SerializationException", "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal("SerializationException", "the body is not a JSON object")
    return value


def _form(request: HttpRequest) -> dict[str, str]:
    kind = request.headers.get("content-type", "")
    if not kind.startswith("application/x-www-form-urlencoded"):
        return {}
    return dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))


def _without_form(request: HttpRequest) -> HttpRequest:
    """Return a PUT whose body moto takes for the object, whatever type it claims."""
    kind = str(request.environ.get("CONTENT_TYPE", ""))
    if request.method != "PUT" or "form" not in kind:
        return request
    environ = {**request.environ, "CONTENT_TYPE": "binary/octet-stream"}
    return dataclasses.replace(request, environ=environ)


def _s3_kind(path: str) -> str:
    bucket, _, key = path.strip("/").partition("/")
    return "object" if key else "bucket" if bucket else "service"
