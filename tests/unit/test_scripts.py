"""What a map takes from a directory, and how words become programs."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.cli.inputs import (
    Program,
    check_stdin,
    collect_scripts,
    environment,
    helper_files,
    is_script,
    script_file,
)
from poormanray.cli.map import map_
from poormanray.cli.run import run
from poormanray.errors import UsageProblem
from poormanray.manifest import HelperFile
from poormanray.shell import as_program, command_script, words_script
from poormanray.templates import idle_interpreter

SAID: list[str] = []


@pytest.fixture(autouse=True)
def said() -> list[str]:
    SAID.clear()
    return SAID


def collect(folders: list[str]) -> Program:
    return collect_scripts(folders, SAID.append)


def helpers(paths: list[str]) -> tuple[HelperFile, ...]:
    return helper_files(paths, SAID.append)


def executable(word: str) -> bytes:
    return script_file(word, SAID.append)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"#!/bin/sh\n" + name.encode("utf-8", "surrogateescape"))


def test_scripts_are_sorted_and_named_by_their_path(tmp_path: Path) -> None:
    names = ["b.sh", "a b.sh", "new\nline", "sub/deep/c", "\udcff.sh", "ü"]
    fill(tmp_path, *names)
    found = collect([str(tmp_path)])
    assert [task.name for task in found.tasks] == sorted(names)
    assert found.scripts[sorted(names).index("a b.sh")] == b"#!/bin/sh\na b.sh"


@pytest.mark.parametrize(
    "name",
    [".hidden", ".git/config", "sub/.x/y", "a~", "a.bak", "a.orig", ".a.swp", "a.swp", "#a#"],
)
def test_hidden_files_and_backups_are_no_scripts(tmp_path: Path, name: str) -> None:
    assert not is_script(tmp_path / name, tmp_path)
    fill(tmp_path, name, "real")
    assert [task.name for task in collect([str(tmp_path)]).tasks] == ["real"]


def test_a_hidden_directory_can_be_named_itself(tmp_path: Path) -> None:
    fill(tmp_path / ".jobs", "a")
    assert len(collect([str(tmp_path / ".jobs")]).tasks) == 1


def test_two_scripts_of_one_name_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "x/a", "y/a")
    with pytest.raises(UsageProblem, match="two scripts are named"):
        collect([str(tmp_path / "x"), str(tmp_path / "y")])
    assert [task.name for task in collect([str(tmp_path)]).tasks] == ["x/a", "y/a"]


def test_nothing_to_run_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, ".hidden", "file.sh")
    (tmp_path / "empty").mkdir()
    for word, why in (("empty", "no scripts"), ("none", "not exist"), ("file.sh", "not a dir")):
        with pytest.raises(UsageProblem, match=why):
            collect([str(tmp_path / word)])


def test_what_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str | Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    fill(tmp_path, "a", "sub/b")
    for where in ("pathlib.Path.open", "pathlib.Path.stat", "os.scandir"):
        with monkeypatch.context() as patched:
            patched.setattr(where, refuse)
            for read in (collect, helpers):
                with pytest.raises(UsageProblem, match=r"cannot read .*: Permission denied"):
                    read([str(tmp_path)])


def test_more_than_a_job_may_have_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a", "b")
    monkeypatch.setattr("poormanray.cli.inputs.MOST_BYTES", 20)
    for read in (collect, helpers):
        with pytest.raises(UsageProblem, match="/b the job's files come to more than"):
            read([str(tmp_path)])


def test_the_script_of_a_run_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"#!/bin/sh\n",))
    writer.start()
    assert executable(str(pipe)) == b"#!/bin/sh\n"
    writer.join()
    with pytest.raises(UsageProblem, match="there is no file"):
        executable(str(tmp_path / "none"))
    with pytest.raises(UsageProblem, match="is a folder"):
        executable(str(tmp_path))
    with pytest.raises(UsageProblem, match="neither a file nor a folder"):
        helpers([str(pipe)])


def test_helper_files_keep_their_place_and_mode(tmp_path: Path) -> None:
    fill(tmp_path, "dir/sub/a", "dir/.hidden", "one.txt")
    (tmp_path / "dir/sub/a").chmod(0o755)
    found = helpers([str(tmp_path / "dir"), str(tmp_path / "one.txt")])
    assert {item.path: item.mode & 0o111 for item in found} == {
        "dir/sub/a": 0o111,
        "dir/.hidden": 0,
        "one.txt": 0,
    }
    with pytest.raises(UsageProblem, match="two files would be"):
        helpers([str(tmp_path / "one.txt")] * 2)
    with pytest.raises(UsageProblem, match="there is no"):
        helpers([str(tmp_path / "none")])


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


def special(path: Path, kind: str) -> None:
    match kind:
        case "a link to a folder":
            path.with_name("elsewhere").mkdir(exist_ok=True)
            path.symlink_to("elsewhere")
        case "a link that leads nowhere":
            path.symlink_to("nothing")
        case "a pipe":
            os.mkfifo(path)
        case "a socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case _:
            path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    "kind",
    ["a link to a folder", "a link that leads nowhere", "a pipe", "a socket", "a device"],
)
def test_what_cannot_be_sent_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "top/a.sh", "top/sub/b.sh")
    special(tmp_path / "top/sub/odd", kind)
    for read in (collect, helpers):
        with pytest.raises(UsageProblem, match=f"sub/odd is {kind}") as caught:
            read([str(tmp_path / "top")])
        assert caught.value.hint


def test_a_link_to_a_file_is_sent_as_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "real.sh")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/a.sh").symlink_to("../real.sh")
    (tmp_path / "link").symlink_to("top")
    assert collect([str(tmp_path / "top")]).scripts == (b"#!/bin/sh\nreal.sh",)
    assert helpers([str(tmp_path / "link")])[0].data == b"#!/bin/sh\nreal.sh"


def test_what_is_left_out_is_said_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "a.sh", ".git/x/y", "b.sh~", *(f"{n}.bak" for n in range(9)))
    assert len(collect([str(tmp_path)]).tasks) == 1
    (said,) = SAID
    assert said.startswith("left out: ")
    assert said.endswith(f", {tmp_path}/3.bak and 6 more (hidden, or a backup)")
    assert f"{tmp_path}/.git," in said
    SAID.clear()
    (tmp_path / "none/deep").mkdir(parents=True)
    assert len(helpers([str(tmp_path)])) == 12
    assert [f"left out: {tmp_path}/none/deep (an empty folder)"] == SAID


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("README.md", b"# A title\n", "its name is no script's"),
        ("README", b"# A title\n", "its name is no script's"),
        ("data.csv", b"a,b\n", "its name is no script's"),
        ("x.py", b"print(1)\n", "its name is no script's"),
        ("X.R", b"print(1)\n", "its name is no script's"),
        ("prog", b"\xcf\xfa\xed\xfe\0\0", "neither a script nor a program of Linux"),
        ("a.sh", "#!/bin/sh\n".encode("utf-16"), "is UTF-16"),
        ("a.sh", b"#!/bin/bash\r\necho hi\r\n", "line ends of Windows"),
        ("a.sh", b"echo hi\r\n", "line ends of Windows"),
        ("a.sh", b"#!/usr/bin/env -S bash -e\necho hi\r\n", "line ends of Windows"),
        ("a.py", b"#!/usr/bin/env python3\r\nprint(1)\r\n", "line ends of Windows"),
    ],
)
def test_what_is_no_script_is_refused_by_name(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (lambda: collect([str(tmp_path)]), lambda: executable(str(tmp_path / name))):
        with pytest.raises(UsageProblem, match=why) as caught:
            read()
        assert name in caught.value.message
        assert caught.value.hint


def test_the_line_that_mends_windows_line_ends_works(tmp_path: Path) -> None:
    path = tmp_path / "it's.sh"
    path.write_bytes(b"#!/bin/sh\r\necho hi\r\n")
    with pytest.raises(UsageProblem) as caught:
        executable(str(path))
    subprocess.run(caught.value.hint, shell=True, check=True)
    assert executable(str(path)) == b"#!/bin/sh\necho hi\n"


def test_what_bash_runs_without_being_named_is_said(tmp_path: Path) -> None:
    for name in ("a.sh", "b.bash"):
        (tmp_path / name).write_bytes(b"echo hi\n")
    assert len(collect([str(tmp_path)]).tasks) == 2
    assert SAID == []
    for name in ("part-01", "job.7", "v1.2"):
        (tmp_path / name).write_bytes(b"echo hi\n")
    assert len(collect([str(tmp_path)]).tasks) == 5
    names = ", ".join(f"{tmp_path}/{name}" for name in ("job.7", "part-01", "v1.2"))
    assert [f"no #! line, so bash runs it: {names}"] == SAID
    (tmp_path / "part-01").write_bytes(b"")
    SAID.clear()
    collect([str(tmp_path)])
    assert f"{tmp_path}/part-01 is empty: its task does nothing" in SAID


def test_a_byte_order_mark_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf#!/usr/bin/env python3\nprint(1)\n")
    assert collect([str(tmp_path)]).scripts == (b"#!/usr/bin/env python3\nprint(1)\n",)
    assert [f"{tmp_path}/a: the byte order mark before its first line is left out"] == SAID
    SAID.clear()
    (tmp_path / "b").write_bytes(b"#!/bin/sh\r\n")
    assert [one.data for one in helpers([str(tmp_path)])][1] == b"#!/bin/sh\r\n"
    assert len(SAID) == 2
    assert all("the kernel does not start it" in line for line in SAID)


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "bash -s"],
        ["--", "bash"],
        ["--", "bash", "-s", "a", "b"],
        ["--", "sudo", "-u", "x", "/bin/sh", "-"],
        ["-c", "python3 -u -"],
        ["--", "env", "A=b", "perl"],
    ],
)
def test_a_program_that_could_only_read_stdin_is_refused(words: list[str]) -> None:
    told = CliRunner().invoke(run, ["-n", "c", *words], input="echo hi")
    assert isinstance(told.exception, UsageProblem)
    assert "a task's stdin is empty" in told.exception.message


@pytest.mark.parametrize(
    "command",
    [
        *("bash script.sh", "bash -c true", "python3 -m tool", "bash --version", "echo hi | bash"),
        *("bash <script", "bash -s <<< true", "python3 - <<E\nprint(1)\nE", "awk 1 f", "sed p"),
        *("{ bash; } <f", "while read -r x; do sh; done <f", "date; bash", "x=1", "'", "env"),
    ],
)
def test_other_programs_are_not(command: str) -> None:
    assert idle_interpreter(command) == ""


def test_a_stdin_that_is_not_sent_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("some\n")
    kept = os.dup(0)
    reading, writing = os.pipe()
    try:
        for source, expected in ((tmp_path / "data", 1), (Path("/dev/null"), 1), (None, 2)):
            if source is None:
                os.dup2(reading, 0)
                check_stdin("cat", SAID.append)
                os.write(writing, b"x")
            else:
                file = os.open(source, os.O_RDONLY)
                os.dup2(file, 0)
                os.close(file)
            check_stdin("cat", SAID.append)
            assert len(SAID) == expected
    finally:
        os.dup2(kept, 0)
        for number in (kept, reading, writing):
            os.close(number)
    assert all("stdin is not sent" in line for line in SAID)
    script = tmp_path / "a"
    script.write_text("#!/bin/sh\n")
    assert executable(str(script)) == b"#!/bin/sh\n"


def test_a_variable_has_its_limit() -> None:
    assert environment([("A", "x" * 131_069)])["A"]
    with pytest.raises(UsageProblem, match="at most 131,071 bytes"):
        environment([("A", "x" * 131_070)])
