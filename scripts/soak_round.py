"""One round of the soak: a cluster made, put to work under faults, and ended."""

from __future__ import annotations

import shutil
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from scripts.soak_cloud import Client, Cloud, pause
from scripts.soak_faults import Tally, Weather
from scripts.soak_job import JobPlay, Play
from scripts.soak_plan import Plan, plan

LEFT_S = 20.0
# How much of a failing client's words is kept.
KEPT_CHARS = 3000


@dataclass(slots=True)
class Round:
    """What one round did and what was wrong about it."""

    seed: int
    number: int
    size: int
    jobs: int
    took_s: float = 0.0
    kills: int = 0
    commands: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Tally] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)


def play(cloud: Cloud, seed: int, number: int) -> Round:
    """Play the round with this number."""
    what = plan(seed, number)
    weather = Weather(cloud, what.faults)
    playing = Play(cloud, what, weather)
    done = Round(seed, number, what.size, len(what.jobs))
    began_s, logged = time.monotonic(), cloud.log_size()
    try:
        _play(playing)
    except Exception:  # noqa: BLE001 (a round that breaks is a failure of that round, told as such)
        playing.wrong.append(f"the round broke: {traceback.format_exc()}")
    if trouble := cloud.trouble(logged):
        playing.wrong.append(f"in the log of the local cloud: {trouble}")
    done.took_s = round(time.monotonic() - began_s, 1)
    done.wrong = playing.wrong
    done.faults = weather.tallies
    done.kills = sum(client.killed for client in playing.clients)
    done.commands = dict(Counter(_command(client) for client in playing.clients))
    if done.wrong:
        done.clients = [_kept(client, began_s) for client in playing.clients]
    for client in playing.clients:
        for end in (".out", ".err"):
            client.files.with_suffix(end).unlink(missing_ok=True)
    return done


def _command(client: Client) -> str:
    words = client.words
    return " ".join(words[:2]) if words[0] == "logs" else words[0]


def _kept(client: Client, began_s: float) -> dict[str, Any]:
    return {
        "words": " ".join(client.words),
        "after_s": round(client.began_s - began_s, 1),
        "exit_code": client.process.poll(),
        "killed": client.killed,
        "stdout": client.stdout[-KEPT_CHARS:],
        "stderr": client.stderr[-KEPT_CHARS:],
    }


def _play(playing: Play) -> None:
    what = playing.plan
    folder = playing.cloud.folder / what.name
    try:
        if _create(playing) and (not what.rest or _rest(playing)):
            for number, job in enumerate(what.jobs):
                one = JobPlay(playing, job, number, folder / f"{number}")
                playing.weather.begin("later" if number else "job")
                one.submit_and_watch()
                one.conclude()
                if not playing.cloud.machines():
                    break
    finally:
        playing.weather.clear()
        for client in playing.clients:
            # Only where the round broke is there one.
            if client.process.poll() is None:
                client.process.kill()
        _end(playing, what)
        shutil.rmtree(folder, ignore_errors=True)


def _create(playing: Play) -> bool:
    """Make the cluster, and the files that its tasks witness in."""
    what, cloud = playing.plan, playing.cloud
    playing.weather.begin("create")
    words = ("create", "-n", what.name, "-N", str(what.size), "-t", "t3.micro", "--json")
    made = playing.need(playing.start(*words))
    playing.weather.clear()
    machines = cloud.machines()
    if made and (len(machines) != what.size or set(machines.values()) != {"online"}):
        playing.wrong.append(f"create -N {what.size} left {machines}")
        return False
    playing.weather.ids = sorted(machines)
    for instance_id in machines:
        cloud.lay_witness(instance_id)
    return made


def _rest(playing: Play) -> bool:
    """Pause and resume the cluster."""
    name = playing.plan.name
    playing.weather.begin("rest")
    paused = playing.need(playing.start("pause", "-n", name, "--json"))
    if paused and set(playing.cloud.machines().values()) != {"off"}:
        playing.wrong.append(f"pause left {playing.cloud.machines()}")
    resumed = playing.need(playing.start("resume", "-n", name, "--json"))
    if resumed and set(playing.cloud.machines().values()) != {"online"}:
        playing.wrong.append(f"resume left {playing.cloud.machines()}")
    playing.weather.clear()
    return paused and resumed


def _end(playing: Play, what: Plan) -> None:
    """End the cluster; nothing of it may be left."""
    cloud = playing.cloud
    playing.need(playing.start("terminate", "-n", what.name, "--yes", "--if-exists", "--json"))
    until_s = time.monotonic() + LEFT_S
    while True:
        left = cloud.left_of(playing.weather.ids) if playing.weather.ids else []
        left += [f"{one.pid}" for one in cloud.descendants()[1:]]
        machines = cloud.machines()
        if not left and not machines:
            return
        if time.monotonic() > until_s:
            playing.wrong.append(f"the cluster has ended, and there are {left} {machines}")
            return
        pause(0.1)
