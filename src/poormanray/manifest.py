"""What a job is: its manifest, which every instance of the job holds whole."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from poormanray.ledger import ID_LENGTH, is_job_id
from poormanray.schedule import MOST_IDS, decode_ids, encode_ids, whole_number

_INSTANCE_ID = re.compile(r"i-[0-9a-z]{1,32}")
# A cluster's name and a host index (see model.py).
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,120}")


@dataclass(frozen=True, slots=True)
class Host:
    """One instance of a job, the ids of the tasks that were spread to it, and its cap of slots.

    A cap of 0 is none: the job's slots count.
    """

    host_index: int
    instance_id: str
    name: str
    tasks: tuple[int, ...]
    slot_cap: int = 0


@dataclass(frozen=True, slots=True)
class HelperFile:
    """A file that lies in every task's folder; `mode` is its permission bits."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a job: its id, its name, the number of its script, and what it is for.

    `entry` is the element of what is mapped over; None where a task is a script of its own.
    """

    number: int
    name: str
    script: int
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What an instance decides by itself, with nobody watching; what is 0 or empty does not count.

    `retries` are more turns on that instance for what fails. A task waits while the 1-minute load
    is above `max_load` (hundredths, or percent of the number of CPUs such as `100%`), or less
    than `memfree_kib` of memory is available. `timeout_percent` ends what takes longer than this
    part of the median time of the job's tasks that have succeeded there.
    """

    retries: int = 0
    max_load: str = ""
    memfree_kib: int = 0
    timeout_percent: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What a job is, known before anything is sent."""

    job_id: str
    kind: str
    cluster: str
    region: str
    hosts: tuple[Host, ...]
    tasks: tuple[Task, ...]
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
    compat: str = ""
    rules: Rules = Rules()

    @property
    def task_names(self) -> dict[int, str]:
        """Return the tasks' names by their ids."""
        return {task.number: task.name for task in self.tasks}


def _b64(text: str) -> str:
    return base64.b64encode(os.fsencode(text)).decode("ascii") or "="


def _entry(task: Task) -> str:
    """Return a task's entry as one word; `-` where it has none."""
    return "-" if task.entry is None else _b64(task.entry)


def _unb64(text: str) -> str:
    try:
        return os.fsdecode(base64.b64decode("" if text == "=" else text))
    except ValueError:
        return "?"


def _decimal(seconds: float) -> str:
    # Never with an exponent: `read -t` of the instance's bash knows none.
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def script_digest(script: bytes) -> str:
    """Return what tells a script from another."""
    return hashlib.sha256(script).hexdigest()[:16]


def task_key(digest: str, entry: str | None) -> str:
    """Return what a task is: its script (by digest) and the entry that it is for."""
    word = "-" if entry is None else _b64(entry)
    return hashlib.sha256(f"{digest} {word}".encode()).hexdigest()[:16]


def content_digest(job: Job) -> str:
    """Return a digest of what the job's tasks would do: scripts, names, files, environment.

    It does not tell on which instances: those of a cluster come and go, and so do the tasks of a
    `run`, which has one for each.
    """
    hashed = hashlib.sha256()
    digests = [hashlib.sha256(script).digest() for script in job.scripts]
    for task in (Task(0, "", 0),) if job.kind == "run" else job.tasks:
        line = f"{task.number} {_b64(task.name)} {_entry(task)}\n"
        hashed.update(digests[task.script] + line.encode())
    for item in job.helper_files:
        words = f"F {item.mode:o} {_b64(item.path)}\n".encode()
        hashed.update(hashlib.sha256(item.data).digest() + words)
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
        "tasks": str(len(job.tasks)),
        "hosts": str(len(job.hosts)),
        "slots": job.slots,
        "timeout": _decimal(job.timeout_s),
        "user": job.user,
        "log_cap": str(job.log_cap_bytes),
        "compat": job.compat,
        "digest": content_digest(job),
        **_rule_values(job.rules),
    }
    return "".join(f"{key}={value}\n" for key, value in values.items()).encode("ascii")


def _rule_values(rules: Rules) -> dict[str, str]:
    """Return the keys of a `meta` file that say what an instance decides by itself."""
    values = {
        "retries": rules.retries,
        "max_load": rules.max_load,
        "memfree": rules.memfree_kib,
        "timeout_percent": rules.timeout_percent,
    }
    return {key: str(value) for key, value in values.items() if value}


def encode_sections(job: Job) -> list[tuple[str, bytes]]:
    """Return the named parts of a job's bundle, in the order in which an instance unpacks them."""
    content = bytearray()
    # The queues first: an instance looks for its own before it has use for anything else.
    lines = [
        line
        for host in job.hosts
        for line in (_host_line(host), f"Q {host.instance_id} {encode_ids(host.tasks)}")
    ]
    for number, script in enumerate(job.scripts):
        lines.append(f"S {number} {len(content)} {len(script)} {script_digest(script)}")
        content += script
    for item in job.helper_files:
        lines.append(f"F {len(content)} {len(item.data)} {item.mode:o} {_b64(item.path)}")
        content += item.data
    lines += _task_lines(job.tasks)
    env = "".join(f"{key}={value}\0" for key, value in job.env.items())
    return [
        ("meta", encode_meta(job)),
        ("manifest", ("\n".join(lines) + "\n").encode("ascii")),
        ("env", os.fsencode(env)),
        ("content", bytes(content)),
    ]


