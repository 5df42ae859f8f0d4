"""`pmr run` by the front door: how things end, what runs, and what it finds around it."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.commands import ISO, Words, events

TIMEOUT_S = 2
# An ordinary user can give an instance no user but root.
LOGIN = "ec2-user" if os.geteuid() == 0 else "root"


@dataclass(frozen=True, slots=True)
class Ending:
    """A way for a task to end: its exit code and state, and the code of `pmr run` if another."""

    script: str
    exit_code: int
    state: str = "FAILED"
    run_code: int | None = None


# What DESIGN calls an exit code of the task is never one of the agent's.
ENDINGS = {
    "plain": Ending("exit 7", 7),
    "reboot": Ending("exit 194", 194),
    "killed code": Ending("exit 137", 137),
    "agent code 168": Ending("exit 168", 168),
    "agent code 169": Ending("exit 169", 169),
    "killed": Ending("kill -9 $$", 137),
    "missing command": Ending("there-is-no-such-command", 127),
    "timeout": Ending("sleep 60", 143, "TIMEOUT", 124),
    "closed output": Ending("exec >&- 2>&- <&-; exit 3", 3),
    "children go on": Ending("sleep 7.131 & exit 5", 5),
    "daemon": Ending("setsid -f sleep 7.132; env -i setsid -f sleep 7.133; exit 6", 6),
    "closed and well": Ending("exec >&- 2>&-; exit 0", 0, "SUCCEEDED"),
}


def outputs(happened: list[dict[str, Any]]) -> dict[str, str]:
    """Return what each instance wrote, by its name."""
    found: dict[str, str] = {}
    for one in happened:
        if one["event"] == "output":
            found[one["name"]] = found.get(one["name"], "") + one["text"]
    return found


def ours(client: ClientFactory) -> list[dict[str, Any]]:
    """Return what the agents said of every command that `pmr` sent."""
    pages = client("ssm").get_paginator("list_command_invocations").paginate()
    rows = [row for page in pages for row in page["CommandInvocations"]]
    return [row for row in rows if row["Comment"].startswith("pmr ")]


HOSTILE = ["a  b", "$(touch x)", "`id`", "*", "'", '"', "new\nline", "", "\\", ";", "-n", "é", "#"]
STUBBORN = "trap '' TERM; sleep 61.234 & setsid -f sleep 61.234; wait; sleep 61.234"
PROGRAMS = {
    "no shebang": b'echo "bash ${BASH_VERSION:+yes}"\n',
    "python": b"#!/usr/bin/env python3\nimport sys\nprint('python', sys.stdin.read() == '')\n",
    "no newline": b"#!/bin/sh\nprintf end",
    "not utf-8": b"printf '\xff\xfe\\0'\n",
    "binary": Path("/bin/pwd").read_bytes(),
}
VALUE = "a b\"'$HOME=\\ é"
Told = Mapping[str, subprocess.CompletedProcess[bytes]]


LOOK = r"""
for name in HOME USER LOGNAME SHELL LANG PYTHONUNBUFFERED AWS_REGION PMR_JOB_ID PMR_TASK_ID \
    PMR_TASK_INDEX PMR_TASK_COUNT PMR_TASK_ATTEMPT PMR_INSTANCE_ID PMR_HOST_INDEX PMR_HOST_COUNT \
    PMR_CLUSTER MINE; do
  printf '%s=%s\n' "$name" "${!name-UNSET}"
