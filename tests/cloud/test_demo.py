"""The demo does what the README shows, and does not call a wrong count equal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "scripts/demo.sh"


@dataclass(frozen=True, slots=True)
class Ended:
    """What a demo said, and what it left in its home folder and among the temporary files."""

    exit_code: int
    stdout: str
    stderr: str
    left: list[str]


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a short name: sockets of the cloud lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="d"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_demo(**env: str) -> Ended:
    """Run the demo with the `pmr` beside this Python, in surroundings of its own."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with short_folder() as folder:
        surroundings = {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), **env}
        done = subprocess.run([DEMO], capture_output=True, text=True, check=False, env=surroundings)
        left = [path.name for path in folder.iterdir()]
    return Ended(done.returncode, done.stdout, done.stderr, left)


@pytest.fixture(scope="module")
def demos() -> tuple[Ended, Ended]:
    """Return how the demo ended, as it is and with one spoiled result: both at once."""
    with ThreadPoolExecutor() as pool:
        good, bad = pool.submit(run_demo), pool.submit(run_demo, PMR_DEMO_CORRUPT="1")
        return good.result(), bad.result()


@pytest.mark.timeout(600)
def test_the_demo_ends_with_an_equal_count(demos: tuple[Ended, Ended]) -> None:
    good, _bad = demos
    assert good.exit_code == 0, good.stdout + good.stderr
    assert "\nEQUAL: the merged results" in good.stdout
    assert good.stdout.rstrip().splitlines()[-1].startswith("The demo took ")
    assert not good.left


@pytest.mark.timeout(600)
def test_the_demo_fails_when_one_result_is_wrong(demos: tuple[Ended, Ended]) -> None:
    _good, bad = demos
    assert bad.exit_code == 1, bad.stdout + bad.stderr
    assert "\nEQUAL" not in bad.stdout
    assert "error: NOT EQUAL: NAME " in bad.stderr
    assert "The demo failed" in bad.stderr
    assert not bad.left
