"""Faults in the middle of a job, and what the job must come to: the stages of scripts/exits.

A stage is a cluster of two instances of its own, of which the first is struck while up to three
jobs are at work on it: `run` on that one alone, `run` on both, and `map` with three tasks for each,
one at a time. The first task of each job on the first instance works until it is struck; all others
end by themselves.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from poormanray.waiting import Clock, poll
from scripts.ending import DONE, Case, Ending, Judged, Seen, judge
from scripts.killing import Command

WAYS = ("one", "several", "map")
MAP_TASKS = 6
# What a struck task is doing.
FOR_LONG = "sleep 1000; exit 99"
UNTIL_TOLD = 'until [ -e "$HOME/go" ]; do sleep 0.2; done'
FILL = f"{UNTIL_TOLD}; cat /dev/zero >fill; exit 9"
# More than one send carries.
PADDING = base64.b64encode(random.Random(1).randbytes(80_000)).decode()  # noqa: S311 (padding)
SEVEN = Ending("FAILED", 7)
READY_S, END_S = 120.0, 900.0
CANCELLED, TIMEOUT = Ending("CANCELLED", reason="cancelled"), Ending("TIMEOUT", reason="time")
TERMINATED = "terminated|shutting-down"


Strike = Callable[[Command, str], object]


def _fault(kind: str, *words: str) -> Strike:
    def strike(pmr: Command, cluster: str) -> object:
        return pmr("local", "fault", "add", kind, "--instance", f"{cluster}-0000", *words)

    return strike


def _cancel(*words: str) -> Strike:
    def strike(pmr: Command, cluster: str) -> object:
        names = json.loads(pmr("jobs", "-n", cluster, "--json").stdout)
        return [pmr("cancel", job["job"], "-n", cluster, *words) for job in names]

    return strike


def _tell(pmr: Command, cluster: str) -> None:
    """Tell the tasks of the first instance to go on, as soon as it takes work."""
    words = ("run", "-n", cluster, "-i", f"{cluster}-0000", "-c", 'touch "$HOME/go"')
    poll(
        lambda: pmr(*words, check=False).returncode == 0,
        clock=Clock(),
        timeout_s=READY_S,
        first_s=2.0,
    )


def _then_told(strike: Strike) -> Strike:
    def both(pmr: Command, cluster: str) -> None:
        strike(pmr, cluster)
        _tell(pmr, cluster)

    return both


@dataclass(frozen=True, slots=True)
class Stage:
    """A fault, and what it makes of the tasks.

    `struck` is how the task ends that was at work, `pending` how those end that waited behind it
    in a map, `other` how those of the second instance do; `codes` are the exit codes of the
    three ways. `before` is done before anything is started, `strike` when all are at work (None:
    nothing, and nobody waits for that). `disk` says that the disk is limited.
    """

    name: str
    struck: Ending
    codes: tuple[int, int, int]
    doing: str = FOR_LONG
    pending: Ending = DONE
    other: Ending = DONE
    before: Strike | None = None
    strike: Strike | None = None
    words: tuple[str, ...] = ()
    disk: bool = False
    ways: Sequence[str] = field(default=WAYS)


def _lost(name: str, reason: str, strike: Strike, pending: Ending | None = None) -> Stage:
    """Return a stage whose struck tasks are lost, and those behind it if nothing else is said."""
    lost = Ending("LOST", reason=reason)
    return Stage(name, lost, (4, 4, 4), pending=pending or lost, strike=strike)


def _outlived(name: str, strike: Strike) -> Stage:
    doing = f"{UNTIL_TOLD}; exit 7"
    return Stage(name, SEVEN, (7, 1, 1), doing=doing, strike=_then_told(strike))


def stages() -> list[Stage]:
    """Return every stage, those that take longest first."""
    unstarted = Ending("LOST", reason="will not start")
    suspended = Ending("PENDING", reason="suspended")
    # Whether its start was heard of before that, is a matter of moments.
    unheard = Ending("LOST|PENDING", reason="stopp")
    full = Ending("LOST", reason="disk full")
    return [
        replace(
            _lost("instance crashed", "counts as lost", _fault("instance-crash")),
            words=("--lost-after", "30s"),
        ),
        _outlived("agent killed", _fault("agent-kill")),
        _lost("instance terminated", TERMINATED, _fault("instance-terminate")),
        Stage(
            "instance stopped",
            unheard,
            (4, 4, 4),
            pending=suspended,
            strike=_fault("instance-stop"),
        ),
        _lost("instance reclaimed", TERMINATED, _fault("instance-reclaim", "--seconds", "4")),
        _lost("instance rebooted", "rebooted", _fault("instance-reboot"), DONE),
        _lost("runner killed", "runner", _fault("runner-kill"), unstarted),
        _outlived("screen killed", _fault("screen-kill")),
        _outlived("agent restarted", _fault("agent-restart")),
        _outlived("agent stopped for a while", _fault("agent-stop", "--seconds", "20")),
        _outlived("agent cut off for a while", _fault("agent-cut-off", "--seconds", "20")),
        _outlived("instance frozen for a while", _fault("instance-freeze", "--seconds", "10")),
        Stage("cancel", CANCELLED, (1, 1, 1), pending=CANCELLED, strike=_cancel()),
        Stage("cancel of one task", CANCELLED, (1, 1, 1), strike=_cancel("--task", "0")),
        Stage("timeout", TIMEOUT, (124, 124, 124), words=("-T", "5")),
        Stage("timeout and failures", TIMEOUT, (124, 1, 1), words=("-T", "5"), other=SEVEN),
        Stage(
            "content does not arrive",
            Ending("LOST", reason="[Nn]ot delivered|did not arrive"),
            (4, 4, 4),
            doing=f"exit 99\n# {PADDING}",
            before=_fault("agent-stop"),
            words=("--deliver-timeout", "30s"),
            ways=("one", "several"),
        ),
        Stage(
            "disk full before",
            full,
            (4, 4, 4),
            pending=full,
            before=_fault("disk-full"),
            disk=True,
        ),
        Stage(
            "disk full in the middle",
            Ending("FAILED", 9),
            (9, 1, 1),
            doing=FILL,
            before=_fault("disk-full", "--free", "900k"),
            strike=_tell,
            disk=True,
        ),
    ]


def _script(stage: Stage) -> str:
    code = stage.other.exit_code or 0
    return (
        f'[ "$PMR_HOST_INDEX" = 0 ] || exit {code}\n'
        f'mkdir "$HOME/$PMR_JOB_ID" 2>/dev/null || exit 0\n{stage.doing}\n'
    )


def cases(stage: Stage, cluster: str, folder: Path, *, json: bool) -> dict[str, Case]:
    """Return the stage's jobs."""
    scripts = folder / "scripts"
    scripts.mkdir(parents=True)
    for number in range(MAP_TASKS):
        (scripts / f"{number}").write_text(_script(stage))
    common = ("-n", cluster, *stage.words, *(("--json",) if json else ()))
    one = (*common, "-i", f"{cluster}-0000", "--job-name", "one", "-c", _script(stage))
    both = (*common, "--job-name", "several", "-c", _script(stage))
    # What moves would be somewhere else when the fault strikes.
    spread = (*common, "--job-name", "map", "--static", scripts)
    here = {"0/0": stage.struck, "0/1": stage.pending, "0/2": stage.pending}
    there = dict.fromkeys(("1/0", "1/1", "1/2"), stage.other)
    tasks = {
        "one": {"0/0": stage.struck},
        "several": {"0/0": stage.struck, "1/0": stage.other},
        "map": {**here, **there},
    }
    own = stage.struck.state == "FAILED"
    made = {}
    for way, words, code in zip(WAYS, (one, both, spread), stage.codes, strict=True):
        verb = "map" if way == "map" else "run"
        code_of = "task" if own and way == "one" else "pmr"
        name = f"{stage.name}, {verb}{' on one' * (way == 'one')}"
        made[way] = Case(name, (verb, *words), code, tasks[way], code_of, json)
    return {way: made[way] for way in stage.ways}


