"""scripts/setup.sh: which Python, which folder, and how GNU screen and parallel get here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup.sh"
BASH = shutil.which("bash") or "/bin/bash"


class Machine:
    """A PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        for name in ("basename", "cat", "cksum", "cut", "dirname", "env", "ln", "mkdir"):
            self.bin.joinpath(name).symlink_to(shutil.which(name) or name)

    def has(self, name: str, script: str = "") -> None:
        """Put a command there that notes how it was called."""
        program = self.bin / name
        program.write_text(f'#!{BASH}\necho "{name} $*" >>{self.calls}\n{script}\n')
        program.chmod(0o755)

    def run(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Source setup.sh and run a script after it."""
        return subprocess.run(
            [BASH, "-c", f"set -euo pipefail; source {SETUP}; {script}", "scripts/test"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(self.bin), "HOME": "/nonexistent", **env},
        )

    def called(self) -> list[str]:
        """Return the calls of the commands, in order."""
        return self.calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_python_that_is_too_old_is_passed_over(machine: Machine) -> None:
    machine.has("python3", "exit 1")
    machine.has("python3.12")
    assert machine.run("find_python").stdout == "python3.12\n"


def test_without_a_python_it_says_what_to_do(machine: Machine) -> None:
    ended = machine.run("find_python")
    assert ended.returncode == 1
    assert "error: no Python 3.11 or newer" in ended.stderr
    assert "next: install one, or name it: PMR_PYTHON=" in ended.stderr


def test_nothing_is_installed_when_screen_is_there(machine: Machine) -> None:
    machine.has("screen")
    machine.has("apt-get")
    assert machine.run("need_screen").returncode == 0
    assert not machine.calls.exists()


@pytest.mark.parametrize(
    ("manager", "calls"),
    [
        ("apt-get", ["apt-get update", "apt-get install -y screen"]),
        ("dnf", ["dnf install -y screen"]),
        ("apk", ["apk add screen"]),
    ],
)
def test_who_may_installs_screen(machine: Machine, manager: str, calls: list[str]) -> None:
    machine.has(manager, f"[[ $* != *screen* ]] || ln -s {BASH} {machine.bin}/screen")
    ended = machine.run('may_be_root() { true; }; as_root() { "$@"; }; need_screen')
    assert ended.returncode == 0, ended.stderr
    assert machine.called() == calls


@pytest.mark.parametrize(
    ("manager", "call"),
    [("apt-get", "apt-get install -y parallel"), ("zypper", "install gnu_parallel")],
)
def test_another_program_of_that_name_is_no_gnu_parallel(
    machine: Machine, manager: str, call: str
) -> None:
    machine.has("parallel", "exit 1")
    there = f'printf "#!{BASH}\\necho GNU parallel 20221122\\n" >{machine.bin}/parallel'
    machine.has(manager, f"[[ $* != *install* ]] || {there}")
    ended = machine.run('may_be_root() { true; }; as_root() { "$@"; }; need_parallel')
    assert ended.returncode == 0, ended.stderr
    assert machine.called()[-1].endswith(call)
    machine.calls.unlink()
    assert machine.run("need_parallel").returncode == 0
    assert not machine.calls.exists()


def test_who_may_not_is_told_the_one_command(machine: Machine) -> None:
    machine.has("apt-get")
    ended = machine.run("may_be_root() { false; }; need_screen")
    assert ended.returncode == 1
    assert "next: sudo apt-get install -y screen" in ended.stderr
    assert not machine.calls.exists()


def test_a_failed_installation_is_shown_and_ends_it(machine: Machine) -> None:
    machine.has("dnf", "echo no such package; exit 3")
    ended = machine.run('may_be_root() { true; }; as_root() { "$@"; }; need_screen')
    assert ended.returncode == 1
    assert "no such package" in ended.stderr
    assert "next: dnf install -y screen" in ended.stderr


def test_an_installation_that_brings_nothing_is_no_success(machine: Machine) -> None:
    machine.has("dnf")
    ended = machine.run('may_be_root() { true; }; as_root() { "$@"; }; need_screen')
    assert ended.returncode == 1
    assert "error: GNU screen is still missing" in ended.stderr


def test_the_folder_can_be_chosen(machine: Machine) -> None:
    ended = machine.run("choose_venv requirements.lock", PMR_VENV="/some/where")
    assert ended.stdout == "/some/where\n"


def test_a_checkout_of_someone_else_is_left_as_it_is(machine: Machine, tmp_path: Path) -> None:
    tmp_path.joinpath("checkout").mkdir(mode=0o555)
    ended = machine.run(
        "repo=$HOME/../checkout; choose_venv requirements.lock", HOME=str(tmp_path / "bin")
    )
    # Root may write everywhere, so for root no checkout is someone else's.
    there = f"{tmp_path}/bin/../checkout/.venv" if os.geteuid() == 0 else ""
    assert ended.stdout.startswith(there or f"{tmp_path}/bin/.cache/poormanray/venv-")
