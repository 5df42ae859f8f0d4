"""shellcheck reads the very text that an instance runs, not only the files it is made of."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poormanray.shell import RARE, Call, render


def send(verb: str) -> str:
    """Return the whole text of a send."""
    return render(Call(verb, ("job", "0"), 1_700_000_000, {"i-0123456789abcdef0": "0 0"}))


def shellcheck(text: str, dialect: str) -> str:
    """Return what shellcheck has to say."""
    program = str(Path(sys.executable).with_name("shellcheck"))
    # SC2034: a send assigns words that its verb may not need. SC2329: verbs are called by name.
    words = [program, "--shell", dialect, "--exclude", "SC2034,SC2329", "--format", "gcc", "-"]
    ended = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


VERBS = ["start", "observe", *RARE]


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_agent_starts(verb: str) -> None:
    assert shellcheck(send(verb), "sh") == ""


@pytest.mark.parametrize("verb", VERBS)
def test_what_it_unpacks(verb: str) -> None:
    packed = re.search(r"^PMR_SEND='([^']+)'$", send(verb), re.MULTILINE)
    assert packed is not None
    assert shellcheck(gzip.decompress(base64.b64decode(packed[1])).decode(), "bash") == ""
