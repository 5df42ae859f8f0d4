"""A job's ledger as the client sees it: its manifest, and its events folded into task states."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from poormanray.schedule import decode_ids, encode_ids

ID_LENGTH = 11
# The highest signal number of Linux; a shell reports death by signal n as 128 + n.
SIGNALS = 64
ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_job_id(now_s: float | None = None) -> str:
    """Return a job id: seven characters of time (sortable, in seconds), four of chance."""
    moment = int(time.time() if now_s is None else now_s)
    text = ""
    for _ in range(7):
        moment, digit = divmod(moment, 32)
        text = ID_ALPHABET[digit] + text
    return text + "".join(secrets.choice(ID_ALPHABET) for _ in range(4))


def is_job_id(text: str) -> bool:
    """Say whether a text can be a job id."""
    return len(text) == ID_LENGTH and all(letter in ID_ALPHABET for letter in text)


class TaskState(Enum):
    """What became of a task."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def ended(self) -> bool:
        """Say whether the task will not change any more."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Where one attempt of a task stands; times are epoch seconds by the instance's clock."""

    task: int
    attempt: int
    state: TaskState
    exit_code: int | None = None
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    slot: int = 0

    @property
    def key(self) -> str:
        """Return the name of the attempt's log in the ledger."""
        return f"{self.task}.{self.attempt}"

    @property
    def signal(self) -> int:
        """Return the signal that ended the task as a shell reports it (128 + n), or 0."""
        number = (self.exit_code or 0) - 128
        return number if 0 < number <= SIGNALS else 0


def checksum(text: str) -> str:
    """Return the checksum of an event line (shell/ledger.sh: checksum)."""
    value = 5381
    for byte in text.encode("latin-1", "replace"):
        value = (value * 33 + byte) & 0xFFFFFFFF
    return f"{value:08x}"


_ENDS = {
    "timeout": TaskState.TIMEOUT,
    "cancelled": TaskState.CANCELLED,
    "lost": TaskState.LOST,
    "unstartable": TaskState.LOST,
    "no-user": TaskState.LOST,
}
REASONS = {
    "lost": "the runner on the instance died while the task ran",
    "unstartable": "the instance could not start the task (is its disk full?)",
    "no-user": "the instance has no such user (see -u)",
    "timeout": "the task's time was over",
    "cancelled": "cancelled",
    "instance": "the instance is gone",
}


@dataclass(slots=True)
class EventLog:
    """The events of one instance, folded as they arrive; any split of them folds the same.

    `offset` counts the bytes that were folded, whole lines only: read on from there.
    """

    offset: int = 0
    tasks: dict[tuple[int, int], TaskStatus] = field(default_factory=dict)
    runner_lost: bool = False
    slots: int = 0
    detached_by: str = ""
    damaged_lines: int = 0

    def feed(self, offset: int, data: bytes) -> list[TaskStatus]:
        """Fold bytes that were read at `offset`; return the tasks that changed, in order."""
        if offset > self.offset:
            return []
        data = data[self.offset - offset :]
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        changed: list[TaskStatus] = []
        for line in whole.decode("latin-1").split("\n"):
            if line:
                self._fold(line, changed)
        return changed

    def _fold(self, line: str, changed: list[TaskStatus]) -> None:
        text, _, digest = line.rpartition(" ")
        if digest != checksum(text):
            self.damaged_lines += 1
            return
        match text.split(" "):
            case ["J", _, "runner-started", slots, _, detached_by, *_]:
                self.slots, self.detached_by = int(slots), detached_by
            case ["J", _, "runner-lost", *_]:
                self.runner_lost = True
            case ["S", when, task, attempt, slot, *_]:
                self._put(
                    TaskStatus(
                        int(task),
                        int(attempt),
                        TaskState.RUNNING,
                        started_at=float(when),
                        slot=int(slot),
                    ),
                    changed,
                )
            case ["E", when, task, attempt, code, reason, *rest]:
                key = (int(task), int(attempt))
                before = self.tasks.get(key)
                began = before.started_at if before else None
                self._put(_ended(key, float(when), code, reason, rest, began), changed)

    def _put(self, status: TaskStatus, changed: list[TaskStatus]) -> None:
        key = (status.task, status.attempt)
        before = self.tasks.get(key)
        # The slot writes its S line just after the task has started: a short task's end may be
        # on record first. An end is final, whatever comes after it.
        if before is not None and before.state.ended:
            return
        self.tasks[key] = status
        changed.append(status)


def _ended(
    key: tuple[int, int],
    when: float,
    code: str,
    reason: str,
    rest: list[str],
    began: float | None,
) -> TaskStatus:
    exit_code = int(code) if code.isdecimal() else None
    if reason == "exit":
        state = TaskState.SUCCEEDED if exit_code == 0 else TaskState.FAILED
        if exit_code is None:
            state, reason = TaskState.LOST, "lost"
    else:
        state = _ENDS.get(reason, TaskState.LOST)
    return TaskStatus(
        *key,
        state,
        exit_code=exit_code,
        reason="" if reason == "exit" else reason,
        started_at=float(rest[0]) if rest else began,
        ended_at=when,
        slot=int(rest[1]) if len(rest) > 1 else 0,
    )


