"""A look at a job starts few processes on its instance: there may be many looks a second."""

from __future__ import annotations

import subprocess

import pytest

from scripts.bench_look import COUNTED, measure_look

UNSHARE = ["unshare", "-Urpf", "--mount-proc", "bash", "-c", COUNTED, "-", "0", "/dev/null"]


def test_a_look_starts_few_processes() -> None:
    if subprocess.run(UNSHARE, capture_output=True, check=False).returncode:
        pytest.skip("this machine has no namespaces for us")
    figures = {figure.what: figure for figure in measure_look()}
    assert len(figures) == 8
    assert [what for what, figure in figures.items() if not figure.met] == []
