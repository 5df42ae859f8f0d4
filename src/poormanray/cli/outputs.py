"""`pmr results --outputs`: the files that tasks wrote into PMR_OUTPUT_DIR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poormanray.cli.watching import readable_bytes
from poormanray.errors import NotFound, PmrError, UsageProblem
from poormanray.jobs.outcome import NOWHERE
from poormanray.jobs.outputs import INLINE_BYTES, MOST_BYTES, Gathered, Gatherer, inline_s
from poormanray.jobs.pack import Store, checked_pattern
from poormanray.model import readable_s

if TYPE_CHECKING:
    from poormanray.cli.options import App
    from poormanray.jobs.fleet import Fleet
    from poormanray.jobs.outcome import Outcome

FOLDER = "outputs"


def _pattern(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else checked_pattern(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


outputs_option = click.option(
    "--outputs",
    "pattern",
    metavar="GLOB",
    callback=_pattern,
    help="Also the files in the tasks' PMR_OUTPUT_DIR that match (`**`: all of them).",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """Which outputs of a job are wanted, and how to ask for them again."""

    job_id: str
    pattern: str
    bucket: str
    folder: Path
    again: str


@dataclass(frozen=True, slots=True)
class Got:
    """What came: `missed` where an instance brought not all of it, `error` what to say then."""

    store: Store | None = None
    missed: bool = False
    error: PmrError | None = None

    def summary(self) -> dict[str, object]:
        """Return it for JSON."""
        if self.store is None:
            return {}
        return {"outputs": {"files": self.store.files, "bytes": self.store.written_bytes}}


def gather(app: App, fleet: Fleet, found: Sequence[Outcome], wish: Wish) -> Got:
    """Fetch what the newest attempts of all tasks wrote into `<folder>/outputs/<task>/`.

    Raises:
        OSError: this machine cannot write it.
        AwsRefused: AWS said no.
    """
    keys: dict[str, set[str]] = {}
    for outcome in found:
        if outcome.host == NOWHERE:
            continue
        keys.setdefault(outcome.host.instance_id, set()).add(outcome.status.key)
    store = Store(wish.folder / FOLDER)
    store.folder.mkdir(exist_ok=True)
    wanted = {key: frozenset(some) for key, some in keys.items()}
    gatherer = Gatherer(fleet, wish.job_id, wish.pattern, wanted, store, app.out.progress)
    done = gatherer.gather(wish.bucket)
    names = {outcome.host.instance_id: outcome.host.name for outcome in found}
    for instance_id, why in done.problems.items():
        app.out.note(f"[{names[instance_id]}] outputs: {why}")
    for instance_id, more in done.too_large.items():
        app.out.note(
            f"[{names[instance_id]}] outputs: {more.files} files, {readable_bytes(more.bytes)}, "
            f"about {readable_s(inline_s(more.bytes))} in answers of SSM: left out"
        )
    app.out.line(
        f"{store.files} output files, {readable_bytes(store.written_bytes)} in {store.folder}"
    )
    return Got(store, bool(done.problems), _error(done, store, wish))


def _error(done: Gathered, store: Store, wish: Wish) -> PmrError | None:
    """Return what is wrong with the words: too much matches, or nothing does."""
    if any(more.bytes > MOST_BYTES for more in done.too_large.values()):
        return UsageProblem(
            f"more than {readable_bytes(MOST_BYTES)} of outputs match on one instance",
            "match fewer files, or let the tasks write to S3 themselves",
        )
    if done.too_large:
        return UsageProblem(
            f"{len(done.too_large)} instances have more outputs than the "
            f"{readable_bytes(INLINE_BYTES)} each that come without a bucket",
            f"{wish.again} --bucket NAME (an S3 bucket of yours), or match fewer files",
        )
    if not store.files and not done.problems:
        return NotFound(
            f"no task wrote a file into PMR_OUTPUT_DIR that matches {wish.pattern!r}",
            "--outputs '**' takes all; names that begin with a dot have to be named",
        )
    return None
