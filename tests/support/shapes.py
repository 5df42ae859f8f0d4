"""Commands with placeholders: which are taken, and which are refused with another line."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st

from poormanray.entries import Template, part
from poormanray.errors import UsageProblem
from poormanray.templates import command_template, words_template

# What bash, or a careless program between bash and the task, would run, split or swallow.
FRAGMENTS = (
    *("$(touch CANARY)", "`touch CANARY`", "${x:-$(touch CANARY)}", "; touch CANARY;", "\n", "\r"),
    *("a[$(touch CANARY)]", "' touch CANARY '", '"; touch CANARY; "', "'", '"', "\\", "\\\\", "$"),
    *("PMR_ENTRY", "${PMR_ENTRY}", "{}", "{{}}", "{.}", "END", "\nEND\n", "\n\tEND\n", "!!", "~"),
    *(" ", "\t", "*", "?", "[a-z]", "{a,b}", "#", "&", "|", "<", ">", "(", ")", "=", "%s", "-n"),
    *("a/b.tar.gz", "/", "//", ".", "..", ".x", "a.", "a.b/c", "\x01", "\x7f", "\udc81", "\udcff"),
    *("é", "雪", "\u0301", "\U0001f600", "1+1", "0", "x"),
)


ENTRIES = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        st.binary(max_size=4).map(
            lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
        ),
    ),
    max_size=6,
).map(lambda some: os.fsdecode(os.fsencode("".join(some))))


SAY = "printf '%s\\0' "


@dataclass(frozen=True, slots=True)
class Shape:
    """A command, and what it writes for an entry, each item with a NUL behind it."""

    command: str | tuple[str, ...]
    told: Callable[[str], Sequence[str]]

    def template(self) -> Template:
        if isinstance(self.command, str):
            return command_template(self.command, numbers=False)
        return words_template(self.command, numbers=False)


def once(entry: str) -> list[str]:
    return [entry]


SUPPORTED = [
    Shape(SAY + "{}", once),
    Shape(SAY.rstrip(), once),
    Shape(SAY + '"{}"', once),
    Shape(SAY + "'{}'", once),
    Shape(SAY + "a{}b", lambda e: [f"a{e}b"]),
    Shape(SAY + '"$y{}$y"$y{}$y', lambda e: [e + e]),
    Shape(SAY + "'a{}b''{}'", lambda e: [f"a{e}b{e}"]),
    Shape(SAY + "'$'{}'$(touch CANARY)'", lambda e: [f"${e}$(touch CANARY)"]),
    Shape(SAY + '"\\{}" "\\\\{}" "\\${}"', lambda e: [f"\\{e}", f"\\{e}", f"${e}"]),
    Shape(SAY + '\\"{}\\"', lambda e: [f'"{e}"']),
    Shape(SAY + "{}{} {}", lambda e: [e + e, e]),
    Shape(SAY + '"${HOME:+x}{}"', lambda e: [f"x{e}"]),
    Shape(SAY + "{{}} '{{}}' \"{{}}\" \\{\\} {}", lambda e: ["{}"] * 4 + [e]),
    Shape(SAY + "{} # an entry", once),
    Shape("cat <<END\na{}b\nEND\nprintf '\\0'", lambda e: [f"a{e}b\n"]),
    Shape("cat <<-END\n\ta{}\\{}\n\tEND\nprintf '\\0'", lambda e: [f"a{e}\\{e}\n"]),
    Shape(
        'cat <<"A"; cat <<END\n$x\nA\n"{}" {{}}\nEND\nprintf "\\0"', lambda e: [f'$x\n"{e}" {{}}\n']
    ),
    Shape("cat <<<{}; printf '\\0'", lambda e: [e + "\n"]),
    Shape("x={}; " + SAY + '"$x"', once),
    Shape("export x=a{}; " + SAY + '"$x"', lambda e: [f"a{e}"]),
    Shape("a=(x {} y); " + SAY + '"${a[@]}"', lambda e: ["x", e, "y"]),
    Shape(f'x="$({SAY}{{}} | tr -d "\\000"; echo .)"; {SAY}"${{x%?}}"', lambda e: [f"{e}"]),
    Shape(f'f() {{ {SAY}"$1"; }}; f {{}}', once),
    Shape(f'for x in {{}}; do {SAY}"$x"; done', once),
    Shape(f"if [ -n x{{}} ]; then {SAY}{{}}; else :; fi", once),
    Shape(f"case {{}} in '') {SAY}{{}} ;; *) {SAY}{{}} ;; esac", once),
    Shape(f"[[ {{}} == {{}} && x{{}} =~ ^x ]] && {SAY}{{}}", once),
    Shape(f"({SAY}{{}}) && {{ {SAY}{{}}; }}", lambda e: [e, e]),
    Shape(f"{SAY}{{}} | cat; cat <({SAY}{{}})", lambda e: [e, e]),
    Shape(f"sh -c '{SAY.replace(chr(39), chr(34))}\"$1\"' sh {{}}", once),
    Shape("env " + SAY + "{}", once),
    # What is run stands in the command, or in what has no entry.
    Shape(f'eval "$(true)"; {SAY}{{}}', once),
    Shape(f"echo : {{}} >/dev/null; echo : | bash; {SAY}{{}}", once),
    Shape(f"true | bash -s -- {{}}; {SAY}{{}}", once),
    Shape(f'x={{}}; eval "{SAY}${{x@Q}}"', once),
    Shape(f'set -- {SAY}{{}}; "$@"', once),
    Shape(f'f() {{ "$@"; }}; f {SAY}{{}}', once),
    Shape(f"{SAY}{{}} | xargs -0 bash -c : x; {SAY}{{}}", once),
    Shape(f"x={{}}; [[ ${{#x}} -lt 0 ]] || {SAY}{{}}", once),
    Shape(f"n=$(wc -l </dev/null); {SAY}$((n + 1)){{}}", lambda e: [f"1{e}"]),
    Shape(f'for f in {{}}; do bash -c : "$f"; {SAY}"$f"; done', once),
    Shape(f'x={{}}; sudo() {{ "$@"; }}; sudo {SAY}"$x"', once),
    Shape(f"{SAY}{{}} | xargs -0 -n1 sh -c '{SAY.replace(chr(39), chr(34))}\"$1\"' sh", once),
    Shape(SAY + "$'a\\n' {} `echo b` $((1 + 2)) ${x-c}", lambda e: ["a\n", e, "b", "3", "c"]),
    Shape("#!/x\nset -eu\n" + SAY + "{}", once),
    Shape(SAY + "{.} {/}", lambda e: [part(".", e, 0), part("/", e, 0)]),
    Shape(SAY + "'{//}' \"{/.}\" {#}", lambda e: [part("//", e, 0), part("/.", e, 0), "1"]),
    Shape(("printf", "%s\\0", "{}"), once),
    Shape(("printf", "%s\\0"), once),
    Shape(
        ("printf", "%s\\0", "a{}b's", "{{}}", "", "{}{}"), lambda e: [f"a{e}b's", "{}", "", e + e]
    ),
    Shape(
        ("printf", "%s\\0", "{.}", "x{/}", "{//}", "{/.}", "{#}"),
        lambda e: [
            part(".", e, 0),
            *(f"x{part('/', e, 0)}",),
            part("//", e, 0),
            part("/.", e, 0),
            "1",
        ],
    ),
]


def told(
    template: Template, entries: Sequence[str], folder: Path, path: str = "", *, quiet: bool = True
) -> list[bytes]:
    """Run a template's script as tasks do, once for each entry; return what each wrote."""
    script = folder / "script"
    script.write_bytes(os.fsencode(template.text("$((PMR_TASK_ID + 1))")) + b"\n")
    each = 'for PMR_ENTRY; do export PMR_ENTRY; (. ./script); printf "\\0--\\0"; done'
    ended = subprocess.run(
        ["sh" if template.portable else "bash", "-c", each, "x", *map(os.fsencode, entries)],
        cwd=folder,
        env={"PATH": path + os.environ["PATH"], "LANG": "C.UTF-8", "PMR_TASK_ID": "0", "HOME": "/"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert not (quiet and ended.stderr), ended.stderr
    assert [one.name for one in folder.iterdir()] == ["script"], "something was executed"
    return ended.stdout.split(b"\0--\0")[:-1]


def check(shape: Shape, entries: Sequence[str], folder: Path) -> None:
    found = told(shape.template(), entries, folder)
    assert len(found) == len(entries)
    for entry, data in zip(entries, found, strict=True):
        assert data.split(b"\0")[:-1] == [os.fsencode(one) for one in shape.told(entry)]


HOSTILE = ["a b", "it's", "$(touch CANARY)", "`touch CANARY`; touch CANARY", '"\\$x\n\n', "-n %s"]
NUMBERS = ["7", "-1", "0"]
CODE = "its entry would be code there"


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that is refused: why, and what the line to type instead prints for an entry."""

    command: str | tuple[str, ...]
    why: str
    told: Callable[[str], str] | None = None
    entries: Sequence[str] = tuple(HOSTILE)


def line(entry: str) -> str:
    return f"{entry}\n"


def not_seven(entry: str) -> str:
    return "" if entry == "7" else "no\n"


REFUSED = [
    Refused("cat <<'END'\n{} $x \\ `a`\nEND", "quoted here-doc", lambda e: f"{e} $x \\ `a`\n"),
    Refused("cat <<\\END\n{}\nEND", "quoted here-document", line),
    Refused('cat <<-"END"\n\t{}\nEND', "quoted here-document", line),
    Refused(SAY + "$'a\\t{}\\n'", r"\$'…'", lambda e: f"a\t{e}\n\0"),
    Refused('x="`printf %s {}; echo .`"; printf %s "${x%?}"', "backticks", str),
    Refused("echo $(({} + 1))", "arithmetic", lambda e: f"{int(e) + 1}\n", NUMBERS),
    Refused("echo $[{} + 1]", "arithmetic", lambda e: f"{int(e) + 1}\n", NUMBERS),
    Refused("((x = {})); echo $x", "arithmetic", line, NUMBERS),
    Refused("let 'x = {}'; echo $x", "words of let", line, NUMBERS),
    Refused("for ((i = {}; i < 9; i++)); do :; done", "arithmetic", lambda _: "", NUMBERS),
    Refused("[[ {} -eq 7 ]] || echo no", "arithmetic", not_seven, NUMBERS),
    # The program, where what stands before it comes to nothing.
    Refused("$NONE eval {}", "words of eval", None),
    Refused("$NONE $(true) let {}", "words of let", None),
    Refused("sh -c sh -c <<<{}", "the program text", None),
    Refused("echo {} | bash -c 'exec /bin/sh'", "the program text", None),
    Refused('"$@" eval {}', "words of eval", None),
    Refused('"${none[@]}" eval {}', "words of eval", None),
    Refused("command $NONE let {}", "words of let", None),
    Refused('bash -c "$@" {}', "text of bash", None),
    Refused('python3 -c "${none[@]}" $none {}', "text of python3", line),
    Refused('x={}; env "$@" $x', "splits into a command"),
    Refused('echo {} | bash "$@"', "text that bash reads", line),
    Refused('echo {} | xargs sh -c "$@"', "program text", line),
    Refused('. "$@" /dev/stdin <<<{}', "program text", line),
    Refused("builtin -- trap {} EXIT", "words of trap", None),
    Refused("x={}; command let x", "calculates", None),
    Refused("x={}; $NONE builtin let x", "calculates", None),
    Refused("x={}; echo $((x)); [[ $x =~ ^(0|-?[1-9][0-9]*)$ ]] || exit 2; x=1", "calculates"),
    Refused("${NONE} read {}", "the name of a variable", None),
    # What bash evaluates by itself.
    *(
        Refused(f"{name}={{}}; printf '%s\\n' \"${name}\"", f"{name}, which bash evaluates", line)
        for name in ("RANDOM", "SRANDOM", "SECONDS", "OPTIND", "HISTCMD", "PS4", "BASH_ENV")
    ),
    Refused("for RANDOM in {}; do :; done", "RANDOM, which", lambda _: ""),
    Refused("PS4={}; set -x; true", "PS4, which bash evaluates", None),
    Refused("x={}; echo ${x@P}", "calculates", line, NUMBERS),
    Refused("sleep 0 & wait -n -p {}", "name of a variable", line),
    # Words that come of it, where bash looks for a program.
    Refused("x={}; $x", "splits into a command"),
    Refused("x={}; timeout 5 $x", "splits into a command"),
    Refused('x="printf %s {}"; $x', "splits into a command", str),
    Refused('f() { $x; }; x="printf %s {}"; f', "splits into a command", None),
    Refused("x=({}); ${x[@]}", "splits into a command"),
    Refused("$(echo {})", "splits into a command"),
    Refused("$(dirname {})/x", "splits into a command"),
    # By way of arguments.
    Refused('set -- {}; eval "printf %s $1"', "a variable that eval runs", str),
    Refused('f() { eval "printf %s $1"; }; f {}', "a variable that eval runs", str),
    Refused("function f { let x=$1; echo $x; }; f {}", "calculates", None),
    Refused("set -- {}; echo $(($1 + 1))", "calculates", lambda e: f"{int(e) + 1}\n", NUMBERS),
    Refused("set -- {}; for i; do echo $((i)); done", "calculates", line, NUMBERS),
    Refused("set -- a {}; x=$2; echo $((x))", "calculates", line, NUMBERS),
    Refused('x=(printf %s {}); eval "${x[@]}"', "a variable that eval runs"),
    # Within what stands in braces or backticks.
    Refused("x={}; echo ${none:-$((x))}", "calculates", line, NUMBERS),
    Refused('x={}; echo "${none:-$(eval "printf %s $x")}"', "that eval runs", None),
    Refused("x={}; echo `eval $x`", "a variable that eval runs", None),
    Refused("x={}; echo `echo \\`eval $x\\``", "calculates", None),
    # By way of another variable.
    Refused("declare -i x; read x <<<{}", "name of a variable", line),
    Refused("declare -i x; for x in {}; do :; done", "name of a variable", line),
    Refused("printf -v x %s {}; echo $((x))", "calculates", line, NUMBERS),
    Refused("mapfile -t l <<<{}; echo $((l))", "calculates", None),
    Refused("x={}; : ${y:=$x}; echo $((y))", "calculates", line, NUMBERS),
    # By way of stdin.
    *(
        Refused(command, "program text", line)
        for command in (
            ". /dev/stdin <<<{}",
            "exec 3<<<{}; . /dev/fd/3",
            "bash /dev/stdin <<<{}",
            "exec <<<{}; bash",
            "{ bash; } <<<{}",
            "( sh -s ) <<END\n{}\nEND",
            "while true; do bash; break; done <<<{}",
            "( bash <&3 ) 3<<<{}",
            "echo {} | ( bash )",
            "echo {} | if true; then sh; fi",
            "f() { bash; }; echo {} | f",
            "{ echo {}; } | bash",
            "for i in {}; do echo $i; done | sh",
            "echo {} | tee file | sh",
            "cat <(echo {}) | sh",
            "sh < <(echo {})",
            "basename {} | sh",
            "env {} | sh",
            "x={}; echo $x | sh",
            'x={}; bash <<<"$x"',
            "x={}; bash <<END\n$x\nEND",
            "x={}; . <(echo $x)",
            "echo {} | xargs sh -c",
            "echo {} | xargs -I% sh -c %",
            "xargs -I % sh -c 'echo %' <<<{}",
            "echo {} | xargs -i bash -c 'echo {{}}'",
        )
    ),
    Refused("x={}; bash <(echo $x)", "a variable that bash runs", None),
    # Also by way of a variable that holds it.
    Refused("x={}; echo $((x + 1))", "calculates", lambda e: f"{int(e) + 1}\n", NUMBERS),
    Refused("x={}; ((y = x)); echo $y", "calculates", line, NUMBERS),
    Refused("x={} let y=x; echo ${y:-none}", "calculates", line, NUMBERS),
    Refused("x={}; y=x; echo $((y))", "calculates", None),
    Refused("x={}echo let case x in ", "calculates", None),
    Refused("x={}; [[ x -eq 7 ]] || echo no", "calculates", not_seven, NUMBERS),
    Refused("x={}; for ((i = x; i < 9; i++)); do :; done", "calculates", lambda _: "", NUMBERS),
    Refused("x={}; a=(a b); echo ${a[x]}", "calculates", lambda _: "a\n", ["0"]),
    Refused("x={}; y=abc; echo ${y:x:1}", "calculates", lambda _: "a\n", ["0"]),
    Refused("x={}; declare -i y=x; echo $y", "calculates", line, NUMBERS),
    Refused("for x in {}; do echo $[x]; done", "calculates", line, NUMBERS),
    Refused("read x <<<{}; echo $((x))", "calculates", line, NUMBERS),
    Refused("echo {} | while read x; do echo $((x)); done", "calculates", line, NUMBERS),
    Refused('x={}; [ -v "$x" ] || echo no', "calculates", lambda _: "no\n", ["7", "-1"]),
    Refused('printf %s "${x:-{}}"', r"\${…}", str),
    Refused("printf %s ${x:-{}}", r"\${…}", str),
    Refused('printf %s "${{}%b}"', r"\${…}", lambda e: e.removesuffix("b")),
    Refused("x=abc; echo ${x:{}:1}", r"\${…}", lambda _: "a\n", ["0"]),
    Refused('x=q; printf %s "${x#{}}"', r"\${…}", lambda _: "q"),
    Refused("echo ${#}", r"\${…}"),
    Refused("printf '%s\\n' # {}", "a comment", line),
    Refused("eval \"printf '%s\\n' {}\"", "words of eval", line),
    Refused("eval printf '%s\\\\n' {}", "words of eval", line),
    Refused("trap 'printf \"%s\\n\" {}' EXIT", "words of trap", line),
    Refused("ssh host printf %s {}", "words of ssh", str),
    Refused("ssh -p 22 host 'printf %s {}'", "words of ssh", str),
    Refused('timeout 9 ssh host "printf %s {}"', "words of ssh", str),
    Refused("sh -c 'printf %s {}'", "program text of sh", str),
    Refused(
        "/bin/bash -o pipefail -ec 'printf %s \"a{}\" | cat'", "text of bash", lambda e: f"a{e}"
    ),
    Refused('env A=b bash -lc "printf %s {}"', "text of bash", str),
    Refused("find . -name script -exec sh -c 'printf %s {}' \\;", "text of sh", str),
    Refused('bash -c "printf %s {}" x y', "text of bash", str),
    Refused('"$x" -c "printf %s {}"', "text of a shell"),
    Refused('s=sh; $s $y -c "printf %s {}"', "text of a shell", str),
    Refused("sh -c $x{} y", "text of sh"),
    Refused("bash <<END\nprintf %s {}\nEND", "text that bash reads", line),
    Refused("echo 'printf %s {}' | sh", "text that sh reads", line),
    Refused("cat <<END | bash\nprintf %s {}\nEND", "text that bash reads", line),
    Refused('x={}; bash -c "printf %s $x"', "a variable that bash runs", str),
    Refused('x={}; ssh host "printf %s ${x}"', "a variable that ssh runs", str),
    Refused('x=a{}; eval "printf %s $x"', "a variable that eval runs", lambda e: f"a{e}"),
    Refused('for x in {}; do eval "printf %s $x"; done', "a variable that eval runs", str),
    Refused('x={}; python3 -c "print($x)"', "a variable that python3 runs", line),
    Refused("bash -s x <<< 'printf %s {}'", "text that bash reads", line),
    Refused("python3 -c 'print(\"{}\")'", "text of python3", line),
    Refused("python3 -uc 'print({})'", "text of python3", line),
    Refused('timeout 9 python3 <<< "print({})"', "text that python3 reads", line),
    Refused("perl -ne 'print if /{}/'", "text of perl", line),
    Refused("ruby -e 'puts \"{}\"'", "text of ruby", line),
    Refused("node --eval='{}'", "text of node", line),
    Refused("php -r 'echo \"{}\";'", "text of php", str),
    Refused("awk '/{}/'", "text of awk", line),
    Refused("gawk -F: -v a=b -e '{}'", "text of gawk", line),
    Refused("sed -n -e 's/{}/b/p'", "text of sed", line),
    Refused("sed s/{}/b/ file", "text of sed", line),
    Refused("su -c 'cat {}' user", "text of su"),
    Refused("flock file -c 'cat {}'", "text of flock"),
    Refused("watch cat {}", "words of watch"),
    Refused("find script -exec echo {} \\;", "of its own", lambda _: "script\n"),
    Refused("echo script | xargs -I{} echo {}", "of its own", lambda _: "script\n"),
    Refused("read {}", "name of a variable", line),
    Refused("unset {}", "name of a variable", line),
    Refused("printf -v {} x", "name of a variable", line),
    Refused("export {}", "name of a variable", line),
    Refused("declare -i x={}", "name of a variable", line),
    Refused("declare -i x; x={}", "name of a variable", line),
    Refused("declare -a x={}", "name of a variable", line),
    Refused("x[{}]=1", "name of a variable", line),
    Refused("x[1 + {} ]=1", "name of a variable", line),
    Refused("x[;y[2]{}]=1", "name of a variable", line),
    Refused("x=([ {}]=1)", "name of a variable", line),
    Refused("x=([{}]=1)", "name of a variable", line),
    Refused("[[ -v {} ]]", "name of a variable", line),
    Refused("test -v {}", "name of a variable", line),
    Refused("time test -v $none {}", "name of a variable", line),
    Refused("printf -v ${none} $(:) {} x", "name of a variable", line),
    Refused("for {} in a; do :; done", "name of a variable", line),
    Refused(("sh", "-c", "printf %s {}"), "text of sh", str),
    Refused(("python3", "-c", "print({})"), "text of python3", line),
    Refused(("ssh", "host", "printf", "%s", "{}"), "words of ssh", str),
    Refused(("find", "script", "-exec", "echo", "{}", ";"), "of its own", lambda _: "script\n"),
    Refused("cat <<{}\na\n{}", "end mark"),
    Refused("printf %s 'a {}", "is not closed"),
    Refused("printf %s $(echo {}", "is not closed"),
    Refused("cat <<END\n{}", "is not closed"),
    Refused("printf %s {})", "is not closed"),
    Refused("date;", "where its entry goes"),
    Refused("for x in a; do echo $x; done", "where its entry goes"),
    Refused("while read -r x; do echo $x; done </dev/null", "where its entry goes"),
    Refused("cat <<END\nx\nEND", "is not closed"),
]


def instead(refused: Refused) -> str:
    """Return the command that the refusal names, "" if it names none."""
    with pytest.raises(UsageProblem, match=refused.why or ".") as caught:
        Shape(refused.command, once).template()
    words = shlex.split(caught.value.hint) if caught.value.hint.startswith("-c ") else ["", ""]
    assert caught.value.exit_code == 2
    return words[1]
