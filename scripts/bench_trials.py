"""Maps under seeded faults: every task ends well, and what is known to have ended stays so.

Instances end, agents restart, clients are killed and others go on, calls are throttled, fail, or
lose their answers after they were accepted.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from scripts.measuring import Cloud, Figure, cloud, cluster

TRIALS, SEED = 20, 1
TASKS, INSTANCES = 60, 4
TIME_SCALE = 4
# Wall seconds in which things go wrong, and clients that may go on after all of it.
TROUBLE_S, MOST_CLIENTS = 12.0, 8
NO_SUCH_JOB = 3  # an exit code of pmr
PROGRAM = (
    'printf "%s %s %s\\n" "$PMR_TASK_ID" "$PMR_TASK_ATTEMPT" '
    '"$(printf %s "$PMR_TASK_ID" | sha256sum)"; exec sleep "0.$((PMR_TASK_ID % 9 + 1))"'
)
RULES = {
    "throttle": ("--operation", "ssm:*", "--probability", "0.4", "--count", "12"),
    "5xx": ("--operation", "ssm:*", "--probability", "0.4", "--count", "8"),
    "lost-response": ("--operation", "ssm:SendCommand", "--count", "2"),
}


def expected_line(task: int, attempt: int) -> str:
    """Return what a task writes: who it is, and a hash of that."""
    return f"{task} {attempt} {hashlib.sha256(str(task).encode()).hexdigest()}  -\n"


@dataclass(frozen=True, slots=True)
class Known:
    """A task that ledgers told as succeeded at a moment: which attempt, and where it ran."""

    at_s: float
    task: int
    attempt: int
    name: str


@dataclass(slots=True)
class Trial:
    """One map, what happened to it, and what is wrong with it."""

    seed: int
    own: Cloud
    name: str
    job: str = ""
    ended_at: dict[str, float] = field(default_factory=dict)
    known: list[Known] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    clients: int = 0
    logs_gone: int = 0

    def play(self) -> None:
        """Play it to its end."""
        rng = random.Random(self.seed)  # noqa: S311 (not a secret)
        kinds = ["instance-terminate", "agent-restart", "agent-restart", "kill", "kill", *RULES]
        kinds += ["instance-terminate"] * (self.seed % 3 == 0)
        moments = sorted((rng.uniform(0.5, TROUBLE_S), kind) for kind in kinds)
        begun_s = time.monotonic()
        client = self._client(self._map())
        for at_s, kind in moments:
            threading.Event().wait(max(0.0, begun_s + at_s - time.monotonic()))
            if kind == "kill":
                client.kill()
                client = self._client(self._resume())
            else:
                self._strike(kind, rng)
        while (code := client.ended()) != 0 and self.clients < MOST_CLIENTS:
            # A client that was killed before any instance had the job leaves nothing to go on with.
            again = [*self._map(), "--job-id", self.job]
            client = self._client(again if code == NO_SUCH_JOB else self._resume())
        self.own("local", "fault", "clear")
        self._judge(client)

    def _map(self) -> list[str]:
        words = ["map", "-n", self.name, "--array", f"0-{TASKS - 1}", "--retries", "4"]
        return [*words, "-c", PROGRAM]

    def _resume(self) -> list[str]:
        self._snapshot()
        return ["map", "--resume", self.job, "-n", self.name, "--retries", "4"]

    def _client(self, words: list[str]) -> Client:
        self.clients += 1
        client = Client(self.own, words)
        self.job = self.job or client.job()
        return client

    def _strike(self, kind: str, rng: random.Random) -> None:
        self.struck[kind] += 1
        if kind in RULES:
            self.own("local", "fault", "add", kind, *RULES[kind], "--seed", str(self.seed))
            return
        alive = [n for n in range(INSTANCES) if f"{self.name}-{n:04d}" not in self.ended_at]
        target = f"{self.name}-{rng.choice(alive):04d}"
        if kind == "instance-terminate":
            self.ended_at[target] = time.monotonic()
        self.own("local", "fault", "add", kind, "--instance", target)

    def _snapshot(self) -> None:
        """Take note of what ledgers know as ended, before somebody goes on."""
        at_s = time.monotonic()
        told = self.own(
            "status", self.job, "-n", self.name, "--tasks", "--json", check=False, timeout_s=120
        )
        if told.returncode == 0:
            self.known += [
                Known(at_s, row["task"], row["attempt"], row["name"])
                for row in json.loads(told.stdout)["tasks"]
                if row["state"] == "SUCCEEDED"
            ]

    def _judge(self, client: Client) -> None:
        told = client.summary()
        tasks = {row["task"]: row for row in told.get("tasks", [])}
        self.wrong += [line for line in client.said.splitlines() if "Traceback" in line]
        bad = [n for n in range(TASKS) if tasks.get(n, {}).get("state") != "SUCCEEDED"]
        if bad:
            self.wrong.append(f"did not succeed: {bad}")
        for one in self.known:
            row = tasks.get(one.task, {})
            if self._must_stay(one) and row.get("attempt") != one.attempt:
                self.wrong.append(f"task {one.task} had ended on {one.name} and ran again: {row}")
        self._judge_logs(tasks)

    def _must_stay(self, one: Known) -> bool:
        """Say whether a ledger that knew of an end was there until the end of it all."""
        ended_s = self.ended_at.get(one.name)
        if ended_s is None:
            return True
        # Whoever remembered it may have ended after that as well.
        return ended_s < one.at_s and max(self.ended_at.values()) < one.at_s

    def _judge_logs(self, tasks: dict[int, dict[str, Any]]) -> None:
        folder = self.own.folder / f"results-{self.name}"
        self.own("results", self.job, "-n", self.name, "-o", folder, check=False, timeout_s=120)
        for path in folder.glob("*.log"):
            number, _, turn = path.stem.partition(".")
            wrote = path.read_text()
            # One that was lost in the middle may have written nothing.
            if wrote not in ("", expected_line(int(number), int(turn or 1))):
                self.wrong.append(f"{path.name} holds {wrote!r}")
        for task, row in tasks.items():
            attempt = row["attempt"]
            path = folder / (f"{task}.log" if attempt == 1 else f"{task}.{attempt}.log")
            if row["name"] in self.ended_at:
                self.logs_gone += 1
            elif not path.exists() or path.read_text() != expected_line(task, attempt):
                self.wrong.append(f"task {task} has no whole log")


class Client:
    """A map that somebody watches; what it says goes to files, so that it never waits for us."""

    def __init__(self, own: Cloud, words: list[str]) -> None:
        self._out = own.folder / f"client-{time.monotonic_ns()}"
        self._process = own.start_into(self._out, *words, "--json")

    @property
    def said(self) -> str:
        """Return what it said beside its data."""
        return self._out.with_suffix(".err").read_text(errors="replace")

    def job(self) -> str:
        """Wait for the job's id, which is told before anything is sent."""
        for _ in range(600):
            for line in self._lines():
                return str(json.loads(line)["job"])
            threading.Event().wait(0.05)
        raise TimeoutError(self.said)

    def kill(self) -> None:
        """Kill it, if it has not ended by itself."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(timeout=300)

    def summary(self) -> dict[str, Any]:
        """Return its last line."""
        lines = self._lines()
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return told

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what it has reported so far of one kind."""
        return [row for line in self._lines() if (row := json.loads(line))["event"] == kind]

    def _lines(self) -> list[str]:
        text = self._out.read_text() if self._out.exists() else ""
        return text.split("\n")[:-1]


