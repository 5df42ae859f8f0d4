"""Traps of root inside, under every fault of instances that the cloud can order."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.conftest import own_cloud
from tests.support.escapes import ATTACKS, INSIDE_ATTACKS, PRELUDE, Outside, outsides
from tests.support.hosting import is_root, require

REPO = Path(__file__).resolve().parents[2]
# One that the machine has a name for: screen refuses all others.
USER = pwd.getpwnam("nobody").pw_uid
NAME = "traps"
ALL = [*ATTACKS.values(), *INSIDE_ATTACKS.values()]
# The disk is limited before anything has been attacked, and then on whichever still allows it.
FAULTS = [
    *(["disk-full", "--free", "1MiB"], ["attack"], ["disk-full", "--free", "0"], ["attack"]),
    *(["agent-stop"], ["agent-start"], ["agent-restart"], ["agent-kill"], ["agent-start"]),
    *(["reply-lost"], ["agent-cut-off", "--seconds", "1"], ["instance-freeze"]),
    *(["instance-thaw"], ["runner-kill"], ["screen-kill"], ["disk-free"], ["instance-reboot"]),
    *(["attack"], ["each", "disk-full"], ["instance-crash"], ["instance-reboot"], ["attack"]),
    *(["instance-stop"], ["resume"], ["attack"], ["instance-reclaim", "--seconds", "1"]),
    *(["instance-terminate"],),
]


@contextlib.contextmanager
def many_outside(count: int) -> Iterator[list[Outside]]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(outsides()) for _ in range(count)]
        for one in found:
            one.plant()
        yield found


def script(outside: list[Outside]) -> str:
    """Return a task that attacks as its instance's index says."""
    cases = "\n".join(
        f"{number}) OUT={one.folder}\n{attack}\n;;"
        for number, (attack, one) in enumerate(zip(ALL, outside, strict=True))
    )
    return f"AT=\n{PRELUDE}\ncase $PMR_HOST_INDEX in\n{cases}\nesac\nexit 0\n"


@pytest.mark.timeout(1500)
def test_nothing_outside_changes_under_any_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("namespaces", monkeypatch)
    settings = {"interrupted_report_s": 0.5, "agent_start_s": 0.2, "agent_restart_s": 0.5}
    with many_outside(len(ALL)) as outside, own_cloud(tmp_path, settings) as pmr:
        before = [one.state() for one in outside]
        pmr("create", "-n", NAME, "-N", str(len(ALL)), timeout_s=300)
        task = script(outside)
        struck = []
        for kind, *words in FAULTS:
            if kind == "attack":
                on = ("-n", NAME, "-u", "root", "--wait-timeout", "20s", "--deliver-timeout", "30s")
                pmr("run", *on, "-c", task, check=False, timeout_s=300)
            elif kind == "resume":
                pmr("resume", "-n", NAME, "-d", check=False, timeout_s=300)
            elif kind == "each":
                for number in range(len(ALL)):
                    one = ("--instance", f"{NAME}-{number:04}")
                    pmr("local", "fault", "add", *words, *one, check=False, timeout_s=300)
            else:
                fault = ("local", "fault", "add", kind, "--instance", f"{NAME}-*")
                struck.append(pmr(*fault, *words, check=False, timeout_s=300).returncode)
            assert [one.state() for one in outside] == before, (kind, words)
        # The first disk-full among them, which nothing has been done against yet.
        assert struck[0] == 0
        assert struck.count(0) >= len(struck) / 2, struck
        pmr("terminate", "-n", NAME, "--yes", check=False, timeout_s=300)
        pmr("local", "down", timeout_s=300)
        assert [one.state() for one in outside] == before


@pytest.mark.timeout(1500)
@pytest.mark.skipif(not is_root(), reason="it is an ordinary user already")
@pytest.mark.parametrize(
    ("which", "chosen"),
    [
        ("test_escapes.py", "outside"),
        ("test_host_ends.py", "daemons or sigkill or outlive or unruly"),
    ],
)
def test_nothing_outside_changes_for_an_ordinary_user(which: str, chosen: str) -> None:
    site = Path(pytest.__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as home:
        shutil.copytree(REPO / "tests", Path(home, "tests"))
        shutil.copytree(REPO / "src", Path(home, "src"))
        for path in (Path(home), *Path(home).rglob("*")):
            os.chown(path, USER, USER)
        variables = {"HOME": home, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        variables |= {"PYTHONPATH": f"{home}/src:{home}:{site}", "TMPDIR": home}
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        python = next((one for one in pythons() if usable(as_user, one, variables)), None)
        if python is None:
            pytest.skip("no interpreter that another user can run has what the tests need")
        words = ["-m", "pytest", f"tests/cloud/{which}", "-k", chosen, "-q"]
        words += ["-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*as_user, python, *words],
            env=variables,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=1500,
        )
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-1000:]


def pythons() -> list[str]:
    return [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}", "/usr/bin/python3"]


def usable(as_user: list[str], python: str, variables: dict[str, str]) -> bool:
    """Tell whether a user can run an interpreter that has what the tests need."""
    # setpriv finds what the user then cannot: so the interpreter must find itself once more.
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    words = [*as_user, python, "-c", f"import psutil, pytest, boto3, moto; {again}"]
    ended = subprocess.run(words, env=variables, capture_output=True, check=False)
    return ended.returncode == 0
