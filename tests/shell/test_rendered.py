"""shellcheck reads the very text that an instance runs, not only the files it is made of."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.shell import ALONE, LIBRARY, RARE, RUNNER, Call, render

SHELL = Path(shell.__file__).parent
# Every verb that a send can have, as its last part knows them.
VERBS = re.findall(
    r"\w+", (SHELL / "call.sh").read_text().partition("case $VERB in")[2].partition(")")[0]
)


def send(verb: str) -> str:
    """Return the whole text of a send."""
    return render(Call(verb, ("job", "0"), 1_700_000_000, {"i-0123456789abcdef0": "0 0"}))


def unpacked(verb: str) -> str:
    """Return what a send hands to bash."""
    packed = re.search(r"^PMR_SEND='([^']+)'$", send(verb), re.MULTILINE)
    assert packed is not None
    return gzip.decompress(base64.b64decode(packed[1])).decode()


@cache
def shellcheck(text: str, dialect: str) -> str:
    """Return what shellcheck has to say."""
    program = str(Path(sys.executable).with_name("shellcheck"))
    # SC2034: a send assigns words that its verb may not need. SC2329: verbs are called by name.
    words = [program, "--shell", dialect, "--exclude", "SC2034,SC2329", "--format", "gcc", "-"]
    ended = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def parts(verb: str) -> tuple[str, ...]:
    """Return the files that a send of the verb is made of, as render() joins them."""
    runner = RUNNER if verb == "start" else ()
    names = ALONE.get(verb) or (*LIBRARY, *RARE.get(verb, ()))
    return (*runner, *(name for name in names if name not in runner), "call.sh", "send.sh")


# Sends of the same files differ in the word of their verb only.
ONE_OF_EACH = list({parts(verb): verb for verb in VERBS}.values())


def test_every_file_and_every_verb_is_in_a_send_that_is_read() -> None:
    assert {*RARE, *ALONE, "start", "observe"} <= set(VERBS)
    sent = {name for verb in ONE_OF_EACH for name in parts(verb)}
    assert sent == {file.name for file in SHELL.glob("*.sh")}
    for verb in VERBS:
        text = unpacked(verb)
        assert f"\nverb_{verb}() {{" in text, verb
        for name in parts(verb)[:-1]:
            function = re.search(r"(?m)^[a-z_]+\(\) \{", (SHELL / name).read_text())
            assert function is None or function[0] in text, (verb, name)


def test_what_the_agent_starts() -> None:
    # All but what is packed is the same in each send.
    packed = re.compile(r"^PMR_(?:SEND|WITH_DATA)='[^']*'$", re.MULTILINE)
    assert len({packed.sub("", send(verb)) for verb in VERBS}) == 1
    assert shellcheck(send("observe"), "sh") == ""
    assert shellcheck(send("start"), "sh") == ""


@pytest.mark.parametrize("verb", ONE_OF_EACH)
def test_what_it_unpacks(verb: str) -> None:
    assert shellcheck(unpacked(verb), "bash") == ""


def test_what_stays_in_a_ledger() -> None:
    text = unpacked("start")
    size = re.search(r"(?m)^LIBRARY_SIZE=([0-9]+)$", text)
    assert size is not None
    assert shellcheck(text[: int(size[1])], "bash") == ""
