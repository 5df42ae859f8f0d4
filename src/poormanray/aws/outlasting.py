"""Clients of boto3 that outlast an outage: what botocore gives up on is repeated by one policy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from botocore.client import BaseClient

from poormanray.waiting import Fault, Outages

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks

# Calls that change something and have the same effect when they arrive twice. All that only read
# are repeated as well. SendCommand is not here: its text holds a time, so Ssm.send repeats it.
_SAME_TWICE = frozenset(
    {
        # EC2: RunInstances by its client token, the others by the ids that they name.
        "CreateTags",
        "RunInstances",
        "StartInstances",
        "StopInstances",
        "TerminateInstances",
        # EC2 and IAM refuse what exists already; the callers take that for success.
        "AddRoleToInstanceProfile",
        "AttachRolePolicy",
        "CreateInstanceProfile",
        "CreateRole",
        "CreateSecurityGroup",
        # S3: by the key; SSM: by the id of the command.
        "CancelCommand",
        "DeleteObject",
        "PutObject",
    }
)
_READS = ("Describe", "Get", "Head", "List")
_HIGHEST_GOOD = 299


def is_repeatable(operation: str) -> bool:
    """Say whether a call whose outcome is not known may be sent again."""
    return operation.startswith(_READS) or operation in _SAME_TWICE


class Outlasting:
    """Gives clients the policy of `outages`; `judge` says which errors pass."""

    def __init__(self, outages: Outages, judge: Callable[[Exception], Fault]) -> None:
        self._outages = outages
        self._judge = judge
        self._sent = threading.local()

    def attach(self, events: BaseEventHooks) -> None:
        """Let every client that is made from now on outlast outages."""
        # Not those of STS, which botocore makes for itself: a call that signs is part of another.
        for service in ("ec2", "iam", "s3", "ssm"):
            events.register(f"creating-client-class.{service}", self._mix)
            # botocore's own tries count too: they can take longer than a person waits in silence.
            events.register(f"before-send.{service}", self._note_sent)
            events.register(f"needs-retry.{service}", self._note_try)

    def _mix(self, base_classes: list[type], **_: object) -> None:
        outages, judge = self._outages, self._judge

        class Repeating(BaseClient):
            def _make_api_call(self, operation_name: str, api_params: Mapping[str, Any]) -> object:
                service = self.meta.service_model.service_name

                def ask() -> object:
                    return super(Repeating, self)._make_api_call(  # type: ignore[misc]  # no stub has it
                        operation_name, api_params
                    )

                if not is_repeatable(operation_name):
                    return ask()
                return outages.call(label(service), ask, judge)

        base_classes.insert(0, Repeating)

    def _note_sent(self, **_: object) -> None:
        self._sent.at_s = self._outages.clock.now_s()

    def _note_try(
        self,
        event_name: str,
        response: tuple[object, Mapping[str, Any]] | None,
        caught_exception: Exception | None,
        operation: Any,  # noqa: ANN401 (botocore's model)
        **_: object,
    ) -> None:
        from botocore.exceptions import ClientError

        error = caught_exception
        if (
            response
            and response[1].get("ResponseMetadata", {}).get("HTTPStatusCode", 0) > _HIGHEST_GOOD
        ):
            error = ClientError(response[1], operation.name)  # type: ignore[arg-type]
        fault = self._judge(error) if error else Fault()
        if fault.why:
            service = label(event_name.split(".")[1])
            self._outages.failed(service, fault, since_s=getattr(self._sent, "at_s", None))


def label(service: str) -> str:
    """Return what people call a service."""
    return service.upper()
