"""SSM Run Command as a state machine: commands, invocations, timeouts. No processes here."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from poormanray.local import run_command_views as views
from poormanray.local.refusals import Refusal
from poormanray.local.run_command_nodes import Nodes, TagsOf
from poormanray.local.run_command_pace import advance
from poormanray.local.run_command_records import (
    HISTORY_S,
    WAITING,
    CommandRecord,
    Delivery,
    Fleet,
    History,
    InvocationRecord,
    Node,
    Reply,
    Status,
)
from poormanray.local.run_command_send import check_document
from poormanray.local.service_model import check_request, shape_answer
from poormanray.local.settings import Settings
from poormanray.local.timers import Timers

LOG = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 3600  # user guide: the API's default delivery timeout
PAGE_MAX = 50
_ECHOED = (
    "OutputS3BucketName",
    "OutputS3KeyPrefix",
    "ServiceRoleArn",
    "NotificationConfig",
    "CloudWatchOutputConfig",
)

Request = Mapping[str, Any]
T = TypeVar("T")


class RunCommand:
    """The service. Every method may be called from any thread."""

    def __init__(
        self,
        fleet: Fleet,
        timers: Timers,
        settings: Settings,
        *,
        account: str,
        tags_of: TagsOf = lambda _instance_id: {},
        folder: Path | None = None,
    ) -> None:
        """`tags_of` names the tags of an instance as EC2 has them."""
        self._fleet = fleet
        self._timers = timers
        self._settings = settings
        self._nodes = Nodes(fleet, settings, account=account, tags_of=tags_of)
        self._fates: dict[str, str] = {}
        self._lock = threading.Lock()
        self._serials = itertools.count(1)
        self._history = History(folder)
        self._operations: dict[str, Callable[[Request], dict[str, Any]]] = {
            "SendCommand": self._send,
            "GetCommandInvocation": self._get,
            "ListCommandInvocations": self._list_invocations,
            "ListCommands": self._list_commands,
            "CancelCommand": self._cancel,
            "DescribeInstanceInformation": self._nodes.describe,
        }

    @property
    def operations(self) -> frozenset[str]:
        """The names of the operations that this service answers."""
        return frozenset(self._operations)

    def call(self, operation: str, request: Request) -> dict[str, Any]:
        """Answer one operation.

        Raises:
            Refusal: the service says no.
        """
        check_request(operation, request)
        return shape_answer(operation, self._operations[operation](request))

    def close(self) -> None:
        """Drop what is stored."""
        with self._lock:
            self._history.close()

    def doom(self, instance_id: str, detail: str | None) -> None:
        """Let what is sent to an instance end with AccessDenied, InvalidPlatform or the like.

        None: no longer.
        """
        with self._lock:
            if detail is None:
                self._fates.pop(instance_id, None)
            else:
                self._fates[instance_id] = detail

    def pardon(self) -> list[str]:
        """Let no instance be doomed any more; return which ones were."""
        with self._lock:
            doomed = sorted(self._fates)
            self._fates.clear()
        return doomed

    def on_reply(self, reply: Reply) -> None:
        """Take an agent's reply; an ended invocation never changes again."""
        with self._lock:
            part = self._part(reply.command_id, reply.instance_id)
            if part is None or part.status.ended:
                return
            if reply.status is not Status.IN_PROGRESS:
                timed_out = reply.status is Status.TIMED_OUT
                part.move(reply.status, "ExecutionTimedOut" if timed_out else "")
                part.exit_code = reply.exit_code
                part.stdout, part.stderr, part.output = reply.stdout, reply.stderr, reply.output
                part.started_at_s, part.ended_at_s = reply.started_at_s, reply.ended_at_s
            elif part.status in WAITING:
                part.move(Status.IN_PROGRESS)
            else:
                return
        self._go_on(reply.command_id)

    def on_connected(self, instance_id: str) -> None:
        """Deliver what waits for an agent that has just come online."""
        with self._lock:
            waiting = [
                command.command_id
                for command in self._history.recent()
                if (part := command.invocations.get(instance_id)) is not None
                and part.status is Status.DELAYED
            ]
        for command_id in waiting:
            self._deliver(command_id, instance_id)

    def counts(self) -> dict[str, int]:
        """Return how many commands and running invocations there are."""
        with self._lock:
            parts = [p for c in self._history.recent() for p in c.invocations.values()]
            return {
                "commands": len(self._history),
                "invocations": self._history.invocations(),
                "open": sum(not part.status.ended for part in parts),
            }

    # SendCommand and what follows from it

    def _send(self, request: Request) -> dict[str, Any]:
        parameters = check_document(request)
        nodes = self._nodes.chosen(request)
        with self._lock:
            command = self._record(request, parameters, nodes)
            self._history.add(command)
            answer = {"Command": views.command_view(command, counts=False)}
            first = advance(command)
        for instance_id in first:
            self._after(self._settings.delivery_s, self._deliver, command.command_id, instance_id)
        total_s = command.timeout_s + command.execution_timeout_s
        for instance_id in command.invocations:
            self._after(command.timeout_s, self._give_up_delivery, command.command_id, instance_id)
            self._after(total_s, self._give_up, command.command_id, instance_id)
        return answer

    def _record(
        self, request: Request, parameters: dict[str, list[str]], nodes: list[Node]
    ) -> CommandRecord:
        command = CommandRecord(
            serial=next(self._serials),
            command_id=str(uuid4()),
            document=request["DocumentName"],
            document_version=request.get("DocumentVersion", "$DEFAULT"),
            comment=request.get("Comment", ""),
            parameters=parameters,
            instance_ids=list(request.get("InstanceIds") or []),
            timeout_s=request.get("TimeoutSeconds", DEFAULT_TIMEOUT_S),
            execution_timeout_s=int((parameters.get("executionTimeout") or ["3600"])[0]),
            max_concurrency=request.get("MaxConcurrency", "50"),
            max_errors=request.get("MaxErrors", "0"),
            echoed={name: request[name] for name in _ECHOED if name in request},
            sent_at_s=self._timers.now_s(),
            requested_at_s=round(self._timers.wall_s(), 3),
        )
        command.targets = list(request.get("Targets") or [])
        command.target_count = len(nodes)
        command.by_tag = any(target["Key"].startswith("tag:") for target in command.targets)
        command.early_end = self._early_end(nodes)
        for node in nodes if command.early_end is None else []:
            part = InvocationRecord(next(self._serials), node.instance_id, node.name)
            command.invocations[node.instance_id] = part
        return command

    def _early_end(self, nodes: list[Node]) -> tuple[Status, str] | None:
        if not nodes:
            return Status.SUCCESS, "NoInstancesInTag"
        most = int(self._settings.pending_invocations_max)
        if most:
            parts = [p for c in self._history.recent() for p in c.invocations.values()]
            if sum(not part.status.ended for part in parts) + len(nodes) > most:
                return Status.CANCELLED, "RateExceeded"
        return None

    def _go_on(self, command_id: str) -> None:
        """Send a command to the instances whose turn has come."""
        with self._lock:
            command = self._history.live(command_id)
            turn = advance(command) if command is not None else []
        for instance_id in turn:
            self._after(self._settings.ramp_s, self._deliver, command_id, instance_id)

    def _after(
        self,
        delay_s: float,
        action: Callable[[str, str], None],
        command_id: str,
        instance_id: str,
    ) -> None:
        self._timers.after(delay_s, lambda: action(command_id, instance_id))

    def _deliver(self, command_id: str, instance_id: str) -> None:
        with self._lock:
            command = self._history.live(command_id)
            part = command.invocations.get(instance_id) if command else None
            if command is None or part is None or part.status not in WAITING or part.refused:
                return
            order, fate = command.order(), self._fates.get(instance_id)
            if fate is not None:
                part.move(Status.FAILED, fate)
        if fate is not None:
            self._go_on(command_id)
            return
        # Outside the lock: this starts a process.
        outcome = self._fleet.deliver(instance_id, order)
        with self._lock:
            gone = outcome is Delivery.GONE and not command.by_tag
            if gone and part.status in WAITING:
                part.move(Status.FAILED, "Undeliverable")
            elif outcome is not Delivery.ACCEPTED and part.status is Status.PENDING:
                # Source: meteor-up#87: by a tag, ended instances are waited for as well.
                part.refused = outcome is Delivery.FULL
                part.move(Status.PENDING if part.refused else Status.DELAYED)
        if outcome is not Delivery.ACCEPTED:
            self._go_on(command_id)

    def _give_up_delivery(self, command_id: str, instance_id: str) -> None:
        with self._lock:
            part = self._part(command_id, instance_id)
            if part is not None and part.status in WAITING:
                part.move(Status.TIMED_OUT, "DeliveryTimedOut")
        self._go_on(command_id)

    def _give_up(self, command_id: str, instance_id: str) -> None:
        with self._lock:
            part = self._part(command_id, instance_id)
            if part is None:
                return
            if part.status is Status.CANCELLING:
                part.move(Status.CANCELLED)
            else:
                part.move(Status.TIMED_OUT, "DeliveryTimedOut")
        self._go_on(command_id)

    def _cancel(self, request: Request) -> dict[str, Any]:
        instance_ids = request.get("InstanceIds") or []
        if len(set(instance_ids)) < len(instance_ids):
            raise Refusal("DuplicateInstanceId", "an instance is named twice")
        with self._lock:
            command = self._known(request["CommandId"])
            strangers = [name for name in instance_ids if name not in command.invocations]
            if strangers:
                raise Refusal("InvalidInstanceId", f"{strangers} are no targets of the command")
            to_tell = []
            for name in instance_ids or list(command.invocations):
                part = command.invocations[name]
                if part.status in WAITING:
                    part.move(Status.CANCELLED)
                elif part.move(Status.CANCELLING):
                    to_tell.append(name)
            command.cancel_asked = command.cancel_asked or not instance_ids
        for name in to_tell:
            self._after(self._settings.delivery_s, self._tell_cancel, command.command_id, name)
        self._go_on(command.command_id)
        return {}

    def _tell_cancel(self, command_id: str, instance_id: str) -> None:
        self._fleet.cancel(instance_id, command_id)

    # Reads

    def _get(self, request: Request) -> dict[str, Any]:
        with self._lock:
            command = self._history.get(request["CommandId"])
            part = command.invocations.get(request["InstanceId"]) if command else None
            if command is None or part is None or not self._visible(command):
                raise Refusal("InvocationDoesNotExist")
            if request.get("PluginName", views.PLUGIN) != views.PLUGIN:
                raise Refusal("InvalidPluginName", f"no plugin {request['PluginName']}")
            return views.single_view(command, part)

    def _list_invocations(self, request: Request) -> dict[str, Any]:
        filters = request.get("Filters") or []
        with self._lock:
            rows = [
                (command, part)
                for command in self._asked(request)
                for part in self._parts_asked(command, request)
                if views.matches(filters, command, part.status.value, stage=False)
            ]
            shown, token = self._page(rows, lambda row: row[1].serial, request)
            details = bool(request.get("Details", False))
            found = [views.invocation_view(c, part, details=details) for c, part in shown]
        return {"CommandInvocations": found, "NextToken": token}

    def _list_commands(self, request: Request) -> dict[str, Any]:
        filters = request.get("Filters") or []
        with self._lock:
            rows = [
                command
                for command in self._asked(request)
                if request.get("InstanceId") in (None, *command.invocations)
                and views.matches(
                    filters, command, views.command_status(command)[0].value, stage=True
                )
            ]
            shown, token = self._page(rows, lambda command: command.serial, request)
            found = [views.command_view(command) for command in shown]
        return {"Commands": found, "NextToken": token}

    def _page(
        self, rows: list[T], serial: Callable[[T], int], request: Request
    ) -> tuple[list[T], str | None]:
        return views.page(rows, serial, request, PAGE_MAX, int(self._settings.page_max))

    # Lookups; the lock is held

    def _part(self, command_id: str, instance_id: str) -> InvocationRecord | None:
        """Return an instance's part of a command that is in memory."""
        command = self._history.live(command_id)
        return command.invocations.get(instance_id) if command else None

    def _known(self, command_id: str) -> CommandRecord:
        command = self._history.get(command_id)
        if command is None:
            raise Refusal("InvalidCommandId", f"Command {command_id} is unknown")
        return command

    def _visible(self, command: CommandRecord) -> bool:
        age_s = self._timers.now_s() - command.sent_at_s
        return self._settings.visibility_s <= age_s < HISTORY_S

    def _asked(self, request: Request) -> list[CommandRecord]:
        command_id = request.get("CommandId")
        commands = [self._known(command_id)] if command_id else self._history
        return [command for command in commands if self._visible(command)]

    @staticmethod
    def _parts_asked(command: CommandRecord, request: Request) -> list[InvocationRecord]:
        instance_id = request.get("InstanceId")
        if instance_id is None:
            return list(command.invocations.values())
        part = command.invocations.get(instance_id)
        return [] if part is None else [part]
