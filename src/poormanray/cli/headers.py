"""What a script says of itself in `#PMR` lines, where the command line says nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from poormanray.cli.inputs import Say
from poormanray.cli.options import TIME_LIMIT, Percent
from poormanray.entries import header
from poormanray.errors import UsageProblem

MOST_SLOTS = 1024
MOST_RETRIES = 100


def slots_word(text: str) -> str:
    """Return a number of slots as the ledger knows it.

    Raises:
        click.BadParameter: it is none.
    """
    if text == "auto" or (text.isascii() and text.isdecimal() and 0 < int(text) <= MOST_SLOTS):
        return text
    raise click.BadParameter(f"{text!r} is neither a number from 1 to {MOST_SLOTS} nor `auto`")


def _retries(text: str) -> int:
    return int(click.IntRange(0, MOST_RETRIES)(text))


def _timeout(text: str) -> float | Percent:
    return TIME_LIMIT.convert(text, None, None)


_READ: dict[str, Callable[[str], object]] = {
    "retries": _retries,
    "slots": slots_word,
    "timeout": _timeout,
}
_EXAMPLES = {
    "retries": "#PMR retries 2",
    "slots": "#PMR slots auto",
    "timeout": "#PMR timeout 1h30m",
}


@dataclass(frozen=True, slots=True)
class Manners:
    """How a map's tasks run: None is what nobody has said."""

    slots: str | None = None
    retries: int | None = None
    timeout: float | Percent | None = None

    def over(self, other: Manners) -> Manners:
        """Return this, and the other's words where this says nothing."""
        return Manners(
            other.slots if self.slots is None else self.slots,
            other.retries if self.retries is None else self.retries,
            other.timeout if self.timeout is None else self.timeout,
        )


def declared(scripts: Sequence[bytes], names: Sequence[str] = ()) -> Manners:
    """Return what scripts say in lines such as `#PMR retries 2`, above their first command.

    `names` are those of the scripts, for errors.

    Raises:
        UsageProblem: a line makes no sense, or two scripts say different things: they are one
            job's, with one number of slots, retries and one time for each task.
    """
    found: dict[str, object] = {}
    for at, script in enumerate(scripts):
        name = names[at] if at < len(names) else "the script"
        for word, text in _header(script, name).items():
            value = _value(name, word, text)
            if found.setdefault(word, value) != value:
                raise UsageProblem(
                    f"scripts differ in their line `#PMR {word}`: {found[word]} and {value}",
                    f"say it on the command line: --{word}",
                )
    return Manners(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Slurm:
    """What #SBATCH lines ask for that is the same here; "" or None is what they do not say."""

    array: str = ""
    time_s: float | None = None
    job_name: str = ""
    cpus: str = ""


# By the name of the option: what it is called here, and its short form.
_TAKEN = {"--array": "-a", "--time": "-t", "--job-name": "-J", "--cpus-per-task": "-c"}
_LONG = {short: name for name, short in _TAKEN.items()}
_SCHEDULERS = re.compile(r"#(SBATCH|PBS|BSUB|COBALT|FLUX:|\$ -)[ \t]*(.*)")
_SLURM_TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_NAMED = 8


def slurm(scripts: Sequence[bytes], names: Sequence[str], say: Say, *, compat: bool) -> Slurm:
    """Return what the #SBATCH lines of scripts ask for; name all that has no effect.

    Without `compat` nothing of them is taken. Like Slurm's own they stand above the first command.

    Raises:
        UsageProblem: scripts of one job ask for different things, or for what makes no sense.
    """
    taken: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for at, script in enumerate(scripts):
        name = names[at] if at < len(names) else "the script"
        for option, value, text in _scheduler_options(script):
            if not compat or option not in _TAKEN:
                ignored.setdefault(text, name)
            elif taken.setdefault(option, value) != value:
                raise UsageProblem(
                    f"scripts differ in {option} of their #SBATCH lines: {taken[option]}, {value}",
                    "they are tasks of one job: say it once, on the command line",
                )
    if ignored:
        _say_ignored(ignored, say, compat=compat)
    limit = taken.get("--time")
    return Slurm(
        taken.get("--array", ""),
        _slurm_time_s(limit) if limit else None,
        taken.get("--job-name", ""),
        taken.get("--cpus-per-task", ""),
    )


def _say_ignored(ignored: Mapping[str, str], say: Say, *, compat: bool) -> None:
    texts = list(ignored)
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    slurm_s = any(text.startswith("#SBATCH") for text in texts)
    advice = "" if compat or not slurm_s else f"; map --compat slurm takes {', '.join(_TAKEN)}"
    listed = ", ".join(texts[:_NAMED])
    say(f"{next(iter(ignored.values()))}: no effect here: {listed}{more}{advice}")


def _scheduler_options(script: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield the options of lines such as `#SBATCH --time=30`: name, value, and their text."""
    if script.startswith(b"\x7fELF"):
        return
    for line in script.decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            return
        found = _SCHEDULERS.fullmatch(line)
        if found is None:
            continue
        if found[1] != "SBATCH":
            yield "", "", line.strip()
            continue
        for option, value in _sbatch_words(found[2]):
            yield option, value, f"#SBATCH {option}{'=' if value else ''}{value}"


def _sbatch_words(text: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = [text]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > len("-t"):
            name, equals, value = word[:2], "=", word[2:].removeprefix("=")
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        yield _LONG.get(name, name), value


def _slurm_time_s(text: str) -> float | None:
    """Return the seconds of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    if text.upper() in ("0", "UNLIMITED", "INFINITE"):
        return None
    found = _SLURM_TIME.fullmatch(text)
    if found is None:
        raise UsageProblem(
            f"#SBATCH --time={text} is no time of Slurm's", "give -T, such as -T 30m"
        )
    days, numbers = found[1], [int(part) for part in found.groups()[1:] if part is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return float(((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(numbers) == len("HMS"):
        return float((numbers[0] * 60 + numbers[1]) * 60 + numbers[2])
    return float(numbers[0] * 60 + sum(numbers[1:]))


def _header(script: bytes, name: str) -> dict[str, str]:
    try:
        return header(script)
    except ValueError as error:
        raise UsageProblem(
            f"{name}, {error}", f"such lines stand at the top; known are {', '.join(_READ)}"
        ) from error


def _value(name: str, word: str, text: str) -> object:
    try:
        return _READ[word](text)
    except click.BadParameter as error:
        message = f"{name} has a line `#PMR {word} {text}`: {error.message}"
        raise UsageProblem(message, f"write for example `{_EXAMPLES[word]}`") from error
