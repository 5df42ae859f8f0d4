"""How a map is shown while it runs: what failed, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poormanray.cli.watching import Watcher
from poormanray.jobs.track import Again, Happening, Looked, TaskChanged
from poormanray.ledger import TaskState
from poormanray.model import readable_s

if TYPE_CHECKING:
    from poormanray.waiting import Clock


@dataclass(slots=True)
class Progress:
    """Counts a map's tasks, and tells how far they are.

    A task that fails and gets another turn has not failed. The rate counts the tasks whose end was
    seen since the watch began, from their first start on: by the clock of each instance, because
    what an instance reports first may have happened over minutes.
    """

    clock: Clock
    total: int
    states: dict[int, TaskState] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)
    # By instance: when its first task started, by its own clock; and when that was, by ours.
    _first_s: dict[str, float] = field(default_factory=dict)
    _began_s: dict[str, float] = field(default_factory=dict)

    def note(self, change: TaskChanged) -> None:
        """Take in that a task started or ended."""
        status = change.status
        self.states[status.task] = status.state
        self.retried.discard(status.task)
        key, now_s = change.host.instance_id, self.clock.now_s() / self.clock.scale
        at_s = status.ended_at or status.started_at
        if at_s is None or status.started_at is None:
            self._began_s.setdefault(key, now_s)
            return
        first_s = min(self._first_s.get(key, status.started_at), status.started_at)
        earlier_s = self._first_s.get(key, first_s) - first_s
        self._first_s[key] = first_s
        # The event that was reported soonest tells best when the first start was by our clock.
        began_s = self._began_s.get(key, now_s) - earlier_s
        self._began_s[key] = min(began_s, now_s - (at_s - first_s))

    def retry(self, again: Again) -> None:
        """Take in that tasks get another turn."""
        for task, _ in again.keys:
            self.states[task] = TaskState.PENDING
            self.retried.add(task)

    def text(self) -> str:
        """Return one line: done, failed, to run again, running, rate, time left."""
        states = list(self.states.values())
        ended = sum(1 for state in states if state.ended)
        failed = sum(1 for state in states if state.ended and state is not TaskState.SUCCEEDED)
        running = states.count(TaskState.RUNNING)
        words = f"{ended}/{self.total} done, {failed} failed, {running} running"
        if self.retried:
            words += f", {len(self.retried)} to run again"
        now_s = self.clock.now_s() / self.clock.scale
        seconds = now_s - min(self._began_s.values(), default=now_s)
        if ended and seconds > 1:
            rate = ended / seconds
            words += f", {rate:.1f}/s"
            if ended < self.total:
                words += f", about {readable_s((self.total - ended) / rate)} left"
        return words


@dataclass(slots=True)
class MapWatcher(Watcher):
    """Shows a map: what failed, and how far it is."""

    progress: Progress | None = None

    def show(self, happening: Happening) -> None:
        """Print one thing that happened, and the progress if it has changed."""
        Watcher.show(self, happening)
        if not self.progress:
            return
        if isinstance(happening, TaskChanged):
            self.progress.note(happening)
        elif isinstance(happening, Again):
            self.progress.retry(happening)
        elif isinstance(happening, Looked) and self.progress.states and not self.out.json:
            self.out.progress(self.progress.text())

    def finish(self) -> None:
        """Take the progress away."""
        Watcher.finish(self)
        self.out.progress("")
