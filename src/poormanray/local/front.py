"""The WSGI application: admits a request, counts it, and finds who answers it."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from poormanray.local.cloud_describe import describe_instances
from poormanray.local.cloud_instances import Instances
from poormanray.local.cloud_launch import Launches
from poormanray.local.cloud_moto import Moto
from poormanray.local.refusals import Answer, Refusal, json_answer, refusal_answer
from poormanray.local.run_command import RunCommand
from poormanray.local.signature import ADMIN_SERVICE, Gate, HttpRequest

LOG = logging.getLogger(__name__)

SSM_TARGET = "AmazonSSM."
# EC2 calls after which instances may have changed.
_CHANGES_INSTANCES = frozenset(
    {"StartInstances", "StopInstances", "TerminateInstances", "RebootInstances", "CreateFleet"}
)

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Admin(Protocol):
    """The cloud's own routes."""

    def admin(self, method: str, route: str) -> Mapping[str, object]:
        """Answer `/_pmr/<route>`."""
        ...


class Front:
    """One WSGI application for the whole cloud."""

    def __init__(
        self,
        gate: Gate,
        moto: Moto,
        run_command: RunCommand,
        instances: Instances,
        launches: Launches,
        admin: Admin,
    ) -> None:
        self._gate = gate
        self._moto = moto
        self._run_command = run_command
        self._instances = instances
        self._launches = launches
        self._admin = admin
        self._count_lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = read_request(environ)
        try:
            answer = self._answer(request)
        except Refusal as refusal:
            answer = refusal_answer(refusal, request.protocol)
        except Exception:
            # A bug here must look like a failing service.
            LOG.exception("%s %s failed", request.method, request.path)
            failure = Refusal("InternalFailure", "the local cloud failed; see its log", status=500)
            answer = refusal_answer(failure, request.protocol)
        headers = list(answer.headers)
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

    def forget_counts(self) -> None:
        """Start counting anew."""
        with self._count_lock:
            self._counts.clear()

    def _answer(self, request: HttpRequest) -> Answer:
        caller = self._gate.admit(request)
        if caller.service == ADMIN_SERVICE or request.path.startswith("/_pmr/"):
            return self._answer_admin(request, caller.service)
        if request.path.startswith("/moto-api"):
            raise Refusal("AccessDenied", "not served", status=403)
        target = request.headers.get("x-amz-target", "")
        if caller.service == "ssm" and target.startswith(SSM_TARGET):
            operation = target.removeprefix(SSM_TARGET)
            self._count("ssm", operation)
            if operation in self._run_command.operations:
                return json_answer(self._run_command.call(operation, _document(request.body)))
            return self._moto.answer(request)
        if caller.service == "s3":
            self._count("s3", f"{request.method} {_s3_kind(request.path)}")
            return self._moto.answer(_without_form(request))
        form = _form(request)
        action = form.get("Action", target.rpartition(".")[2] or request.method)
        self._count(caller.service, action)
        if caller.service == "ec2":
            return self._answer_ec2(request, action, form, caller.region)
        answer = self._moto.answer(request)
        if caller.service == "iam" and answer.status == HTTPStatus.OK:
            self._launches.profile_changed(action, form)
        return answer

    def _answer_ec2(
        self, request: HttpRequest, action: str, form: Mapping[str, str], region: str
    ) -> Answer:
        if action == "RunInstances":
            # One lock from launch to the states, so that nobody sees moto's own in between.
            with self._moto.lock:
                answer = self._launches.run(request, form, region)
                self._instances.follow(region)
            return answer
        if action == "DescribeInstances":
            return describe_instances(self._moto, request, form)
        if action not in _CHANGES_INSTANCES:
            return self._moto.answer(request)
        instance_ids = [value for name, value in form.items() if name.startswith("InstanceId.")]
        dry = form.get("DryRun") == "true"
        with self._moto.lock:
            if not dry:
                self._instances.check(action, instance_ids)
            answer = self._moto.answer(request)
            self._instances.follow(region)
        if action == "RebootInstances" and answer.status == HTTPStatus.OK:
            self._instances.reboot(instance_ids)
        return answer

    def _answer_admin(self, request: HttpRequest, service: str) -> Answer:
        if service != ADMIN_SERVICE or not request.path.startswith("/_pmr/"):
            raise Refusal("AccessDenied", "the signature is for another service", status=403)
        route = request.path.removeprefix("/_pmr/")
        return json_answer(self._admin.admin(request.method, route))

    def _count(self, service: str, operation: str) -> None:
        with self._count_lock:
            self._counts[service, operation] += 1


def read_request(environ: dict[str, Any]) -> HttpRequest:
    """Read a whole request out of a WSGI environment; needs the server's REQUEST_URI."""
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
        body=environ["wsgi.input"].read(),
        environ=environ,
    )


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
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True))


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
