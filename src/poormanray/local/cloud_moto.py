"""moto behind one lock: every call into it, and the way to its backends."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias, cast

from poormanray.local.refusals import Answer, Refusal
from poormanray.local.signature import HttpRequest

LOG = logging.getLogger(__name__)

ACCOUNT = "123456789012"
# Source: moto-facts 2. They are read when moto is imported.
SETTINGS = {
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "1",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "1",
    "MOTO_ACCOUNT_ID": ACCOUNT,
    "MOTO_DISABLE_GLOBAL_CORS": "1",  # no page in a browser may read an answer
}

Environ = dict[str, Any]
# moto has no types of its own to speak of.
Backend: TypeAlias = Any
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class MotoInstance(Protocol):
    """What is used here of moto's instances."""

    id: str
    state: str
    instance_type: str
    image_id: str
    architecture: str | None
    private_ip: str | None
    private_dns_name: str | None
    availability_zone: str | None
    instance_initiated_shutdown_behavior: str
    state_reason: Any
    _state: Any

    def start(self) -> object:
        """Set it running."""

    def stop(self) -> object:
        """Set it stopped."""

    def terminate(self) -> object:
        """Set it terminated."""

    def get_tags(self) -> list[dict[str, str]]:
        """Return its tags, as `key` and `value`."""


def _tags_of(resource: Backend) -> list[dict[str, str]]:
    """Return the tags of one of moto's EC2 resources, as its own `get_tags` does."""
    from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "") if resource.id else ""
    own = resource.ec2_backend.tags.get(resource.id, {})
    of = {"resource_id": resource.id, "resource_type": kind}
    return [{**of, "key": key, "value": value} for key, value in list(own.items())]


class Moto:
    """moto's services. Hold `lock` around whatever touches a backend."""

    def __init__(self) -> None:
        os.environ.update(SETTINGS)
        from moto.ec2.models.core import TaggedEC2Resource
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        # moto looks for each resource's tags among those of all: minutes for 2,000 instances.
        TaggedEC2Resource.get_tags = _tags_of  # type: ignore[assignment, method-assign]
        self.lock = threading.RLock()
        self._app = cast("Wsgi", DomainDispatcherApplication(create_backend_app))

    def answer(self, request: HttpRequest, body: bytes | None = None) -> Answer:
        """Let moto answer a request, with another body when one is given.

        Raises:
            Refusal: InternalFailure when moto breaks or does not know the operation.
        """
        payload = request.body if body is None else body
        environ = dict(request.environ)
        # Where moto looks for the path as it came; PATH_INFO has lost which % was meant.
        environ["RAW_URI"] = request.path + (f"?{request.query}" if request.query else "")
        environ["wsgi.input"] = io.BytesIO(payload)
        environ["CONTENT_LENGTH"] = str(len(payload))
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            started[:] = [int(status.split(maxsplit=1)[0]), headers]

        with self.lock:
            try:
                chunks = b"".join(self._app(environ, start_response))
            except Exception:
                LOG.exception("moto failed")
                raise Refusal("InternalFailure", "moto failed", status=500) from None
        status, headers = started
        kinds = [value for name, value in headers if name.lower() == "content-type"]
        kind = kinds[0] if kinds else ""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and kind.startswith("text/html"):
            LOG.error("moto answered %s: %s", status, chunks[:2000])
            raise Refusal("InternalFailure", "the local cloud cannot do this", status=500)
        kept = [(name, value) for name, value in headers if name.lower() != "content-type"]
        return Answer(status, chunks, kind, kept)

    def ec2(self, region: str) -> Backend:
        """Return EC2's backend of a region."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][region]

    def iam(self) -> Backend:
        """Return IAM's backend."""
        from moto.iam.models import iam_backends

        return iam_backends[ACCOUNT]["aws"]

    def reset(self) -> None:
        """Forget everything."""
        from moto.core.base_backend import BackendDict
        from moto.core.model_instances import reset_model_data

        with self.lock:
            BackendDict.reset()
            reset_model_data()
