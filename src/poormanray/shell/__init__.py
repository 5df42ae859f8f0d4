"""The shell that runs on instances, and the one way to turn it into the text of a send."""

from __future__ import annotations

import base64
import gzip
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

# The version of pmr is in every ledger, and so is the format that it writes (shell/ledger.sh).
from poormanray import __version__

# The document and its parameters may have 64 KB together (SSM model: the text of
# CreateDocumentRequest.Content); whatever a KB is there, this stays well below it.
SEND_LIMIT_CHARS = 48 * 1024

# ListCommandInvocations returns at most 2,500 characters (SSM model: CommandPluginOutput).
SMALL_ANSWER_CHARS = 2_400
# GetCommandInvocation returns 24,000; plain base64 below 20,000 bytes cannot exceed what the agent
# can deliver (a reply above 120,000 bytes of JSON is dropped).
LARGE_ANSWER_CHARS = 19_500

# What shellcheck is told stays: the text of a send is checked too.
_COMMENT = re.compile(r"^[ \t]*#(?! shellcheck).*\n", re.MULTILINE)
# What a function takes and sets stands beside its name: a fifth of all text, packed.
_BESIDE_NAME = re.compile(r"^(\w+\(\) \{) +# .*$", re.MULTILINE)

LIBRARY = ("base.sh", "ledger.sh", "queue.sh", "answer.sh", "verbs.sh")
# Verbs that are not in the library: only their own sends carry them.
RARE = {
    "summary": ("finding.sh", "summary.sh"),
    "which": ("finding.sh",),
    "ends": ("finding.sh", "ends.sh"),
    "jobs": ("jobs.sh",),
    "prune": ("prune.sh",),
    "outputs": ("outputs.sh",),
}
# Verbs that need nothing else.
ALONE = {"put": ("base.sh", "answer.sh", "put.sh")}
# Verbs that read what comes with the send, or a part of the send, from a file.
WITH_DATA = ("start", "put")
# Only a start needs the runner: it leaves a copy of the library in the ledger.
RUNNER = ("base.sh", "ledger.sh", "queue.sh", "holding.sh", "user.sh", "runner.sh", "main.sh")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Bytes that travel with a send: a compressed bundle, or one part of it.

    `digest` is the SHA-256 (hex) of the whole that the verb must end up with. `source` is where to
    fetch that if its parts are not there: a presigned URL, which is a secret for some minutes.
    """

    data: bytes
    digest: str
    sections: tuple[tuple[str, int], ...] = ()
    parts: int = 0
    source: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One verb with its words; `table` holds, by instance id, what differs between instances.

    `not_after_s` is in epoch seconds by AWS's clock: later than that the instance refuses to act.
    """

    verb: str
    arguments: tuple[str, ...]
    not_after_s: int
    table: Mapping[str, str] = field(default_factory=dict)
    bundle: Bundle = Bundle(b"", "")


@cache
def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _library(names: tuple[str, ...]) -> bytes:
    """Return the files as one text, without the comments that every send would carry."""
    return _without_comments("".join(_text(name) for name in names)).encode()


def _without_comments(text: str) -> str:
    return _BESIDE_NAME.sub(r"\1", _COMMENT.sub("", text))


def _assignments(call: Call, library_size: int) -> str:
    words = {
        "VERB": call.verb,
        "NOT_AFTER": str(call.not_after_s),
        "TABLE": "\n".join(f"{key} {row}" for key, row in call.table.items()),
        "SMALL": str(SMALL_ANSWER_CHARS),
        "LARGE": str(LARGE_ANSWER_CHARS),
        "WRITER": __version__,
        "LIBRARY_SIZE": str(library_size),
        "PARTS": str(call.bundle.parts),
        "SOURCE": call.bundle.source,
        "DIGEST": call.bundle.digest,
        "SECTIONS": "\n".join(f"{name} {size}" for name, size in call.bundle.sections),
    }
    lines = [f"{name}={_quoted(value)}" for name, value in words.items()]
    lines.append(f"ARGS=({shlex.join(call.arguments)})")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """Return a value in quotes, also where bash needs none: `VERB=jobs` is a slip to shellcheck."""
    return f"'{value}'" if value.isalpha() else shlex.quote(value)


def _with_offset(head: bytes, tail: bytes) -> bytes:
    """Put the assignment of BUNDLE_AT, the offset just past `tail`, between head and tail."""
    size = len(head) + len(tail)
    while True:
        line = b"BUNDLE_AT=%d\n" % size
        if size == len(head) + len(line) + len(tail):
            return head + line + tail
        size = len(head) + len(line) + len(tail)


def render(call: Call) -> str:
    """Return the whole script of a send: plain ASCII text for the document's `commands`."""
    library = b""
    if call.verb == "start":
        # What runs the job later comes first, so that its length tells where it ends.
        library = _library(RUNNER)
    names = ALONE.get(call.verb) or (*LIBRARY, *RARE.get(call.verb, ()))
    rest = _library(tuple(name for name in names if not library or name not in RUNNER))
    head = library + rest + _assignments(call, len(library)).encode()
    script = _with_offset(head, _text("call.sh").encode()) + call.bundle.data
    packed = base64.b64encode(gzip.compress(script, mtime=0)).decode("ascii")
    with_data = "1" if call.verb in WITH_DATA else ""
    words = f"PMR_WITH_DATA='{with_data}'\nPMR_SEND='{packed}'\n"
    return f"#!/bin/sh\n{words}{_without_comments(_text('send.sh'))}"


def shell_words(words: Sequence[str]) -> str:
    """Return words as one shell command in which each stays one word."""
    return shlex.join(words)


def command_script(command: str) -> bytes:
    """Return the script that runs a command line under bash."""
    return b"#!/bin/bash\n" + os.fsencode(command) + b"\n"


def words_script(words: Sequence[str]) -> bytes:
    """Return the script that becomes the program named by the first word."""
    if words[0].startswith("-"):
        return command_script("exec -- " + shell_words(words))
    return portable_script("exec " + shell_words(words))


def portable_script(text: str) -> bytes:
    """Return the script that runs a command line which any POSIX shell reads alike."""
    # Many a system's `sh` starts sooner than bash.
    return b"#!/bin/sh\n" + os.fsencode(text) + b"\n"


def as_program(data: bytes) -> bytes:
    """Return a file's bytes as something that the kernel can execute.

    Text without an interpreter line is for bash; everything else stays as it is.
    """
    if data.startswith((b"#!", b"\x7fELF")):
        return data
    return b"#!/bin/bash\n" + data
