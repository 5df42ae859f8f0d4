"""Thousands of hostile strings on the whole road to an instance and back, bytes compared."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from poormanray.cli.inputs import is_script
from poormanray.shell import Call, render
from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.commands import events

# What some shell, terminal, parser or service somewhere takes for more than text.
NASTY = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "-",
        "--",
        "-n",
        "-e",
        "--help",
        "~",
        "*",
        "?",
        "[a-z]",
        "{a,b}",
    ),
    *("'", '"', "\\", "\\n", "'\\''", "`id`", "$(id)", "$((1+1))", "${IFS}", "$HOME", "$'x'", "$@"),
    *("!!", "!history", "^a^b", "#", ";", "&", "|", "||", "<", ">", ">>&2", "<<END", "<(id)", "()"),
    *("{{ssm:x}}", "{{ssm-secure:x}}", "{{ ssm:/a/b }}", "{{ foo }}", "{{ commands }}", "{{"),
    *("END", "\nEND\n", "EOF", "%s%n%d", "%(a)s", "{0}", "{x!r}", "$1", "a=b", "=", "x=(1 2)"),
    *("\x1b[31m", "\x1b]8;;http://x\x07", "\x1b]52;c;eA==\x07", "\x9b2J", "\x07", "\x08", "\x7f"),
    *("\u202egpj.sh", "\u2066", "\u200d", "e\u0301", "\U0001f469\u200d\U0001f4bb", "\ufeff"),
    *("[red]x[/red]", "[link=http://x]", "<script>", "&amp;", "PMR1 0 4 0 x", "E 1 0 1 0 exit"),
    *("\udcff\udcfe", "\udce2\udc82", "\x01", "\x01\x7f", "\x7f\x01", "é", "雪", "\u2028", "../.."),
)
PIECES = tuple(map(os.fsencode, NASTY))
LONG = b"a 'b\" $c\n" * 11_000
# Variables that mean something to the shell that starts tasks, or to any shell.
SHELL_NAMES = (
    *("SCRIPT", "SWITCH", "WORK", "LOG", "JOB", "JOB_DIR", "SLOT", "FILES", "QUEUE", "NOW", "key"),
    *("ENTRIES", "entry", "UID", "EUID", "PPID", "IFS", "RANDOM", "SECONDS", "LINENO", "DIRSTACK"),
    *("HOME", "USER", "TERM", "AWS_REGION", "META_user", "USER_IDS", "LARGE", "VERB", "i", "__"),
)
# How many strings go which way; together more than 5,000.
ARGUMENTS, LINE, VALUES, CONTENT, NAMES, SCRIPTS = 1800, 1000, 1000, 1350, 120, 60
FIND = "find . -type f -print0 | sort -z | xargs -0 sha256sum -z"


def strings_of(data: bytes) -> Iterator[bytes]:
    """Read bytes as strings made of nasty pieces and of other bytes, but NUL."""
    one = b""
    for byte in data:
        if byte % 9 == 0:
            yield one
            one = b""
        else:
            one += PIECES[byte % len(PIECES)] if byte % 3 == 0 else bytes([byte])
    yield one


def drawn(count: int) -> list[bytes]:
    """Return different strings, the longest and the nastiest first."""
    found = dict.fromkeys([LONG, *PIECES])

    @settings(
        max_examples=count // 8,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=150, max_size=600))
    def collect(data: bytes) -> None:
        found.update(dict.fromkeys(strings_of(data)))

    collect()
    assert len(found) >= count
    return list(found)[:count]


def as_names(strings: Iterable[bytes], most: int) -> list[bytes]:
    """Make names of files of strings; a map takes each of them for a script."""
    found: dict[bytes, None] = {}
    for one in strings:
        name = one.replace(b"/", b"_")[:200]
        if name.strip(b".") and is_script(Path(os.fsdecode(name)), Path()):
            found[name] = None
    return list(found)[:most]


@dataclass(slots=True)
class Road:
    """What went one way, what came back, and how many strings that were."""

    sent: object
    came: object
    count: int


@dataclass(slots=True)
class Traveller:
    """Sends strings on each road; the roads do not mind one another."""

    pmr: Pmr
    cluster: str
    folder: Path
    strings: list[bytes]
    at: int = 0
    jobs: dict[str, str] = field(default_factory=dict)

    def some(self, count: int) -> list[bytes]:
        """Return strings that no other road takes."""
        self.at += count
        return self.strings[self.at - count : self.at]

    def run(self, host: int, name: str, *words: str | Path) -> bytes:
        """Run on one instance, under a job name, and return what the task wrote."""
        on = ("-n", self.cluster, "-i", f"{self.cluster}-000{host}")
        words = ("--no-prefix", "--job-name", name, *words)
        told = self.pmr.raw("run", *on, *words, timeout_s=120, check=False)
        assert told.returncode == 0, told.stderr[-2000:]
        self.jobs[told.stderr.decode().partition("job ")[2].partition(":")[0]] = name
        return told.stdout

    def arguments(self, words: list[bytes]) -> Road:
        """Send strings as the words of a program."""
        came = self.run(0, "{{ssm:x}}", "--", "printf", r"%s\0", *map(os.fsdecode, words))
        return Road(words, came.split(b"\0")[:-1], len(words))

    def line(self, words: list[bytes]) -> Road:
        """Send strings in a command line, and the whole of it back as well."""
        text = "printf '%s\\0' " + shlex.join(map(os.fsdecode, words)) + '\ncat "$0"; exit\n$(('
        came = self.run(1, "a\nb\t$(id)", "-c", text).split(b"\0")
        sent = [*words, b"#!/bin/bash\n" + os.fsencode(text) + b"\n"]
        return Road(sent, came, len(words))

    def values(self, values: list[bytes]) -> Road:
        """Send strings as environment values."""
        names = [*SHELL_NAMES, *(f"N{number}" for number in range(len(values) - len(SHELL_NAMES)))]
        sent = dict(zip(map(os.fsencode, names), values, strict=True))
        pairs = [word for k, v in sent.items() for word in ("--env", os.fsdecode(k + b"=" + v))]
        script = self.folder / "says environment"
        script.write_text("#!/bin/sh\ncat /proc/$$/environ\n")
        told = self.run(2, "[red]\u202e\x1b[31m", *pairs, "-s", script).split(b"\0")
        came = dict(entry.split(b"=", 1) for entry in told if b"=" in entry)
        return Road(sent, {key: came.get(key) for key in sent}, len(sent))

    def files(self, names: list[bytes], content: list[bytes]) -> Road:
        """Send strings as the names and the content of helper files."""
        top = self.folder / "it's a \udcff folder\n"
        top.mkdir()
        sent = {}
        for number, name in enumerate(names):
            data = b"\0".join(content[number :: len(names)])
            (top / os.fsdecode(name)).write_bytes(data)
            sent[os.fsencode(f"./{top.name}/") + name] = hashlib.sha256(data).hexdigest()
        lines = self.run(1, "-n", "--files", top, "-c", FIND).split(b"\0")[:-1]
        came = {line[66:]: line[:64].decode() for line in lines}
        return Road(sent, came, len(names) + len(content))

    def scripts(self, names: list[bytes]) -> Road:
        """Send strings as the names of scripts, and binary content in them."""
        top = self.folder / "-scripts"
        top.mkdir()
        sent = {}
        for name in names:
            data = b"#!/usr/bin/tail -n+2\n" + os.urandom(300) + name
            (top / os.fsdecode(name)).write_bytes(data)
            sent[name] = data.partition(b"\n")[2]
        words = ("--slots", "2", "--json", "--job-name", "../..")
        told = self.pmr("map", "-n", self.cluster, *words, "--", top, timeout_s=120)
        job, tasks = events(told.stdout)[-1]["job"], events(told.stdout)[-1]["tasks"]
        self.jobs[job] = "../.."
        self.pmr("results", job, "-n", self.cluster, "-o", self.folder / "out", timeout_s=120)
        came = {
            os.fsencode(one["task_name"]): (self.folder / f"out/{one['task']}.log").read_bytes()
            for one in tasks
        }
        return Road(sent, came, len(names))


Told = tuple[Traveller, Mapping[str, Road]]


@pytest.fixture(scope="module")
def told(pmr: Pmr, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Return what came of every road."""
    strings = drawn(ARGUMENTS + LINE + VALUES + CONTENT)
    names = as_names([*PIECES, *strings[500:]], NAMES + SCRIPTS)
    goer = Traveller(pmr, cluster, tmp_path_factory.mktemp("hostile"), strings)
    arguments, line, values, content = map(goer.some, (ARGUMENTS, LINE, VALUES, CONTENT))
    roads: dict[str, Callable[[], Road]] = {
        "arguments": lambda: goer.arguments(arguments),
        "line": lambda: goer.line(line),
        "values": lambda: goer.values(values),
        "files": lambda: goer.files(names[:NAMES], content),
        "scripts": lambda: goer.scripts(names[-SCRIPTS:]),
    }
    with ThreadPoolExecutor(len(roads)) as pool:
        under_way = {name: pool.submit(road) for name, road in roads.items()}
        return goer, {name: one.result() for name, one in under_way.items()}


