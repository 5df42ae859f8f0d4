"""The README and the commands keep each other's promises."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from scripts import reference

README = (reference.REPO / "README.md").read_text()
PAGES = (reference.REPO / "docs/commands.md").read_text()
SESSION = reference.REPO / "docs/demo-session.txt"
ALL = [
    (f"{name} {sub}".strip(), part)
    for name, command, _line in reference.commands()
    for sub, part in [
        ("", command),
        *(command.commands.items() if isinstance(command, click.Group) else ()),
    ]
]


def typed(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_has_help_and_its_page(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    assert f"\n## {name}\n" in PAGES, f"{name} is not in docs/commands.md: run scripts/docs"


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_option_has_help(name: str, command: click.Command) -> None:
    silent = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not option.help
    ]
    assert not silent, f"{name}: these options have no help: {silent}"


@pytest.mark.parametrize("name", [name for name, _command, _line in reference.commands()])
def test_every_command_has_its_place_in_the_readme(name: str) -> None:
    assert f"| [`{name}`]" in README, f"{name} is not in README.md: run scripts/docs"


def test_the_session_shows_the_commands_that_the_demo_runs() -> None:
    demo = Path(reference.REPO / "scripts/demo.sh")
    listed = subprocess.run([demo, "--commands"], capture_output=True, text=True, check=True)
    assert typed(SESSION.read_text()) == typed(listed.stdout)
    assert typed(SESSION.read_text()) == typed(README)
