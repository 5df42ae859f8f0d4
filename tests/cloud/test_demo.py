"""The demo does what the README shows, and does not call a wrong count equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "scripts/demo.sh"


def run_demo(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with the `pmr` beside this Python, in surroundings of its own."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    surroundings = {"PATH": path, "HOME": str(tmp_path), **env}
    return subprocess.run(
        [DEMO], capture_output=True, text=True, check=False, env=surroundings, cwd=tmp_path
    )


def leftovers() -> set[str]:
    return {str(path) for path in Path("/tmp").glob("pmr-demo.*")}


@pytest.mark.timeout(180)
def test_the_demo_ends_with_an_equal_count(tmp_path: Path) -> None:
    before = leftovers()
    ended = run_demo(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "EQUAL: the merged results" in ended.stdout
    assert not leftovers() - before
    assert not list(tmp_path.iterdir()), "the demo wrote into the home folder"


@pytest.mark.timeout(180)
def test_the_demo_fails_when_one_result_is_wrong(tmp_path: Path) -> None:
    before = leftovers()
    ended = run_demo(tmp_path, PMR_DEMO_CORRUPT="1")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "error: NOT EQUAL: NAME " in ended.stderr
    assert "The demo failed" in ended.stderr
    assert not leftovers() - before
