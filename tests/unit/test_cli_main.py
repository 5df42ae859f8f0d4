"""The table of commands, and the one place where every error ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

import poormanray
from poormanray import cli
from poormanray.errors import NotFound

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

WATCHED = ("boto3", "botocore", "moto", "rich", "tenacity", "poormanray.local")
REPORT = f"""
import atexit, sys
sys.argv = ["pmr", *sys.argv[1:]]
atexit.register(lambda: print("loaded:", *(m for m in {WATCHED} if m in sys.modules)))
from poormanray.cli import main
main()
"""


def ended(monkeypatch: Patch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pmr", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def ending_with(monkeypatch: Patch, error: BaseException) -> None:
    """Make `pmr version` end with an error."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "version", click.Command("version", callback=fail))


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["--help"], {}),
        (["--version"], {}),
        ([], {"_PMR_COMPLETE": "bash_complete", "COMP_WORDS": "pmr c", "COMP_CWORD": "1"}),
        ([], {"_PMR_COMPLETE": "bash_complete", "COMP_WORDS": "pmr list --", "COMP_CWORD": "2"}),
    ],
)
def test_help_version_and_completion_load_nothing_big(
    words: list[str], env: dict[str, str]
) -> None:
    told = subprocess.run(
        [sys.executable, "-c", REPORT, *words], env=env, capture_output=True, text=True, check=True
    ).stdout
    loaded = told.rpartition("loaded:")[2].split()
    assert not set(loaded) & {"boto3", "botocore", "moto", "rich", "poormanray.local"}
    assert len(told.splitlines()) > 1


def test_every_row_of_the_table_is_a_command_with_help() -> None:
    for name, row in cli.COMMANDS.items():
        command = cli.pmr.get_command(click.Context(cli.pmr), name)
        assert command is not None
        assert command.help, name
        assert bool(row.help) is not command.hidden, name


def test_version(monkeypatch: Patch, capsys: Capture) -> None:
    assert ended(monkeypatch, "version") == 0
    assert ended(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"pmr {poormanray.__version__}\n" * 2


def test_no_command_shows_the_help(monkeypatch: Patch, capsys: Capture) -> None:
    assert ended(monkeypatch) == 2
    assert "terminate" in capsys.readouterr().err


def test_ssh_is_answered_with_what_to_use(monkeypatch: Patch, capsys: Capture) -> None:
    assert ended(monkeypatch, "ssh", "-i", "key", "host", "--", "ls") == 2
    told = capsys.readouterr().err
    assert "no SSH" in told
    assert "pmr run" in told


def test_a_mistyped_command_is_answered_with_a_guess(monkeypatch: Patch, capsys: Capture) -> None:
    assert ended(monkeypatch, "terminat") == 2
    assert "did you mean terminate?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFound("no cluster", "look"), 3, "error: no cluster\n  next: look\n"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("odd"), 70, "a bug in poormanray: RuntimeError: odd\n  next: set PMR_DEBUG"),
        (click.UsageError("bad words"), 2, "error: bad words\n  next: pmr version --help\n"),
    ],
)
def test_every_end_has_its_code_and_no_traceback(
    monkeypatch: Patch, capsys: Capture, error: BaseException, code: int, said: str
) -> None:
    ending_with(monkeypatch, error)
    assert ended(monkeypatch, "version") == code
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "poormanray", "version"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_the_traceback_is_there_on_request(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("PMR_DEBUG", "1")
    ending_with(monkeypatch, RuntimeError("odd"))
    assert ended(monkeypatch, "version") == 70
    assert "Traceback" in capsys.readouterr().err


def test_bad_words_are_json_too_when_json_is_asked_for(monkeypatch: Patch, capsys: Capture) -> None:
    assert ended(monkeypatch, "version", "--nonsense", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2
    assert ended(monkeypatch, "version", "--nonsense", "--", "--json") == 2
    assert capsys.readouterr().out == ""