def _at_work(pmr: Command, cluster: str, count: int) -> bool:
    """Say whether of each job one task runs, and all of the second instance have ended."""
    told = json.loads(pmr("jobs", "-n", cluster, "--json", check=False).stdout or "[]")
    if not isinstance(told, list) or len(told) < count:
        return False
    ended = {"one": 0, "several": 1, "map": MAP_TASKS // 2}
    return all(
        job["counts"]["running"] == 1
        and job["counts"]["succeeded"] + job["counts"]["failed"] == ended[job["name"]]
        for job in told
    )


def play_mode(
    pmr: Command, stage: Stage, folder: Path, cluster: str, *, json: bool
) -> list[Judged]:
    """Play one stage in text or in JSON, and judge what came of each job."""
    pmr("create", "-n", cluster, "-N", "2")
    try:
        if stage.before:
            stage.before(pmr, cluster)
        made = cases(stage, cluster, folder / cluster, json=json)
        began_s = time.monotonic()
        clients = {way: pmr.start(*case.words) for way, case in made.items()}
        try:
            if stage.strike:
                # It never takes less, and each look costs a process.
                threading.Event().wait(1.5)
                poll(
                    lambda: _at_work(pmr, cluster, len(made)),
                    clock=Clock(),
                    timeout_s=READY_S,
                    longest_s=1.0,
                )
                stage.strike(pmr, cluster)
            judged = []
            for way, client in clients.items():
                out, err = client.communicate(timeout=END_S)
                text, said = out.decode(errors="replace"), err.decode(errors="replace")
                seen = Seen(client.returncode, text, said, time.monotonic() - began_s)
                judged.append(judge(made[way], seen))
            return judged
        finally:
            for client in clients.values():
                client.kill()
                client.communicate()
    finally:
        pmr("terminate", "-n", cluster, "--yes", check=False)


def play(pmr: Command, stage: Stage, folder: Path) -> list[Judged]:
    """Play one stage in JSON and in text; one that cannot be played is wrong too."""
    played: list[Judged] = []
    for mode in ("json", "text"):
        cluster = f"{stage.name.replace(' ', '-')}-{mode}"
        try:
            played += play_mode(pmr, stage, folder, cluster, json=mode == "json")
        except (TimeoutError, subprocess.SubprocessError) as problem:
            case = Case(f"{stage.name}, all", (), 0, {}, json=mode == "json")
            output = getattr(problem, "stderr", "")
            played.append(Judged(case, Seen(-1, "", ""), [f"not played: {problem!r} {output}"]))
    return played
