"""How a job's content goes to its instances: inline, in parts before the start, or by a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from poormanray.cli.watching import readable_bytes
from poormanray.errors import interruption
from poormanray.jobs.deposit import CONTENT, Deposit, checked_bucket, object_key
from poormanray.jobs.submit import Parcel, pack, sending_s, upload
from poormanray.jobs.track import REFUSALS, Happening, HostProblem, Looked, Track
from poormanray.model import readable_s

if TYPE_CHECKING:
    from poormanray.cli.options import App
    from poormanray.jobs.fleet import Fleet
    from poormanray.jobs.follow import Follower
    from poormanray.manifest import Job
    from poormanray.remote import Order

# Content that takes longer than this to send is worth a bucket.
LONG_SENDING_S = 60.0
_UNFETCHED = (REFUSALS["no-curl"], REFUSALS["fetch"])


def _bucket(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    return checked_bucket(value) if value else ""


bucket_option = click.option(
    "--bucket",
    metavar="NAME",
    envvar="PMR_BUCKET",
    show_envvar=True,
    callback=_bucket,
    help="S3 bucket for what is too large for one send; nothing stays there.",
)


def way_words(parcel: Parcel, bucket: str) -> str:
    """Return how a job's content travels, and how long that takes where it takes long."""
    if parcel.by_bucket:
        return f"through bucket {bucket}"
    if not parcel.parts:
        return "inline"
    seconds = sending_s(len(parcel.parts), len(parcel.job.hosts))
    return f"{len(parcel.parts)} sends of content first, about {readable_s(seconds)}"


def way_row(parcel: Parcel) -> dict[str, object]:
    """Return the same for JSON; `seconds` is the estimate for the sends before the start."""
    by_parts = bool(parcel.parts) and not parcel.by_bucket
    count = len(parcel.parts) if by_parts else 0
    return {
        "bytes": len(parcel.data),
        "transport": "bucket" if parcel.by_bucket else "parts" if by_parts else "inline",
        "parts": count,
        "seconds": sending_s(count, len(parcel.job.hosts)),
    }


def bucket_advice(parcel: Parcel) -> str:
    """Return what to type where content takes long without a bucket, empty where it does not."""
    if parcel.by_bucket or sending_s(len(parcel.parts), len(parcel.job.hosts)) < LONG_SENDING_S:
        return ""
    return "with --bucket NAME (an S3 bucket of yours) the content goes at once, in one send"


class Sending:
    """One job's content on its way; where it is in a bucket, until every instance has it."""

    def __init__(
        self, app: App, fleet: Fleet, job: Job, *, bucket: str, deliver_timeout_s: int
    ) -> None:
        self.parcel = pack(job, bucket=bool(bucket))
        self.bucket = bucket
        self._app = app
        self._fleet = fleet
        self._deliver_timeout_s = deliver_timeout_s
        self._deposit: Deposit | None = None
        self._brought: set[str] = set()

    @property
    def only_by_bucket(self) -> bool:
        """Say whether the content is too large for any other way."""
        return self.parcel.by_bucket and not self.parcel.parts

    def order(self) -> Order:
        """Return the order that starts the job; each has an address of its own, fresh."""
        source = self._deposit.get_url() if self._deposit else ""
        return self.parcel.order(self._deliver_timeout_s, source)

    def go_ahead(self) -> dict[str, str]:
        """Send large content before the start; return why some instances did not get it.

        Raises:
            AwsRefused: the bucket does not take it.
        """
        if not self.parcel.by_bucket:
            return self._bring(None)
        key = object_key(self.parcel.job.job_id, CONTENT)
        self._deposit = Deposit(self._app.aws.s3(), self.bucket, key)
        # However the command ends, the object does not stay.
        click.get_current_context().call_on_close(self.remove)
        began_s = self._app.aws.clock.monotonic()
        try:
            self._deposit.put(self.parcel.data)
        except KeyboardInterrupt as error:
            words = interruption(error)[0]
            self._app.out.note(f"{words} while {self._deposit.name} was written; it is deleted now")
            raise
        took_s = self._app.aws.clock.monotonic() - began_s
        self._app.out.note(
            f"content: {readable_bytes(len(self.parcel.data))} in {self._deposit.name} "
            f"after {took_s:.1f} s, until every instance has it"
        )
        return {}

    def _bring(self, ids: list[str] | None) -> dict[str, str]:
        """Send all parts to some instances (None: the job's); return why some lack them."""
        clock, out = self._app.aws.clock, self._app.out
        began_s = clock.now_s()

        def tell(done: int, count: int) -> None:
            left_s = (clock.now_s() - began_s) / clock.scale * (count - done) / done
            words = f", about {readable_s(left_s)} left" if done < count else ""
            out.progress(f"content: {done} of {count} sends{words}")

        failed = upload(
            self._fleet,
            self.parcel,
            on_part=tell,
            deliver_timeout_s=self._deliver_timeout_s,
            only=ids,
        )
        out.progress("")
        return failed

    def attended(self, follower: Follower) -> Iterator[Happening]:
        """Yield what happens. Whoever cannot fetch the content gets it in parts."""
        held: list[HostProblem] = []
        for happening in follower.run():
            if isinstance(happening, HostProblem) and self._may_bring(happening):
                held.append(happening)
                continue
            if isinstance(happening, Looked) and self._deposit and self._deposit.there:
                yield from self._bring_to(held, follower)
                held.clear()
                if all(track.looked or track.problem for track in follower.tracks.values()):
                    self.remove()
            yield happening

    def _may_bring(self, problem: HostProblem) -> bool:
        known = problem.host.instance_id in self._brought
        return problem.why in _UNFETCHED and bool(self.parcel.parts) and not known

    def _bring_to(self, problems: list[HostProblem], follower: Follower) -> Iterator[HostProblem]:
        if not problems:
            return
        ids = [problem.host.instance_id for problem in problems]
        self._brought.update(ids)
        seconds = sending_s(len(self.parcel.parts), len(ids))
        for problem in problems:
            self._app.out.note(
                f"[{problem.host.name}] {problem.why}: it gets it in {len(self.parcel.parts)} "
                f"sends, about {readable_s(seconds)}"
            )
        failed = self._bring(ids)
        for problem in problems:
            if problem.host.instance_id in failed:
                yield problem
            else:
                _start_anew(follower.tracks[problem.host.instance_id])

    def remove(self) -> None:
        """Delete the object, if there is one; say so where that fails."""
        if self._deposit is None or not self._deposit.there:
            return
        try:
            why = self._deposit.remove()
        except KeyboardInterrupt as error:
            self._tell_left(interruption(error)[0])
            raise
        if why:
            self._tell_left(why)

    def _tell_left(self, why: str) -> None:
        if self._deposit:
            self._app.out.note(f"{self._deposit.name} may stay there: {why}")
            self._app.out.note(f"  to delete it: aws s3 rm {self._deposit.name}")


def _start_anew(track: Track) -> None:
    """Let a start that was refused be sent again."""
    track.reopen()
    track.started = track.looking = False
    track.due_at_s = 0.0
