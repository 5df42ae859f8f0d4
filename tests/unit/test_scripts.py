"""What a map takes from a directory, and how words become programs."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.cli.inputs import collect_scripts, environment, helper_files, is_script, script_file
from poormanray.cli.map import map_
from poormanray.cli.run import run
from poormanray.errors import UsageProblem
from poormanray.shell import as_program, command_script, words_script


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"#!/bin/sh\n" + name.encode("utf-8", "surrogateescape"))


def test_scripts_are_sorted_and_named_by_their_path(tmp_path: Path) -> None:
    names = ["b.sh", "a b.sh", "new\nline", "sub/deep/c", "\udcff.sh", "ü"]
    fill(tmp_path, *names)
    found = collect_scripts([str(tmp_path)])
    assert [task.name for task in found.tasks] == sorted(names)
    assert found.scripts[sorted(names).index("a b.sh")] == b"#!/bin/sh\na b.sh"


@pytest.mark.parametrize(
    "name",
    [".hidden", ".git/config", "sub/.x/y", "a~", "a.bak", "a.orig", ".a.swp", "a.swp", "#a#"],
)
def test_hidden_files_and_backups_are_no_scripts(tmp_path: Path, name: str) -> None:
    assert not is_script(tmp_path / name, tmp_path)
    fill(tmp_path, name, "real")
    assert [task.name for task in collect_scripts([str(tmp_path)]).tasks] == ["real"]


def test_a_hidden_directory_can_be_named_itself(tmp_path: Path) -> None:
    fill(tmp_path / ".jobs", "a")
    assert len(collect_scripts([str(tmp_path / ".jobs")]).tasks) == 1


def test_two_scripts_of_one_name_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "x/a", "y/a")
    with pytest.raises(UsageProblem, match="two scripts are named"):
        collect_scripts([str(tmp_path / "x"), str(tmp_path / "y")])
    assert [task.name for task in collect_scripts([str(tmp_path)]).tasks] == ["x/a", "y/a"]


def test_nothing_to_run_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, ".hidden", "file.sh")
    (tmp_path / "empty").mkdir()
    for word, why in (("empty", "no scripts"), ("none", "not exist"), ("file.sh", "not a dir")):
        with pytest.raises(UsageProblem, match=why):
            collect_scripts([str(tmp_path / word)])


def test_what_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str | Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    fill(tmp_path, "a", "sub/b")
    for where in ("pathlib.Path.open", "pathlib.Path.stat", "os.scandir"):
        with monkeypatch.context() as patched:
            patched.setattr(where, refuse)
            for read in (collect_scripts, helper_files):
                with pytest.raises(UsageProblem, match=r"cannot read .*: Permission denied"):
                    read([str(tmp_path)])


def test_more_than_a_job_may_have_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a", "b")
    monkeypatch.setattr("poormanray.cli.inputs.MOST_BYTES", 20)
    for read in (collect_scripts, helper_files):
        with pytest.raises(UsageProblem, match="/b the job's files come to more than"):
            read([str(tmp_path)])


def test_the_script_of_a_run_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"#!/bin/sh\n",))
    writer.start()
    assert script_file(str(pipe)) == b"#!/bin/sh\n"
    writer.join()
    with pytest.raises(UsageProblem, match="there is no file"):
        script_file(str(tmp_path / "none"))
    with pytest.raises(UsageProblem, match="is a folder"):
        script_file(str(tmp_path))
    with pytest.raises(UsageProblem, match="neither a file nor a folder"):
        helper_files([str(pipe)])


def test_helper_files_keep_their_place_and_mode(tmp_path: Path) -> None:
    fill(tmp_path, "dir/sub/a", "dir/.hidden", "one.txt")
    (tmp_path / "dir/sub/a").chmod(0o755)
    found = helper_files([str(tmp_path / "dir"), str(tmp_path / "one.txt")])
    assert {item.path: item.mode & 0o111 for item in found} == {
        "dir/sub/a": 0o111,
        "dir/.hidden": 0,
        "one.txt": 0,
    }
    with pytest.raises(UsageProblem, match="two files would be"):
        helper_files([str(tmp_path / "one.txt")] * 2)
    with pytest.raises(UsageProblem, match="there is no"):
        helper_files([str(tmp_path / "none")])


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-n", "c", "-c", "true", "-u", "a\nlog_cap=1"],
        ["run", "-n", "c", "-c", "true", "-u", "jürgen"],
        ["map", "-n", "c", ".", "--slots", "٣"],
        ["map", "-n", "c", ".", "--slots", "0"],
    ],
)
def test_words_that_the_ledger_cannot_hold_are_usage_errors(words: list[str]) -> None:
    command = {"run": run, "map": map_}[words[0]]
    assert CliRunner().invoke(command, words[1:]).exit_code == 2


def test_names_of_ours_cannot_be_set() -> None:
    assert environment([("A", "1"), ("A", "2"), ("B", "")]) == {"A": "2", "B": ""}
    with pytest.raises(UsageProblem, match="PMR_TASK_ID"):
        environment([("PMR_TASK_ID", "1")])


@pytest.mark.parametrize("data", [b"#!/usr/bin/env python3\n\xff", b"\x7fELF\0\1", b"#!"])
def test_what_the_kernel_can_start_stays_as_it_is(data: bytes) -> None:
    assert as_program(data) == data


@pytest.mark.parametrize("data", [b"", b"echo hi\n", b" #!/bin/sh\n"])
def test_all_else_is_for_bash(data: bytes) -> None:
    assert as_program(data) == b"#!/bin/bash\n" + data


hostile = st.one_of(
    st.binary(max_size=12).map(lambda d: d.replace(b"\0", b"'").decode("utf-8", "surrogateescape")),
    st.text("'\"\\$`!*?~{}()<>|&;# \n\t-=ab", max_size=12),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(hostile, max_size=5))
def test_words_reach_the_program_byte_by_byte(words: list[str]) -> None:
    script = words_script(["printf", "%s\\0", *words])
    told = subprocess.run(["bash", "-s"], input=script, capture_output=True, check=True)
    expected = [word.encode("utf-8", "surrogateescape") for word in words] or [b""]
    assert told.stdout == b"".join(word + b"\0" for word in expected)


def test_a_command_line_is_a_whole_script() -> None:
    script = command_script("for x in a b; do echo $x\udcff; done; exit 3")
    told = subprocess.run(["bash", "-s"], input=script, capture_output=True, check=False)
    assert (told.returncode, told.stdout) == (3, b"a\xff\nb\xff\n")
