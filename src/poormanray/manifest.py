"""What a job is: its manifest, which every instance of the job holds whole."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from poormanray.ledger import ID_LENGTH, is_job_id
from poormanray.schedule import MOST_IDS, decode_ids, encode_ids, whole_number

_INSTANCE_ID = re.compile(r"i-[0-9a-z]{1,32}")
# A cluster's name and a host index (see model.py).
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,120}")
# Of the digests that must not be forged, and of those that only say what differs.
DIGEST_DIGITS, SHORT_DIGITS = 32, 16
_IDENTITY = re.compile(
    f"[0-9a-f]{{{SHORT_DIGITS}}} [0-9a-f]{{{SHORT_DIGITS}}} [0-9a-f]{{{DIGEST_DIGITS}}}"
)


@dataclass(frozen=True, slots=True)
class Host:
    """One instance of a job, the ids of the tasks that were spread to it, and its cap of slots.

    A cap of 0 is none: the job's slots count. `joined`: the job was not submitted to it.
    """

    host_index: int
    instance_id: str
    name: str
    tasks: tuple[int, ...]
    slot_cap: int = 0
    joined: bool = False


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
    """What a job is, known before anything is sent.

    `chosen` are the ids of the instances that it is for, where the user named some.
    """

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
    chosen: tuple[str, ...] = ()

    @property
    def first_hosts(self) -> tuple[Host, ...]:
        """Return the instances that it was submitted to."""
        return tuple(host for host in self.hosts if not host.joined)

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
    """Return a digest of what the job's tasks would do, and of how: all but where, who and when.

    Instances of a cluster come and go, and so do the tasks of a `run`, which has one for each.
    """
    how = {**_how_values(job), **_rule_values(job.rules)}
    hashed = hashlib.sha256("".join(f"{key}={value}\n" for key, value in how.items()).encode())
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
        "region": job.region,
        "submitter": _b64(job.submitter),
        "created": str(job.created_at),
        "tasks": str(len(job.tasks)),
        "hosts": str(len(job.first_hosts)),
        **_how_values(job),
        "digest": content_digest(job),
        "instances": instances_digest(host.instance_id for host in job.first_hosts),
        "chosen": chosen_word(job.chosen),
        **_rule_values(job.rules),
    }
    return "".join(f"{key}={value}\n" for key, value in values.items()).encode("ascii")


def _how_values(job: Job) -> dict[str, str]:
    """Return the keys of a `meta` file that say what a job is, wherever it runs."""
    return {
        "kind": job.kind,
        "cluster": job.cluster,
        "name": _b64(job.name),
        "slots": job.slots,
        "timeout": _decimal(job.timeout_s),
        "user": job.user,
        "log_cap": str(job.log_cap_bytes),
        "compat": job.compat,
    }


def instances_digest(ids: Iterable[str]) -> str:
    """Return a digest of a set of instances."""
    return _digest(" ".join(sorted(ids)).encode())


def chosen_word(ids: Collection[str]) -> str:
    """Return which instances a job is for: a digest of those that were named, or `all`."""
    return instances_digest(ids) if ids else "all"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


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
        for host in job.first_hosts
        for line in (_host_line(host), f"Q {host.instance_id} {encode_ids(host.tasks)}")
    ]
    head = len(lines)
    for number, script in enumerate(job.scripts):
        lines.append(f"S {number} {len(content)} {len(script)} {script_digest(script)}")
        content += script
    for item in job.helper_files:
        lines.append(f"F {len(content)} {len(item.data)} {item.mode:o} {_b64(item.path)}")
        content += item.data
    lines += _task_lines(job.tasks)
    env = os.fsencode("".join(f"{key}={value}\0" for key, value in job.env.items()))
    others = {"meta": encode_meta(job), "env": env, "content": bytes(content)}
    lines[head:head] = [f"D {name} {section_digest(name, data)}" for name, data in others.items()]
    return [
        ("meta", others["meta"]),
        ("manifest", ("\n".join(lines) + "\n").encode("ascii")),
        ("env", env),
        ("content", others["content"]),
    ]


def section_digest(name: str, data: bytes) -> str:
    """Return the digest of a section that the manifest holds.

    Who submitted a job, and when, may differ where the same submission is sent twice.
    """
    if name == "meta":
        lines = data.splitlines(keepends=True)
        data = b"".join(one for one in lines if not one.startswith((b"created=", b"submitter=")))
    return _digest(data)


def manifest_digest(manifest: bytes) -> str:
    """Return the digest of a `manifest` file, without the instances that have joined."""
    return _digest(first_manifest(manifest))


def first_manifest(manifest: bytes) -> bytes:
    """Return a `manifest` file as it was submitted, without the instances that have joined."""
    lines = manifest.splitlines(keepends=True)
    first = {_word(one, 1) for one in lines if one.startswith(b"Q ")}
    return b"".join(one for one in lines if not one.startswith(b"H ") or _word(one, 2) in first)


def _word(line: bytes, at: int) -> bytes:
    return b"".join(line.split(b" ")[at : at + 1])


@dataclass(frozen=True, slots=True)
class Identity:
    """What a job id stands for: digests of the content, of the first instances, of the manifest.

    The last one covers all of the job; the others say which of them differs. An instance keeps
    them as one line, and refuses a start of the same job with others.
    """

    content: str = ""
    instances: str = ""
    manifest: str = ""

    @property
    def words(self) -> tuple[str, str, str]:
        """Return it as the words of a `start`."""
        return self.content, self.instances, self.manifest


def identity_of(sections: Sequence[tuple[str, bytes]]) -> Identity:
    """Return what a job's sections stand for."""
    parts = dict(sections)
    summary = decode_meta(parts["meta"])
    return Identity(
        summary.digest[:SHORT_DIGITS],
        summary.instances[:SHORT_DIGITS],
        manifest_digest(parts["manifest"]),
    )


