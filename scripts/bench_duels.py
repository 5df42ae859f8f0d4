"""Two clients with one map, and an instance that is terminated: nothing is lost or runs twice."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from scripts.bench_trials import Client
from scripts.measuring import Cloud, Figure, cloud, cluster

ROUNDS, SEED = 20, 1
TASKS, INSTANCES = 40, 3
TIME_SCALE = 4
# Wall seconds after the first end in which the second client comes and the instance ends.
MOMENTS_S = 5.0
# Each task leaves a line in a home that outlives the job.
PROGRAM = (
    'echo "$PMR_TASK_ID" >>"$HOME/ran-$PMR_JOB_ID"; '
    'sleep "0.$((PMR_TASK_ID % 7 + 2))"; echo "result of $PMR_TASK_ID"'
)


@dataclass(slots=True)
class Duel:
    """One map with two clients, and what is wrong with it, by kind."""

    seed: int
    own: Cloud
    name: str
    job: str = ""
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    said: list[str] = field(default_factory=list)

    def play(self) -> None:
        """Play it to its end."""
        rng = random.Random(self.seed)  # noqa: S311 (not a secret)
        retries = ("--retries", str(rng.choice((0, 3))))
        words = ["map", "-n", self.name, "--array", f"0-{TASKS - 1}", *retries, "-c", PROGRAM]
        first = Client(self.own, words)
        self.job = first.job()
        _wait_for_an_end(first)
        ended = f"{self.name}-{rng.randrange(INSTANCES):04d}"
        moments = sorted((rng.uniform(0, MOMENTS_S), what) for what in ("comes", "ends"))
        began_s = time.monotonic()
        second = first
        for at_s, what in moments:
            threading.Event().wait(max(0.0, began_s + at_s - time.monotonic()))
            if what == "comes":
                again = ["map", "--resume", self.job, "-n", self.name, *retries]
                second = Client(self.own, again)
            else:
                self.own("local", "fault", "add", "instance-terminate", "--instance", ended)
        for client in (first, second):
            code = client.ended()
            if code != 0:
                self.wrong["lost"].append(f"exit code {code}: {client.said[-300:]}")
        self._judge([first, second], ended)

    def _judge(self, clients: Sequence[Client], ended: str) -> None:
        known: dict[int, set[tuple[int, str]]] = defaultdict(set)
        for client in clients:
            rows = client.summary().get("tasks", [])
            good = {row["task"] for row in rows if row["state"] == "SUCCEEDED"}
            if len(good) != TASKS:
                self.wrong["lost"].append(f"did not succeed: {sorted({*range(TASKS)} - good)}")
            for row in client.events("task"):
                if row["state"] == "SUCCEEDED":
                    known[row["task"]].add((row["attempt"], row["name"]))
            self.said += [line for line in client.said.splitlines() if "Traceback" in line]
            for row in rows:
                if row["state"] == "SUCCEEDED" and row["confirmed"] != "backup":
                    known[row["task"]].add((row["attempt"], row["name"]))
        for task, places in sorted(known.items()):
            if len(places) > 1:
                self.wrong["repeated"].append(f"task {task} succeeded at {sorted(places)}")
        self.wrong["false"] += self.said
        self._judge_instances(clients[-1].summary().get("tasks", []), ended)

    def _judge_instances(self, rows: Sequence[dict[str, Any]], ended: str) -> None:
        """Compare with what the instances that are left say themselves."""
        words = ("-n", self.name, "--no-prefix", "-c", f'cat "$HOME/ran-{self.job}" || :')
        ran = Counter(self.own("run", *words, check=False).stdout.split())
        for task, count in ran.items():
            if count > 1:
                self.wrong["doubled"].append(f"task {task} ran {count} times on those left")
        for row in rows:
            here = ran[str(row["task"])]
            if row["state"] == "SUCCEEDED" and row["name"] != ended and not here:
                self.wrong["false"].append(f"task {row['task']} never ran on {row['name']}")
            if row["state"] == "SUCCEEDED" and row["name"] == ended and here:
                self.wrong["repeated"].append(f"task {row['task']} had ended on {ended}")


def _wait_for_an_end(client: Client) -> None:
    for _ in range(1200):
        if any(row["state"] == "SUCCEEDED" for row in client.events("task")):
            return
        threading.Event().wait(0.05)
    raise TimeoutError(client.said)


def play(seed: int) -> Duel:
    """Play one round in a cloud of its own."""
    with cloud(f"time_scale={TIME_SCALE}") as own, cluster(own, "duel", INSTANCES) as name:
        duel = Duel(seed, own, name)
        duel.play()
    return duel


def measure_duels(rounds: int = ROUNDS, seed: int = SEED, together: int = 1) -> Iterator[Figure]:
    """Play rounds from a seed on; `together` of them go side by side."""
    wrong: dict[str, list[str]] = {kind: [] for kind in ("repeated", "doubled", "lost", "false")}
    with ThreadPoolExecutor(together) as pool:
        for duel in pool.map(play, range(seed, seed + rounds)):
            found = {kind: lines for kind, lines in duel.wrong.items() if lines}
            print(f"  seed {duel.seed}: {found or 'all well'}", file=sys.stderr, flush=True)
            for kind, lines in found.items():
                wrong[kind] += [f"seed {duel.seed}: {line}" for line in lines]
    what = f"{rounds} maps with two clients and an instance that ends (seeds {seed} and on)"
    for kind, lines in wrong.items():
        yield Figure(f"{what}: {kind}", len(lines), "", 0, "; ".join(lines)[:800])


def main() -> None:
    """Play rounds: ROUNDS SEED TOGETHER."""
    numbers = [int(word) for word in sys.argv[1:]]
    figures = list(measure_duels(*numbers))
    for figure in figures:
        print(json.dumps({"what": figure.what, "value": figure.value, "note": figure.note}))
    sys.exit(any(not figure.met for figure in figures))


if __name__ == "__main__":
    main()
