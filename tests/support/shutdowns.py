"""Rounds of a map during which an instance shuts down: what holds after each of them."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cloud.conftest import Pmr
from tests.support.hosting import pause, soon

TASKS = 14
KINDS = ("stop", "reboot", "power-loss", "reclaim")
COMMAND = "sleep 0.$((PMR_TASK_ID % 7 + 3))"
BACK_S = 90.0


@dataclass(frozen=True, slots=True)
class Round:
    """One shutdown: its kind, whether a client watches the map, when it comes, and where."""

    number: int
    kind: str
    attached: bool
    after_s: float
    host: int

    def __str__(self) -> str:
        """Return it in few words."""
        how = "attached" if self.attached else "detached"
        return f"{self.number}: {self.kind} of {self.host} after {self.after_s:.2f} s, {how}"


def rounds(count: int, seed: int) -> list[Round]:
    """Return rounds of every kind, attached and detached in turn, at moments of chance."""
    chance = random.Random(seed)
    return [
        Round(
            number,
            KINDS[number % len(KINDS)],
            number // len(KINDS) % 2 == 0,
            chance.uniform(0.0, 4.0),
            chance.randrange(2),
        )
        for number in range(count)
    ]


def instances(pmr: Pmr, cluster: str) -> dict[str, str]:
    """Return the ids of the instances that are not gone, by name."""
    listed = pmr.json("list", "-n", cluster)["instances"]
    return {one["name"]: one["instance_id"] for one in listed if one["state"] != "terminated"}


def events_of(pmr: Pmr, job: str) -> Iterator[list[str]]:
    """Yield the words of every event in the ledgers of a job."""
    for path in (pmr.state / "instances").glob(f"i-*/var/lib/pmr/jobs/{job}/events"):
        for line in path.read_text(errors="replace").splitlines():
            if line:
                yield line.split()


def play(pmr: Pmr, cluster: str, one: Round) -> str:
    """Play a round; return the id of its job."""
    words = ("map", "-n", cluster, "--array", f"0-{TASKS - 1}", "--slots", "2", "-c", COMMAND)
    if one.attached:
        watching = pmr.start(*words, "--json")
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        pause(one.after_s)
        shut_down(pmr, cluster, one)
        rest, said = watching.communicate(timeout=240)
        assert watching.returncode in (0, 4), (watching.returncode, said.decode())
        del rest
        return str(first["job"])
    job = pmr(*words, "-d").stdout.strip()
    # Somebody looks when it happens, too.
    looking = pmr.start("wait", job, "-n", cluster)
    pause(one.after_s)
    shut_down(pmr, cluster, one)
    pause(2.0)
    looking.kill()
    looking.communicate(timeout=60)
    return job


def shut_down(pmr: Pmr, cluster: str, one: Round) -> None:
    """Let the instance of a round go."""
    host = sorted(instances(pmr, cluster))[one.host]
    kind = {"power-loss": "crash"}.get(one.kind, one.kind)
    extra = ("--seconds", "0.5") if one.kind == "reclaim" else ()
    pmr("local", "fault", "add", f"instance-{kind}", "--instance", host, *extra)
    if one.kind == "power-loss":
        pause(1.0)
        pmr("local", "fault", "add", "instance-reboot", "--instance", host)


def bring_back(pmr: Pmr, cluster: str) -> None:
    """Have two instances that can take work, whatever became of them."""

    def settled() -> bool:
        states = {one["state"] for one in pmr.json("list", "-n", cluster)["instances"]}
        return not states & {"stopping", "shutting-down", "pending"}

    soon(settled, BACK_S)
    there = pmr.json("list", "-n", cluster)["instances"]
    if any(one["state"] == "stopped" for one in there):
        pmr("resume", "-n", cluster, timeout_s=180)
    if missing := 2 - sum(one["state"] in ("running", "stopped") for one in there):
        pmr("create", "-n", cluster, "-N", str(missing), timeout_s=180)
    pmr("wait", "-n", cluster, timeout_s=180)


def check(pmr: Pmr, cluster: str, one: Round, job: str) -> None:
    """Go on with the map of a round, and see that nothing was lost, doubled or misnamed."""
    bring_back(pmr, cluster)
    told = pmr("map", "-n", cluster, "--resume", job, "--json", check=False, timeout_s=240)
    found = list(events_of(pmr, job))
    text = "\n".join(map(" ".join, found))
    assert told.returncode == 0, f"{one}\n{told.stderr}\n{text}"
    # No shutdown is recorded as a runner that died.
    assert not [words for words in found if "runner-lost" in words], f"{one}\n{text}"
    assert not [words for words in found if words[0] == "E" and words[5] == "lost"], text
    # No attempt ran twice, and what ran when the instance went has an end and another attempt.
    begun = Counter((words[2], words[3]) for words in found if words[0] == "S")
    assert set(begun.values()) <= {1}, f"{one}\n{text}"
    ended = {(words[2], words[3]) for words in found if words[0] == "E"}
    assert begun.keys() <= ended, f"{one}\n{text}"
    summary = json.loads(told.stdout.splitlines()[-1])
    assert summary["counts"]["SUCCEEDED"] == TASKS, f"{one}\n{summary}"


def shutdowns(pmr: Pmr, cluster: str, chosen: list[Round]) -> None:
    """Play rounds one after the other."""
    for one in chosen:
        check(pmr, cluster, one, play(pmr, cluster, one))
        sys.stdout.write(f"round {one}: held\n")
        sys.stdout.flush()
