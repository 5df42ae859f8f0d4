"""No part of the client starts a shell but for --on-done; else only the local cloud's daemon."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src/poormanray"
CLIENT = [path for path in SOURCE.rglob("*.py") if SOURCE / "local" not in path.parents]
# The first starts the daemon: our own interpreter, words of ours, no shell. The second is what the
# user asks for with --on-done CMD: only the user's own words reach that shell, facts are variables.
MAY_START = {"cli/local_daemon.py", "cli/chaining.py"}
STARTERS = {"subprocess", "pty", "pexpect", "multiprocessing", "asyncio"}
OF_OS = ("system", "popen", "spawn", "exec", "posix_spawn", "fork", "startfile")
OF_CLICK = {"edit", "launch", "echo_via_pager"}


def starts(source: str) -> list[str]:
    """Return what in a module's text could start another program, and any shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [one.name for one in names if one.name.partition(".")[0] in STARTERS]
            case ast.ImportFrom(module=str(module), names=names):
                if module.partition(".")[0] in STARTERS:
                    found.append(module)
                found += [
                    one.name for one in names if module == "os" and one.name.startswith(OF_OS)
                ]
                found += [one.name for one in names if module == "click" and one.name in OF_CLICK]
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name.startswith(OF_OS):
                found.append(f"os.{name}")
            case ast.Attribute(value=ast.Name(id="click"), attr=name) if name in OF_CLICK:
                found.append(f"click.{name}")
            case ast.keyword(arg="shell"):
                found.append("shell=")
    return found


@pytest.mark.parametrize("path", CLIENT, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_starts_a_program(path: Path) -> None:
    allowed = ["subprocess"] if str(path.relative_to(SOURCE)) in MAY_START else []
    assert starts(path.read_text()) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from subprocess import run",
        "import os\nos.system('id')",
        "from os import popen",
        "os.execvp('sh', [])",
        "import click\nclick.edit('x')",
        "click.echo_via_pager('x')",
        "run('id', shell=True)",
    ],
)
def test_what_starts_a_program_is_found(source: str) -> None:
    assert starts(source)