done
printf 'uid=%s\npwd=%s\nstdin=%s\n' "$(id -un)" "$PWD" "$(readlink /proc/$$/fd/0)"
printf 'files=%s\n' "$(find . -type f | sort | tr '\n' ' ')"
printf 'sums=%s\n' "$(cat one.txt folder/inner/two.bin | sha256sum)"
printf 'executable=%s\n' "$([ -x folder/tool ] && ./folder/tool)"
printf 'agent=%s\n' "$(env | grep -c '^AWS_SSM\|^SSM_\|^PMR_R')"
"""


def helper_words(folder: Path) -> Words:
    """Write helper files; return the options that send them along."""
    (folder / "one.txt").write_text("one\n")
    inner = folder / "folder" / "inner"
    inner.mkdir(parents=True)
    (inner / "two.bin").write_bytes(bytes(range(256)))
    tool = folder / "folder" / "tool"
    tool.write_text("#!/bin/sh\necho works\n")
    tool.chmod(0o755)
    return ("--files", folder / "one.txt", "--files", folder / "folder")


def cases(cluster: str, folder: Path) -> Iterator[tuple[str, Words]]:
    """Yield every run of this page by name; they do not mind one another."""
    host = itertools.cycle([f"{cluster}-000{number}" for number in range(3)])
    yield "stubborn", ("-i", next(host), "-i", next(host), "-T", "1", "-c", STUBBORN)
    yield "in turn", ("-j", "1", "--json", "--", "sleep", "0.3")
    yield "not watched", ("-i", next(host), "--wait-timeout", "1", "-c", "sleep 3; echo done")
    for name, ending in ENDINGS.items():
        words = ("--timeout", str(TIMEOUT_S), "--json", "-c", ending.script)
        yield name, ("-i", next(host), *words)
    for name, data in PROGRAMS.items():
        (folder / name).write_bytes(data)
        yield name, ("-i", next(host), "--no-prefix", "-s", folder / name)
    yield "hostile", ("-i", next(host), "--no-prefix", "--", "printf", "<%s>", *HOSTILE)
    yield "look", ("--json", "--env", f"MINE={VALUE}", *helper_words(folder), "-c", LOOK)
    script = 'printf "one\\ntwo $PMR_HOST_INDEX"; exit $PMR_HOST_INDEX'
    yield "mixed", ("-c", script)
    chosen = ("-i", f"{cluster}-0002", "-i", f"{cluster}-0000")
    yield "root", (*chosen, "-u", "root", "-c", "id -un; pwd; echo $HOME")
    yield "no user", ("-u", "nobody-here", "--json", "--", "true")


@pytest.fixture(scope="module")
def before(client: ClientFactory) -> set[str]:
    """Return the ids of the commands that `pmr` sent before this page."""
    return {row["CommandId"] for row in ours(client)}


@pytest.fixture(scope="module")
def told(
    pmr: Pmr, cluster: str, before: set[str], tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """Return how every run ended: several at a time, as most of their time is waiting."""
    assert isinstance(before, set)
    runs = dict(cases(cluster, tmp_path_factory.mktemp("runs")))
    with ThreadPoolExecutor(6) as pool:
        ended = pool.map(
            lambda words: pmr.raw("run", "-n", cluster, *words, check=False), runs.values()
        )
        return dict(zip(runs, ended, strict=True))


@pytest.mark.parametrize("name", ENDINGS)
def test_endings_by_run(told: Told, name: str) -> None:
    ending = ENDINGS[name]
    summary = events(told[name].stdout)[-1]
    expected = ending.exit_code if ending.run_code is None else ending.run_code
    assert told[name].returncode == expected
    assert (summary["event"], summary["exit_code"]) == ("summary", expected)
    assert summary["code_of"] == ("task" if ending.state == "FAILED" else "pmr")
    (task,) = summary["tasks"]
    assert (task["state"], task["exit_code"]) == (ending.state, ending.exit_code)


def test_endings_by_map(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "endings"
    folder.mkdir()
    for name, ending in ENDINGS.items():
        (folder / name).write_text(f"{ending.script}\n")
    told = pmr(
        *("map", "-n", cluster, folder, "--slots", "4", "--timeout", str(TIMEOUT_S), "--json"),
        check=False,
    )
    summary = events(told.stdout)[-1]
    assert (told.returncode, summary["exit_code"], summary["code_of"]) == (1, 1, "pmr")
    found = {one["task_name"]: (one["exit_code"], one["state"]) for one in summary["tasks"]}
    assert found == {name: (ending.exit_code, ending.state) for name, ending in ENDINGS.items()}


def test_nothing_of_it_reaches_the_agent(client: ClientFactory, before: set[str]) -> None:
    rows = [row for row in ours(client) if row["CommandId"] not in before]
    assert len(rows) > 30
    assert {row["StatusDetails"] for row in rows} == {"Success"}


def test_a_timeout_everywhere_is_124_and_ends_all_processes(
    pmr: Pmr, cluster: str, told: Told
) -> None:
    assert told["stubborn"].returncode == 124
    assert told["stubborn"].stderr.count(b"TIMEOUT") >= 2
    look = "grep -slz '^61[.]234$' /proc/[0-9]*/cmdline; :"
    assert pmr("run", "-n", cluster, "-u", "root", "-c", look).stdout == ""


def test_hostile_words_arrive_as_they_are(told: Told) -> None:
    assert told["hostile"].stdout.decode() == "".join(f"<{word}>" for word in HOSTILE)


def test_any_executable_runs(told: Told) -> None:
    said = {name: told[name].stdout for name in PROGRAMS}
    assert re.fullmatch(rb"/var/lib/pmr/work/\w+/0[.]1\n", said.pop("binary"))
    assert said == {
        "no shebang": b"bash yes\n",
        "python": b"python True\n",
        "no newline": b"end",
        "not utf-8": b"\xff\xfe\0",
    }


def test_what_a_task_finds(cluster: str, told: Told) -> None:
    happened = events(told["look"].stdout)
    digest = hashlib.sha256(b"one\n" + bytes(range(256))).hexdigest()
    written = outputs(happened)
    assert sorted(written) == [f"{cluster}-000{number}" for number in range(3)]
    job = happened[0]["job"]
    ids = {one["name"]: one["instance"] for one in happened if one["event"] == "task"}
    for index, (name, text) in enumerate(sorted(written.items())):
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        work = found.pop("pwd")
        assert work.startswith(f"/var/lib/pmr/work/{job}/")
        assert found.pop("sums").split()[0] == digest
        assert found == {
            "HOME": "/home/ec2-user" if LOGIN == "ec2-user" else "/root",
            "USER": LOGIN,
            "LOGNAME": LOGIN,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "AWS_REGION": "us-east-1",
            "PMR_JOB_ID": job,
            "PMR_TASK_ID": str(index),
            "PMR_TASK_INDEX": str(index),
            "PMR_TASK_COUNT": "3",
            "PMR_TASK_ATTEMPT": "1",
            "PMR_INSTANCE_ID": ids[name],
            "PMR_HOST_INDEX": str(index),
            "PMR_HOST_COUNT": "3",
            "PMR_CLUSTER": cluster,
            "MINE": VALUE,
            "uid": LOGIN,
            "stdin": "/dev/null",
            "files": "./folder/inner/two.bin ./folder/tool ./one.txt ",
            "executable": "works",
            "agent": "0",
        }


def test_users_and_chosen_instances(cluster: str, told: Told) -> None:
    lines = sorted(told["root"].stdout.decode().splitlines())
    assert [line for line in lines if line.endswith(" root")] == [
        f"[{cluster}-0000] root",
        f"[{cluster}-0002] root",
    ]
    assert len([line for line in lines if line.endswith(" /root")]) == 2
    assert told["no user"].returncode == 4
    tasks = events(told["no user"].stdout)[-1]["tasks"]
    assert {(task["state"], "no such user" in task["reason"]) for task in tasks} == {("LOST", True)}


def test_prefixes_and_mixed_codes(cluster: str, told: Told) -> None:
    assert told["mixed"].returncode == 1
    expected = [f"[{cluster}-000{n}] {text}" for n in range(3) for text in ("one", f"two {n}")]
    assert sorted(told["mixed"].stdout.decode().splitlines()) == expected
    stderr = told["mixed"].stderr.decode()
    assert "local cloud at 127.0.0.1:" in stderr
    assert "failed with exit code 2" in stderr


def test_one_instance_at_a_time_and_its_times(told: Told) -> None:
    happened = events(told["in turn"].stdout)
    assert happened[0]["event"] == "submitted"
    tasks = happened[-1]["tasks"]
    spans = sorted((task["started_at"], task["ended_at"]) for task in tasks)
    assert len(spans) == 3
    assert all(ISO.fullmatch(moment) for span in spans for moment in span)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(spans))
    assert all(0.3 <= task["duration_s"] < 10 for task in tasks)


def test_watching_ends_and_the_work_goes_on(pmr: Pmr, told: Told) -> None:
    assert told["not watched"].returncode == 4
    again = re.search(rb"pmr (?:--local )?(logs -f \w+ -n \w+)", told["not watched"].stderr)
    assert again
    assert pmr(*again[1].decode().split()).stdout == "done\n"


def test_detached_then_cancelled(pmr: Pmr, cluster: str) -> None:
    told = pmr("run", "-n", cluster, "-d", "--job-name", "later", "-c", "echo here; sleep 60")
    job = told.stdout.strip()
    assert f"logs -f {job} -n {cluster}" in told.stderr
    watched = pmr("logs", "-f", job, "-n", cluster, "--wait-timeout", "1s", check=False)
    assert watched.returncode == 4
    assert "goes on" in watched.stderr
    ended = pmr.json("cancel", job, "-n", cluster)
    assert (ended["tasks_cancelled"], ended["survivors"]) == (3, 0)
    document = pmr.json("status", "later", "-n", cluster, "--tasks")
    assert document["job"] == job
    assert {task["state"] for task in document["tasks"]} == {"CANCELLED"}
    assert document["counts"]["CANCELLED"] == 3
    (row,) = [one for one in pmr.json("jobs", "-n", cluster) if one["job"] == job]
    assert (row["name"], row["kind"], row["tasks"]) == ("later", "run", 3)


def test_ctrl_c_stops_watching_not_working(pmr: Pmr, cluster: str) -> None:
    one = ("-n", cluster, "-i", f"{cluster}-0001")
    with pmr.start("run", *one, "-c", "echo begun; sleep 2; echo done") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == f"[{cluster}-0001] begun\n".encode()
        os.killpg(client.pid, signal.SIGINT)
        said = client.stderr.read().decode()
    assert client.returncode == 130
    assert "Traceback" not in said
    again = re.search(r"pmr (?:--local )?(logs -f \w+ -n \w+)", said)
    assert again
    assert pmr(*again[1].split()).stdout == "begun\ndone\n"