# --- the manifest --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Host:
    """One instance of a job, and the ids of the tasks that were spread to it."""

    host_index: int
    instance_id: str
    name: str
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HelperFile:
    """A file that lies in every task's folder; `mode` is its permission bits."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Job:
    """What a job is, known before anything is sent."""

    job_id: str
    kind: str
    cluster: str
    region: str
    hosts: tuple[Host, ...]
    task_names: tuple[str, ...]
    script_of: tuple[int, ...]
    scripts: tuple[bytes, ...]
    name: str = ""
    submitter: str = ""
    slots: str = "1"
    timeout_s: float = 0.0
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    helper_files: tuple[HelperFile, ...] = ()
    log_cap_bytes: int = 1 << 30
    created_at: int = 0


def _b64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii") or "="


def _unb64(text: str) -> str:
    try:
        return base64.b64decode("" if text == "=" else text).decode("utf-8", "surrogateescape")
    except (binascii.Error, UnicodeDecodeError):
        return "?"


def content_digest(job: Job) -> str:
    """Return a digest of what the job's tasks would do: scripts, names, files, environment."""
    hashed = hashlib.sha256()
    for number, name in zip(job.script_of, job.task_names, strict=True):
        hashed.update(hashlib.sha256(job.scripts[number]).digest() + _b64(name).encode() + b"\n")
    for item in job.helper_files:
        hashed.update(hashlib.sha256(item.data).digest() + _b64(item.path).encode())
    for key in sorted(job.env):
        hashed.update(f"{key}={_b64(job.env[key])}\n".encode())
    return hashed.hexdigest()


def encode_meta(job: Job) -> bytes:
    """Return the ledger's `meta` file: one `key=value` each line."""
    values = {
        "id": job.job_id,
        "kind": job.kind,
        "cluster": job.cluster,
        "region": job.region,
        "name": _b64(job.name),
        "submitter": _b64(job.submitter),
        "created": str(job.created_at),
        "tasks": str(len(job.task_names)),
        "hosts": str(len(job.hosts)),
        "slots": job.slots,
        "timeout": f"{job.timeout_s:g}",
        "user": job.user,
        "log_cap": str(job.log_cap_bytes),
        "digest": content_digest(job),
    }
    return "".join(f"{key}={value}\n" for key, value in values.items()).encode("ascii")


def encode_sections(job: Job) -> list[tuple[str, bytes]]:
    """Return the named parts of a job's bundle, in the order in which an instance unpacks them."""
    content = bytearray()
    lines: list[str] = []
    for number, script in enumerate(job.scripts):
        lines.append(f"S {number} {len(content)} {len(script)}")
        content += script
    for item in job.helper_files:
        lines.append(f"F {len(content)} {len(item.data)} {item.mode:o} {_b64(item.path)}")
        content += item.data
    for host in job.hosts:
        lines.append(f"H {host.host_index} {host.instance_id} {_b64(host.name)}")
        lines.append(f"Q {host.instance_id} {encode_ids(host.tasks)}")
    for task, (script_number, name) in enumerate(zip(job.script_of, job.task_names, strict=True)):
        lines.append(f"T {task} {script_number} {_b64(name)}")
    env = "".join(f"{key}={value}\0" for key, value in job.env.items())
    return [
        ("meta", encode_meta(job)),
        ("manifest", ("\n".join(lines) + "\n").encode("ascii")),
        ("env", env.encode("utf-8", "surrogateescape")),
        ("content", bytes(content)),
    ]


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as a ledger describes it: its meta, and (from a list of jobs) one instance's counts."""

    job_id: str
    kind: str
    cluster: str
    name: str
    submitter: str
    created_at: int
    task_count: int
    host_count: int
    digest: str
    timeout_s: float
    slots: str
    counts: Mapping[str, int] = field(default_factory=dict)
    runner: str = ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def decode_meta(data: bytes) -> JobSummary:
    """Read a `meta` file, with the counts that a list of jobs adds to it."""
    values = dict(
        line.split("=", 1) for line in data.decode("ascii", "replace").splitlines() if "=" in line
    )
    timeout = values.get("timeout", "0")
    return JobSummary(
        job_id=values.get("id", ""),
        kind=values.get("kind", ""),
        cluster=values.get("cluster", ""),
        name=_unb64(values.get("name", "=")),
        submitter=_unb64(values.get("submitter", "=")),
        created_at=_number(values.get("created", "")),
        task_count=_number(values.get("tasks", "")),
        host_count=_number(values.get("hosts", "")),
        digest=values.get("digest", ""),
        timeout_s=float(timeout) if timeout.replace(".", "", 1).isdecimal() else 0.0,
        slots=values.get("slots", "1"),
        counts={
            key: _number(values[key])
            for key in ("queued", "succeeded", "failed", "running")
            if key in values
        },
        runner=values.get("runner", ""),
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who runs what, as every instance of the job holds it."""

    hosts: tuple[Host, ...]
    task_names: Mapping[int, str]

    def host_of(self, task: int) -> Host | None:
        """Return the instance to which a task was spread."""
        return next((host for host in self.hosts if task in host.tasks), None)


def decode_manifest(data: bytes) -> Manifest:
    """Read a `manifest` file."""
    hosts: dict[str, Host] = {}
    names: dict[int, str] = {}
    for line in data.decode("ascii", "replace").splitlines():
        match line.split(" "):
            case ["H", index, instance_id, name]:
                hosts[instance_id] = Host(int(index), instance_id, _unb64(name), ())
            case ["Q", instance_id, ids] if instance_id in hosts:
                host = hosts[instance_id]
                tasks = tuple(decode_ids(ids))
                hosts[instance_id] = Host(host.host_index, instance_id, host.name, tasks)
            case ["T", task, _, name]:
                names[int(task)] = _unb64(name)
    return Manifest(tuple(hosts.values()), names)


def ended_counts(statuses: Iterable[TaskStatus]) -> dict[TaskState, int]:
    """Count tasks by state."""
    counts = dict.fromkeys(TaskState, 0)
    for status in statuses:
        counts[status.state] += 1
    return counts
