"""The shell that runs on instances asks for nothing that bash 4.2 does not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from poormanray import shell

FILES = sorted(Path(shell.__file__).parent.glob("*.sh"))
# Arrays that are never empty: before 4.4, `set -u` takes an empty one for an unset variable.
FULL = "(?:PIDS|clean|keys|logs|pids|run)"
# What came later: the version, how it looks, and an example. Source: bash's own NEWS.
NEWER = {
    "wait -n": ("4.3", r"\bwait\s+(-\w+\s+)*-\w*n", "wait -n"),
    "wait -p": ("5.1", r"\bwait\s+(-\w+\s+)*-\w*p", "wait -n -p pid"),
    "name references": ("4.3", r"\b(local|declare|typeset)\s+-\w*n\b", "local -n there=$1"),
    "test -R": ("4.3", r"\[\[?\s+(!\s+)?-R\s", "[[ -R name ]]"),
    "assignment from the end": ("4.3", r"\w\[-[0-9]+\]\+?=", "names[-1]=x"),
    "unset from the end": ("4.3", r"\bunset\s+\S*\[-", "unset 'names[-1]'"),
    "transformations": ("4.4", r"\$\{[^}]*@[QEPAaUuLKk]\}", "echo ${words[@]@Q}"),
    "mapfile -d": ("4.4", r"\b(mapfile|readarray)\s+(-\w+\s+)*-\w*d", "mapfile -t -d '' x"),
    "local -": ("4.4", r"\blocal\s+-(\s|;|$)", "local -; set +u"),
    "inherit_errexit": ("4.4", r"\binherit_errexit\b", "shopt -s inherit_errexit"),
    "time of day": ("5.0", r"\bEPOCH(SECONDS|REALTIME)\b", "echo $EPOCHSECONDS"),
    "BASH_ARGV0": ("5.0", r"\bBASH_ARGV0\b", "BASH_ARGV0=x"),
    "random of 32 bits": ("5.1", r"\bSRANDOM\b", "echo $SRANDOM"),
    "printf without -1": ("4.3", r"printf[^\n]*%\([^)]*\)T'\s*(\n|;|$)", "printf '%(%s)T'"),
    "substitution here": ("5.3", r"\$\{[ |]", "x=${ date; }"),
    "empty arrays": ("4.4", rf'(?<!\+)"\${{(?!{FULL}\b)\w+\[@\]}}"', 'x "${words[@]}"'),
    "globbing of nothing": ("4.3", r"\bshopt\s+-s\s+globasciiranges\b", "shopt -s globasciiranges"),
}
# Asked for only where it is: see now() in ledger.sh.
GUARDED = {"ledger.sh": {"time of day"}}


def newer(text: str) -> set[str]:
    """Return the names of what the text has and bash 4.2 has not."""
    code = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    return {name for name, (_, looks, _) in NEWER.items() if re.search(looks, code, re.MULTILINE)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_is_newer_than_bash_4_2(file: Path) -> None:
    assert newer(file.read_text()) == GUARDED.get(file.name, set())


@pytest.mark.parametrize("name", NEWER)
def test_what_is_newer_is_found(name: str) -> None:
    example = NEWER[name][2]
    assert name in newer(f"set -u\n    {example}\n")
    assert not newer(f"    # {example}\n")


def test_what_is_old_is_not_found() -> None:
    old = "local -A a=()\nwait \"$pid\"\nread -r -d '' x\nexec {fd}>&-\nprintf -v t '%(%s)T' -1\n"
    assert not newer(old + '${words[@]+"${words[@]}"} "${text: -1}" ${names[index]##*/}')