def _host_line(host: Host) -> str:
    return f"H {host.host_index} {host.instance_id} {_b64(host.name)} {host.slot_cap}"


def with_hosts(manifest: bytes, hosts: Sequence[Host]) -> bytes:
    """Return a `manifest` file in which further instances have their place, without tasks."""
    return manifest + "".join(f"{_host_line(host)}\n" for host in hosts).encode("ascii")


def _task_lines(tasks: Sequence[Task]) -> list[str]:
    """Return the lines of tasks in their order; those of an array with one script share one."""
    lines: list[str] = []
    for plain, group in itertools.groupby(tasks, lambda task: (_is_plain(task), task.script)):
        if plain[0]:
            lines.append(f"R {encode_ids([task.number for task in group])} {plain[1]}")
        else:
            lines += [f"T {t.number} {t.script} {_b64(t.name)} {_entry(t)}" for t in group]
    return lines


def _is_plain(task: Task) -> bool:
    return task.name == task.entry == str(task.number)


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
    rules: Rules = Rules()


def _number(text: str, digits: int = 15) -> int:
    return int(text) if re.fullmatch(f"[0-9]{{1,{digits}}}", text) else 0


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) else 0.0


def decode_meta(data: bytes) -> JobSummary:
    """Read a `meta` file, with the counts that a list of jobs adds to it."""
    values = dict(
        line.split("=", 1) for line in data.decode("ascii", "replace").splitlines() if "=" in line
    )
    return JobSummary(
        job_id=values.get("id", ""),
        kind=values.get("kind", ""),
        cluster=values.get("cluster", ""),
        name=_unb64(values.get("name", "=")),
        submitter=_unb64(values.get("submitter", "=")),
        # Up to the year 5138: no calendar goes on for much longer.
        created_at=_number(values.get("created", ""), digits=11),
        task_count=_number(values.get("tasks", "")),
        host_count=_number(values.get("hosts", "")),
        digest=values.get("digest", ""),
        timeout_s=_seconds(values.get("timeout", "")),
        slots=values.get("slots", "1"),
        counts={
            key: _number(values[key])
            for key in ("queued", "succeeded", "failed", "running")
            if key in values
        },
        runner=values.get("runner", ""),
        rules=Rules(
            retries=_number(values.get("retries", "")),
            max_load=values.get("max_load", ""),
            memfree_kib=_number(values.get("memfree", "")),
            timeout_percent=_number(values.get("timeout_percent", "")),
        ),
    )


def sound_summary(job_id: str, data: bytes) -> JobSummary:
    """Read the meta of a job; its id becomes a part of paths on instances.

    Raises:
        ValueError: it is no meta of that job.
    """
    summary = decode_meta(data)
    if not is_job_id(job_id) or summary.job_id != job_id:
        raise ValueError(f"what it tells of job {job_id[:ID_LENGTH]!r} is not of that job")
    return summary


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who runs what, as every instance of the job holds it; `task_keys` are by task (task_key)."""

    hosts: tuple[Host, ...]
    task_names: Mapping[int, str]
    task_keys: Mapping[int, str] = field(default_factory=dict)


def decode_manifest(data: bytes, task_count: int) -> Manifest:
    """Read a `manifest` file, of a job of so many tasks.

    Raises:
        ValueError: it is damaged, or of another number of tasks.
    """
    hosts: dict[str, Host] = {}
    names: dict[int, str] = {}
    keys: dict[int, str] = {}
    digests: dict[str, str] = {}
    spread: set[int] = set()
    for line in data.decode("ascii", "replace").splitlines():
        match line.split(" "):
            case ["H", index, instance_id, name, cap]:
                hosts[instance_id] = _host(index, instance_id, _unb64(name), cap)
            case ["Q", instance_id, ids] if instance_id in hosts:
                host = hosts[instance_id]
                tasks = tuple(decode_ids(ids))
                before = len(spread)
                spread.update(tasks)
                if host.tasks or len(spread) != before + len(tasks) or before > MOST_IDS:
                    raise ValueError("a task is spread twice")
                hosts[instance_id] = replace(host, tasks=tasks)
            case ["S", script, _, _, digest]:
                digests[script] = digest
            case ["T", task, script, name, entry]:
                number = whole_number(task)
                names[number] = _unb64(name)
                keys[number] = task_key(
                    digests.get(script, ""), None if entry == "-" else _unb64(entry)
                )
            case ["R", ids, script]:
                names |= (plain := _plain(ids, len(names)))
                keys |= {n: task_key(digests.get(script, ""), name) for n, name in plain.items()}
            case ["H" | "Q" | "R" | "T", *_]:
                raise ValueError("an impossible line")
    if not names or len(names) != task_count or spread != names.keys():
        raise ValueError("its tasks, their number and their spread differ")
    return Manifest(tuple(hosts.values()), names, keys)


def _plain(ids: str, so_far: int) -> dict[int, str]:
    numbers = decode_ids(ids)
    if so_far + len(numbers) > MOST_IDS:
        raise ValueError("more tasks than a job can have")
    return {number: str(number) for number in numbers}


def _host(index: str, instance_id: str, name: str, cap: str) -> Host:
    # Names of instances are put before lines and into tables, as ours are: without blanks.
    if not _INSTANCE_ID.fullmatch(instance_id) or not _INSTANCE_NAME.fullmatch(name):
        raise ValueError("an instance has an impossible id or name")
    return Host(whole_number(index), instance_id, name, (), whole_number(cap))
