"""Change the core in one place at a time, and look whether the unit tests notice.

A seeded sample of what cosmic-ray can change in the modules that decide (TARGETS): comparisons,
`and`/`or`, `+`/`-`, `not`, signs, true and false, loops. Each change is made in a copy of
the tree, and tried with the tests of tests/unit that run the changed line, as coverage has found.
A change that no test notices is listed in tests/mutants.txt with the reason why it may live.

    python -m tests.support.mutants --sample 200 --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from coverage import CoverageData

REPO = Path(__file__).parents[2]
PACKAGE = Path("src/poormanray")
TARGETS = (
    *("jobs", "aws", "schedule.py", "events.py", "envelope.py", "ledger.py", "manifest.py"),
    *("model.py", "remote.py"),
)
REASONS = REPO / "tests/mutants.txt"
ENOUGH = 0.9
PATIENCE_S = 90.0
_CHANGES = (
    *("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ZeroIterationForLoop"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceBreakWithContinue"),
    *("ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd"),
)
_COMPARED = "core/ReplaceComparisonOperator_"
# Between a value and an identity most changes say the same, or fail at once.
_IDENTITY = {"Is", "IsNot"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: of which kind, which occurrence of it in the file, and where that stands."""

    path: Path
    operator: str
    occurrence: int
    lines: tuple[int, int]

    def code(self, root: Path) -> str:
        """Return the changed file."""
        text = (root / self.path).read_text()
        return str(mutate_code(text, plugins.get_operator(self.operator)(), self.occurrence))

    def name(self, root: Path) -> str:
        """Return what stays the same when other lines move: file, kind and the line's text."""
        line = (root / self.path).read_text().splitlines()[self.lines[0] - 1].strip()
        return f"{self.path.relative_to(PACKAGE)} | {self.operator.partition('/')[2]} | {line}"


def operators() -> list[str]:
    """Return the kinds of changes that are made."""
    compared = [
        name
        for name in plugins.operator_names()
        if name.startswith(_COMPARED)
        and len(set(name.removeprefix(_COMPARED).split("_")) & _IDENTITY) != 1
    ]
    return sorted([*(f"core/{name}" for name in _CHANGES), *compared])


def mutants() -> Iterator[Mutant]:
    """Yield each change that can be made."""
    for target in TARGETS:
        place = REPO / PACKAGE / target
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            nodes = list(ast_nodes(get_ast(path.read_text())))
            for name in operators():
                operator = plugins.get_operator(name)()
                found = [at for node in nodes for at in operator.mutation_positions(node)]
                for occurrence, (start, end) in enumerate(found):
                    lines = (start[0], end[0])
                    yield Mutant(path.relative_to(REPO), name, occurrence, lines)


class Tests:
    """The tests of tests/unit that run each line, as coverage has found."""

    def __init__(self, folder: Path) -> None:
        """Run all unit tests once, half of the files in each of two processes."""
        settings = folder / "coverage.ini"
        settings.write_text("[run]\ndynamic_context = test_function\n")
        files = sorted(str(one.relative_to(REPO)) for one in REPO.glob("tests/unit/**/test_*.py"))
        halves = [files[0::2], files[1::2]]
        self._data = [folder / f"coverage.{number}" for number in range(len(halves))]
        with ThreadPoolExecutor(len(halves)) as pool:
            codes = list(
                pool.map(lambda row: _covered(settings, *row), zip(self._data, halves, strict=True))
            )
        if any(codes):
            raise SystemExit(
                "error: the unit tests fail, or cannot be measured\n  next: pytest tests/unit"
            )

    def of(self, mutant: Mutant) -> list[str]:
        """Return those that run a changed line; or the file, where that runs at import only."""
        path = str(REPO / mutant.path)
        found: set[str] = set()
        whole: set[str] = set()
        for each in self._data:
            data = CoverageData(str(each))
            data.read()
            by_line = data.contexts_by_lineno(path)
            for line in range(mutant.lines[0], mutant.lines[1] + 1):
                found.update(by_line.get(line, ()))
            whole.update(context for row in by_line.values() for context in row)
        return sorted(map(_function, (found - {""}) or (whole - {""})))


def _covered(settings: Path, data: Path, files: Sequence[str]) -> int:
    words = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={data}"]
    words += ["--source=src", "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    return subprocess.run(words, cwd=REPO, stdout=subprocess.DEVNULL, check=False).returncode


def _function(context: str) -> str:
    """Return what pytest calls the test that coverage calls `tests.unit.test_x.test_y`."""
    module, _, function = context.rpartition(".")
    while module and not (REPO / f"{module.replace('.', '/')}.py").exists():
        module, _, outer = module.rpartition(".")
        function = f"{outer}::{function}"
    return f"{module.replace('.', '/')}.py::{function}"


def _copy(folder: Path) -> Path:
    for name in ("src", "tests", "scripts", "docs"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for one in REPO.iterdir():
        if one.is_file():
            shutil.copy(one, folder)
    return folder


def noticed(mutant: Mutant, tests: Sequence[str], root: Path) -> bool:
    """Say whether one of these tests fails, or does not end, on the changed code."""
    if not tests:
        return False
    path = root / mutant.path
    before = path.read_text()
    chosen = root / "chosen"
    chosen.write_text("\n".join(tests))
    files = sorted({one.partition("::")[0] for one in tests})
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    words += ["-p", "tests.support.only", *files]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "PMR_TESTS_ONLY": str(chosen)}
    path.write_text(mutant.code(REPO))
    try:
        ended = subprocess.run(
            words,
            cwd=root,
            env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(before)
    return ended.returncode != 0


def reasons() -> dict[str, str]:
    """Return why a change may live, by its name."""
    lines = REASONS.read_text().splitlines() if REASONS.exists() else []
    rows = [line.rpartition(" | ") for line in lines if line and not line.startswith("#")]
    return {name: reason for name, _, reason in rows}


def main() -> None:
    """Try a sample; exit with 1 where too many live, or one without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    began = time.monotonic()
    everything = list(mutants())
    sample = random.Random(chosen.seed).sample(everything, min(chosen.sample, len(everything)))
    with tempfile.TemporaryDirectory(prefix="pmr-mutants-") as name:
        folder = Path(name)
        tests = Tests(folder)
        print(
            f"{len(sample)} of {len(everything)} changes; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        roots: SimpleQueue[Path] = SimpleQueue()
        for number in range(chosen.workers):
            roots.put(_copy(folder / f"tree-{number}"))

        def attempt(mutant: Mutant) -> bool:
            root = roots.get()
            try:
                seen = noticed(mutant, tests.of(mutant), root)
            finally:
                roots.put(root)
            print("." if seen else f"lives: {mutant.lines[0]} {mutant.name(REPO)}", flush=True)
            return seen

        with ThreadPoolExecutor(chosen.workers) as pool:
            seen = list(pool.map(attempt, sample))
    alive = [mutant.name(REPO) for mutant, noted in zip(sample, seen, strict=True) if not noted]
    known = reasons()
    print(f"noticed: {sum(seen)} of {len(sample)} ({time.monotonic() - began:.0f} s)")
    unknown = [one for one in alive if one not in known]
    for one in alive:
        print(f"{known.get(one, 'NO REASON')}: {one}")
    raise SystemExit(bool(unknown) or sum(seen) < ENOUGH * len(sample))


if __name__ == "__main__":
    main()