def measure_trials(trials: int = TRIALS, seed: int = SEED) -> Iterator[Figure]:
    """Play maps under faults."""
    played: list[Trial] = []
    for number in range(trials):
        with cloud(f"time_scale={TIME_SCALE}") as own:
            name = f"t{number:02d}"
            with cluster(own, name, INSTANCES):
                trial = Trial(seed * 1000 + number, own, name)
                trial.play()
            played.append(trial)
            struck = ", ".join(f"{count} {kind}" for kind, count in trial.struck.items())
            print(f"  {name}: {trial.clients} clients, {struck}", *trial.wrong, file=sys.stderr)
    wrong = [f"seed {one.seed}: {why}" for one in played for why in one.wrong]
    what = f"{trials} maps of {TASKS} tasks under faults"
    strikes = sum((one.struck for one in played), Counter[str]())
    told = ", ".join(f"{count} {kind}" for kind, count in strikes.items())
    bad = sum(bool(one.wrong) for one in played)
    yield Figure(f"{what}: not as they should be", bad, "", 0, "; ".join(wrong)[:800])
    yield Figure(f"{what}: clients", sum(one.clients for one in played), "", None, told)
    known = sum(len(one.known) for one in played)
    yield Figure(f"{what}: ends that ledgers told midway", known, "")
    gone = sum(one.logs_gone for one in played)
    yield Figure(f"{what}: logs gone with their instance", gone, "")
