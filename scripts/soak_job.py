"""One job of a round: submitted, watched, killed from, cancelled, paused, and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.soak_check import GAP, UNASKED, Job, Ran, Struck, Told, View, judged
from scripts.soak_cloud import Client, Cloud, pause
from scripts.soak_faults import Weather
from scripts.soak_plan import TIME_SCALE, Fault, JobPlan, Plan

LOOK_S = 0.1
# What a client may take for itself and for waiting on a busy machine, in wall seconds.
PATIENCE_S = 90.0
# How long a client may take once it stops watching.
LAST_WORDS_S = 40.0
# How much longer a fault can make a client, in seconds of the cloud's time.
SLOW_S = {
    "instance-crash": 600,
    "agent-hibernate": 330,
    "agent-cut-off": 200,
    "agent-kill": 150,
    "instance-freeze": 90,
    "no-capacity": 120,
    "disk-full": 60,
    "sessions-end": 360,
}
USUALLY_SLOW_S = 90.0
HARSH_S = 450.0
NOT_FOUND, NOT_REACHED, REFUSED = 3, 4, 5

# What each task says, on its instance and outside of its folder, when it starts and ends.
SCRIPT = """\
#!/bin/sh
say() {{
  echo "$1 $PMR_JOB_ID $PMR_TASK_INDEX $PMR_TASK_ATTEMPT $(date +%s.%N)" \
    >>"$SOAK_WITNESS/$PMR_INSTANCE_ID"
}}
work() {{
  i=0
  say start
  while [ "$i" -lt "$2" ]; do
    echo "{mark} $PMR_TASK_INDEX $PMR_INSTANCE_ID $i"
    i=$((i + 1))
  done
  sleep "$1"
  say end
  if [ "$4" != 0 ]; then
    kill -"$4" $$
    sleep 5
  fi
  exit "$3"
}}
case $PMR_TASK_INDEX in
{cases}
esac
"""


@dataclass(slots=True)
class Play:
    """A round under way: what all its parts share."""

    cloud: Cloud
    plan: Plan
    weather: Weather
    wrong: list[str] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def start(self, *words: str, work_s: float = 0.0, kill_at_s: float | None = None) -> Client:
        """Start a client, with a deadline for what it has to do under the round's faults."""
        deadline_s = self.deadline_s(work_s)
        keyed = self.weather.keyed
        client = self.cloud.start(*words, deadline_s=deadline_s, kill_at_s=kill_at_s, keyed=keyed)
        self.clients.append(client)
        return client

    def deadline_s(self, work_s: float) -> float:
        """Return how many wall seconds a client may take."""
        return PATIENCE_S + work_s + slowness_s(self.plan.faults)

    def until(self, work_s: float) -> list[str]:
        """Return the words that let a client stop watching a little before its deadline.

        An instance that runs and does not respond is waited for as long as the user wants.
        """
        cloud_s = (self.deadline_s(work_s) - LAST_WORDS_S) * TIME_SCALE
        return ["--wait-timeout", f"{cloud_s:.0f}s"]

    def attend(self, client: Client) -> None:
        """Wait until a client has ended, and look for what must never be."""
        while not client.look():
            pause(LOOK_S)
        self.inspect(client)

    def inspect(self, client: Client) -> None:
        """Look for what no client may ever do."""
        if client.hung:
            self.wrong.append(f"{said(client)}: it was still there after {client.deadline_s:.0f} s")
        elif not client.killed and "Traceback" in client.stderr:
            self.wrong.append(f"{said(client)}: a traceback")

    def need(self, client: Client, code: int = 0) -> bool:
        """Wait for a client that must end with this code; say whether it did."""
        self.attend(client)
        if client.code != code and not client.hung:
            self.wrong.append(f"{said(client)}: exit code {client.code} instead of {code}")
        return client.code == code


def said(client: Client) -> str:
    """Return the words of a client, and the last that it told."""
    last = (client.stderr.splitlines() or [""])[-1]
    errors = [event["error"] for event in client.events() if "error" in event]
    return f"`pmr {' '.join(client.words)}` ({errors or last})"