@pytest.mark.parametrize("road", ["arguments", "line", "values", "files", "scripts"])
def test_every_byte_arrives(told: Told, road: str) -> None:
    assert told[1][road].came == told[1][road].sent


def test_they_are_thousands(told: Told) -> None:
    goer, roads = told
    assert sum(road.count for road in roads.values()) + len(goer.jobs) >= 5000
    # Of those that are drawn, each counts once, and not what is always among them.
    assert len({*goer.strings} - {LONG, *PIECES}) >= 5000


def test_names_of_jobs_come_back(told: Told, pmr: Pmr, cluster: str) -> None:
    known = {one["job"]: one["name"] for one in pmr.json("jobs", "-n", cluster)}
    assert len(told[0].jobs) == 5
    assert {job: known[job] for job in told[0].jobs} == told[0].jobs
    # In text, a name is a part of one line and nothing more.
    said = pmr("jobs", "-n", cluster).stdout
    assert len(said.splitlines()) == 1 + len(known)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)


def test_no_text_of_the_user_stands_in_a_command(told: Told, client: ClientFactory) -> None:
    assert told
    after = render(Call("observe", (), 0)).split("'\n", 2)[2]
    page = client("ssm").get_paginator("list_commands").paginate()
    sent = [command for part in page for command in part["Commands"]]
    ours = [one for one in sent if one["Comment"].startswith("pmr ")]
    assert len(ours) > 10
    for one in ours:
        assert re.fullmatch(r"pmr [a-z]+( [0-9a-z]{11})?( [0-9]+)?", one["Comment"])
        (script,) = one["Parameters"]["commands"]
        ours_alone = r"#!/bin/sh\nPMR_WITH_DATA='[a-z0-9]*'\nPMR_SEND='[A-Za-z0-9+/=]+'\n"
        assert re.fullmatch(ours_alone, script.removesuffix(after))


