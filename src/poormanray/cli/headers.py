"""What a script says of itself in `#PMR` lines, where the command line says nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

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