def slowness_s(faults: Sequence[Fault]) -> float:
    """Return how many wall seconds the faults of a round may cost a client."""
    cloud_s = sum(SLOW_S.get(fault.kind, USUALLY_SLOW_S) for fault in faults)
    return (cloud_s + HARSH_S * any(fault.harsh for fault in faults)) / TIME_SCALE


def script(job: JobPlan, mark: str) -> str:
    """Return what every task runs: it looks up what is planned for it."""
    cases = [
        f"{number}) work {task.seconds} {task.lines} {task.code} {task.signal} ;;"
        for number, task in enumerate(job.tasks)
    ]
    return SCRIPT.format(mark=mark, cases="\n".join(cases))


def texts(job: JobPlan, mark: str) -> list[str]:
    """Return what each task writes; @ stands for its instance."""
    return [
        "".join(f"{mark} {number} @ {line}\n" for line in range(task.lines))
        for number, task in enumerate(job.tasks)
    ]


class JobPlay:
    """Plays one job."""

    def __init__(self, play: Play, job: JobPlan, number: int, folder: Path) -> None:
        self.play = play
        self.job = job
        self.job_id = job.own_id
        self.mark = f"{play.plan.seed:x}-{play.plan.number}-{number}"
        self.views: list[View] = []
        self.cancelled_at: float | None = None
        self.cancel_done = False
        self._pending = {
            kind: after_s
            for kind, after_s in (("cancel", job.cancel_s), ("pause", job.pause_s))
            if after_s is not None
        }
        self._aside: list[tuple[str, Client]] = []
        self._first_start_s: float | None = None
        self._scripts = folder
        self._write(script(job, self.mark))
        self.work_s = sum(
            min(task.seconds, job.timeout_s or task.seconds) + 1 for task in job.tasks
        )

    def _write(self, text: str) -> None:
        self._scripts.mkdir(parents=True)
        count = len(self.job.tasks) if self.job.kind == "map" else 1
        for number in range(count):
            (self._scripts / f"{number:03d}").write_text(text)

    # --- words ---------------------------------------------------------------------------------

    def _submit(self) -> list[str]:
        cluster, job = self.play.plan.name, self.job
        words = [job.kind, "-n", cluster, "--json"]
        words += ["--env", f"SOAK_WITNESS={self.play.cloud.witness_inside}"]
        words += ["-T", f"{job.timeout_s}s"] if job.timeout_s else []
        words += ["--job-id", self.job_id] if self.job_id else []
        words += [] if job.detach else self.play.until(self.work_s)
        if job.kind == "run":
            return [*words, "-s", str(self._scripts / "000")]
        return [*words, "--slots", str(job.slots), str(self._scripts)]

    def _logs(self) -> list[str]:
        words = ["logs", "-f", "--json", self.job_id, "-n", self.play.plan.name]
        return [*words, *self.play.until(self.work_s)]

    # --- the road ------------------------------------------------------------------------------

    def submit_and_watch(self) -> None:
        """Submit the job; kill who watches it, come back, and take in what is told."""
        words = self._submit() + (["-d"] if self.job.detach else [])
        for number in range(len(self.job.kills) + 1):
            kill_at_s = self.job.kills[number] if number < len(self.job.kills) else None
            client = self.play.start(*words, work_s=self.work_s, kill_at_s=kill_at_s)
            self._attend(client)
            if not client.killed:
                self._assess(client)
                break
            again = self.job.backs[number] == "again" or not self.job_id
            words = self._submit() if again else self._logs()
        if "cancel" in self._pending and self.job_id:
            self._pending.pop("cancel")
            self._begin_aside("cancel")
        self._finish_aside()

    def conclude(self) -> None:
        """Heal what can be healed, ask for the last time, and judge everything that was told."""
        weather = self.play.weather
        weather.heal()
        machines = self.play.cloud.machines()
        if self.play.plan.resume and "off" in machines.values() and not weather.dead():
            self.play.need(self.play.start("resume", "-n", self.play.plan.name, "--json"))
        self._view_last(machines)
        ran = tuple(self.play.cloud.witnessed(weather.ids).get(self.job_id, []))
        facts = self._facts(ran)
        wrong = [text for view in self.views for text in judged(facts, view)]
        self.play.wrong += dict.fromkeys(wrong)
        self._look_for_processes()
        weather.free_disks()

    def _view_last(self, machines: dict[str, str]) -> None:
        self._pending.clear()
        if not self.job_id or not machines or not self._somebody():
            return
        for _ in range(2):
            client = self.play.start(*self._logs(), work_s=self.work_s)
            self.play.attend(client)
            view = self._view(client, final=True)
            unborn = view is None and client.code == NOT_FOUND
            behind = view and (self._unreached(view) or _between(view))
            if not (unborn and self._may_be_unborn()) and not behind:
                break
            # It never came to (all of) its instances: whoever wants it sends it again.
            self._attend(self.play.start(*self._submit(), work_s=self.work_s))
        if view is not None:
            self.views.append(view)
        elif not client.hung and not self._unknowable(client):
            self.play.wrong.append(f"{said(client)}: exit code {client.code} and no summary")

    def _unknowable(self, client: Client) -> bool:
        """Say whether only a dead instance can know the job, so that nobody may start it again."""
        ran = self.play.cloud.witnessed(self.play.weather.ids).get(self.job_id)
        return client.code == NOT_REACHED and not ran and bool(self.play.weather.dead())

    def _somebody(self) -> bool:
        """Say whether an instance is there that can answer."""
        machines = self.play.cloud.machines()
        dead = self.play.weather.dead()
        return any(one not in dead and how != "off" for one, how in machines.items())

    def _may_be_unborn(self) -> bool:
        killed = any(client.killed for client in self.play.clients)
        kinds = {one.kind for one in self.play.weather.struck}
        return killed or bool(kinds & UNASKED) or any(f.harsh for f in self.play.plan.faults)

    def _unreached(self, view: View) -> bool:
        """Say whether a task is LOST for never having come to an instance that is there."""
        ran = {
            one.task
            for one in self.play.cloud.witnessed(self.play.weather.ids).get(self.job_id, [])
        }
        awake = self.play.cloud.machines()
        return any(
            told.state == "LOST" and told.task not in ran and awake.get(told.instance) == "online"
            for told in view.tasks
        )

    def _facts(self, ran: tuple[Ran, ...]) -> Job:
        return Job(
            self.job_id,
            [task.told_code for task in self.job.tasks],
            texts(self.job, self.mark),
            ran,
            tuple(self.play.weather.struck),
            self.job.timeout_s,
            self.cancelled_at,
        )

    def _look_for_processes(self) -> None:
        until_s = time.monotonic() + 8
        while left := self.play.cloud.left_of([f"PMR_TASK_KEY={self.job_id or 'none'}_"]):
            if time.monotonic() > until_s:
                self.play.wrong.append(f"job {self.job_id} has ended, and runs: {left}")
                return
            pause(0.2)

    # --- while a client runs -------------------------------------------------------------------

    def _attend(self, client: Client) -> None:
        """Wait for a client, while faults come and others cancel or pause."""
        while not client.look():
            self._tick(client)
            pause(LOOK_S)
        self._learn_id(client)
        self.play.inspect(client)

    def _tick(self, client: Client) -> None:
        weather = self.play.weather
        ran = self.play.cloud.witnessed(weather.ids).get(self.job_id, []) if self.job_id else []
        running = {one.instance for one in ran if one.ended_at is None}
        weather.tick(running.__contains__)
        if not self.job_id:
            self._learn_id(client)
        if ran and self._first_start_s is None:
            self._first_start_s = time.monotonic()
        since_s = time.monotonic() - (self._first_start_s or time.monotonic())
        for kind, after_s in list(self._pending.items()):
            if since_s > after_s:
                self._pending.pop(kind)
                self._begin_aside(kind)
        for kind, other in list(self._aside):
            if other.look():
                self._aside.remove((kind, other))
                self._end_aside(kind, other)

    def _learn_id(self, client: Client) -> None:
        for event in client.events() if not self.job_id else []:
            if event.get("event") == "submitted":
                self.job_id = event["job"]

    def _begin_aside(self, kind: str) -> None:
        cluster = self.play.plan.name
        if kind == "cancel":
            self.cancelled_at = time.time()
            words = ["cancel", self.job_id, "-n", cluster, "--json"]
        else:
            struck = [Struck("pause", one, time.time()) for one in self.play.weather.ids]
            self.play.weather.struck += struck if kind == "pause" else []
            words = [kind, "-n", cluster, "--json"]
        self._aside.append((kind, self.play.start(*words)))

    def _end_aside(self, kind: str, client: Client) -> None:
        self.play.inspect(client)
        if client.code != 0 and not client.hung and not self._explained(client):
            self.play.wrong.append(f"{said(client)}: exit code {client.code}")
        if kind == "pause":
            self._begin_aside("resume")

    def _finish_aside(self) -> None:
        while self._aside:
            kind, client = self._aside.pop(0)
            while not client.look():
                self.play.weather.tick(lambda _instance_id: False)
                pause(LOOK_S)
            self._end_aside(kind, client)

    # --- what is told --------------------------------------------------------------------------

    def _explained(self, client: Client) -> bool:
        """Say whether faults explain that a client could not do what it was asked for."""
        kinds = {one.kind for one in self.play.weather.struck}
        if client.code == REFUSED:
            return any(fault.harsh for fault in self.play.plan.faults)
        if client.code == NOT_FOUND:
            return self._may_be_unborn()
        return client.code == NOT_REACHED and bool(kinds & UNASKED)

    def _assess(self, client: Client) -> None:
        if client.hung:
            return
        if any(event.get("detached") for event in client.events()):
            if client.code != 0 and not self._explained(client):
                self.play.wrong.append(f"{said(client)}: exit code {client.code}")
            follower = self.play.start(*self._logs(), work_s=self.work_s)
            self._attend(follower)
            client = follower
        view = self._view(client, final=False)
        if view is not None:
            self.views.append(view)
        elif not client.hung and not self._explained(client):
            self.play.wrong.append(f"{said(client)}: exit code {client.code} and no summary")

    def _view(self, client: Client, *, final: bool) -> View | None:
        """Return what a client told of every task; None if it did not come to that."""
        events = client.events()
        summary = next((one for one in events if one.get("event") == "summary"), None)
        if summary is None or "tasks" not in summary:
            return None
        tasks = tuple(_told(row) for row in summary["tasks"])
        is_logs = client.words[0] == "logs"
        reads = is_logs or self.job.kind == "run"
        return View(
            f"`pmr {' '.join(client.words)}`",
            client.code,
            tasks,
            tuple(one["instance"] for one in events if one.get("event") == "left_out"),
            _logs(events, tasks) if reads else {},
            final=final,
            is_run=self.job.kind == "run",
            counts_left_out=self.job.kind == "run" and not is_logs,
        )


def _between(view: View) -> bool:
    """Say whether a client was killed between taking a task from one instance to another."""
    return any(told.reason.startswith("on its way") for told in view.tasks)


def _told(row: dict[str, Any]) -> Told:
    keys = ("task", "instance", "state", "exit_code", "attempt", "reason")
    return Told(*(row[key] for key in keys))


def _logs(events: list[dict[str, Any]], tasks: tuple[Told, ...]) -> dict[int, str]:
    found = {told.task: "" for told in tasks}
    newest = {told.task: told.attempt for told in tasks}
    for event in events:
        if event.get("attempt", 1) != newest.get(event.get("task", -1), 1):
            continue
        if event.get("event") == "output":
            found[event["task"]] = found.get(event["task"], "") + event.get("text", "\0")
        elif event.get("event") == "output_gap":
            found[event["task"]] = found.get(event["task"], "") + GAP
    return found
