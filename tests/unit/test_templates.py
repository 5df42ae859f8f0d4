"""An entry is data in every shape of a command; where it would be code, a line that works is named.

tests/long has the same with many more entries.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poormanray.cli.elements import Elements, program
from poormanray.cli.inputs import Program
from poormanray.entries import Template
from poormanray.errors import UsageProblem
from poormanray.templates import command_template, idle_interpreter, words_template
from tests.support.shapes import (
    ENTRIES,
    REFUSED,
    SUPPORTED,
    Refused,
    Shape,
    check,
    instead,
    told,
)


@pytest.mark.parametrize("shape", SUPPORTED, ids=lambda shape: str(shape.command))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(ENTRIES, min_size=1, max_size=12))
def test_an_entry_arrives_as_it_is(shape: Shape, entries: list[str], tmp_path: Path) -> None:
    check(shape, entries, tmp_path)


@pytest.mark.parametrize("shape", SUPPORTED, ids=lambda shape: str(shape.command))
def test_what_is_shown_does_the_same(shape: Shape, tmp_path: Path) -> None:
    for entry in ("a b", 'it\'s "$(touch CANARY)" `x` \\', "d/e.tar.gz"):
        shown = Template((shape.template().shown(entry, 0),))
        expected = told(shape.template(), [entry], tmp_path)
        assert told(shown, [entry], tmp_path)[0].split(b"\0")[0] == expected[0].split(b"\0")[0]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda one: str(one.command))
def test_where_an_entry_would_be_code_a_line_that_works_is_named(
    refused: Refused, tmp_path: Path
) -> None:
    command = instead(refused)
    if refused.told is None:
        return
    template = command_template(command, numbers=False)
    tools, work = tmp_path / "tools", tmp_path / "work"
    for folder in (tools, work):
        folder.mkdir()
    (tools / "ssh").write_text(
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift 2; done\nshift\nexec bash -c "$*"\n'
    )
    (tools / "ssh").chmod(0o755)
    program = command.split()[0]
    if program in ("ruby", "node", "php", "awk", "perl") and shutil.which(program) is None:
        return
    found = told(template, refused.entries, work, f"{tools}:")
    assert [data.decode() for data in found] == [refused.told(e) for e in refused.entries]


@pytest.mark.parametrize("entry", ["$(touch CANARY)", "a[$(touch CANARY)]", "1+x", "08", "x"])
def test_arithmetic_takes_numbers_only(entry: str, tmp_path: Path) -> None:
    for command in ("echo $(({} + 1))", "x=abc; echo ${x:{}:1}", "let 'x = {}'; echo $x"):
        template = command_template(instead(Refused(command, "")), numbers=False)
        assert told(template, [entry], tmp_path) == [b""]


@pytest.mark.parametrize(
    "word",
    [
        "{1}",
        "{2.}",
        "{-1}",
        "{3/.}",
        "{%}",
        "{0%}",
        "{= s/x/y/ =}",
        "{##}",
        "{..}",
        "{+/}",
        "{%.gz}",
        "{%%.*}",
        "{#a}",
        "{##*/}",
        "{^a}",
        "{^^a}",
        "{:3}",
        "{:3:2}",
        "{:-none}",
    ],
)
def test_what_only_gnu_parallel_fills_in_is_refused_by_name(word: str, tmp_path: Path) -> None:
    makers: list[Callable[[], Template]] = [
        lambda: command_template(f"echo {word} {{}}", numbers=False),
        lambda: command_template(f"echo '{word}'", numbers=True),
        lambda: words_template(["echo", f"x{word}", "{}"], numbers=False),
    ]
    for make in makers:
        with pytest.raises(UsageProblem, match="is no placeholder here") as caught:
            make()
        assert word in caught.value.message
        assert f"{{{word}}}" in caught.value.hint
    template = command_template(f"printf '%s\\0' '{{{word}}}' {{}}", numbers=False)
    assert told(template, ["e"], tmp_path) == [f"{word}\0e\0".encode()]


@pytest.mark.parametrize(
    "command",
    [
        *("cp f{,.bak} {}", "echo {1..5} {}", "echo {a,b} {}", "echo ${1} ${x} ${#x} {}"),
        *(
            "python3 train.py -c {}",
            "python3 -m tool -e {}",
            "bash {}",
            "sed -n 1p {}",
            "sed -f s {}",
        ),
        *("awk '{print $1}' {}", "awk -f prog {}", "perl -e 'print' {}", "rsync -e ssh {} host:"),
        *("grep -c {} file", "tar -c {}", "docker run -v {}:/data image python3 train.py --in {}"),
        *(
            "find {} -name x -print",
            "find . -name {} -exec ls {{}} \\;",
            "echo a | xargs -n 1 echo {}",
        ),
        *(
            "sh -c 'cat \"$1\"' sh {}",
            "bash script.sh -c {}",
            "git commit -m {}",
            "export A={} B={}",
        ),
        *("cat script | bash -s {}", "python3 - {} < script", "echo {} | python3 script.py"),
        *(
            'x={}; bash -c \'cat "$1"\' sh "$x"',
            'x={}; ssh host "cat $(printf %q "$x")"',
            "x={}; cat $x",
        ),
        *(
            'x={}; trap "date; $y" EXIT',
            "export x={}; bash -c 'cat \"$x\"'",
            'x={}; eval "cat \\"\\$x\\""',
        ),
        *("time -p cat {}", "local_name={}", "function f { cat {}; }; f", "f() (cat {})"),
        *(
            "echo {} && { cat {}; } || (ls {})",
            "! cat {}",
            "coproc cat {}",
            "a+=({})",
            "a[1]={}",
            "a=([1]={} b)",
            "ls x[{}]",
            "ls !(a|{})",
        ),
        *("case {} in (a|b) echo {};; esac", "cat {} 2>&1 >{}.log", "cat {} {fd}>x", "cat 2>{}"),
        *("echo '${}' '$'{}", 'echo "$"{}', "echo a\\\nb {}", "kubectl exec p -- cat {}"),
        *(
            "while read -r a; do echo $a {}; done < {}",
            "until ls {}; do sleep 1; done &",
            "date; ls {}",
        ),
        *('ssh host "cat $(printf %q {})"', 'curl -d \'{"id":"{}"}\' url', 'echo "it\'s {}"'),
    ],
)
def test_what_is_no_code_is_not_refused(command: str) -> None:
    template = command_template(command, numbers=False)
    assert "PMR_ENTRY" in template.text("1")
    checked = subprocess.run(
        ["bash", "-O", "extglob", "-n"], input=template.text("1").encode(), check=False
    )
    assert checked.returncode == 0


def test_a_value_of_a_go_template_needs_three_braces() -> None:
    with pytest.raises(UsageProblem, match="Go template"):
        command_template("docker inspect -f '{{.}}' {}", numbers=False)
    text = command_template("docker inspect -f '{{{.}}} {{.Name}}' {}", numbers=False).text("1")
    assert text == "docker inspect -f '{{.}} {{.Name}}' \"${PMR_ENTRY}\""


def test_a_command_that_names_the_variable_gets_the_entry_once(tmp_path: Path) -> None:
    template = command_template('printf %s "$PMR_ENTRY"', numbers=False)
    assert told(template, ["a"], tmp_path) == [b"a"]
    assert (
        words_template(["sh", "-c", 'echo "$PMR_ENTRY"'], numbers=False).text("1").count("PMR") == 1
    )


def test_an_array_s_command_need_not_take_its_number() -> None:
    assert command_template("date;", numbers=True).text("1") == "date;"
    assert words_template(["date"], numbers=True).text("1") == "exec date"


def test_an_entry_is_no_longer_than_a_variable_can_be() -> None:
    def made(*entries: str, words: Sequence[str] = ("true",)) -> Program:
        elements = Elements(tuple(enumerate(entries)))
        return program(elements, print, command=None, script=None, words=words)

    longest = "é" + "x" * (131_061 - 2)
    subprocess.run(["true", longest], env={"PMR_ENTRY": longest}, check=True)
    with pytest.raises(OSError, match="too long"):
        subprocess.run(["true"], env={"PMR_ENTRY": longest + "x"}, check=True)
    assert made(longest).tasks[0].entry == longest
    with pytest.raises(UsageProblem, match=r"entry 2 has 131,062 bytes.*at most 131,061") as caught:
        made("a", longest + "x")
    assert "--files" in caught.value.hint
    with pytest.raises(UsageProblem, match=r"entry 1 makes an argument of 131,075 bytes"):
        made(longest[1:], words=("true", "it is a long{}..{{}}"))
    with pytest.raises(UsageProblem, match=r"makes an argument"):
        made("x" * 70_000, words=("true", "a", "{}{}"))
    assert made("x" * 70_000, words=("true", "{}", "{}")).tasks


MARKS = "{}$()'\"`\\\n;|&<> =[]#!xa1-@*:%/~.,+^"
WORDS = ("for ", "in ", "do ", "done", "case ", "esac", "[[ ", " ]]", "((", "<<E\n", "${", "let ")


@settings(max_examples=500)
@given(st.lists(st.sampled_from([*MARKS, *WORDS, "{}", "read ", "set "]), max_size=30))
@example(["for ", "+", "in ", "{}"])
@example(["for ", "[", "{}"])
@example(["echo $(", "x[1]=2", " <<<a", "{}", ")"])
def test_any_text_is_taken_or_refused(pieces: list[str]) -> None:
    with suppress(UsageProblem):
        command_template("".join(pieces), numbers=False)


@pytest.mark.parametrize(
    ("opens", "closes"),
    [("(", ")"), ("$(", ")"), ('"$(', ')"'), ("${x:-", "}"), ("$((", "))")],
)
def test_what_is_nested_too_deeply_is_refused(opens: str, closes: str) -> None:
    with pytest.raises(UsageProblem, match="nested too deeply"):
        command_template(f"echo {{}} {opens * 3_000}x{closes * 3_000}", numbers=False)
    assert idle_interpreter(f"{opens * 3_000}bash{closes * 3_000}") == ""


def test_the_line_for_a_function_keeps_the_rest_of_the_command() -> None:
    with pytest.raises(UsageProblem) as caught:
        command_template('f() { $x; }; x="printf %s {}"; f', numbers=False)
    line = shlex.split(caught.value.hint)[1]
    assert line == 'f() { "$x"; }; x="printf %s {}"; f'