def test_an_owner_comes_back(pmr: Pmr) -> None:
    owner = 'O\'Neil "x" $(id) `id` é雪 {{ssm:x}} [red]'
    pmr("create", "-n", "owned", "-N", "1", "-d", "-o", owner)
    (one,) = pmr.json("list", "-n", "owned")["instances"]
    pmr("terminate", "-n", "owned", "--yes")
    assert one["owner"] == owner


def test_what_cannot_be_a_name_is_a_usage_error(pmr: Pmr, cluster: str) -> None:
    on = ("run", "-n", cluster)
    for words in (
        ("run", "-n", "a\nb", "-c", "id"),
        ("run", "-n", "\udcff", "-c", "id"),
        (*on, "-u", "root\nid", "-c", "id"),
        (*on, "-u", "$(id)", "-c", "id"),
        (*on, "--env", "A B=1", "-c", "id"),
        (*on, "--env", "é=1", "-c", "id"),
        (*on, "--env", "A\n=1", "-c", "id"),
        (*on, "-s", "\udcff\n", "-c", ""),
        ("status", "-n", cluster, "--task", "\udcff"),
    ):
        ended = pmr(*words, "--json", check=False)
        assert (ended.returncode, json.loads(ended.stdout)["error"]["exit_code"]) == (2, 2), words
