"""What the command line says of what an instance decides by itself: load, memory, more turns."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from poormanray.cli.options import SIZE, Percent
from poormanray.manifest import Rules

Decorated = Callable[..., Any]

_LOAD = re.compile(r"(\d{1,6})(?:\.(\d{1,2}))?", re.ASCII)
_LOAD_PERCENT = re.compile(r"\d{1,6}%", re.ASCII)
KIB = 1024


def load_word(text: str) -> str:
    """Return a load as the ledger knows it: in hundredths, or in percent of the CPUs.

    Raises:
        click.BadParameter: it is none.
    """
    if _LOAD_PERCENT.fullmatch(text):
        return text
    found = _LOAD.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no load such as 8, 1.5, or 100% (one for each CPU)")
    return str(int(found[1]) * 100 + int((found[2] or "0").ljust(2, "0")))


def _load(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    return "" if value is None else load_word(value.strip())


@dataclass(frozen=True, slots=True)
class RuleWords:
    """What the options say of when an instance may start a task."""

    max_load: str = ""
    memfree_bytes: int = 0

    def rules(self, *, retries: int, timeout: float | Percent | None) -> Rules:
        """Return what the instances decide by themselves; `retries` are those on the same one."""
        return Rules(
            retries=retries,
            max_load=self.max_load,
            memfree_kib=-(-self.memfree_bytes // KIB),
            timeout_percent=timeout.value if isinstance(timeout, Percent) else 0,
        )


def rule_options(command: Decorated) -> Decorated:
    """Add `--max-load` and `--memfree`; the command gets `holding`, a RuleWords."""

    @functools.wraps(command)
    def with_rules(*args: object, **words: object) -> object:
        load, free = words.pop("max_load"), words.pop("memfree")
        holding = RuleWords(str(load), free if isinstance(free, int) else 0)
        return command(*args, holding=holding, **words)

    decorated: Decorated = with_rules
    decorated = click.option(
        "--memfree",
        type=SIZE,
        help="Start no task, not even a first one, while less memory is available.",
    )(decorated)
    return click.option(
        "--max-load",
        callback=_load,
        metavar="N",
        help="Start no task, as GNU parallel not even a first one, while the instance's 1-minute "
        "load is above N (100%: one for each CPU).",
    )(decorated)