def read_identity(text: str) -> Identity:
    """Read an instance's line; what is none is empty."""
    return Identity(*text.split(" ")) if _IDENTITY.fullmatch(text) else Identity()


def _host_line(host: Host) -> str:
    return f"H {host.host_index} {host.instance_id} {_b64(host.name)} {host.slot_cap}"


def with_hosts(manifest: bytes, hosts: Sequence[Host]) -> bytes:
    """Return a `manifest` file in which further instances have their place, without a queue."""
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
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    runner: str = ""
    rules: Rules = Rules()
    instances: str = ""
    chosen: str = ""

    @property
    def plain(self) -> JobSummary:
        """Return it without what only one instance says of itself."""
        return replace(self, counts={}, runner="")


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
        instances=values.get("instances", ""),
        chosen=values.get("chosen", ""),
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
    """Who runs what, as every instance of the job holds it; `task_keys` are by task (task_key).

    `digests` are those of the job's other sections, by name, and of its scripts, by number.
    """

    hosts: tuple[Host, ...]
    task_names: Mapping[int, str]
    task_keys: Mapping[int, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


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
                hosts[instance_id] = replace(host, tasks=tasks, joined=False)
            case ["D", name, digest] | ["S", name, _, _, digest]:
                digests[name] = digest
            case ["T", task, script, name, entry]:
                number = whole_number(task)
                names[number] = _unb64(name)
                keys[number] = task_key(
                    digests.get(script, ""), None if entry == "-" else _unb64(entry)
                )
            case ["R", ids, script]:
                names |= (plain := _plain(ids, len(names)))
                keys |= {n: task_key(digests.get(script, ""), name) for n, name in plain.items()}
            case ["D" | "H" | "Q" | "R" | "T", *_]:
                raise ValueError("an impossible line")
    if not names or len(names) != task_count or spread != names.keys():
        raise ValueError("its tasks, their number and their spread differ")
    return Manifest(tuple(hosts.values()), names, keys, digests)


def _plain(ids: str, so_far: int) -> dict[int, str]:
    numbers = decode_ids(ids)
    if so_far + len(numbers) > MOST_IDS:
        raise ValueError("more tasks than a job can have")
    return {number: str(number) for number in numbers}


def _host(index: str, instance_id: str, name: str, cap: str) -> Host:
    # Names of instances are put before lines and into tables, as ours are: without blanks.
    if not _INSTANCE_ID.fullmatch(instance_id) or not _INSTANCE_NAME.fullmatch(name):
        raise ValueError("an instance has an impossible id or name")
    return Host(whole_number(index), instance_id, name, (), whole_number(cap), joined=True)
