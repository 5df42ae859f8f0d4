"""Soak: seeded rounds of commands under faults and killed clients, on local clouds of its own.

    scripts/soak [--seed N] [--rounds N] [--seconds N] [--workers N] [-o REPORT]
    scripts/soak --seed N --only NUMBER      one round again

Each round makes a cluster, puts it to work while things go wrong as its seed says, and checks
what was told against what the tasks themselves have witnessed. REPORT.json and REPORT.md have
the seeds, the failures and a table of the faults. Exits 1 when anything was wrong, and when a
full soak (300 rounds) did not do everything as often as it must, within 30 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.soak_cloud import cloud
from scripts.soak_faults import Tally
from scripts.soak_plan import KINDS, TIME_SCALE
from scripts.soak_round import Round, play

FULL = 300
COMMANDS = ("create", "run", "map", "logs -f", "cancel", "pause", "resume")
LEAST_COMMANDS, LEAST_FAULTS, LEAST_KILLS = 30, 20, 60
LONGEST_S = 1800
# Kinds that need instances to be machines of their own.
NESTED_ONLY = ("disk-full", "disk-free")


@dataclass(slots=True)
class Soak:
    """All that was played, and what was wrong beside the rounds."""

    seed: int
    took_s: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    isolation: str = ""

    @property
    def commands(self) -> Counter[str]:
        """Return how often each command was started."""
        return sum((Counter(one.commands) for one in self.rounds), Counter[str]())

    @property
    def kills(self) -> int:
        """Return how many clients were killed."""
        return sum(one.kills for one in self.rounds)

    @property
    def failed(self) -> list[Round]:
        """Return the rounds with something wrong."""
        return [one for one in self.rounds if one.wrong]

    def faults(self) -> dict[str, dict[str, int]]:
        """Return a row for each kind of fault."""
        return {kind: self._row(kind) for kind in KINDS}

    def _row(self, kind: str) -> dict[str, int]:
        having = [one for one in self.rounds if kind in one.faults]
        tallies = [one.faults[kind] for one in having]
        sums = {
            name: sum(getattr(tally, name) for tally in tallies)
            for name in (field.name for field in dataclasses.fields(Tally))
        }
        return {**sums, "rounds": len(having), "failures": sum(bool(one.wrong) for one in having)}

    def missing(self) -> list[str]:
        """Return what a full soak has not done as often, or as soon, as it must."""
        if len(self.rounds) < FULL:
            return []
        counts = [(name, self.commands[name], LEAST_COMMANDS) for name in COMMANDS]
        counts += [
            (kind, row["took"], LEAST_FAULTS)
            for kind, row in self.faults().items()
            if self.isolation == "namespaces" or kind not in NESTED_ONLY
        ]
        counts.append(("killed clients", self.kills, LEAST_KILLS))
        short = [f"{name}: {count} of {least}" for name, count, least in counts if count < least]
        late = self.took_s > LONGEST_S and len(self.rounds) == FULL
        return short + ([f"{self.took_s:.0f} s instead of {LONGEST_S} s"] if late else [])


def soak(
    seed: int, numbers: Iterator[int], *, workers: int, seconds: float, say: Callable[[str], None]
) -> Soak:
    """Play rounds side by side, each worker on a cloud of its own, until they or the time end."""
    done, lock = Soak(seed), threading.Lock()
    began_s = time.monotonic()

    def next_number() -> int | None:
        with lock:
            over = seconds and time.monotonic() - began_s >= seconds
            return None if over else next(numbers, None)

    def work() -> None:
        wrong: list[str] = []
        try:
            with cloud(wrong) as own:
                done.isolation = own.contact["isolation"]
                while (number := next_number()) is not None:
                    one = play(own, seed, number)
                    with lock:
                        done.rounds.append(one)
                        say(_line(one, len(done.rounds)))
        except Exception as problem:  # noqa: BLE001 (told as a failure of the soak)
            wrong.append(f"a worker broke: {problem!r}")
        with lock:
            done.wrong += wrong

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.took_s = round(time.monotonic() - began_s, 1)
    done.rounds.sort(key=lambda one: one.number)
    return done


def _line(one: Round, count: int) -> str:
    faults = ", ".join(f"{kind} {tally.took}" for kind, tally in one.faults.items())
    text = f"{count:4d}: round {one.number}, {one.took_s:.0f} s, {one.kills} kills; {faults}"
    return text + "".join(f"\n      WRONG: {wrong}" for wrong in one.wrong)


# --- the report --------------------------------------------------------------------------------


def document(done: Soak) -> dict[str, Any]:
    """Return the report as JSON knows it."""
    return {
        "seed": done.seed,
        "rounds": len(done.rounds),
        "failed_rounds": len(done.failed),
        "took_s": done.took_s,
        "isolation": done.isolation,
        "time_scale": TIME_SCALE,
        "commands": dict(done.commands),
        "client_kills": done.kills,
        "faults": done.faults(),
        "missing": done.missing(),
        "wrong": done.wrong,
        "played": [dataclasses.asdict(one) for one in done.rounds],
    }


def table(done: Soak) -> str:
    """Return the report as Markdown."""
    lines = [
        f"# Soak with seed {done.seed}",
        "",
        f"{len(done.rounds)} rounds in {done.took_s:.0f} s, {len(done.failed)} failed. "
        f"Round N again: `scripts/soak --seed {done.seed} --only N`.",
        "",
        "| command | times |",
        "| --- | ---: |",
        *(f"| {name} | {count} |" for name, count in sorted(done.commands.items())),
        f"| killed clients | {done.kills} |",
        "",
        "| fault | ordered | took effect | strikes | rounds | failed rounds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, row in done.faults().items():
        cells = (row["ordered"], row["took"], row["strikes"], row["rounds"], row["failures"])
        lines.append(f"| {kind} | " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", *(f"- not often enough: {text}" for text in done.missing())]
    lines += [f"- {text}" for text in done.wrong]
    for one in done.failed:
        lines += ["", f"## Round {one.number}", "", *(f"- {text}" for text in one.wrong)]
    return "\n".join(lines) + "\n"


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=312, help="How many rounds (312).")
    parser.add_argument("--seconds", type=float, default=0, help="Begin none after so long.")
    parser.add_argument("--only", type=int, help="Play this round alone.")
    parser.add_argument("--workers", type=int, default=8, help="Rounds side by side (8).")
    parser.add_argument("-o", "--output", default="soak", help="REPORT.json and REPORT.md (soak).")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Soak as the words of the command line say."""
    options = _options(words)
    numbers: Iterator[int] = iter(range(options.rounds))
    workers = options.workers
    if options.only is not None:
        numbers, workers = itertools.islice(itertools.count(options.only), 1), 1
    # SIGTERM lets the rounds end that have begun, and their clouds with them.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    numbers = itertools.takewhile(lambda _: not stop.is_set(), numbers)
    done = soak(options.seed, numbers, workers=workers, seconds=options.seconds, say=_say)
    report = Path(options.output)
    report.with_suffix(".json").write_text(json.dumps(document(done), indent=1))
    report.with_suffix(".md").write_text(table(done))
    print(table(done))
    return 1 if done.failed or done.wrong or done.missing() or not done.rounds else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
